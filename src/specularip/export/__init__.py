"""Exporters: PLY for other viewers, MP4 video."""

from specularip.export.ply import read_ply, write_ply
from specularip.export.video import write_video

__all__ = ["read_ply", "write_ply", "write_video"]
