"""`specularip view`: what is shown at first and after baking, what is kept, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from avatars import random_avatar

from specularip.avatar import Avatar, load
from specularip.baking import bake
from specularip.baking.preview import preview_harmonics
from specularip.cli import main
from specularip.colors import Asgs
from specularip.errors import UserError
from specularip.metrics import agreement
from specularip.progress import Progress
from specularip.viewer.pack import unpack
from specularip.viewer.server import ViewServer
from specularip.viewing import bake_cache, finished
from specularip.viewing.bake_cache import BAKED_FROM, bake_and_keep, file_for, fingerprint, kept
from specularip.viewing.clips import clips_for
from specularip.viewing.finished import show_avatar
from specularip.viewing.shown import Shown


@pytest.fixture(autouse=True)
def small_views(monkeypatch: pytest.MonkeyPatch) -> None:
    """Baking spends most of its time on views of this size."""
    monkeypatch.setattr(bake, "VIEW_SIZE", 48)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder."""
    folder = tmp_path / "run"
    random_avatar().save(folder / "avatar.safetensors")
    return folder


def show(source: Path) -> tuple[Shown, list[str]]:
    """What a page of `source` shows once nothing is baked any more, and the kinds of colours on the way."""
    avatar = load(source)
    shown, kinds = Shown(avatar.title), []
    baking = show_avatar(shown, avatar, source, [])
    kinds.append(unpack(shown.packed() or b"")[0]["kind"])
    if baking is not None:
        assert "approximate" in shown.state()["note"]
        baking.join()
        kinds.append(unpack(shown.packed() or b"")[0]["kind"])
    return shown, kinds


def test_it_shows_harmonics_first_then_the_baked_lobes_which_are_kept(run: Path) -> None:
    shown, kinds = show(run)
    assert kinds == ["sh3", "asg"]
    assert shown.state() == {"version": 2, "note": "", "run": None}
    written = (run / "baked.safetensors").stat().st_mtime_ns
    assert isinstance(load(run / "baked.safetensors").colors, Asgs)
    assert show(run)[1] == ["asg"]  # at once
    assert (run / "baked.safetensors").stat().st_mtime_ns == written


def test_what_was_baked_of_another_avatar_or_is_damaged_is_baked_again(run: Path) -> None:
    show(run)
    avatar = load(run)
    avatar.gaussians.color_logits[0] += 0.01
    avatar.save(run / "avatar.safetensors")
    assert show(run)[1] == ["sh3", "asg"]
    (run / "baked.safetensors").write_bytes(b"junk")
    assert show(run)[1] == ["sh3", "asg"]
    assert show(run)[1] == ["asg"]


def test_the_fingerprint_is_of_all_that_baking_depends_on() -> None:
    avatar = random_avatar()
    assert avatar.head is not None
    mark = fingerprint(avatar)
    assert fingerprint(replace(avatar, provenance={})) == mark
    assert fingerprint(replace(avatar, antialiased=True)) != mark
    moved = avatar.to("cpu")
    assert moved.head is not None
    with torch.no_grad():
        moved.head.raw_widths[0] += 1e-3
    assert fingerprint(moved) != mark
    turned = replace(avatar, gaussians=avatar.gaussians.select(torch.arange(len(avatar.gaussians))))
    assert fingerprint(turned) == mark
    turned.gaussians.latents[0, 0] += 1e-3
    assert fingerprint(turned) != mark


