"""Encodes frames as H.264 video that browsers play."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterable

import numpy as np

from specularip.errors import UserError
from specularip.ffmpeg import encoding, find_ffmpeg
from specularip.files import atomic_path


def write_video(frames: Iterable[np.ndarray], path: str | os.PathLike[str], fps: float = 30.0) -> int:
    """Encode uint8 [H,W,3] RGB frames as H.264 (yuv420p) in MP4, atomically, and return their number.

    Odd sizes are padded by repeating the last row or column. `frames` may be a generator: only one frame is
    in memory at a time. Raises ValueError for no frames, or frames of another type or of different sizes;
    UserError if there is no ffmpeg, before the first frame is asked for, or if the file cannot be written.
    """
    program = find_ffmpeg()
    iterator = iter(frames)
    first = next(iterator, None)
    if first is None:
        raise ValueError("frames must hold at least one frame")
    _check(first, first.shape)
    height, width = (side + side % 2 for side in first.shape[:2])
    count = 0
    # stderr goes to a file: a full pipe that is not read would block ffmpeg.
    with atomic_path(path) as temporary, tempfile.TemporaryFile() as log:
        command = encoding(program, width, height, fps, temporary)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=log)
        assert process.stdin is not None
        try:
            frame: np.ndarray | None = first
            while frame is not None:
                _check(frame, first.shape)
                padding = ((0, height - frame.shape[0]), (0, width - frame.shape[1]), (0, 0))
                process.stdin.write(np.pad(frame, padding, mode="edge").tobytes())
                count += 1
                frame = next(iterator, None)
            process.stdin.close()
            code = process.wait()
        except BrokenPipeError:
            code = process.wait() or 1
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines() or ["no message"]
            raise UserError(f"cannot write {path}: ffmpeg: {lines[-1].strip()}")
    return count


def _check(frame: np.ndarray, shape: tuple[int, ...]) -> None:
    if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        raise ValueError(f"frames must be uint8 [H,W,3], got {frame.dtype} {list(frame.shape)}")
    if frame.shape != shape:
        raise ValueError(f"frames must have one size: first {list(shape)}, then {list(frame.shape)}")
