"""`specularip fit`: arguments, early checks, stopped and failed runs. The fit itself is mocked."""

import sys
import types
from pathlib import Path

import pytest

from specularip.cli import main
from specularip.errors import UserError
from specularip.fitting.settings import FitConfig
from specularip.run_folder import RunFolder


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    made: list[dict] = []

    def fit(
        data: Path, out: Path, *, config, device, seed, resume, overwrite, init, progress, live, tensorboard
    ) -> None:
        made.append({**locals()})
        folder = RunFolder.open(out, resume, overwrite)
        if "broken" in str(data):
            raise UserError("transforms_train.json is missing")
        if "stop" in str(data):
            if "early" not in str(data):
                folder.save_checkpoint("fit", {})
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "specularip.fitting.fit", types.SimpleNamespace(fit=fit))
    return made


def test_arguments_are_passed_on(calls, tmp_path, capsys):
    main(["fit", "scene", "--out", str(tmp_path / "a")])
    [call] = calls
    assert call["data"] == Path("scene") and call["out"] == tmp_path / "a" and call["config"] == FitConfig()
    assert call["device"] is None and call["seed"] == 0 and not call["resume"] and not call["overwrite"]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("fit to scene") and lines[-1].startswith(f"done: {tmp_path / 'a'}")

    options = "--iterations 300 --points 2000 --device cpu --seed 5 --overwrite".split()
    main(["fit", "scene", "--out", str(tmp_path / "a"), *options])
    call = calls[1]
    assert call["config"] == FitConfig(iterations=300, points=2000) and call["device"] == "cpu"
    assert call["seed"] == 5 and call["overwrite"] and not call["resume"]


def test_the_folder_and_numbers_are_checked_first(calls, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    for options, words in (
        (["--out", str(tmp_path / "full")], "not empty"),
        (["--out", str(tmp_path / "new"), "--resume"], "no run to resume"),
        (["--out", str(tmp_path / "new"), "--iterations", "0"], "--iterations must lie between 1"),
        (["--out", str(tmp_path / "new"), "--points", "5"], "--points must lie between 100"),
        (["--out", str(tmp_path / "new"), "--points", "99999999999"], "--points must lie between 100"),
        (["--out", str(tmp_path / "new"), "--seed", "-1"], "--seed must lie between 0"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["fit", "scene", *options])
        error = capsys.readouterr().err
        assert stopped.value.code == 2 and words in error and error.count("\n") == 1, error
    assert not calls and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("data", "code", "words"),
    [
        ("broken", 2, "specularip: error: transforms_train.json is missing"),
        ("early stop", 130, "stopped before the first checkpoint"),
        ("stop", 130, "continue with: specularip fit stop --out"),
    ],
)
def test_stopped_and_failed_runs(calls, tmp_path, capsys, monkeypatch, data, code, words):
    arguments = ["fit", data, "--out", str(tmp_path / "run"), "--iterations", "9"]
    monkeypatch.setattr(sys, "argv", ["specularip", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    error = capsys.readouterr().err
    assert stopped.value.code == code and words in error and error.count("\n") == 1, error
    if data == "stop":
        assert error.endswith("--iterations 9 --resume\n")
        monkeypatch.setattr(sys, "argv", ["specularip", *arguments, "--resume"])
        with pytest.raises(SystemExit):
            main()
        assert calls[1]["resume"] and capsys.readouterr().err == error


@pytest.mark.parametrize("command", ["fit", "eval"])
def test_help_describes_the_folder_layout(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    text = capsys.readouterr().out
    assert stopped.value.code == 0
    assert ("transforms_train.json" in text and "body.npz" in text) or command == "eval"
    assert ("highlight drift" in text and "--split" in text) or command == "fit"
