"""What is installed: exact versions with hashes, under licences that are known."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "requirements").glob("*.txt"))


@pytest.fixture(scope="module")
def licences() -> ModuleType:
    spec = importlib.util.spec_from_file_location("licences", ROOT / "tools" / "licences.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked(file: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """{name: (requirement, its sha256 sums)} of a file of requirements/."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    for line in file.read_text().replace("\\\n", " ").splitlines():
        if line.startswith("#") or line in ("--require-hashes", "--only-binary :all:"):
            continue
        if line.startswith("-r "):
            found |= locked(file.parent / line[3:])
            continue
        text, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        requirement = Requirement(text)
        assert requirement.name not in found
        found[requirement.name] = requirement, hashes
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_requirement_is_one_version_with_hashes(file: Path) -> None:
    assert {"--require-hashes", "--only-binary :all:"} <= set(file.read_text().splitlines())
    for requirement, hashes in locked(file).values():
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes and all(re.fullmatch("[0-9a-f]{64}", digest) for digest in hashes), requirement
        assert requirement.url is None


def test_constraints_are_the_locked_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pins = {name: str(requirement.specifier) for name, (requirement, _) in locked(FILES[1]).items()}
    assert FILES[1].name == "dev.txt"
    assert dict(re.split("(?===)", line) for line in lines) == pins


def test_the_lock_is_all_that_is_needed_here_and_fits_what_is_asked_for(licences: ModuleType) -> None:
    run, dev = licences.project()
    for file, roots in (("run", run), ("dev", run + dev)):
        pins = locked(ROOT / "requirements" / f"{file}.txt")
        here = {
            name
            for name, (requirement, _) in pins.items()
            if not requirement.marker or requirement.marker.evaluate()
        }
        assert here == set(licences.closure(roots))
        for root in map(Requirement, roots):
            if root.marker is None or root.marker.evaluate():
                version = next(iter(pins[canonicalize_name(root.name)][0].specifier)).version
                assert root.specifier.contains(version), root


def set_up_function(folder: Path, hashes: list[str]) -> subprocess.CompletedProcess[str]:
    """tools/setup.sh's `install_locked` on a wheel made in `folder`, locked with `hashes`; no network."""
    wheel = folder / "lockedthing-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("lockedthing.py", "")
        info = "lockedthing-1.0.dist-info"
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: lockedthing\nVersion: 1.0\n")
        file.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(
            f"{info}/RECORD", f"lockedthing.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n"
        )
    hashes = hashes or [hashlib.sha256(wheel.read_bytes()).hexdigest()]
    (folder / "requirements").mkdir()
    lines = [
        "--require-hashes",
        "lockedthing==1.0 " + " ".join(f"--hash=sha256:{digest}" for digest in hashes),
    ]
    (folder / "requirements" / "run.txt").write_text("\n".join(lines) + "\n")
    (folder / ".venv" / "bin").mkdir(parents=True)
    python = folder / ".venv" / "bin" / "python"
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "PIP_TARGET": str(folder / "site")}
    return subprocess.run(
        ["bash", "-c", '. "$0" && install_locked run', str(ROOT / "tools" / "setup.sh")],
        cwd=folder,
        env=os.environ | pip,
        capture_output=True,
        text=True,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="the set-up scripts are for bash")
def test_the_set_up_refuses_a_file_with_another_hash(tmp_path: Path) -> None:
    (tmp_path / "as_released").mkdir()
    good = set_up_function(tmp_path / "as_released", [])
    assert good.returncode == 0, good.stderr
    assert (tmp_path / "as_released" / "site" / "lockedthing.py").exists()
    (tmp_path / "tampered").mkdir()
    bad = set_up_function(tmp_path / "tampered", ["0" * 64])
    assert bad.returncode == 1
    assert "DO NOT MATCH THE HASHES" in bad.stderr and "docs/supply-chain.md" in bad.stderr.splitlines()[-1]
    assert not (tmp_path / "tampered" / "site").exists()


def test_the_licences_of_the_default_install_are_answered(licences: ModuleType) -> None:
    assert licences.complaints(licences.closure(licences.project()[0])) == []


@pytest.mark.skipif(
    sys.version_info[:2] != (3, 11) or not sys.platform.startswith("linux"),
    reason="the page is of Linux, Python 3.11",
)
def test_the_page_of_licences_is_of_what_is_installed(licences: ModuleType) -> None:
    page = (ROOT / "docs" / "licences.md").read_text()
    assert licences.page(page) == page


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ("License-Expression: GPL-3.0-only", "lockedthing: GPL-3.0-only"),
        ("License-Expression: MIT AND AGPL-3.0-or-later", "lockedthing: MIT AND AGPL-3.0-or-later"),
        ("License: MPL-2.0", "lockedthing: MPL-2.0"),
        ("Classifier: License :: OSI Approved :: GNU General Public License v3 or later (GPLv3+)",
         "lockedthing: GPL-3.0-or-later"),
        ("License: UNKNOWN", "lockedthing: no licence named"),
        ("License-Expression: MIT OR GPL-2.0-only", None),
        ("License-Expression: Apache-2.0 WITH LLVM-exception AND (MIT)", None),
        ("Classifier: License :: OSI Approved :: MIT License", None),
    ],
)  # fmt: skip
def test_a_licence_that_is_not_permissive_is_a_fault(
    licences: ModuleType, tmp_path: Path, metadata: str, complaint: str | None
) -> None:
    info = tmp_path / "lockedthing-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.4\nName: lockedthing\nVersion: 1.0\n{metadata}\n")
    needed = licences.closure(["lockedthing"], [str(tmp_path)])
    assert licences.complaints(needed, [str(tmp_path)]) == ([complaint] if complaint else [])
