"""Many avatars in one process leave nothing behind, and what they might leave is told."""

import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("reads /proc", allow_module_level=True)

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from soak import TINY, avatars, footprint, left_behind, soak
from tiny_prior import pixel_prior

from specularip.diffusion.loading.folder import save_prior

pytestmark = pytest.mark.usefixtures("small_bakes")
FEWER = ("seid.steps=2", "scr.fit_steps=2", "scr.close_ups=false", "scr.orbit_views=4", "turntable_frames=2")


@pytest.mark.parametrize("batch", [False, True])
def test_avatars_of_one_process_leave_nothing_behind(tmp_path: Path, batch: bool) -> None:
    save_prior(pixel_prior(), tmp_path / "prior")
    settings = (*TINY, *FEWER, f"prior.path={tmp_path / 'prior'}")
    found = soak(avatars(tmp_path, settings, batch, width=1200), 3, lambda line: None)
    assert left_behind(found) == []


def test_what_stays_is_told(tmp_path: Path) -> None:
    before = footprint(trim=True)
    assert left_behind([before, before, before]) == []
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait, name="a forgotten writer", daemon=True)
    thread.start()
    kept = bytearray(b"x") * int(0.1e6 * before.memory)
    with open(tmp_path / "forgotten.txt", "w"):
        lines = "\n".join(left_behind([before, before, footprint(trim=True)]))
    ended.set()
    thread.join()
    assert kept and "memory grew" in lines and "memory in use grew" in lines
    assert f"files: {tmp_path / 'forgotten.txt'}" in lines and "threads: a forgotten writer" in lines
    caches = replace(before, caches={"specularip.inputs._read_photo": 7}, children=before.children + 1)
    lines = "\n".join(left_behind([before, before, caches]))
    assert "_read_photo holds 7 results" in lines and "1 child processes" in lines
