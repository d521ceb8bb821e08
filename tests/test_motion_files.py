"""Damaged motion files: a clip or one line, whatever happened to them.

`python tests/test_motion_files.py 10000` tries as many of each format and prints what came of them.
"""

from __future__ import annotations

import io
import resource
import signal
import sys
import tempfile
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from motion_files import CMU, bvh_text, random_turns, smpl_motion, write_amass
from mutations import mutate

from specularip.body.anny import anny_body
from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.read import read_motion
from specularip.motion.retarget import retarget

SECONDS = 5
FORMATS = ("npz", "arrays", "bvh", "skeleton")
"""An .npz; the arrays in it, in a sound archive; a BVH; its skeleton alone."""


def originals(folder: Path) -> dict[str, bytes]:
    """A sound file of each format."""
    poses, moved = smpl_motion("walk", 52, frames=4)
    archive = write_amass(folder / "sound.npz", poses, moved).read_bytes()
    text = bvh_text(CMU, random_turns(4, len(CMU), 1), np.zeros((4, 3)))
    return {"npz": archive, "arrays": archive, "bvh": text.encode(), "skeleton": text.encode()}


def damaged(form: str, data: bytes, seed: int) -> bytes:
    if form == "skeleton":
        start = data.index(b"MOTION")
        return mutate(data[:start], seed) + data[start:]
    if form != "arrays":
        return mutate(data, seed)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as sound, zipfile.ZipFile(out, "w") as archive:
        names = sound.namelist()
        for index, name in enumerate(names):
            content = sound.read(name)
            archive.writestr(name, mutate(content, seed) if seed % len(names) == index else content)
    return out.getvalue()


def outcome(path: Path, binding: Binding) -> str:
    """ "read", or the message of the UserError. All else is raised, and TimeoutError after some seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"{path} takes more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        retarget(read_motion(path), binding)
        return "read"
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 600
        return str(error).replace(str(path), "FILE")
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def try_all(form: str, seeds: range, folder: Path) -> Counter[str]:
    """What came of each seed's file; the damaged file stays in the folder if something was raised."""
    body = anny_body()
    binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints)
    data = originals(folder)[form]
    path = folder / ("damaged.npz" if form in ("npz", "arrays") else "damaged.bvh")
    path.write_bytes(data)
    assert outcome(path, binding) == "read"
    found: Counter[str] = Counter()
    for seed in seeds:
        path.write_bytes(damaged(form, data, seed))
        try:
            found[outcome(path, binding)] += 1
        except Exception as error:
            raise AssertionError(f"{form}, seed {seed}: {error!r}") from error
    return found


@pytest.mark.parametrize("form", FORMATS)
def test_damaged_files_give_a_clip_or_one_line(form: str, tmp_path: Path, seed: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    first = seed % 10_000 * 1000
    found = try_all(form, range(first, first + 150), tmp_path)
    assert len(found) > 5  # many kinds of damage were told apart
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 200 << 10  # kB


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with tempfile.TemporaryDirectory() as folder:
        for form in FORMATS:
            found = try_all(form, range(count), Path(folder))
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
            print(f"{form}: {count} files, {found['read']} read, {len(found) - 1} messages, peak {peak} MB")


if __name__ == "__main__":
    main()
