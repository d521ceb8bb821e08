"""Write the tables of docs/licences.md from what is installed, and fail on an unanswered licence.

    python tools/licences.py    exit code 1: a distribution of the default install is under a licence that is
                                neither permissive nor answered in ANSWERED below, or names none

The default install is pyproject.toml's dependencies, its build backend, and all that these need here. The
rest of the extra `dev` is listed, and not judged. torch's CUDA libraries (requirements/cuda.txt) are not.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import Distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

PERMISSIVE = frozenset(
    "0BSD Apache-2.0 BSD-2-Clause BSD-3-Clause BSL-1.0 CC0-1.0 CNRI-Python ISC LLVM-exception MIT MIT-CMU "
    "PSF-2.0 Zlib".split()
)

# Accepted in the default install although not permissive, each with the reason.
MPL = "MPL-2.0 covers its own files only, which are used unchanged and not shipped with this project"
ANSWERED = {"certifi": MPL, "pathspec": f"{MPL}; the build backend's, not imported", "tqdm": MPL}

# Other people's programs and libraries inside the wheels.
GCC = "GPL-3.0 with GCC's runtime exception"
BUNDLED = {
    "imageio-ffmpeg": "the program FFmpeg, **GPL-3.0-or-later** as built there: see below",
    "llvmlite": "LLVM (Apache-2.0 WITH LLVM-exception)",
    "numpy": f"OpenBLAS (BSD-3-Clause), libgfortran ({GCC}), libquadmath (LGPL-2.1)",
    "scipy": f"OpenBLAS (BSD-3-Clause), libgfortran ({GCC}), libquadmath (LGPL-2.1)",
    "pillow": "libjpeg-turbo, libpng, libtiff, libwebp, libavif, OpenJPEG, LittleCMS, FreeType, HarfBuzz, "
    "zstd, liblzma, Brotli, libxcb, each under a permissive licence",
    "torch": "oneDNN, FBGEMM, Gloo, sleef and others under the licences named; Intel MKL in builds "
    f"for x86-64 (Intel Simplified Software License); libgomp ({GCC})",
    "triton": "LLVM; NVIDIA's ptxas, cuobjdump and nvdisasm (NVIDIA's CUDA licence)",
    "ray": "a C++ core and a Java archive of many permissive libraries",
}

# What metadata writes that is no SPDX identifier. "BSD" leaves the number of clauses open: see spdx().
SPELLINGS = {
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "3-Clause BSD License": "BSD-3-Clause",
    "BSD License": "BSD",
    "GNU General Public License v3 or later (GPLv3+)": "GPL-3.0-or-later",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}


def closure(roots: Iterable[str], path: list[str] | None = None) -> dict[str, set[str]]:
    """{name: the names that require it} of all that `roots` (requirements) need here; "" requires the roots.

    path: where distributions are looked for, as sys.path. Raises SystemExit where one is not installed."""
    cuda = {canonicalize_name(name) for name in pinned("cuda")}
    needed: dict[str, set[str]] = {}
    queue = [("", Requirement(root)) for root in roots]
    seen: set[tuple[str, str]] = set()
    while queue:
        parent, requirement = queue.pop()
        extras = ["", *sorted(requirement.extras)]
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        if parent == "torch" and name in cuda:
            continue
        needed.setdefault(name, set()).add(parent)
        requires = distribution(name, path).requires or []
        for extra in extras:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            for line in requires:
                child = Requirement(line)
                if child.marker is None or child.marker.evaluate({"extra": extra}):
                    child.marker = None
                    queue.append((name, child))
    return needed


def distribution(name: str, path: list[str] | None = None) -> Distribution:
    """The installed distribution of that name. Raises SystemExit where there is none."""
    found = next(iter(Distribution.discover(name=name, **({} if path is None else {"path": path}))), None)
    if found is None:
        raise SystemExit(f"error: {name} is not installed: run this in the environment that test.sh makes")
    return found


def pinned(file: str) -> dict[str, str]:
    """{name: version} of requirements/FILE.txt, without the files that it includes."""
    text = (ROOT / "requirements" / f"{file}.txt").read_text()
    return dict(re.findall(r"^([a-z0-9-]+)==([^\s;]+)", text, re.MULTILINE))


def spdx(of: Distribution) -> str:
    """The SPDX expression of a distribution: License-Expression, else License, else the classifiers; "" where
    none of them names a licence."""
    metadata = of.metadata
    classifiers = [line.split(" :: ") for line in metadata.get_all("Classifier") or []]
    named = [words[-1] for words in classifiers if words[0] == "License"]
    short = (metadata.get("License") or "").strip()
    short = short if len(short) < 40 and short not in ("", "UNKNOWN") else ""
    stated = metadata.get("License-Expression") or short or " AND ".join(named)
    stated = SPELLINGS.get(stated, stated)
    if stated == "BSD":
        texts = [f for f in of.files or [] if f.stem.upper() == "LICENSE" and ".dist-info" in str(f)]
        words = " ".join(Path(str(text.locate())).read_text(errors="replace") for text in texts).split()
        return "BSD-3-Clause" if "endorse or promote" in " ".join(words) else "BSD-2-Clause"
    return stated


def permissive(expression: str) -> bool:
    """Whether every part of an SPDX expression is permissive, or has a permissive alternative."""
    return bool(expression) and all(
        any(
            all(word in PERMISSIVE for word in re.split(r"\s+WITH\s+", choice.strip("() ")))
            for choice in re.split(r"\s+OR\s+", part.strip("() "))
        )
        for part in re.split(r"\s+AND\s+", expression)
    )


def complaints(names: Iterable[str], path: list[str] | None = None) -> list[str]:
    """One line for each of these distributions whose licence is neither permissive nor answered."""
    found = {name: spdx(distribution(name, path)) for name in names}
    return [
        f"{name}: {expression or 'no licence named'}"
        for name, expression in found.items()
        if not permissive(expression) and name not in ANSWERED
    ]


def project() -> tuple[list[str], list[str]]:
    """The requirements of the default install, with the build backend, and of the extra `dev`."""
    read = tomllib.loads((ROOT / "pyproject.toml").read_text())
    table = read["project"]
    return table["dependencies"] + read["build-system"]["requires"], table["optional-dependencies"]["dev"]


def rows(needed: dict[str, set[str]]) -> str:
    """The table of these distributions in Markdown."""
    lines = [
        "| distribution | version | licence | required by | why it is accepted; what it bundles |",
        "|---" * 5 + "|",
    ]
    for name, by in sorted(needed.items()):
        of = distribution(name)
        why = "; ".join(note for note in (ANSWERED.get(name), BUNDLED.get(name)) if note)
        parents = ", ".join(sorted(parent or "**SpecularIP**" for parent in by))
        licence = spdx(of) or "none named"
        lines.append(
            f"| {of.metadata['Name']} | {of.version.split('+')[0]} | {licence} | {parents} | {why} |"
        )
    return "\n".join(lines)


def page(text: str) -> str:
    """docs/licences.md with its two tables made anew."""
    run, dev = project()
    default = closure(run)
    more = {name: by for name, by in closure(dev).items() if name not in default}
    for mark, table in (("default install", rows(default)), ("dev", rows(more))):
        begin, end = f"<!-- {mark}: written by tools/licences.py -->", f"<!-- end of {mark} -->"
        head, rest = text.split(begin)
        text = f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"
    return text


def main() -> int:
    doc = ROOT / "docs" / "licences.md"
    doc.write_text(page(doc.read_text()))
    faults = complaints(closure(project()[0]))
    for fault in faults:
        print(f"error: {fault}, not permissive: do without it, or answer in ANSWERED here", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
