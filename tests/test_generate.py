"""`generate` on a tiny configuration: run folder, reproducibility, resuming, non-finite losses, the photo."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import pytest
from event_files import read_events, steps
from PIL import Image, ImageOps
from tiny_runs import FACE, SEID, TINY, difference, make

from specularip import avatar as avatar_module
from specularip import checkpoints
from specularip.errors import UserError
from specularip.pipeline import generate
from specularip.progress import Progress
from specularip.run_folder import EVENTS, FILES, RunFolder
from specularip.stages import seid as seid_module
from specularip.training import session


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, avatar_module.Avatar]:
    out = tmp_path_factory.mktemp("run") / "avatar"
    return out, make(out, tensorboard=True)


def test_the_run_folder_has_its_files_and_the_report_its_entries(
    finished: tuple[Path, avatar_module.Avatar],
) -> None:
    out, made = finished
    for name in FILES:
        assert (out / name).stat().st_size > 0, name
    report = json.loads((out / "report.json").read_text())
    assert report["settings"]["seid"]["steps"] == TINY.seid.steps
    assert report["perceptual_loss"] == "encoder-features" and "LPIPS" in report["perceptual_note"]
    assert report["phenotype"]["gender"] > 0.5
    assert report["image"] == str(FACE) and made.provenance["photo"] == FACE.name
    assert report["gaussians"] == len(made.gaussians) > 300
    assert {"seid", "refine", "fit", "load", "write"} <= set(report["seconds"])
    assert report["last_metrics"]["fit"].keys() >= {"loss", "l1", "perceptual"}
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["stage"] == "seid"] == list(range(1, 11))
    assert [line["step"] for line in lines if line["stage"] == "fit"] == list(range(1, 5))
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(out / "turntable.mp4"))
    assert frames == 90
    assert difference(avatar_module.load(out), made) == 0
    assert made.binding is not None and int(made.gaussians.bind_joints.max()) < len(made.binding.joint_names)
    assert made.expressions is not None and "eyeBlinkLeft" in made.expressions.names
    assert int(made.expressions.index.max()) < len(made.gaussians)


def test_event_files_hold_the_metrics_of_both_stages(finished: tuple[Path, avatar_module.Avatar]) -> None:
    out, _ = finished
    found = read_events(out)
    assert steps(found, "seid/sds") == steps(found, "learning rate/shared")[:10] == list(range(1, 11))
    assert steps(found, "fit/perceptual") == steps(found, "fit/points") == list(range(11, 15))
    assert [image.step for image in found.Images("preview")][-1] == 14
    assert "inputs/text/text_summary" in found.Tags()["tensors"]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    losses = [scalar.value for stage in ("seid", "fit") for scalar in found.Scalars(f"{stage}/loss")]
    assert losses == pytest.approx([line["loss"] for line in lines])
    assert [path.name for path in (out / EVENTS).iterdir()] == ["events.out.tfevents.0001"]


def test_both_stages_train_the_specular_branch(finished: tuple[Path, avatar_module.Avatar]) -> None:
    _, made = finished
    assert float(made.gaussians.latents.abs().max()) > 0.01
    assert made.head is not None
    start = type(made.head)(made.head.config, TINY.seed).state_dict()
    moved = {k: float((v - start[k]).abs().max()) for k, v in made.head.state_dict().items()}
    assert min(moved.values()) > 0 and "attention.qkv.weight" in moved, moved


def test_the_same_seed_makes_the_same_avatar_and_another_does_not(
    finished: tuple[Path, avatar_module.Avatar], tmp_path: Path
) -> None:
    _, made = finished
    assert difference(make(tmp_path / "again"), made) <= 1e-4
    other = make(tmp_path / "other", seed=1)
    assert len(other.gaussians) != len(made.gaussians) or difference(other, made) > 1e-2


@pytest.mark.parametrize(("stage", "step"), [("SEID", 7), ("SCR views", 2), ("SCR fit", 2)])
def test_a_stopped_run_resumes_to_the_same_avatar(
    finished: tuple[Path, avatar_module.Avatar], tmp_path: Path, stage: str, step: int
) -> None:
    class Interrupting(Progress):
        """Sends SIGTERM at one step, as a batch system does."""

        def step(self, done: int, loss: float | None = None) -> None:
            super().step(done, loss)
            if self._stage == stage and done == step:
                os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "run", progress=Interrupting())
    assert not (tmp_path / "run" / "report.json").exists()
    with pytest.raises(UserError, match="another seed"):
        make(tmp_path / "run", resume=True, seed=5)
    resumed = make(tmp_path / "run", resume=True)
    assert difference(resumed, finished[1]) <= 1e-3
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in steps if line["stage"] == "seid"]) == TINY.seid.steps


def test_non_finite_losses_skip_their_step_and_three_in_a_row_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = seid_module.sds, [0]

    def poisoned(*args: object, **options: object) -> object:
        result = real(*args, **options)  # type: ignore[arg-type]
        calls[0] += 1
        bad = calls[0] in bad_calls
        return replace(result, loss=result.loss * float("nan")) if bad else result

    monkeypatch.setattr(seid_module, "sds", poisoned)
    bad_calls: set[int] = {2, 3, 5}
    survived = make(tmp_path / "two")
    assert all(bool(t.isfinite().all()) for t in survived.gaussians.parameters().values())
    calls[0], bad_calls = 0, {4, 5, 6}
    monkeypatch.setattr(session, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(UserError, match="not finite at step 6 of seid"):
        make(tmp_path / "three")
    kept = RunFolder(tmp_path / "three").load_checkpoint()
    assert kept is not None and kept.meta["step"] == 3


def test_unknown_words_truncated_text_and_all_photos_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "A woman in a red zorblax dress, " + "with a very long description " * 12
    short = replace(TINY, seid=replace(SEID, steps=1), scr=replace(TINY.scr, fit_steps=1), turntable_frames=2)
    mirrored = tmp_path / "mirrored.png"
    ImageOps.mirror(Image.open(FACE)).save(mirrored)
    made = generate(text, [FACE, mirrored], out=tmp_path / "run", config=short)
    said = capsys.readouterr().out
    assert "zorblax" in said and "left out" in said
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert any("zorblax" in note for note in report["notes"])
    assert len(report["text_read"]) < len(text)
    assert report["image"] == [str(FACE), str(mirrored)]
    assert made.provenance["photo"] == [FACE.name, mirrored.name]


def test_the_photo_shapes_the_head(finished: tuple[Path, avatar_module.Avatar], tmp_path: Path) -> None:
    out, _ = finished
    free = tmp_path / "free"
    make(free, photo_weight=0.0)
    with_photo, without = (json.loads((folder / "report.json").read_text()) for folder in (out, free))
    assert max(map(abs, with_photo["head"]["shape"])) > 0.2 and without["head"] is None
    assert with_photo["head"]["landmark errors"][0] < 0.03
    for weight in (-0.1, 1.1):
        with pytest.raises(UserError, match="photo-weight"):
            make(tmp_path / "negative", photo_weight=weight)


def test_the_checkpoint_of_another_format_is_refused_in_one_line(
    finished: tuple[Path, avatar_module.Avatar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished[0], tmp_path / "run")
    monkeypatch.setattr(checkpoints, "FORMAT", checkpoints.FORMAT + 1)
    with pytest.raises(UserError, match=r"another version of specularip made it.* --overwrite") as caught:
        make(tmp_path / "run", resume=True)
    assert "\n" not in str(caught.value)


def test_a_killed_run_leaves_whole_files_and_resumes_to_the_same_avatar(
    finished: tuple[Path, avatar_module.Avatar], tmp_path: Path
) -> None:
    """SIGKILL while the background thread writes a checkpoint."""
    code = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import safetensors.torch
from tiny_runs import make
from specularip.training import session
session.CHECKPOINT_SECONDS = session.PREVIEW_SECONDS = 0.0
save, calls = safetensors.torch.save, []

def killing(*arguments):
    calls.append(None)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return save(*arguments)

safetensors.torch.save = killing
from pathlib import Path
make(Path({str(tmp_path / "run")!r}))
"""
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kept = RunFolder(tmp_path / "run").load_checkpoint()
    assert kept is not None and kept.name == "seid"
    assert difference(make(tmp_path / "run", resume=True), finished[1]) == 0
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 11), *range(1, 5)]
