"""What all tests share: the `gpu` marker, seeds, and how threads and Triton run.

Seeds. `seed` is one number for each test file, the same in every run, so that a run cannot fail by chance.
`--fresh-seeds N` runs every test that uses it with N new ones instead; the test's id shows which, and
`--seed VALUE` repeats that one. Each test starts with torch's global generator seeded with it. Test files
whose helpers need it declare a module constant SEED, which the fixture sets.
"""

import importlib.util
import os
import random
import signal
import zlib
from functools import cache
from pathlib import Path

# Before torch loads: waiting threads sleep soon, as under the command line (see specularip.cli).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

if "PYTEST_XDIST_WORKER" in os.environ:
    # One thread each: workers that share the cores slow each other down.
    for variable in ("OMP_NUM_THREADS", "SPECULARIP_NUM_THREADS"):
        os.environ.setdefault(variable, "1")

import pytest
import torch
from hypothesis import settings

# Jobs that a shell runs in the background ignore SIGINT, and so do their children; tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

if not torch.cuda.is_available():
    # Before Triton loads: its interpreter runs kernels on CPU tensors (test_triton_interpreter).
    os.environ.setdefault("TRITON_INTERPRET", "1")


SEEDS = pytest.StashKey[list[int]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("seeds")
    group.addoption(
        "--fresh-seeds", type=int, default=0, metavar="N", help="run random tests with N new seeds each"
    )
    group.addoption("--seed", type=int, metavar="VALUE", help="run random tests with this seed")


def pytest_configure(config: pytest.Config) -> None:
    count = config.getoption("--fresh-seeds")
    if count and not hasattr(config, "workerinput"):
        # Once for all of pytest-xdist's workers, which inherit the environment: they must agree on the tests.
        os.environ["FRESH_SEEDS"] = " ".join(
            str(random.SystemRandom().randrange(2**32)) for _ in range(count)
        )
    config.stash[SEEDS] = [int(seed) for seed in os.environ["FRESH_SEEDS"].split()] if count else []
    settings.register_profile("tests", derandomize=not count, deadline=None)
    settings.load_profile("tests")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (seeds := metafunc.config.stash[SEEDS]) and "seed" in metafunc.fixturenames:
        ids = [f"seed{seed}" for seed in seeds]
        metafunc.parametrize("seed", seeds, ids=ids, indirect=True, scope="module")


@pytest.fixture(scope="module")
def seed(request: pytest.FixtureRequest) -> int:
    """The number to seed generators with, below 2**32."""
    given = request.config.getoption("--seed")
    fixed = zlib.crc32(request.module.__name__.encode()) if given is None else given
    value: int = getattr(request, "param", fixed)
    if hasattr(request.module, "SEED"):
        request.module.SEED = value
    return value


@pytest.fixture
def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def no_installed_lpips(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """LPIPS weights of this machine are not found."""
    from specularip import lpips

    monkeypatch.delenv(lpips.LPIPS_VARIABLE, raising=False)
    monkeypatch.setattr(lpips, "LPIPS_FOLDER", tmp_path / "absent")


@pytest.fixture
def small_bakes(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of something else: what is exported is baked from few small images, in a tenth of the
    time."""
    from specularip.baking import bake

    monkeypatch.setattr(bake, "VIEWS", 16)
    monkeypatch.setattr(bake, "VIEW_SIZE", 64)


@pytest.fixture(autouse=True)
def seeded_generator(request: pytest.FixtureRequest) -> None:
    """torch's global generator starts every test from its seed."""
    torch.manual_seed(request.getfixturevalue("seed") if "seed" in request.fixturenames else 0)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for mark in item.iter_markers("gpu"):
        if problem := missing(*mark.args, **mark.kwargs):
            pytest.skip(problem)


def missing(devices: int = 1, needs: str | None = None) -> str:
    """What a test marked `gpu` with these arguments lacks here, "" if nothing.

    needs: "gsplat" for its kernels (which may be built now), or a module's name.
    """
    if not torch.cuda.is_available():
        return "needs an NVIDIA GPU"
    if torch.cuda.device_count() < devices:
        return f"needs {devices} GPUs"
    if needs == "gsplat":
        return "" if gsplat_works() else "needs gsplat's kernels"
    if needs is not None and importlib.util.find_spec(needs) is None:
        return f"needs {needs}"
    return ""


@cache
def gsplat_works() -> bool:
    """Cached: an attempt to build the kernels may take a minute, and fail."""
    from specularip.raster.cuda import available

    return available()
