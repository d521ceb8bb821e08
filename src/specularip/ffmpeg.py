"""The ffmpeg program that encodes videos, tried before anything is rendered for it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from specularip.errors import UserError

VARIABLE = "IMAGEIO_FFMPEG_EXE"
"""Environment variable of imageio-ffmpeg that names another program than its own."""
REMEDY = "install ffmpeg with libx264 (apt install ffmpeg, brew install ffmpeg, conda install ffmpeg)"
TRIAL = 16, 16
TRIAL_SECONDS = 60.0


def find_ffmpeg() -> str:
    """Path of an ffmpeg that has just encoded a frame. Raises UserError, which says how to get one."""
    import imageio_ffmpeg

    try:
        program = imageio_ffmpeg.get_ffmpeg_exe()
    except (RuntimeError, OSError) as error:
        raise UserError(f"there is no ffmpeg to write videos: {REMEDY}, or set {VARIABLE} to one") from error
    try:
        _encode_a_frame(program)
    except UserError as problem:
        named, remedy = program, f"{REMEDY}, and set {VARIABLE} to it"
        if os.environ.get(VARIABLE):
            named, remedy = f"{VARIABLE}={program}", f"unset {VARIABLE}, or set it to an ffmpeg with libx264"
        raise UserError(f"{named} cannot write videos ({problem}): {remedy}") from None
    return program


def encoding(program: str, width: int, height: int, fps: float, out: str | os.PathLike[str]) -> list[str]:
    """The command that encodes RGB frames of even width and height from its standard input as H.264
    (yuv420p) in MP4.

    The index comes first (+faststart), so that a browser starts playing before the download ends. The YUV
    matrix is tagged: otherwise players guess, and colours shift.
    """
    command = [program, "-y", "-nostdin", "-loglevel", "error"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-r", str(fps), "-i", "-"]
    command += ["-an", "-c:v", "libx264", "-preset", "medium", "-crf", "18", "-pix_fmt", "yuv420p"]
    command += ["-vf", "scale=out_color_matrix=bt709:out_range=tv"]
    command += ["-colorspace", "bt709", "-color_primaries", "bt709"]
    command += ["-color_trc", "bt709", "-color_range", "tv"]
    return [*command, "-movflags", "+faststart", str(out)]


@cache
def _encode_a_frame(program: str) -> None:
    """Raises UserError with the reason if it fails, each time; a success is not tried again."""
    width, height = TRIAL
    try:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "trial.mp4"
            done = subprocess.run(
                encoding(program, width, height, 30, out),
                input=bytes([128]) * (width * height * 3),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=TRIAL_SECONDS,
            )
            written = out.read_bytes()[:64] if out.is_file() else b""
    except OSError as error:
        raise UserError(error.strerror or str(error)) from None
    except subprocess.TimeoutExpired:
        raise UserError(f"it does not end within {TRIAL_SECONDS:.0f} seconds") from None
    if done.returncode != 0 or b"ftyp" not in written:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(said[-1].strip() if said else "it wrote no video")
