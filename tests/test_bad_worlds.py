"""Full disks, read-only folders, clocks that jump, too little memory, too few files: one line, the last
checkpoint whole, and the same result after `--resume`.

`python tests/test_bad_worlds.py` lets the disk be full at every write of a tiny `fit` and a tiny `generate`.
"""

from __future__ import annotations

import builtins
import contextlib
import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import SafetensorError
from tiny_captures import write_capture
from tiny_prior import compact_prior, pixel_prior, with_surface
from tiny_runs import FACE, TEXT, TINY, difference, make

from specularip import avatar_file, files
from specularip.avatar import Avatar
from specularip.diffusion.loading.folder import save_prior
from specularip.errors import UserError
from specularip.export.ply import write_ply
from specularip.fitting import fit as fit_module
from specularip.fitting.settings import FitConfig
from specularip.gaussians import Gaussians
from specularip.guard import USER_ERROR, explain
from specularip.inputs import check_inputs
from specularip.kernels.async_transfer import StepMetrics
from specularip.overrides import with_settings
from specularip.pipeline import _run_inputs
from specularip.progress import Progress
from specularip.run_folder import RunFolder
from specularip.run_lock import locked
from specularip.stages import scr
from specularip.stopping import stop_on_signal
from specularip.training import session as session_module
from specularip.training.schema import TensorOf, generator_state
from specularip.training.session import Phase, Session

pytestmark = pytest.mark.usefixtures("small_bakes")
CPU = torch.device("cpu")
STEPS = 2
LEAST = replace(
    TINY,
    seid=replace(TINY.seid, steps=1),
    scr=replace(TINY.scr, fit_steps=1, close_ups=False),
    photo_weight=0.0,
    turntable_frames=2,
)
ROUGH = (
    "start.fusion.depth_tolerance=1", "start.fusion.least_tolerance=1", "start.fusion.outline_tolerance=64",
    "start.fusion.confirmations_per_outside=1", "start.fusion.least_neighbours=1",
)  # fmt: skip
"""Settings for the surface that random networks draw."""
FIT = FitConfig(iterations=12, points=100, lights=4, initial_shading_steps=2)


