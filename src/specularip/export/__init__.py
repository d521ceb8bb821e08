"""Ways out of the house: PLY for other viewers, video for people."""

from specularip.export.ply import read_ply, write_ply
from specularip.export.video import turntable, write_video
from specularip.files import atomic_path

__all__ = ["atomic_path", "read_ply", "turntable", "write_ply", "write_video"]
