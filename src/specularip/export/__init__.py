"""Ways out of the house: PLY for other viewers, video for people."""

from .atomic import atomic_path
from .ply import read_ply, write_ply
from .video import turntable, write_video

__all__ = ["atomic_path", "read_ply", "turntable", "write_ply", "write_video"]