class FailingDisk:
    """The `at`-th operation that needs the disk fails with this error, and all after it; 0: none does. calls:
    how many there were."""

    def __init__(self, at: int, number: int = errno.ENOSPC) -> None:
        self.at, self.number, self.calls = at, number, 0

    def count(self, name: object) -> None:
        self.calls += 1
        if self.at and self.calls >= self.at:
            raise OSError(self.number, os.strerror(self.number), os.fspath(name) if name else None)

    @contextlib.contextmanager
    def mounted(self, folder: Path) -> Iterator[None]:
        """In place of what `folder` is on."""
        with pytest.MonkeyPatch.context() as patch:
            inside = str(folder)

            def counted(owner: Any, name: str, path_at: int = 0) -> None:
                real = getattr(owner, name)

                def call(*arguments: Any, **options: Any) -> Any:
                    path = str(arguments[path_at])
                    if path.startswith(inside) or isinstance(arguments[path_at], int):
                        self.count(None if isinstance(arguments[path_at], int) else path)
                    return real(*arguments, **options)

                patch.setattr(owner, name, call)

            counted(Path, "touch")
            counted(Path, "mkdir")
            counted(os, "replace")
            counted(os, "link")
            counted(os, "rename")
            counted(os, "fsync")
            counted(os, "write")
            real_open = builtins.open

            def opened(path: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
                file = real_open(path, mode, *arguments, **options)
                if str(path).startswith(inside) and set(mode) & set("wax+"):
                    write = file.write

                    class Written:
                        def __getattr__(self, name: str) -> Any:
                            return getattr(file, name)

                        def __enter__(self) -> Any:
                            return self

                        def __exit__(self, *error: object) -> None:
                            file.close()

                    wrapped = Written()

                    def counted_write(data: Any) -> Any:
                        self.count(path)
                        return write(data)

                    wrapped.write = counted_write  # type: ignore[attr-defined]
                    return wrapped
                return file

            patch.setattr(builtins, "open", opened)
            save_file = avatar_file.save_file

            def saved(tensors: Any, path: Any, metadata: Any) -> None:
                try:
                    self.count(path)
                except OSError as error:  # as safetensors tells it
                    raise SafetensorError(f"I/O error: {error.strerror} (os error {error.errno})") from None
                save_file(tensors, path, metadata)

            patch.setattr(avatar_file, "save_file", saved)
            yield


def little_cloud(value: float) -> Gaussians:
    ones = torch.ones(3)
    return Gaussians(
        ones[:, None].repeat(1, 3) * value, torch.eye(4)[:3], ones[:, None].repeat(1, 3), ones,
        torch.zeros(3, 3), torch.zeros(3, 0), torch.zeros(3, 3), torch.zeros(3).long(),
        torch.zeros(3, 4).long(), torch.eye(4)[:1].repeat(3, 1),
    )  # fmt: skip


def little_run(out: Path, **how: bool) -> float:
    """All that `generate` and `fit` write, in milliseconds: STEPS steps that depend on random numbers and on
    all steps before, a checkpoint and a preview after each; an avatar, a report. Returns what it trained."""
    with locked(out), StdoutOf() as progress, stop_on_signal() as stop:
        folder = RunFolder.open(out, **how)
        generator, weight, first = torch.Generator().manual_seed(3), torch.zeros(2), 0
        with Session(folder, progress, stop, CPU, {"seed": 3}) as session:
            state = {"weight": TensorOf((2,)), "generator": generator_state}
            if (checkpoint := session.resume({"fit": Phase(STEPS, state)})) is not None:
                weight, first = checkpoint.state["weight"], checkpoint.meta["step"]
                generator.set_state(checkpoint.state["generator"])

            def pack() -> dict[str, Any]:
                return {"weight": weight, "generator": generator.get_state()}

            def preview() -> np.ndarray:
                return np.zeros((4, 4, 3), np.uint8)

            session.save("fit", first, pack())
            with session.training("fit", "fit", STEPS, first, pack, preview):
                for step in range(first, STEPS):
                    weight = 0.5 * weight + torch.randn(2, generator=generator)
                    session.after_step(step + 1, StepMetrics({"loss": weight.sum()}))
                    session._writer.join()
            session.save("fit", STEPS, pack())
            found = float(weight.sum())
            cloud = little_cloud(found)
            Avatar(cloud).save(folder.path)
            write_ply(folder.path / "avatar.ply", cloud)
            folder.write_png("preview.png", preview())
            session.write_report({"result": found})
            folder.publish()
    return found


class StdoutOf(Progress):
    """Progress that is not shown."""

    def __init__(self) -> None:
        super().__init__(io.StringIO())


def fast(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(session_module, "CHECKPOINT_SECONDS", 0.0)
    patch.setattr(session_module, "PREVIEW_SECONDS", 0.0)


def steps_in(out: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def left_over(out: Path) -> list[str]:
    return [path.name for path in out.rglob("*") if files.is_temporary(path.name)]


def fails_in_one_line(run: Callable[[], object]) -> str:
    """The line that the command line would print, of a run that fails."""
    with pytest.raises((UserError, OSError)) as caught:
        run()
    code, line = explain(caught.value)
    assert code == USER_ERROR and "\n" not in line, line
    return line


@pytest.mark.parametrize(
    ("how", "number"),
    [("fresh", errno.ENOSPC), ("replacing", errno.EMFILE)],
)
def test_a_disk_that_fails_at_every_operation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, number: int
) -> None:
    fast(monkeypatch)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # hundreds of them take a minute
    wanted = little_run(tmp_path / "whole")
    whole = (tmp_path / "whole" / "metrics.jsonl").read_bytes()
    at, options = 1, {"overwrite": True} if how == "replacing" else {}
    while True:
        out = tmp_path / str(at)
        if options:
            little_run(out)
        disk = FailingDisk(at, number)
        with disk.mounted(tmp_path):
            if disk.at > 1 and at > 400:
                raise AssertionError("the run never ends")
            try:
                little_run(out, **options)
                break  # fewer than `at` operations
            except (UserError, OSError) as error:
                code, line = explain(error)
        assert code == USER_ERROR and os.strerror(number) in line, f"at {at}: {line}"
        advised = ": " in line.partition(os.strerror(number))[2] or "another --out" in line
        assert advised, line
        assert not left_over(out), f"at {at}"
        if options:
            assert json.loads((out / "report.json").read_text())["result"] == wanted
        current = RunFolder.current(out)
        assert not current.has_checkpoint() or current.load_checkpoint() is not None, f"at {at}"
        begun = out.exists() and any(name.name != ".lock" for name in out.iterdir())
        assert little_run(out, resume=begun) == wanted, f"at {at}"
        assert (out / "metrics.jsonl").read_bytes() == whole, f"at {at}"
        assert not left_over(out) and not list(out.glob("unfinished-*")), f"at {at}"
        at += 1
    assert at > 30, "operations were counted"


def test_a_run_killed_before_its_first_checkpoint_logs_no_step_twice(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path)
    run.add_metrics({"stage": "fit", "step": 1})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "fi')
    run.close()
    little_run(tmp_path, resume=True)
    assert steps_in(tmp_path) == list(range(1, STEPS + 1))


def test_half_a_line_is_not_glued_to_the_next(tmp_path: Path) -> None:
    run = RunFolder.open(tmp_path)
    run.add_metrics({"step": 1})
    run.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "loss": 0.')
    run.add_metrics({"step": 2})
    assert steps_in(tmp_path) == [1, 2]


def test_a_disk_that_takes_half_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, write, calls = RunFolder.open(tmp_path), os.write, [0]
    run.add_metrics({"step": 1})

    def half(file: int, data: bytes) -> int:
        calls[0] += 1
        if calls[0] > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(UserError, match="No space left on device: free some space"):
            run.add_metrics({"step": 2})
    assert steps_in(tmp_path) == [1]
    run.add_metrics({"step": 2})
    assert steps_in(tmp_path) == [1, 2]


def test_a_clock_that_goes_backwards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And by years at each look."""
    fast(monkeypatch)
    wanted = little_run(tmp_path / "a")
    now = [2e9]

    def backwards() -> float:
        now[0] -= 1e8
        return now[0]

    monkeypatch.setattr(time, "time", backwards)
    assert little_run(tmp_path / "b") == wanted and little_run(tmp_path / "b", overwrite=True) == wanted
    assert little_run(tmp_path / "b", resume=True) == wanted
    assert steps_in(tmp_path / "b") == list(range(1, STEPS + 1))


@pytest.fixture(scope="module")
def capture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_capture(tmp_path_factory.mktemp("capture"))


def fit(capture: Path, out: Path, **options: Any) -> Avatar:
    return fit_module.fit(capture, out, config=FIT, device="cpu", progress=StdoutOf(), **options)


@pytest.fixture(scope="module")
def fitted(capture: Path, tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    return fit(capture, tmp_path_factory.mktemp("fit") / "out")


def disk_full_in(run: Callable[..., Avatar], out: Path, at: int, wanted: Avatar) -> bool:
    """Whether the disk was full at the `at`-th write of `run`; then it is continued, and compared."""
    disk = FailingDisk(at)
    with disk.mounted(out), pytest.MonkeyPatch.context() as patch:
        fast(patch)
        try:
            run(out)
            return False
        except (UserError, OSError) as error:
            code, line = explain(error)
    assert code == USER_ERROR and "No space left" in line, f"at {at}: {line}"
    assert not left_over(out)
    begun = out.exists() and any(name.name != ".lock" for name in out.iterdir())
    assert difference(run(out, resume=begun), wanted) == 0, f"at {at}"
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines]
    assert len(steps) == len(set(steps)), steps
    return True


@pytest.mark.parametrize("at", [3, 9, 15, 24])
def test_a_full_disk_in_a_fit(capture: Path, fitted: Avatar, tmp_path: Path, at: int) -> None:
    assert disk_full_in(lambda out, **options: fit(capture, out, **options), tmp_path / "out", at, fitted)


def test_other_data_is_named(capture: Path, fitted: Avatar, tmp_path: Path) -> None:
    """A copy of the folder is the same data, whatever its path and times; a changed pixel is not."""
    fit(capture, tmp_path / "out")
    copy = write_capture(tmp_path / "copy")
    assert difference(fit(copy, tmp_path / "out", resume=True), fitted) == 0
    pixels = np.asarray(Image.open(copy / "2.png")).copy()
    pixels[15, 16, 0] ^= 1
    Image.fromarray(pixels).save(copy / "2.png")
    with pytest.raises(UserError, match=r"made with another image\.2\.png: repeat"):
        fit(copy, tmp_path / "out", resume=True)


def test_a_stop_while_the_first_points_are_placed(
    capture: Path, fitted: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of work that looks at no flag; what is kept is what was before."""

    def slow(*arguments: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "begin", slow)
        before = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            fit(capture, tmp_path / "out")
        assert time.monotonic() - before < 30
    assert not RunFolder(tmp_path / "out").has_checkpoint()
    # After that there is a checkpoint at once.
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "train_step", stopping)
        with pytest.raises(KeyboardInterrupt):
            fit(capture, tmp_path / "out")
    checkpoint = RunFolder(tmp_path / "out").load_checkpoint()
    assert checkpoint is not None and checkpoint.name == "fit" and checkpoint.meta["step"] == 0
    assert difference(fit(capture, tmp_path / "out", resume=True), fitted) == 0


def stopping(*arguments: Any) -> None:
    raise KeyboardInterrupt


def out_of_memory(*arguments: Any, **options: Any) -> None:
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")


def test_a_gpu_without_memory_in_a_fit(
    capture: Path, fitted: Avatar, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(fit_module, "train_step", out_of_memory)
        line = fails_in_one_line(lambda: fit(capture, tmp_path / "out"))
    assert "the GPU ran out of memory" in line and "--resume" in line
    assert difference(fit(capture, tmp_path / "out", resume=True), fitted) == 0


@pytest.mark.parametrize("together", [True, False])
def test_low_memory_is_taken_up_on_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool
) -> None:
    """With a prior whose views attend to each other, and with one whose views do not. The refined views are
    compared: the first steps of Adam are long for the smallest gradients."""
    save_prior(with_surface(compact_prior()) if together else pixel_prior(), tmp_path / "prior")
    config = with_settings(LEAST, [*ROUGH, f"prior.path={tmp_path / 'prior'}", "prior.dtype=float32"])
    batches: list[int] = []
    refined: list[torch.Tensor] = []
    refine = scr.refine

    def watched(*arguments: Any, **options: Any) -> torch.Tensor:
        batches.append(options["batch"])
        refined.append(refine(*arguments, **options))
        return refined[-1]

    with monkeypatch.context() as patch:
        patch.setattr(scr, "refine", out_of_memory)
        line = fails_in_one_line(lambda: make(tmp_path / "out", config=config))
    assert "the GPU ran out of memory" in line and line.endswith("--resume --low-memory")
    shutil.copytree(tmp_path / "out", tmp_path / "more memory")
    monkeypatch.setattr(scr, "refine", watched)
    make(tmp_path / "more memory", config=config, resume=True)
    make(tmp_path / "out", config=config, resume=True, low_memory=True)
    assert batches == [8, 2]
    assert torch.allclose(*refined, atol=2e-5)


def test_another_photo_is_named(tmp_path: Path) -> None:
    copy = tmp_path / "another name.png"
    Image.open(FACE).save(copy)

    def inputs(*photos: Path) -> dict[str, Any]:
        read = check_inputs(TEXT, photos, tmp_path / "new")
        return _run_inputs(read, TINY)

    found = list(session_module.differences(inputs(FACE), inputs(copy)))
    assert found == [], "the same pixels under another name"
    Image.open(FACE).rotate(3).save(copy)
    assert list(session_module.differences(inputs(FACE), inputs(copy))) == ["photo"]
    assert list(session_module.differences(inputs(FACE, copy), inputs(copy, FACE))) == ["photo 1", "photo 2"]


def mounts() -> bool:
    """Whether a file system can be mounted, in a namespace of its own."""
    command = ["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    with contextlib.suppress(OSError):
        return subprocess.run(command, capture_output=True).returncode == 0
    return False


def command_line(*arguments: str, before: str = "") -> subprocess.CompletedProcess[str]:
    """The command line in a shell, in which `before` is run first."""
    script = f'{before}\nexec "$@"'
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "specularip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def one_line_of(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == USER_ERROR, done.stdout + done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("specularip: error: "), done.stderr
    return lines[0]


def test_files_that_cannot_be_opened_any_more_whoever_says_so() -> None:
    for number, advice in ((errno.EMFILE, ": allow more with `ulimit -n 4096`"), (errno.ENOENT, "")):
        try:
            try:
                raise OSError(number, os.strerror(number))
            except OSError as error:
                raise UserError(f"a.json cannot be read: {error.strerror}") from None
        except UserError as error:
            assert explain(error)[1] == f"a.json cannot be read: {os.strerror(number)}{advice}"


ARGUMENTS = ("--iterations", "4", "--points", "100", "--device", "cpu")


@pytest.mark.skipif(not mounts(), reason="nothing can be mounted")
def test_a_small_file_system_that_fills_up(capture: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    script = f"mount -t tmpfs -o size=220k tmpfs '{disk}'; export PYTHONUNBUFFERED=1"
    command = ["sh", "-c", f'{script}\n"$@"; code=$?; ls -A {disk}/out/checkpoints >&2; exit $code', "sh"]
    command += [sys.executable, "-m", "specularip", "fit", str(capture), *ARGUMENTS, "--out", f"{disk}/out"]
    done = subprocess.run(["unshare", "-rm", *command], capture_output=True, text=True, timeout=300)
    assert done.returncode == USER_ERROR, done.stdout + done.stderr
    error, *listed = done.stderr.splitlines()
    assert "No space left" in error or "free" in error, error
    assert not any(files.is_temporary(name) for name in listed)


@pytest.mark.parametrize("limit", ["ulimit -v 900000", "ulimit -n 5"])
def test_limits_of_the_shell(capture: Path, tmp_path: Path, limit: str) -> None:
    done = command_line("fit", str(capture), *ARGUMENTS, "--out", str(tmp_path / "out"), before=limit)
    line = one_line_of(done)
    assert ("use `ulimit -v" in line) if "-v" in limit else ("ulimit -n" in line), line


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        capture = write_capture(folder / "capture")
        runs = {
            "fit": lambda out, **options: fit(capture, out, **options),
            "generate": lambda out, **options: make(out, config=LEAST, progress=StdoutOf(), **options),
        }
        for kind, run in runs.items():
            wanted, at = run(folder / kind), 1
            while disk_full_in(run, folder / f"{kind}-{at}", at, wanted):
                at += 1
            print(f"{kind}: the disk was full at each of {at - 1} writes", flush=True)


if __name__ == "__main__":
    main()
