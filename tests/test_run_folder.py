"""Run folders: which may be used, resumed and overwritten; checkpoints."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from specularip import files
from specularip.errors import UserError
from specularip.run_folder import EVENTS, FILES, RunFolder


def _files(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file())


def test_new_and_empty_folders_are_accepted(tmp_path):
    RunFolder.check(tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists(), "check must not write"
    assert RunFolder.open(tmp_path / "a" / "b").path.is_dir()
    (tmp_path / "empty").mkdir()
    RunFolder.open(tmp_path / "empty")


def test_existing_run_needs_resume_or_overwrite(tmp_path):
    run = RunFolder.open(tmp_path / "run")
    run.write_json("report.json", {})
    run.add_metrics({"step": 1})
    run.save_checkpoint("seid", {})
    with pytest.raises(UserError, match=r"not empty.*--resume.*--overwrite"):
        RunFolder.open(run.path)
    with pytest.raises(UserError, match="exclude each other"):
        RunFolder.open(run.path, resume=True, overwrite=True)
    before = _files(run.path)
    RunFolder.check(run.path, overwrite=True)
    RunFolder.open(run.path, resume=True)
    assert _files(run.path) == before


def test_a_run_stopped_before_its_first_checkpoint_leaves_a_folder_for_the_next(tmp_path):
    RunFolder.open(tmp_path / "run")
    assert RunFolder.check(tmp_path / "run") == tmp_path / "run"
    assert RunFolder.open(tmp_path / "run").replaces is None
    (tmp_path / "run" / "checkpoints" / "kept.txt").write_text("x")
    with pytest.raises(UserError, match="not empty"):
        RunFolder.check(tmp_path / "run")


def finished_run(path: Path, text: str, turntable: bool = True) -> RunFolder:
    """A run folder as a finished run leaves it; the files say which run they are of."""
    run = RunFolder.open(path)
    fill(run, text, turntable)
    return run


def fill(run: RunFolder, text: str, turntable: bool = True) -> None:
    run.save_checkpoint("fit", {"text": text}, {"text": text})
    for name in ("avatar.safetensors", "avatar.ply", "preview.png"):
        (run.path / name).write_text(text)
    if turntable:
        (run.path / "turntable.mp4").write_text(text)
    run.add_metrics({"text": text})
    run.write_json("report.json", {"text": text})


def texts(path: Path) -> dict[str, str]:
    """The runs that the files of a folder are of, by name."""
    found = {p.name: p.read_text() for p in path.iterdir() if p.is_file() and p.name in FILES}
    found |= {name: json.loads(found[name])["text"] for name in found if "json" in name}
    return found


def test_a_run_is_replaced_when_the_new_one_is_complete(tmp_path):
    home = finished_run(tmp_path / "run", "old").path
    for name in ("notes.txt", "checkpoints/mine.txt", "baked.safetensors", "snapshot.pack"):
        (home / name).write_text("mine")
    before = {name: (home / name).read_bytes() for name in _files(home)}
    run = RunFolder.open(home, overwrite=True)
    assert run.replaces == home and run.load_checkpoint() is None
    assert RunFolder.current(home) == run
    assert {name: (home / name).read_bytes() for name in _files(home)} == before
    fill(run, "new", turntable=False)
    assert set(texts(home).values()) == {"old"} and set(texts(run.path).values()) == {"new"}
    run.publish()
    assert texts(home) == {name: "new" for name in FILES if name != "turntable.mp4"}
    assert _files(home) == sorted(
        ["checkpoints/0001-fit.safetensors", "checkpoints/mine.txt", "notes.txt", *texts(home)]
    )
    assert [entry.name for entry in home.iterdir() if entry.is_dir()] == ["checkpoints"]
    loaded = RunFolder.open(home, resume=True).load_checkpoint()
    assert loaded is not None and loaded.meta == {"text": "new"}


def test_the_run_to_resume_is_the_newest_with_a_checkpoint(tmp_path):
    home = finished_run(tmp_path / "run", "old").path
    first = RunFolder.open(home, overwrite=True)
    first.add_metrics({"step": 1})
    # Killed before its first checkpoint: the old run goes on.
    resumed = RunFolder.open(home, resume=True)
    assert resumed.path == home and not first.path.exists()
    assert set(texts(home).values()) == {"old"}
    # Killed after it: the new one goes on, also if another was to replace that one.
    second = RunFolder.open(home, overwrite=True)
    second.save_checkpoint("seid", {}, {"text": "second"})
    third = RunFolder.open(home, overwrite=True)
    assert third.path != second.path and third.replaces == home
    resumed = RunFolder.open(home, resume=True)
    assert resumed == second and not third.path.exists()
    loaded = resumed.load_checkpoint()
    assert loaded is not None and loaded.meta == {"text": "second"}
    assert set(texts(home).values()) == {"old"}
    fourth = RunFolder.open(home, overwrite=True)
    fill(fourth, "fourth")
    fourth.publish()
    assert not second.path.exists() and set(texts(home).values()) == {"fourth"}


def test_an_unfinished_folder_without_anything_is_used_itself(tmp_path):
    run = RunFolder.open(tmp_path / "run")
    assert RunFolder.open(run.path, overwrite=True) == run


class Killed(BaseException):
    """What ends `publish` where SIGKILL would."""


@pytest.mark.parametrize("at", range(1, 75))
def test_a_kill_while_publishing_loses_neither_run(tmp_path, monkeypatch, at):
    """At every change that `publish` makes to the disk."""
    home = finished_run(tmp_path / "run", "old").path
    RunFolder.open(home, overwrite=True).save_checkpoint("seid", {}, {"text": "stopped"})
    run = RunFolder.open(home, overwrite=True)
    fill(run, "new", turntable=False)
    for folder, serials in ((home, "12"), (run.path, "1")):
        (folder / EVENTS).mkdir()
        for serial in serials:
            (folder / EVENTS / f"events.out.tfevents.000{serial}").write_text(folder.name)
    calls = [0]

    def killing(function):
        def call(*arguments, **options):
            calls[0] += 1
            if calls[0] == at:
                raise Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        for owner, name in (
            (os, "replace"), (os, "rename"), (os, "link"), (Path, "unlink"), (Path, "rmdir"), (Path, "mkdir")
        ):  # fmt: skip
            patched.setattr(owner, name, killing(getattr(owner, name)))
        try:
            run.publish()
        except Killed:
            pass
    avatar = (home / "avatar.safetensors").read_text()
    assert avatar in ("old", "new")
    if avatar == "old":
        assert texts(run.path)["report.json"] == "new", "the new run is whole"
    resumed = RunFolder.open(home, resume=True)
    assert resumed.path == home and (at < 74 or calls[0] < at), "every change was tried"
    assert texts(home) == {name: "new" for name in FILES if name != "turntable.mp4"}
    [events] = (home / EVENTS).iterdir()
    assert events.read_text() == run.path.name
    loaded = resumed.load_checkpoint()
    assert loaded is not None and loaded.meta == {"text": "new"}
    assert not list(home.glob("unfinished-*")) and not list(home.glob(".*"))


def test_file_systems_without_links_are_served_too(tmp_path, monkeypatch):
    home = finished_run(tmp_path / "run", "old").path
    run = RunFolder.open(home, overwrite=True)
    fill(run, "new")

    def link(source, target):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    run.publish()
    assert texts(home) == dict.fromkeys(FILES, "new")


def test_folders_without_a_run_are_never_changed(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match=r"thesis\.tex.*nothing was changed"):
            RunFolder.open(tmp_path, **how)
    assert _files(tmp_path) == ["thesis.tex"]


def test_a_folder_of_that_name_that_is_no_run_is_left_alone(tmp_path):
    home = finished_run(tmp_path / "run", "old").path
    (home / "unfinished-1").mkdir()
    (home / "unfinished-1" / "report.json").write_text("mine")
    run = RunFolder.open(home, overwrite=True)
    assert run.path.name == "unfinished-2"
    fill(run, "new")
    run.publish()
    assert (home / "unfinished-1" / "report.json").read_text() == "mine"
    assert set(texts(home).values()) == {"new"}
    with pytest.raises(UserError, match="holds other files"):
        (tmp_path / "other" / "unfinished-1").mkdir(parents=True)
        RunFolder.open(tmp_path / "other", overwrite=True)


def test_overwrite_does_not_follow_links(tmp_path):
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "0001-seid.safetensors").write_bytes(b"x")
    run = tmp_path / "run"
    run.mkdir()
    (run / "report.json").write_text("{}")
    (run / "checkpoints").symlink_to(precious)
    new = RunFolder.open(run, overwrite=True)
    fill(new, "new")
    new.publish()
    assert not (run / "checkpoints").is_symlink() and set(texts(run).values()) == {"new"}
    assert _files(precious) == ["0001-seid.safetensors"]


def test_nothing_to_resume_and_no_folder(tmp_path):
    with pytest.raises(UserError, match="no run to resume"):
        RunFolder.open(tmp_path / "nowhere", resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        RunFolder.open(tmp_path / "file")
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.open(tmp_path / "file" / "below")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root can write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write"):
        RunFolder.check(tmp_path / "run")


def test_full_disk_raises_one_line_and_keeps_the_old_file(tmp_path, monkeypatch):
    run = RunFolder.open(tmp_path / "run")
    run.write_json("report.json", {"old": 1})
    run.save_checkpoint("first", {"x": torch.ones(3)})
    before = _files(run.path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        run.write_json("report.json", {"new": 2})
    with pytest.raises(UserError, match="No space left"):
        run.save_checkpoint("second", {"x": torch.zeros(3)})
    assert _files(run.path) == before
    assert json.loads((run.path / "report.json").read_text()) == {"old": 1}
    loaded = run.load_checkpoint()
    assert loaded is not None and loaded.name == "first" and loaded.state["x"].sum() == 3


def _same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(_same, a, b))
    return type(a) is type(b) and a == b


def test_resumed_training_is_bit_exact(tmp_path, seed):
    generator = torch.Generator().manual_seed(seed)
    weights = {name: torch.randn(size, generator=generator) for name, size in (("a", (4, 3)), ("b", (5,)))}

    def optimizer_of(weights):
        for tensor in weights.values():
            tensor.requires_grad_()
        rates = {"a": 0.1, "b": 0.01}
        return torch.optim.Adam([{"params": [weights[name]], "lr": rate} for name, rate in rates.items()])

    def train(weights, optimizer, generator, steps):
        for _ in range(steps):
            optimizer.zero_grad()
            for tensor in weights.values():
                (tensor - torch.randn(tensor.shape, generator=generator)).square().sum().backward()
            optimizer.step()

    optimizer = optimizer_of(weights)
    train(weights, optimizer, generator, 3)
    run = RunFolder.open(tmp_path / "run")
    state = {
        "weights": dict(weights),
        "optimizer": optimizer.state_dict(),
        "rng": generator.get_state(),
        "aliases": [weights["a"], weights["a"].T, torch.zeros(1).expand(7), torch.empty(0)],
        "plain": {"step": 3, "loss": 0.1 + 0.2, "best": float("inf"), "name": None, 7: (1, [True, "x"])},
    }
    run.save_checkpoint("seid-3", state, {"stage": "seid", "step": 3})
    loaded = run.load_checkpoint()
    assert loaded is not None and loaded.name == "seid-3" and loaded.meta == {"stage": "seid", "step": 3}
    assert _same(state, loaded.state), f"seed {seed}"

    other_weights = {name: tensor.clone() for name, tensor in loaded.state["weights"].items()}
    other_optimizer, other_generator = optimizer_of(other_weights), torch.Generator()
    other_optimizer.load_state_dict(loaded.state["optimizer"])
    other_generator.set_state(loaded.state["rng"])
    train(weights, optimizer, generator, 3)
    train(other_weights, other_optimizer, other_generator, 3)
    assert _same(weights, other_weights), f"seed {seed}"


def test_two_checkpoints_are_kept_and_damaged_ones_skipped(tmp_path):
    run = RunFolder.open(tmp_path / "run")
    assert run.load_checkpoint() is None and not run.has_checkpoint()
    for step in (8, 9, 10):  # sorted by number: as text, 10 would come before 9
        run.save_checkpoint(f"step-{step}", {"x": torch.tensor(step)})
    assert len(list((run.path / "checkpoints").iterdir())) == 2 and run.has_checkpoint()
    loaded = run.load_checkpoint()
    assert loaded is not None and loaded.state["x"] == 10
    newest = max((run.path / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-3])
    loaded = run.load_checkpoint()
    assert loaded is not None and loaded.state["x"] == 9


def test_metrics_are_truncated_to_the_checkpoint(tmp_path):
    run = RunFolder.open(tmp_path / "run")
    run.add_metrics({"step": 1, "loss": torch.tensor(0.5)})
    run.save_checkpoint("one", {})
    run.add_metrics({"step": 2, "loss": float("nan")})
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": None}]
    run.continue_from(run.load_checkpoint())
    assert len((run.path / "metrics.jsonl").read_text().splitlines()) == 1


def test_state_of_unknown_type_raises(tmp_path):
    with pytest.raises(ValueError, match=r"state at 'a\.1'"):
        RunFolder.open(tmp_path / "run").save_checkpoint("x", {"a": [1, object()]})


def half_written(path: Path, process: int, machine: str | None = None, age: float = 0.0) -> Path:
    """What a killed process leaves of `path`; machine None: this one."""
    machine = files._machine() if machine is None else machine
    path.parent.mkdir(parents=True, exist_ok=True)
    name = f".{path.stem}.{machine}-{process}.tmp{path.suffix}".replace(".-", ".")
    left = path.with_name(name)
    left.write_bytes(b"half")
    os.utime(left, (time.time() - age,) * 2)
    assert files.is_temporary(name)
    return left


def test_files_half_written_are_swept_by_the_next_run(tmp_path):
    for how in ({}, {"resume": True}, {"overwrite": True}):
        home = tmp_path / str(how)
        run = RunFolder.open(home)
        if how:
            run.save_checkpoint("seid", {}, {})
        left = [
            half_written(home / "report.json", 1, "0123abcd"),
            half_written(home / "checkpoints" / "0003-seid.safetensors", os.getpid()),
            half_written(home / "preview.png", 4711, ""),  # as it was named before machines were in it
        ]
        if how.get("resume"):
            other = RunFolder.open(home, overwrite=True)
            other.save_checkpoint("seid", {}, {})
            left = [half_written(other.path / "checkpoints" / "0001-fit.safetensors", 3), *left[1:]]
            half_written(home / "checkpoints" / "0003-seid.safetensors", os.getpid())
            half_written(home / "preview.png", 4711, "")
        RunFolder.open(home, **how)
        assert not [path for path in left if path.exists()], how


def test_files_half_written_beside_an_output_are_swept_when_it_is_written(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    out, day = tmp_path / "a.b.ply", files.STALE_SECONDS
    gone = [
        half_written(out, ended.pid),
        half_written(out, os.getpid(), "0123abcd", day + 60),
        half_written(out, ended.pid, "", day + 60),
    ]
    kept = [
        half_written(out, os.getppid()),
        half_written(out, ended.pid, "0123abcd", day - 60),
        half_written(tmp_path / "b.ply", ended.pid),
        half_written(tmp_path / "a.b.png", ended.pid),
        half_written(out, ended.pid, "0123abcd", -9 * day),  # written by a clock that was ahead
    ]
    kept = [path for path in dict.fromkeys(kept) if path not in gone]
    files.write_bytes(out, b"whole")
    assert not [path for path in gone if path.exists()] and all(path.exists() for path in kept)
    assert out.read_bytes() == b"whole"
    with pytest.raises(UserError):
        files.write_bytes(tmp_path / "a.b.ply" / "c", b"")
