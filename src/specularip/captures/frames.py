"""What a capture's folder says before any image is decoded: cameras, lenses, where images and masks are."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Split = Literal["train", "test", "val"]


@dataclass(frozen=True)
class Lens:
    """How points in front of a camera become pixels of an image of width x height.

    model: "pinhole"; "opencv", with distortion k1 k2 p1 p2 k3 k4 k5 k6 (OpenCV's rational model); or
    "fisheye", with k1 k2 k3 k4 (OpenCV's). fx, fy, cx, cy: in pixels, pixel centres at +0.5.
    """

    model: Literal["pinhole", "opencv", "fisheye"]
    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    distortion: tuple[float, ...] = ()


@dataclass(frozen=True)
class Frame:
    """One image and its camera.

    image: its file, in the capture's folder. name: the same, relative to the folder, with "/". lens: its
    width and height may be another size of the image than that of the file. viewmat [4,4] float64: world to
    camera, OpenCV axes (x right, y down, z forward), rigid. mask: an image that is white on the subject.
    """

    image: Path
    name: str
    lens: Lens
    viewmat: np.ndarray
    mask: Path | None = None


@dataclass(frozen=True)
class PointCloud:
    """positions [N,3] float64, colors [N,3] uint8."""

    positions: np.ndarray
    colors: np.ndarray


@dataclass(frozen=True)
class Capture:
    """One split of a capture.

    layout: whose layout the folder has, for people. source: the file that says where the cameras are.
    points: a cloud on the scene in the same world, as a PLY file or as it was read; None if there is none.
    premultiplied: whether colours are multiplied by alpha; None if the folder does not say. notes:
    assumptions made, one line each, for the user.
    """

    layout: str
    source: Path
    frames: tuple[Frame, ...]
    points: Path | PointCloud | None = None
    premultiplied: bool | None = None
    notes: tuple[str, ...] = ()
