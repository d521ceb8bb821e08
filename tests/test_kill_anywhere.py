"""Commands that are killed at random moments and continued end as undisturbed ones; and faults are told.
benchmarks/kill_anywhere.py has more rounds, of all commands."""

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

if os.name == "nt":
    pytest.skip("needs process groups", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from kill_anywhere import (
    Fault,
    Tally,
    all_commands,
    made_inputs,
    rounds_of,
    run_difference,
    since_checkpoint,
    whole_files,
)
from killed import Kill, Running, draw_kill

from specularip.avatar import Avatar
from specularip.run_folder import RunFolder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.parametrize(("name", "rounds"), [("fit", 1), ("export", 1), ("generate", 1)])
def test_killed_commands_end_as_undisturbed_ones(
    inputs: Path, tmp_path: Path, seed: int, name: str, rounds: int
) -> None:
    commands = all_commands(inputs)[name]
    tally = Tally()
    rounds_of(commands, rounds, seed, tmp_path, tally, as_users=False)
    assert tally.faults == [] and tally.rounds == rounds
    assert tally.difference == 0.0


def finished(out: Path, avatar: Avatar) -> Path:
    """A run folder as a finished run leaves it."""
    run = RunFolder.open(out)
    avatar.save(run.path)
    for step in (1, 2, 3):
        run.add_metrics({"stage": "fit", "step": step, "loss": 0.5})
    run.close()
    run.write_json("report.json", {})
    return run.path


def test_what_a_kill_may_leave_is_told(tmp_path: Path) -> None:
    from avatars import random_avatar

    avatar = random_avatar()
    whole = finished(tmp_path / "whole", avatar)
    assert run_difference(shutil.copytree(whole, tmp_path / "same"), whole) == 0.0

    twice = shutil.copytree(whole, tmp_path / "twice")
    with open(twice / "metrics.jsonl", "a") as file:
        file.write(json.dumps({"stage": "fit", "step": 3, "loss": 0.5}) + "\n")
    with pytest.raises(Fault, match="4 steps, 1 of them twice, instead of 3"):
        run_difference(twice, whole)

    left = shutil.copytree(whole, tmp_path / "left")
    (left / ".avatar.123.tmp.ply").touch()
    with pytest.raises(Fault, match=r"left behind: \.avatar\.123\.tmp\.ply"):
        run_difference(left, whole)

    without = shutil.copytree(whole, tmp_path / "without")
    (without / "report.json").unlink()
    with pytest.raises(Fault, match=r"missing: report\.json"):
        run_difference(without, whole)

    cut = shutil.copytree(whole, tmp_path / "cut")
    os.truncate(cut / "avatar.safetensors", 100)
    with pytest.raises(Fault, match=r"avatar\.safetensors is damaged"):
        whole_files(cut)

    avatar.gaussians.means[0, 0] += 0.5
    other = finished(tmp_path / "other", avatar)
    assert run_difference(other, whole) == pytest.approx(0.5)


def test_a_kill_comes_at_its_moment_and_takes_what_is_younger_than_the_checkpoint(
    inputs: Path, tmp_path: Path
) -> None:
    out, rng = tmp_path / "out", random.Random(0)
    arguments = ["fit", str(inputs / "scene"), "--iterations", "100000", "--points", "100", "--device", "cpu"]
    process = Running([*arguments, "--out", str(out)], out, tmp_path / "log.txt", seconds=1e9)
    kill = Kill((signal.SIGKILL,), at=0.0, writes=True)
    assert process.until(kill, duration=0.0, changes=1, rng=rng) and out.exists()
    end = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists():
        assert time.monotonic() < end and process.code is None, process.log.read_text()
        time.sleep(0.02)
    lost = since_checkpoint(out, process)
    assert 0 < lost <= time.time() - process.began
    assert process.kill(kill) == -signal.SIGKILL
    drawn = [draw_kill(rng) for _ in range(100)]
    assert {number for one in drawn for number in one.signals} >= {
        signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT,
    }  # fmt: skip
    assert {one.writes for one in drawn} == {True, False} and {len(one.signals) for one in drawn} == {1, 2}
