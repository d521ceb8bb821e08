"""The page of a run: what it shows while the avatar grows, after a stop, and that it leaves the run alone."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import types
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from avatars import random_avatar
from PIL import Image
from tiny_runs import FACE, TEXT, difference, make

from specularip.avatar import Avatar
from specularip.baking import bake
from specularip.cli import main
from specularip.progress import Progress
from specularip.run_folder import BAKED, SNAPSHOT, RunFolder
from specularip.training import session
from specularip.viewer.pack import unpack
from specularip.viewing import growing
from specularip.viewing.growing import POINTS, LiveView, LossCurve


class Watcher(threading.Thread):
    """Asks a page's server for its state ten times a second, as the page does every two."""

    def __init__(self, live: LiveView) -> None:
        super().__init__(daemon=True)
        self.live, self.states, self.ended = live, [], threading.Event()  # type: ignore[var-annotated]

    def run(self) -> None:
        while not self.ended.wait(0.1):
            self.states.append(fetch_json(self.live, "state.json"))

    def __enter__(self) -> Watcher:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.ended.set()
        self.join()


def fetch(live: LiveView, name: str) -> bytes:
    with urllib.request.urlopen(live.url + name, timeout=30) as answer:
        return answer.read()  # type: ignore[no-any-return]


def fetch_json(live: LiveView, name: str) -> dict[str, Any]:
    return json.loads(fetch(live, name))  # type: ignore[no-any-return]


def header_of(packed: bytes) -> dict[str, Any]:
    return unpack(packed)[0]


class StopAt(Progress):
    """Sends SIGTERM at one step of SEID, as a batch system does; step 0: never."""

    def __init__(self, at: int) -> None:
        super().__init__(open(os.devnull, "w"))
        self.at = at

    def step(self, done: int, loss: float | None = None) -> None:
        super().step(done, loss)
        if self.stage().name == "SEID" and done == self.at:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def frequent_previews(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "PREVIEW_SECONDS", 0.0)
    monkeypatch.setattr(session, "PREVIEW_SHARE", 1e9)


@pytest.fixture(scope="module")
def unwatched(tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    return make(tmp_path_factory.mktemp("run") / "unwatched", progress=StopAt(0))


def test_a_run_is_watched_stopped_resumed_and_ends_as_if_nobody_looked(
    unwatched: Avatar, tmp_path: Path, frequent_previews: None
) -> None:
    out = tmp_path / "run"
    with LiveView() as live, Watcher(live) as watcher:
        assert fetch_json(live, "state.json") == {"version": 0, "note": "Loading", "run": None}
        with pytest.raises(KeyboardInterrupt):
            make(out, progress=StopAt(7), live=live)
        time.sleep(0.3)
    runs = [state["run"] for state in watcher.states if state["run"]]
    assert {"SEID views", "SEID"} <= {run["stage"] for run in runs}
    assert all(run["text"] == TEXT and run["status"] == "running" and run["photo"] for run in runs)
    last = watcher.states[-1]
    assert last["version"] >= 2  # the first state, and at least one preview
    assert last["run"]["step"] >= 7 and last["run"]["steps"] == 10
    snapshot = (out / SNAPSHOT).read_bytes()

    with LiveView() as live:
        live.begin(out, Progress(), TEXT)  # before its first preview, a resumed run shows where it stopped
        assert fetch(live, "avatar.pack") == snapshot
        assert len(fetch_json(live, "state.json")["run"]["losses"][0]["values"]) >= 7
    with LiveView() as live:
        resumed = make(out, resume=True, progress=StopAt(0), live=live)
        state = fetch_json(live, "state.json")
        assert state["run"]["status"] == "finished" and state["version"] > 2
        losses = {curve["stage"]: curve["values"] for curve in state["run"]["losses"]}
        assert len(losses["seid"]) == 10 and len(losses["fit"]) == 4  # no step twice
        packed = fetch(live, "avatar.pack")
        header = header_of(packed)
        assert header["kind"] == "sh3" and header["count"] == len(resumed.gaussians)
        assert [clip["name"] for clip in header["clips"]] == ["walk", "run", "wave", "turn", "idle"]
        assert header_of(snapshot)["meta"]["title"] == header["meta"]["title"] == TEXT
        photo = Image.open(urllib.request.urlopen(live.url + "photo.png", timeout=30))
        assert max(photo.size) == growing.PHOTO_SIZE
    assert difference(resumed, unwatched) == 0
    assert not (out / SNAPSHOT).exists()


def test_an_error_of_the_page_is_told_once_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*arguments: object) -> bytes:
        raise RuntimeError("no space\nat all")

    monkeypatch.setattr(Avatar, "packed", broken)
    with LiveView() as live:
        live.begin(tmp_path, Progress(), "a vase", np.zeros((8, 8, 3), np.uint8))
        for _ in range(3):
            live.show(random_avatar())
            while live.busy:
                time.sleep(0.01)
        live.finish(random_avatar())
        assert fetch_json(live, "state.json")["version"] == 0
    said = capsys.readouterr().out.splitlines()
    assert said == ["the page of this run cannot follow it: no space"]


