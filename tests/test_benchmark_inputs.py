"""The table of inputs: its cheap rows are as expected, and it tells when one is not."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import inputs
import made_captures as made
from input_captures import UNDISTORTED, load_posed_images
from input_rows import Row, Unexpected


def test_words_and_captures_are_as_expected(monkeypatch, capsys):
    words = [row for row in inputs.words() if row.situation != "not understood"]  # without processes
    captures = inputs.captures()
    monkeypatch.setattr(inputs, "GROUPS", {"words": lambda: words, "captures": lambda: captures})
    assert inputs.table_of(["words", "captures"], None), capsys.readouterr().out
    count = len(words) + len(captures)
    assert f"{count} of {count} as expected" in capsys.readouterr().out


def test_rows_that_are_not_as_expected_are_told(monkeypatch, capsys):
    def wrong(_: Path) -> str:
        raise Unexpected("blue")

    def broken(_: Path) -> str:
        raise KeyError("red")

    rows = [Row("colours", str(run), "red", run) for run in (lambda _: "red", wrong, broken)]
    monkeypatch.setattr(inputs, "GROUPS", {"colours": lambda: rows})
    assert not inputs.table_of(["colours"], None)
    printed = capsys.readouterr().out
    assert "1 of 3 as expected" in printed and "blue" in printed and "KeyError: 'red'" in printed


@pytest.mark.parametrize("lens", [made.OPENCV, made.FISHEYE])
def test_a_lens_that_is_ignored_costs_decibels(tmp_path, lens):
    """So `agreement` would tell."""
    made.nerfstudio(tmp_path, made.shots(10, lens), made.PINHOLE)
    found = load_posed_images(tmp_path, "train")
    assert made.agreement(found) < UNDISTORTED - 5
