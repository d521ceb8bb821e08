"""What people bring, and what becomes of it: captures, splat files, words, photos, and the world around.

    python benchmarks/inputs.py [--only GROUP ...] [--list] [--keep FOLDER]
    python benchmarks/inputs.py --fit SCENE [--iterations 1500] [--points 20000] [--out out/inputs]

Every input is made by program, small, in a temporary folder; then the command line runs in a process of its
own, or the function behind it in this one. Prints a table of what was given, expected and got, and at the end
how many rows were as expected; exit code 1 unless all were. Takes minutes on two cores.

Images are judged by `made_captures.agreement`: PSNR of what the reader returns against the subject as drawn
for the cameras that it returns. A lens, pose, mask, orientation or profile that is misread costs tens of dB.

--fit compares two fits of a scene of NeRF-synthetic's layout with alpha (see `fit_in_the_wild.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from input_captures import captures
from input_fits import fits
from input_photos import photos
from input_rows import Row, Unexpected
from input_splats import splats
from input_words import words
from input_world import world

GROUPS: dict[str, Callable[[], list[Row]]] = {
    "captures": captures,
    "splats": splats,
    "words": words,
    "photos": photos,
    "world": world,
    "fits": fits,
}
WIDTHS = (19, 40, 36, 70)
"""Of the table's columns: situation, given, expected, got."""


def tried(row: Row, folder: Path) -> tuple[str, bool]:
    """What was got, and whether it was expected."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return row.run(folder), True
    except Unexpected as error:
        return str(error), False
    except Exception as error:  # of the function that is tried: the table says so, and goes on
        return f"{type(error).__name__}: {error}", False


def line_of(*cells: str, ok: str) -> str:
    cut = [
        (cell if len(cell) <= width else cell[: width - 3] + "...").ljust(width)
        for cell, width in zip(cells, WIDTHS)
    ]
    return " | ".join([*cut, ok])


def table_of(names: Sequence[str], keep: Path | None) -> bool:
    """Try the rows of groups and print the table. Returns whether all were as expected. keep: a folder that
    keeps the inputs; None: they are temporary."""
    good = total = 0
    failed = []
    for name in names:
        began = time.perf_counter()
        print(f"\n{name}\n{line_of('situation', 'given', 'expected', 'got', ok='ok')}")
        for index, row in enumerate(GROUPS[name]()):
            with tempfile.TemporaryDirectory(prefix="specularip-", ignore_cleanup_errors=True) as temporary:
                folder = Path(temporary) if keep is None else keep / f"{name}-{index:02d}"
                folder.mkdir(parents=True, exist_ok=True)
                got, ok = tried(row, folder)
                got = " ".join(got.replace(str(folder), ".").split())
            print(line_of(row.situation, row.given, row.expected, got, ok="yes" if ok else "NO"), flush=True)
            if not ok:
                failed.append(f"{name}: {row.situation}: {row.given}: {got}")
            total, good = total + 1, good + ok
        print(f"{time.perf_counter() - began:.0f} s")
    if failed:
        print("\nnot as expected")
        print("\n".join(failed))
    print(f"\n{good} of {total} as expected")
    return good == total


def main() -> None:
    parser = argparse.ArgumentParser(description="What people bring, and what becomes of it")
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), metavar="GROUP")
    parser.add_argument("--list", action="store_true", help="print the rows, and try none")
    parser.add_argument("--keep", type=Path, help="keep the inputs in this folder")
    parser.add_argument("--fit", type=Path, metavar="SCENE", help="compare two fits of this scene instead")
    parser.add_argument("--iterations", type=int, default=1500)
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--out", type=Path, default=Path("out/inputs"), help="where --fit writes")
    arguments = parser.parse_args()
    if arguments.fit is not None:
        from fit_in_the_wild import compare

        sys.exit(not compare(arguments.fit, arguments.out, arguments.iterations, arguments.points))
    if arguments.list:
        for name in arguments.only:
            for row in GROUPS[name]():
                print(f"{name}: {row.situation}: {row.given} -> {row.expected}")
        return
    sys.exit(not table_of(arguments.only, arguments.keep))


if __name__ == "__main__":
    main()
