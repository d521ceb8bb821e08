"""The scripts in examples/: each runs, with small settings, and writes what it names."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parent.parent / "examples"
RUN_FILES = ("avatar.safetensors", "avatar.ply", "preview.png", "report.json")
CASES = {
    "01_generate.py": (["--quick"], [f"out/01/{name}" for name in (*RUN_FILES, "turntable.mp4")]),
    "02_fit.py": (["--iterations=40", "--points=400"], [f"out/02/{name}" for name in RUN_FILES]),
    "03_rasterize.py": (["--steps=20"], ["out/03.png"]),
    "04_highlights.py": (["--size=64"], ["out/04.png"]),
    "05_bake.py": (
        ["--count=60"],
        [f"out/05/{name}" for name in ("baked.safetensors", "baked.ply", "avatar-asg-sh3.png")],
    ),
    "06_other_prior.py": (["--quick"], [f"out/06/{name}" for name in (*RUN_FILES, "turntable.mp4")]),
}


@pytest.mark.parametrize("name", CASES)
def test_example_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, files = CASES[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(EXAMPLES)  # as for `python examples/...`
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert "out/" in capsys.readouterr().out
    for file in files:
        assert (tmp_path / file).stat().st_size > 0, file
        if file.endswith(".png"):
            with Image.open(tmp_path / file) as image:
                assert image.convert("L").getextrema()[0] < image.convert("L").getextrema()[1], file


def test_every_example_is_tested_and_short() -> None:
    scripts = sorted(EXAMPLES.glob("*.py"))
    assert {script.name for script in scripts if script.name[0].isdigit()} == set(CASES)
    for script in scripts:
        assert len(script.read_text(encoding="utf-8").splitlines()) < 40, script.name
