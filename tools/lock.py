"""Write constraints.txt and requirements/*.txt: the exact versions, and the sha256 of every file of them.

    python tools/lock.py              keeps the versions of constraints.txt, adds what is new
    python tools/lock.py --upgrade    takes the newest versions that fit together

It needs uv (`pip install uv`), which resolves for all platforms and Pythons from 3.11 on at once and asks the
package index for the hashes; UV_DEFAULT_INDEX names another index than PyPI. What is written:

    requirements/torch.txt  torch alone, PyPI's builds and the CPU builds for Linux
    requirements/run.txt    the default install, and the build backend that `pip install -e .` runs
    requirements/dev.txt    the extra `dev` on top of it
    requirements/cuda.txt   what PyPI's torch for Linux asks for besides, and its CPU build does not
    constraints.txt         the versions alone, for `pip install -c` with any extra: pip refuses an editable
                            install when constraints have hashes
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENTRY = re.compile(r"^([a-z0-9-]+)==([^\s;]+).*(?:\n +--hash=.*)*", re.MULTILINE)  # as uv writes them
CUDA = re.compile(r"(nvidia|cuda)-|triton$")

# torch's CPU builds for Linux, CPython 3.11 to 3.14: first x86_64, then aarch64. They are not on PyPI but on
# PyTorch's own index (https://download.pytorch.org/whl/cpu), whose page lists these sums. For the other
# platforms PyPI's builds are the ones for the CPU.
TORCH_CPU = {
    "2.13.0": (
        "6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",
        "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2",
        "3fbf9c9d1f3c10c2d59d04aca426dee9ccc6ceb32d255c61e93acc3b4f75fae6",
        "d20fa53ee744502fa4c69818a720b05ca0d37abd055d4f6e66cae155114bc691",
        "84453b69508ec79902f899c5ed9495acb9e2bbe9fda5f1d5d6f19e3c3842e1a7",
        "6f307c2c32d764ffc6ff6893b801fad6d4752f3e67966cb8abf1843427c02604",
        "0b8f7d0423027ae8b90c7977c627f3379f325363a08224dffad9b4b2d684a83d",
        "ca021f9eb2f8345c83fa03e3a04587308afb8df71bd472670b3ece00df58621c",
    )
}


def resolve(extras: list[str], constraints: str) -> dict[str, str]:
    """{name: its lines, with hashes} of all that the project with `extras` and its build backend need."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    with tempfile.TemporaryDirectory() as folder:
        pins = Path(folder) / "pins.txt"
        pins.write_text(constraints)
        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "-"]
        command += ["--constraint", str(pins), "--universal", "--python-version", "3.11"]
        command += ["--fork-strategy", "fewest", "--generate-hashes"]
        command += ["--no-header", "--no-annotate", "--quiet"]
        command += [argument for extra in extras for argument in ("--extra", extra)]
        uv = subprocess.run(command, cwd=ROOT, input="\n".join(build), text=True, stdout=subprocess.PIPE)
    if uv.returncode != 0:
        sys.exit(f"error: uv could not resolve the requirements (exit code {uv.returncode}); see above")
    found: dict[str, str] = {}
    for match in ENTRY.finditer(uv.stdout):
        if "== 'emscripten'" in match[0]:  # a browser; there is no torch for it
            continue
        if match[1] in found:
            sys.exit(f"error: no one version of {match[1]} fits all platforms: narrow it in pyproject.toml")
        found[match[1]] = match[0]
    return found


def with_cpu_builds(torch: str) -> str:
    """torch's lines with the hashes of its CPU builds added."""
    version = torch.split()[0].removeprefix("torch==")
    if version not in TORCH_CPU:
        sys.exit(f"error: copy the sums of torch {version}'s CPU builds from PyTorch's index to TORCH_CPU")
    return torch + "".join(f" \\\n    --hash=sha256:{digest}" for digest in TORCH_CPU[version])


def main() -> None:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions that fit together")
    known = "" if parser.parse_args().upgrade else (ROOT / "constraints.txt").read_text()
    dev = resolve(["dev"], known)
    pins = {name: entry.split()[0] for name, entry in dev.items()}
    run = resolve([], "\n".join(pins.values()))
    base = set(run)
    cuda = {name for name in run if CUDA.match(name)}

    def write(path: str, title: str, lines: list[str]) -> None:
        (ROOT / path).write_text("\n".join([f"# {title}", "# Written by tools/lock.py.", *lines]) + "\n")

    checked = ["--require-hashes", "--only-binary :all:"]
    write(
        "requirements/torch.txt",
        "torch: pip install --no-deps -r requirements/torch.txt",
        [*checked, with_cpu_builds(run.pop("torch"))],
    )
    write(
        "requirements/run.txt",
        "The default install: pip install --no-deps -r requirements/run.txt",
        [*checked, "-r torch.txt"] + [entry for name, entry in run.items() if name not in cuda],
    )
    write(
        "requirements/dev.txt",
        "The default install and the extra `dev`: pip install --no-deps -r requirements/dev.txt",
        [*checked, "-r run.txt"] + [dev[name] for name in dev if name not in base or name == "triton"],
    )
    write(
        "requirements/cuda.txt",
        "What PyPI's torch for Linux needs besides: pip install --no-deps -r requirements/cuda.txt",
        checked + [run[name] for name in run if name in cuda],
    )
    write(
        "constraints.txt",
        "The versions this release was tested with: pip install -c constraints.txt -e .",
        [pin for name, pin in pins.items() if name == "triton" or not CUDA.match(name)],
    )


if __name__ == "__main__":
    main()
