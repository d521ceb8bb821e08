"""The viewer's bundle in the package is what its sources build, byte for byte."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES, BUILT = ROOT / "viewer", ROOT / "src" / "specularip" / "assets" / "viewer"


@pytest.fixture(scope="module")
def esbuild(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the sources with esbuild installed as the lock file says."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm")
    folder = tmp_path_factory.mktemp("viewer")
    shutil.copytree(SOURCES, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if done.returncode and any(word in done.stderr for word in ("ENOTFOUND", "ETIMEDOUT", "ECONN", "EAI_")):
        pytest.skip("npm's registry cannot be reached")
    assert done.returncode == 0, done.stderr
    return folder


def test_the_bundle_is_up_to_date(esbuild: Path, tmp_path: Path) -> None:
    subprocess.run(["node", "build.js", tmp_path], cwd=esbuild, check=True, timeout=120)
    built = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert "viewer.js" in built
    shipped = {path.name: path.read_bytes() for path in BUILT.iterdir()}
    assert shipped.keys() == built.keys()
    stale = [name for name, data in built.items() if shipped[name] != data]
    assert not stale, f"run `npm run build` in viewer/: {stale} differ from their sources"
