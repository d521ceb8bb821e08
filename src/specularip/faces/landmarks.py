"""Finding the faces of a photo: 468 landmarks each, by MediaPipe's detector and face mesh, in torch.

The detector sees squares of 128 pixels and misses faces narrower than a fifth of that, so it also looks at
parts of the photo, which overlap by half. Its boxes and eyes say what to cut out for the mesh, which refines
them and says whether there is a face at all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from specularip.errors import UserError
from specularip.faces.alignment import CROP_PER_BOX, EYE_LINE, FaceBox, sample_square
from specularip.faces.photo import MIN_FACE

if TYPE_CHECKING:
    from torch import Tensor

    from specularip.faces.networks import Mesh

TURNS = (0.0, 45.0, -45.0, 90.0, -90.0, 180.0)
"""Tilts of the face, degrees clockwise, tried in turn until a face is found; detector and mesh cope with 30."""
SMALLEST_TILE = 3.5 * MIN_FACE
"""Smaller parts of a photo, in its pixels, are not looked at: their faces would be too small to use."""
MIN_SCORE = 0.5
MAX_OVERLAP = 0.3
BATCH = 16
CANDIDATES = 40
"""Boxes of one search that the mesh looks at, the surest first."""
MESH_PER_BOX = 1.5
"""Side of the square for the mesh over that of the face: what it was trained on."""
MAX_YAW_DEG = 60.0

# Numbers of landmarks. Left and right are the person's.
RIGHT_EYE, LEFT_EYE = (33, 133, 159, 145), (263, 362, 386, 374)
RIGHT_SIDE, LEFT_SIDE = (33, 127, 234, 132), (263, 356, 454, 361)
SIDE_PER_RADIUS = 1.0
"""Side of `FaceBox` over the landmarks' rms distance from their centre."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """A face. points: float32 [468,3], numbered as MediaPipe's face mesh: x to the right and y down in pixels
    of the photo (the upper left pixel's centre is at 0.5), z in the same unit, smaller towards the camera.
    score: the mesh's probability that this is a face."""

    points: np.ndarray
    score: float

    @property
    def eyes(self) -> np.ndarray:
        """Middles (x, y, z) of the person's right eye, which is at the left of an upright photo, and of the
        left one: [2,3]."""
        return np.stack([self.points[list(eye)].mean(0) for eye in (RIGHT_EYE, LEFT_EYE)])

    @property
    def radius(self) -> float:
        """Root mean square distance of the points from their centre in pixels, the same from all sides."""
        return float(np.sqrt(((self.points - self.points.mean(0)) ** 2).sum(1).mean()))

    @property
    def yaw_deg(self) -> float:
        """How far the head is turned to a side, positive if its right side is nearer; 90 is a profile."""
        x, y, z = self.points[list(LEFT_SIDE)].mean(0) - self.points[list(RIGHT_SIDE)].mean(0)
        return float(np.degrees(np.arctan2(z, np.hypot(x, y))))


@dataclass(frozen=True)
class _Square:
    """A tilted square of a photo: its middle (x, y), its upper edge from left to right, in pixels."""

    middle: np.ndarray
    edge: np.ndarray

    @property
    def axes(self) -> np.ndarray:
        """Rows: the edges to the right and down."""
        return np.stack([self.edge, [-self.edge[1], self.edge[0]]])

    @property
    def corner(self) -> np.ndarray:
        return self.middle - self.axes.sum(0) / 2


def find_face(image: np.ndarray, name: str = "the photo") -> FaceBox:
    """The largest face of a photo, tilted by any angle and seen from at most 60 degrees aside.

    image: uint8 [H,W,3]. name: of the photo, for messages. Raises UserError if there is no face, or if the
    largest is narrower than MIN_FACE pixels or turned away further.
    """
    faces = find_faces(image)
    if not faces:
        raise UserError(
            f"no face found in {name}: use a well-lit photo that looks into the camera, "
            "with the face not too small in the frame"
        )
    face = faces[0]
    side = SIDE_PER_RADIUS * face.radius
    if side < MIN_FACE:
        raise UserError(
            f"the largest face in {name} is only {side:.0f} pixels wide, {MIN_FACE} are needed: "
            "use a closer or larger photo"
        )
    if abs(face.yaw_deg) > MAX_YAW_DEG:
        raise UserError(
            f"the largest face in {name} is in profile, turned by {abs(face.yaw_deg):.0f} degrees: "
            "use a photo that looks into the camera"
        )
    right, left = face.eyes[:, :2].astype(float)
    across = (left - right) / np.hypot(*(left - right))
    down = np.array([-across[1], across[0]])
    center = (right + left) / 2 + (0.5 - EYE_LINE) * CROP_PER_BOX * side * down
    return FaceBox(_pair(center), side, (_pair(right), _pair(left)), len(faces))


def find_faces(image: np.ndarray) -> list[Landmarks]:
    """The faces of a photo, uint8 [H,W,3], the largest first.

    Whole and halved photos are always searched; smaller parts and tilted faces only while there is no face.
    """
    import torch

    from specularip.faces.networks import load

    _, mesh = load()
    photo = Image.fromarray(image)
    depth = max(1, int(np.log2(max(max(photo.size) / SMALLEST_TILE, 1)))) + 1
    with torch.inference_mode():
        for turn in TURNS:
            squares: list[_Square] = []
            scores: list[float] = []
            for level in range(depth if turn == 0 else min(depth, 3)):
                for square, score in _detect(photo, 2**level, turn):
                    squares.append(square)
                    scores.append(score)
                if level and (faces := _confirmed(image, mesh, squares, scores)):
                    return sorted(faces, key=lambda face: -face.radius)
    return []


def _confirmed(
    image: np.ndarray, mesh: Mesh, squares: list[_Square], scores: list[float]
) -> list[Landmarks]:
    """The faces that the mesh sees in the detector's squares, each once."""
    sides = [float(np.hypot(*square.edge)) for square in squares]
    boxes = [_box(square.middle[None] + 0.5 * side * CORNERS) for square, side in zip(squares, sides)]
    found = []
    for i in _distinct(boxes, scores, nested=False)[:CANDIDATES]:
        face = read_landmarks(image, mesh, squares[i])
        face = read_landmarks(image, mesh, _around(face))
        if face.score > MIN_SCORE:
            found.append(face)
    kept = _distinct([_box(face.points[:, :2]) for face in found], [face.score for face in found], nested=True)
    return [found[i] for i in kept]


CORNERS = np.array([[-1.0, -1.0], [1.0, 1.0]])


def _box(points: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of points [n,2]."""
    return np.concatenate([points.min(0), points.max(0)])


def _distinct(boxes: list[np.ndarray], scores: list[float], nested: bool) -> list[int]:
    """Indices of the boxes (left, top, right, bottom) that overlap no better one, the best first.

    nested: boxes within others overlap too: the share is that of the smaller box, not of both together.
    """
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            extent = np.minimum(boxes[i][2:], boxes[j][2:]) - np.maximum(boxes[i][:2], boxes[j][:2])
            shared = float(np.prod(np.clip(extent, 0, None)))
            areas = [float(np.prod(box[2:] - box[:2])) for box in (boxes[i], boxes[j])]
            if shared > MAX_OVERLAP * (min(areas) if nested else sum(areas) - shared):
                break
        else:
            kept.append(i)
    return kept


def _around(face: Landmarks) -> _Square:
    """The square that the mesh reads once more."""
    points = face.points[:, :2].astype(float)
    across = points[LEFT_EYE[0]] - points[RIGHT_EYE[0]]
    across /= max(float(np.hypot(*across)), 1e-6)
    axes = np.stack([across, [-across[1], across[0]]])
    box = _box(points @ axes.T)
    side = MESH_PER_BOX * float((box[2:] - box[:2]).max())
    return _Square((box[:2] + box[2:]) / 2 @ axes, side * across)


def read_landmarks(image: np.ndarray, mesh: Mesh, square: _Square) -> Landmarks:
    """What the mesh sees in a square of the photo."""
    import torch

    from specularip.faces.networks import MESH_SIZE

    crop = sample_square(image, _pair(square.corner), _pair(square.edge), MESH_SIZE)
    points, logit = mesh(torch.from_numpy(np.float32(crop.transpose(2, 0, 1)))[None])
    places = points[0].numpy().astype(float) / MESH_SIZE
    xy = square.corner + places[:, :2] @ square.axes
    z = places[:, 2:] * np.hypot(*square.edge)
    return Landmarks(np.float32(np.concatenate([xy, z], 1)), float(logit.sigmoid()))


def _detect(photo: Image.Image, parts: int, turn: float) -> Iterator[tuple[_Square, float]]:
    """Squares for the mesh, with the detector's probabilities, from tiles 1/parts of the photo's long side."""
    import torch

    from specularip.faces.networks import DETECTOR_SIZE, load

    detector, _ = load()
    scale = DETECTOR_SIZE * parts / max(photo.size)
    small = photo.resize(
        (max(1, round(photo.width * scale)), max(1, round(photo.height * scale))),
        Image.Resampling.BILINEAR,
        reducing_gap=2.0,
    )
    view = np.asarray(small.rotate(turn, Image.Resampling.BILINEAR, expand=True) if turn else small)
    before = [max(0, DETECTOR_SIZE - side) // 2 for side in view.shape[:2]]
    after = [max(0, DETECTOR_SIZE - side) - first for side, first in zip(view.shape[:2], before)]
    view = np.pad(view, (*zip(before, after), (0, 0)))
    corners = [(x, y) for y in _starts(view.shape[0]) for x in _starts(view.shape[1])]
    for first in range(0, len(corners), BATCH):
        group = corners[first : first + BATCH]
        tiles = np.stack([view[y : y + DETECTOR_SIZE, x : x + DETECTOR_SIZE] for x, y in group])
        pixels = torch.from_numpy(tiles).permute(0, 3, 1, 2).float() / 127.5 - 1
        logits, rows = detector(pixels)
        tile, row = torch.nonzero(logits > 0, as_tuple=True)
        middle = np.array(view.shape[1::-1]) / 2
        for t, box, cell, score in zip(tile.tolist(), rows[tile, row], detector.cells()[row], logits[tile, row]):
            yield _square(box, cell, group[t], middle, turn, photo, scale), float(score.sigmoid())


def _starts(side: int) -> list[int]:
    """Where tiles begin that cover a side and overlap by half."""
    from specularip.faces.networks import DETECTOR_SIZE

    rest = side - DETECTOR_SIZE
    return [round(at) for at in np.linspace(0, rest, -(-2 * rest // DETECTOR_SIZE) + 1)]


def _square(
    row: Tensor,
    cell: Tensor,
    corner: tuple[int, int],
    middle: np.ndarray,
    turn: float,
    photo: Image.Image,
    scale: float,
) -> _Square:
    """A row of the detector as the mesh's square, in pixels of the photo.

    corner: of the tile in the view, whose middle is the photo's.
    """
    cos, sin = np.cos(np.radians(turn)), np.sin(np.radians(turn))
    back = np.array([[cos, sin], [-sin, cos]]) / scale
    box = row.numpy().astype(float)
    at = (cell.numpy() + box[:2] + np.array(corner) - middle) @ back + np.array(photo.size) / 2
    across = (box[6:8] - box[4:6]) @ back
    side = MESH_PER_BOX * float(box[2:4].max()) / scale
    return _Square(at, side * across / max(float(np.hypot(*across)), 1e-6))


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
