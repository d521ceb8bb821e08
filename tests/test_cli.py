"""The command line: help without torch, one-line errors with exit code 2, progress in a pipe."""

import io
import os
import signal
import subprocess
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from specularip.models.check import compact_files, inspect_file
from specularip.progress import Progress
from specularip.stopping import stop_on_signal

PORTRAIT = Path(__file__).parent.parent / "examples" / "eileen_collins.jpg"


def _run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "specularip", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _one_line_error(*arguments: str | Path) -> str:
    result = _run(*arguments)
    assert result.returncode == 2, result
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("specularip: error: "), result.stderr
    return lines[0]


def _python(code: str) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_import_and_help_do_not_load_torch():
    loaded = _python("import sys, specularip; print('torch' in sys.modules, 'numpy' in sys.modules)")
    assert loaded == "False False\n"
    code = (
        "import sys\nfrom specularip.cli import main\n"
        "try: main(['generate', '--help'])\n"
        "except SystemExit as e: print('code', e.code, 'torch' in sys.modules)"
    )
    assert _python(code).endswith("code 0 False\n")


def test_public_names_resolve_lazily():
    import specularip as sip

    assert sip.Cameras.__module__ == "specularip.cameras"
    assert sip.rasterize.__module__.startswith("specularip.raster")
    assert set(sip.__all__) <= set(dir(sip))
    with pytest.raises(AttributeError, match="no attribute 'rastrize'"):
        sip.rastrize  # noqa: B018


def test_help_and_version_and_unknown_options():
    assert "satin" in _run("generate", "--help").stdout
    assert _run("--version").stdout.startswith("specularip ")
    for arguments in (("generate", "a man", "--image", "x", "--out", "y", "--fancy"), ("frobnicate",), ()):
        assert _run(*arguments).returncode == 2


def test_input_errors_are_one_line(tmp_path):
    """One case of each kind; test_photo.py and test_run_folder.py have the others, without a subprocess."""
    out = tmp_path / "out"
    assert "text is empty" in _one_line_error("generate", " \n", "--image", PORTRAIT, "--out", out)
    missing = tmp_path / "none.jpg"
    assert str(missing) in _one_line_error("generate", "a man", "--image", missing, "--out", out)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes(PORTRAIT.read_bytes()[:40_000])
    assert "cut short" in _one_line_error("generate", "a man", "--image", cut, "--out", out)
    blank = tmp_path / "blank.png"
    Image.fromarray(np.full((200, 200, 3), 90, np.uint8)).save(blank)
    message = _one_line_error("generate", "a man", "--image", PORTRAIT, blank, "--out", out)
    assert f"no face found in {blank}" in message
    assert "1 to 8" in _one_line_error("generate", "a man", "--out", out)
    assert not out.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    for options, words in (((), "not empty"), (("--overwrite",), "nothing was changed")):
        message = _one_line_error(
            "generate", "a man", "--image", PORTRAIT, "--out", tmp_path / "full", *options
        )
        assert words in message
    assert "--resume" in _one_line_error("generate", "a man", "--image", PORTRAIT, "--out", out, "--resume")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "seid.steps=0"], "seid.steps must lie between 1 and 1000000, got 0"),
        (["--set", "turntable_frames=0"], "turntable_frames must lie between 1 and 100000, got 0"),
        (["--set", "scr.orbit_views=2"], "scr.orbit_views must lie between 4 and 256, got 2"),
        (["--set", "seid.sds_weight=nan"], "seid.sds_weight must lie between 0 and 1e+06, got nan"),
        (["--seed", "-1"], "--seed must lie between 0 and"),
        (["--seed", str(2**64)], "--seed must lie between 0 and"),
        (["--photo-weight", "inf"], "--photo-weight must lie between 0 and 1, got inf"),
    ],
)
def test_numbers_out_of_range_leave_the_old_run_alone(tmp_path, capsys, arguments, words):
    from specularip.cli import main

    (tmp_path / "avatar.safetensors").write_text("the work of a night")
    command = ["generate", "a man", "--image", str(PORTRAIT), "--out", str(tmp_path), "--overwrite"]
    with pytest.raises(SystemExit) as stopped:
        main([*command, *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and words in error and error.count("\n") == 1, error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["the work of a night"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("render", "run", "--out", "x.png", "--azimuth-deg", "nan"), "--azimuth-deg must lie between"),
        (("render", "run", "--out", "x.mp4", "--fps", "0"), "--fps must lie between 0.1 and 1000, got 0"),
        (("render", "run", "--out", "x.mp4", "--frames", "-3"), "--frames must lie between 1"),
        (("render", "run", "--out", "x.png", "--distance", "inf"), "--distance must lie between"),
        (("animate", "run", "--out", "x.mp4", "--seconds", "1e9"), "--seconds must lie between"),
        (("animate", "run", "--out", "x.mp4", "--file-fps", "nan"), "--file-fps must lie between"),
        (("view", "run", "--port", "-1"), "--port must lie between 0 and 65535, got -1"),
    ],
)
def test_numbers_out_of_range_in_other_commands(capsys, arguments, words):
    from specularip.cli import main

    with pytest.raises(SystemExit) as stopped:
        main(list(arguments))
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and words in error and error.count("\n") == 1, error


