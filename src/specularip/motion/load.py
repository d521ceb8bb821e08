"""A motion by its name or file, as a clip for an avatar."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.clips import CLIPS, built_in
from specularip.motion.read import read_motion
from specularip.motion.retarget import retarget


def load_clip(
    motion: str, binding: Binding, *, fps: float | None = None, log: Callable[[str], object] | None = None
) -> Clip:
    """A built-in clip (`clips.CLIPS`), or the motion of an AMASS .npz or a .bvh file, retargeted.

    fps: frame rate of a file that gives none. log: receives a line about what was guessed or left out.
    Raises UserError for what is neither, for damaged files and for unknown skeletons.
    """
    if motion in CLIPS:
        return built_in(motion, binding)
    path = Path(motion)
    if not path.suffix:
        raise UserError(f"no motion {motion!r}: choose {', '.join(CLIPS)}, or give an .npz or .bvh file")
    capture = read_motion(path, fps)
    if log is not None and capture.notes:
        log(f"{path.name}: {', '.join(capture.notes)}")
    return retarget(capture, binding)
