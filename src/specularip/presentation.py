"""Presentation of an avatar: preview image, turntable frames."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specularip.avatar import Avatar
from specularip.cameras import FULL, HEAD, Cameras, orbit_views
from specularip.files import to_uint8
from specularip.framing import frame_subject


def turntable(
    avatar: Avatar, frames: int = 120, size: int = 480, elevation_deg: float = 8.0, background: float = 0.6
) -> Iterator[np.ndarray]:
    """uint8 [size,size,3] frames of one full turn around the avatar, starting in front. The body fills the
    height of the frame; the video loops without a jump. Raises ValueError for less than one frame."""
    if frames < 1:
        raise ValueError(f"frames must be at least 1, got {frames}")
    distance, target = frame_subject(avatar.gaussians)
    for index in range(frames):
        azimuth = 360.0 * index / frames
        camera = Cameras.orbit(azimuth, elevation_deg, distance, FULL.fov_y_deg, size, size, target)
        yield to_uint8(avatar.render(camera, background).image[0])


def preview(avatar: Avatar, body_height: float, size: int) -> np.ndarray:
    """uint8 [size,4*size,3]: the body in front, three-quarter and back view, and the face. body_height is in
    metres."""
    whole = Cameras.orbit([0.0, 40.0, 180.0], 6.0, FULL.distance * body_height, FULL.fov_y_deg, size, size)
    close = orbit_views(1, HEAD, size=size, body_height=body_height, elevation_deg=4.0).cameras
    frames = [*avatar.render(whole).image, *avatar.render(close).image]
    return np.concatenate([to_uint8(frame) for frame in frames], 1)
