"""npm's packages for tests and benchmarks: viewers of other people, and the validator of Khronos."""

import fcntl
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks" / "third_party"
UNREACHABLE = ("ENOTFOUND", "ETIMEDOUT", "ECONN", "EAI_")


def node_packages() -> Path:
    """The folder with node_modules, installed once as the lock file says. Skips the test, with the reason,
    where that cannot be."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs npm")
    with open(Path(tempfile.gettempdir()) / "specularip-third-party.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        if not (FOLDER / "node_modules" / ".package-lock.json").is_file():
            command = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
            done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True, timeout=600)
            if done.returncode and any(word in done.stderr for word in UNREACHABLE):
                pytest.skip("npm's registry cannot be reached")
            assert done.returncode == 0, done.stderr
    return FOLDER