def test_stopped_and_failed_runs(tmp_path, monkeypatch, capsys):
    """How the command handles exceptions of `generate`, which is mocked."""
    from specularip.cli import main
    from specularip.errors import UserError
    from specularip.run_folder import RunFolder

    given = {}

    def stage(text, image, *, out, resume, overwrite, **rest):
        folder = RunFolder.open(out, resume, overwrite)
        given.update(rest, text=text, image=image, resume=resume)
        if "early" not in text:
            folder.save_checkpoint("seid", {})
        if "broken" in text:
            raise UserError("the loss is not finite three times in a row")
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "specularip.pipeline", types.SimpleNamespace(generate=stage))
    signal_before = signal.getsignal(signal.SIGTERM)
    out = str(tmp_path / "my run")
    cases = [
        ("a man, early stop", [], 130, "stopped before the first checkpoint"),
        ("a man's suit", ["--overwrite"], 130, "specularip generate 'a man'\"'\"'s suit'"),
        ("a man's suit", ["--resume", "--seed", "4"], 130, "--seed 4 --resume\n"),
        ("a man, broken", [], 2, "specularip: error: the loss is not finite"),
    ]
    second, third = str(tmp_path / "second.png"), str(tmp_path / "third.png")
    for degrees, path in ((5, second), (10, third)):
        Image.open(PORTRAIT).rotate(degrees).save(path)
    cases[-1][1].extend([second, "--image", third])  # --image takes several, and can be repeated
    cases[-1][1].extend(
        ["--overwrite", "--set", "seid.steps=3", "seid.points=99", "--set", "scr.fit_steps=7"]
    )
    for text, options, code, words in cases:
        arguments = ["generate", text, "--out", out, "--image", str(PORTRAIT), *options]
        monkeypatch.setattr(sys, "argv", ["specularip", *arguments])
        with pytest.raises(SystemExit) as stopped:
            main()
        error = capsys.readouterr().err
        assert stopped.value.code == code and words in error, error
        assert error.count("\n") == 1 and "--overwrite" not in error
    assert given["seed"] == 0 and given["photo_weight"] == 1.0 and given["preset"] == "compact"
    assert given["image"] == (PORTRAIT, Path(second), Path(third))
    config = given["config"]  # --set can be repeated
    assert (config.seid.steps, config.seid.points, config.scr.fit_steps) == (3, 99, 7)
    signal.signal(signal.SIGTERM, signal_before)


def test_first_line_names_the_prompt(tmp_path):
    command = [sys.executable, "-m", "specularip", "generate", "a man", "--image", str(PORTRAIT)]
    with subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.kill()
    assert b"a man" in line, line


def test_progress_without_a_terminal_prints_few_plain_lines(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    with Progress(stream) as progress:
        progress.log("loading [bold] things")
        progress.start("SEID", total=100, done=20)
        for step in range(21, 101):
            now[0] += 0.5
            progress.step(step, loss=1 / step)
    lines = stream.getvalue().splitlines()
    assert lines[0] == "loading [bold] things"
    assert lines[1].startswith("SEID 20/100")
    assert 8 <= len(lines) <= 12, lines
    assert lines[2] == "SEID 30/100 (30%)  loss 0.03333  elapsed 0:05  ETA 0:35"
    assert lines[-1].startswith("SEID 100/100 (100%)") and "ETA 0:00" in lines[-1]
    assert "\x1b" not in stream.getvalue() and "\r" not in stream.getvalue()


def test_progress_on_a_terminal_draws_bars_with_loss(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("TERM", "xterm")
    stream = Terminal()
    with Progress(stream) as progress:
        for stage in ("SEID", "SCR"):
            progress.start(stage, total=2)
            progress.step(1, loss=0.25)
            progress.step(2, loss=0.125)
    text = stream.getvalue()
    assert "SEID" in text and "SCR" in text and "loss 0.125" in text and "ETA" in text


def test_first_signal_requests_a_stop_and_the_second_interrupts():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signal() as stop:
        assert not stop.requested
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []

    def elsewhere():
        with stop_on_signal() as stop:
            seen.append(stop.requested)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [False]


def test_models_reports_damaged_files(tmp_path):
    import torch
    from safetensors.torch import save_file

    whole = tmp_path / "whole.safetensors"
    save_file({"x": torch.ones(100)}, whole)
    assert inspect_file(whole).problem == ""
    data = whole.read_bytes()
    for broken in (data[:-1], data + b"x", data[:4], b"version https://git-lfs.github.com/spec/v1\n"):
        (tmp_path / "broken.safetensors").write_bytes(broken)
        assert "damaged" in inspect_file(tmp_path / "broken.safetensors").problem
    problems = {file.path.name: file.problem for file in compact_files(tmp_path)}
    assert problems["unet"] == problems["model_index.json"] == problems["anny.safetensors"] == "missing"
