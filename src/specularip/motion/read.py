"""Motion files, told apart by their suffix."""

from __future__ import annotations

from pathlib import Path

from specularip.errors import UserError
from specularip.motion.amass import read_amass
from specularip.motion.bvh import read_bvh
from specularip.motion.capture import Capture


def read_motion(path: str | Path, fps: float | None = None) -> Capture:
    """The motion in an AMASS or SMPL .npz or in a .bvh. fps: used if the file gives no frame rate.

    Raises UserError, one line, for other suffixes and for whatever is wrong with the file.
    """
    path = Path(path)
    readers = {".npz": read_amass, ".bvh": read_bvh}
    if path.suffix.lower() not in readers:
        raise UserError(f"{path}: a motion is read from .npz (AMASS, SMPL) or .bvh, not “{path.suffix}”")
    return readers[path.suffix.lower()](path, fps)
