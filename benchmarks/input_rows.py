"""Rows of the table of inputs.py, and the command line as rows run it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from specularip.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
FACE = ROOT / "examples" / "eileen_collins.jpg"
QUICK = """seid.steps=2 seid.points=500 scr.orbit_views=4 scr.close_ups=false scr.refine_steps=1
scr.fit_steps=2 turntable_frames=2 turntable_size=64""".split()
"""Settings of a `generate` that shows nothing, soon."""
SHORT = ("--iterations", "60", "--points", "800", "--device", "cpu")
"""Options of a short `fit`."""


class Unexpected(Exception):
    """What was got, where it is not what was expected."""


@dataclass(frozen=True)
class Row:
    """run: makes the input in an empty folder, tries it, and returns in a few words what was got; raises
    Unexpected, or the exception of the function that was tried."""

    situation: str
    given: str
    expected: str
    run: Callable[[Path], str]


# The command line


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    err: str


def environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    """That of this process with this checkout in front, and changes; None removes."""
    paths = [str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    merged: dict[str, str | None] = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **changes}
    return {name: value for name, value in merged.items() if value is not None}


def specularip(*arguments: str | bytes | Path, timeout: float = 300, **changes: str | None) -> Ran:
    """Run the command line. A traceback is never expected."""
    command = [sys.executable, "-m", "specularip", *(os.fsdecode(argument) for argument in arguments)]
    return ran(command, timeout, changes)


def shell(script: str, timeout: float = 300, **changes: str | None) -> Ran:
    """Run a script of bash, in which $S is the command."""
    changes = {"S": f"{sys.executable} -m specularip", **changes}
    return ran(["bash", "-c", script], timeout, changes)


def ran(command: Sequence[str], timeout: float, changes: Mapping[str, str | None]) -> Ran:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            env=environment(changes),
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise Unexpected(f"nothing after {timeout:.0f} s") from None
    out, err = (text.decode(errors="backslashreplace") for text in (done.stdout, done.stderr))
    if "Traceback" in out + err:
        raise Unexpected(f"a traceback: {err.strip().splitlines()[-1]}")
    return Ran(done.returncode, out, err)


def refusal(result: Ran, *words: str) -> str:
    """The one line of an error of the user, which must hold the words."""
    last = (result.err.strip().splitlines() or [""])[-1]
    line = last.removeprefix("specularip: error: ")
    if result.code != 2 or line == last or not all(word in line for word in words):
        raise Unexpected(f"exit code {result.code}: {last or result.out.strip()[-200:]}")
    return line


def success(result: Ran, *said: str) -> str:
    """Exit code 0, and the words in what was printed."""
    printed = result.out + result.err
    missing = [words for words in said if words not in printed]
    if result.code != 0 or missing:
        lines = result.err.strip().splitlines() or [""]
        raise Unexpected(f"exit code {result.code}, not said: {missing or 'nothing'}: {lines[-1]}")
    return "done" + (f", said: {', '.join(said)}" if said else "")


def colors_in(picture: Path) -> int:
    """How many different colours a picture has: plain grey is one."""
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


def shows_something(avatar: Path, folder: Path, *options: str) -> str:
    """What `render` makes of an avatar."""
    picture = folder / "shown.png"
    success(specularip("render", avatar, "--out", picture, "--size", "96", *options))
    if (count := colors_in(picture)) < 50:
        raise Unexpected(f"a picture of {count} colours")
    return "a picture of it"


def refused(call: Callable[[], object], *words: str) -> str:
    try:
        got = call()
    except UserError as error:
        line = str(error)
        if "\n" in line or not all(word in line for word in words):
            raise Unexpected(f"refused, but: {line}") from None
        return f"refused: {line}"
    raise Unexpected(f"not refused: {got!r:.100}")