def test_showing_leaves_the_avatar_and_the_random_numbers_alone(tmp_path: Path) -> None:
    avatar = random_avatar()
    assert avatar.head is not None
    before = {name: tensor.clone() for name, tensor in avatar.gaussians.tensors().items()}
    state = torch.get_rng_state()
    with LiveView() as live:
        live.begin(tmp_path, Progress(), "a vase")
        live.show(avatar.to("cpu"))
        live.show(avatar)
        while live.busy:
            time.sleep(0.01)
        assert header_of(fetch(live, "avatar.pack"))["count"] == len(avatar.gaussians)
    assert torch.equal(torch.get_rng_state(), state)
    for name, tensor in avatar.gaussians.tensors().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in avatar.head.parameters())


def test_a_damaged_snapshot_of_a_stopped_run_is_left_out(tmp_path: Path) -> None:
    (tmp_path / SNAPSHOT).write_bytes(b"not a packed avatar")
    with LiveView() as live:
        live.begin(tmp_path, Progress(), "a vase")
        assert fetch_json(live, "state.json")["version"] == 0


def test_the_command_shows_the_finished_avatar_baked_until_ctrl_c(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`generate --view`, with a run that takes no time."""
    monkeypatch.setattr(bake, "VIEW_SIZE", 48)
    kinds: list[str] = []

    def watch(live: LiveView) -> None:
        end = time.monotonic() + 120
        while "asg" not in kinds and time.monotonic() < end:
            kinds.append(header_of(fetch(live, "avatar.pack"))["kind"])
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    def generate(
        text: str, photos: object, *, out: Path, live: LiveView, progress: Progress, **rest: object
    ) -> None:
        RunFolder.open(out)
        live.begin(out, progress, text)
        live.show(random_avatar())
        live.finish(random_avatar())
        threading.Thread(target=watch, args=(live,)).start()

    monkeypatch.setitem(sys.modules, "specularip.pipeline", types.SimpleNamespace(generate=generate))
    out = tmp_path / "run"
    main(["generate", "a man", "--image", str(FACE), "--out", str(out), "--view"])
    said = capsys.readouterr().out
    assert "watch it grow: http://127.0.0.1:" in said and said.endswith("stopped\n")
    assert kinds[0] == "sh3" and kinds[-1] == "asg" and (out / BAKED).is_file()


def test_loss_curves_follow_a_file_that_grows_and_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    curve = LossCurve(path)
    assert curve.read() == []
    lines = [json.dumps({"stage": "seid", "step": k, "loss": k / 10}) + "\n" for k in range(10)]
    path.write_text("".join(lines[:4]) + lines[4][:9])  # a line that is being written
    assert curve.read() == [{"stage": "seid", "values": [0.0, 0.1, 0.2, 0.3]}]
    path.write_text("".join(lines[:6]) + '{"stage": "seid", "loss": null}\n{"stage": "fit", "loss": 2}\n[]\n')
    assert curve.read() == [
        {"stage": "seid", "values": [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]},
        {"stage": "fit", "values": [2.0]},
    ]
    path.write_text(lines[7])
    assert curve.read() == [{"stage": "seid", "values": [0.7]}]
    path.write_text("".join(lines * 100))
    [long] = curve.read()
    assert len(long["values"]) == POINTS and np.mean(long["values"]) == pytest.approx(0.45, abs=0.01)
