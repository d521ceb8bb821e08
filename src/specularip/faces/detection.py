"""Where faces may be in a photo: MediaPipe's short-range detector, run on overlapping parts of the photo.

The detector sees squares of 128 pixels and misses faces narrower than a fifth of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from specularip.faces.networks import DETECTOR_SIZE, load

BATCH = 16
MESH_PER_BOX = 1.5
"""Side of the square for the mesh over that of the detector's box: what the mesh was trained on."""


@dataclass(frozen=True, eq=False)
class Square:
    """A tilted square of a photo: middle (x, y), and its upper edge (x, y) from left to right, in pixels."""

    middle: np.ndarray
    edge: np.ndarray

    @classmethod
    def along(cls, middle: np.ndarray, side: float, across: np.ndarray) -> Square:
        """The square of this side whose upper edge has the direction `across`."""
        return cls(middle, side * across / max(float(np.hypot(*across)), 1e-6))

    @property
    def axes(self) -> np.ndarray:
        """Rows: the edges to the right and down."""
        return np.stack([self.edge, [-self.edge[1], self.edge[0]]])

    @property
    def corner(self) -> np.ndarray:
        """Its upper left."""
        return self.middle - self.axes.sum(0) / 2

    @property
    def box(self) -> np.ndarray:
        """Left, top, right and bottom of the square as if it were upright."""
        reach = np.hypot(*self.edge) / 2
        return np.concatenate([self.middle - reach, self.middle + reach])

    def turned(self, quarters: int) -> Square:
        """By 0 to 3 right angles clockwise."""
        return Square(self.middle, np.concatenate([self.axes, -self.axes])[quarters])


@torch.no_grad()
def detect(photo: Image.Image, parts: int, turn_deg: float) -> list[tuple[Square, float]]:
    """Squares for the mesh, and logits of their being faces, all above 0; many for the same face.

    photo: RGB. parts: the searched squares are 1/parts of its long side, and overlap by half. turn_deg: tilt
    of the expected faces, clockwise; others are found too if they are tilted up to 60 degrees from there.
    """
    detector, _ = load()
    scale = DETECTOR_SIZE * parts / max(photo.size)
    extent = max(1, round(photo.width * scale)), max(1, round(photo.height * scale))
    small = photo.resize(extent, Image.Resampling.BILINEAR, reducing_gap=2.0)
    view = np.asarray(small.rotate(turn_deg, Image.Resampling.BILINEAR, expand=True) if turn_deg else small)
    missing = [max(0, DETECTOR_SIZE - side) for side in view.shape[:2]]
    view = np.pad(view, (*((count // 2, count - count // 2) for count in missing), (0, 0)))
    view_middle, photo_middle = np.array(view.shape[1::-1]) / 2, np.array(photo.size) / 2
    cos, sin = np.cos(np.radians(turn_deg)), np.sin(np.radians(turn_deg))
    back = np.array([[cos, sin], [-sin, cos]]) / scale  # from the view's axes to the photo's
    corners = np.array([(x, y) for y in _starts(view.shape[0]) for x in _starts(view.shape[1])])
    found = []
    for some in np.split(corners, range(BATCH, len(corners), BATCH)):
        tiles = np.stack([view[y : y + DETECTOR_SIZE, x : x + DETECTOR_SIZE] for x, y in some])
        logits, rows = detector(torch.from_numpy(tiles).permute(0, 3, 1, 2) / 127.5 - 1)
        tile, row = torch.nonzero(logits > 0, as_tuple=True)
        boxes = rows[tile, row].numpy().astype(float)
        middles = boxes[:, :2] + detector.cells()[row].numpy() + some[tile.numpy()] - view_middle
        eyes = boxes[:, 6:8] - boxes[:, 4:6]
        sides = MESH_PER_BOX * boxes[:, 2:4].max(1) / scale
        for middle, side, across, logit in zip(
            middles @ back + photo_middle, sides, eyes @ back, logits[tile, row].tolist()
        ):
            found.append((Square.along(middle, side, across), logit))
    return found


def _starts(side: int) -> list[int]:
    """Where tiles begin that cover a side and overlap by half."""
    rest = side - DETECTOR_SIZE
    return [round(at) for at in np.linspace(0, rest, -(-2 * rest // DETECTOR_SIZE) + 1)]