def test_files_outside_a_run_folder_are_kept_in_the_cache(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = run / "avatar.safetensors"
    assert show(file)[1] == ["sh3", "asg"]
    assert [path.name for path in run.iterdir()] == ["avatar.safetensors"]
    place = file_for(file, fingerprint(load(file)))
    assert place.is_relative_to(tmp_path / "cache") and place.is_file()
    assert show(file)[1] == ["asg"]


def test_where_nothing_can_be_kept_the_baked_avatar_is_shown_anyway(tmp_path: Path) -> None:
    avatar = random_avatar()
    (tmp_path / "file").write_text("")
    baked, problem = bake_and_keep(
        avatar, tmp_path / "file" / "x.safetensors", "mark", Progress(open(os.devnull, "w"))
    )
    assert isinstance(baked.colors, Asgs) and "cannot write" in problem
    assert BAKED_FROM not in baked.provenance
    assert kept(avatar, tmp_path / "file", "mark") is None


def test_avatars_without_a_head_are_shown_as_they_are(tmp_path: Path) -> None:
    avatar = random_avatar()
    replace(avatar, head=None).save(tmp_path / "plain.safetensors")
    avatar.baked("sh3").export(tmp_path / "harmonics.ply")
    assert show(tmp_path / "plain.safetensors")[1] == ["diffuse"]
    assert show(tmp_path / "harmonics.ply")[1] == ["sh3"]


def test_baking_that_fails_or_is_stopped_leaves_the_page_with_what_it_has(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*arguments: object) -> None:
        raise RuntimeError("out of memory\nat line 3")

    monkeypatch.setattr(finished, "bake_and_keep", failing)
    shown, kinds = show(run)
    assert kinds == ["sh3", "sh3"]
    assert shown.state()["note"] == "Highlights are approximate; baking failed: out of memory"

    def slow(avatar: Avatar, file: Path, mark: str, progress: Progress) -> None:
        progress.start("bake", 1000)
        for done in range(1000):
            time.sleep(0.005)
            progress.step(done)

    monkeypatch.setattr(finished, "bake_and_keep", slow)
    shown = Shown("slow")
    baking = show_avatar(shown, load(run), run, [])
    assert baking is not None
    began = time.monotonic()
    while "at 1 %" not in shown.state()["note"]:
        assert time.monotonic() - began < 20
    baking.end()
    assert not baking.running


def test_the_preview_is_close_to_the_head_and_closer_than_diffuse_colours() -> None:
    avatar = random_avatar()
    assert avatar.head is not None
    colors = preview_harmonics(avatar.gaussians, avatar.head)
    approximate = replace(avatar, head=None, colors=colors)
    assert agreement(avatar, approximate, 100) > agreement(avatar, replace(avatar, head=None), 100) + 6


def test_motions_need_a_skeleton_that_they_know() -> None:
    assert clips_for(None) == []
    with pytest.raises(UserError, match="skeleton"):
        clips_for(None, ["walk"])
    binding = random_avatar().binding  # three joints
    assert clips_for(binding) == []
    with pytest.raises(UserError, match="dance"):
        clips_for(binding, ["dance"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_its_address_and_ends_with_ctrl_c(run: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "specularip", "view", str(run), "--no-open"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().strip()
            assert url.startswith("http://127.0.0.1:")
            with urllib.request.urlopen(url + "state.json", timeout=60) as answer:
                assert json.load(answer)["run"] is None
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 0 and out.splitlines()[-1] == "stopped"
    assert "Traceback" not in err and "terminate" not in err


def test_the_command_refuses_what_it_cannot_show(tmp_path: Path, run: Path) -> None:
    for arguments in (
        [str(tmp_path / "none")],
        [str(run), "--port", "70000"],
        [str(run), "--host", "203.0.113.1"],
        [str(run), "--motion", "dance"],
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["view", *arguments, "--no-open"])
        assert stopped.value.code == 2


def test_other_addresses_are_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    for host, warned in (("127.0.0.1", False), ("0.0.0.0", True)):
        with ViewServer(Shown("vase"), host) as server:
            finished.announce(server, open_browser=False)
        said = capsys.readouterr()
        assert server.url in said.out and ("warning" in said.err) == warned


def test_versions_of_the_package_bake_anew(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    show(run)
    monkeypatch.setattr(bake_cache, "__version__", "99")
    assert show(run)[1] == ["sh3", "asg"]
