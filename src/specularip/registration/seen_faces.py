"""Faces in images, looked for where the head is: they tell front from back, and where exactly the head is.

Each face is cut out upright and enlarged, so that it is found in images of the whole body too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from specularip.body.head import HeadModel
from specularip.captures.views import PosedImages
from specularip.faces.detection import detect
from specularip.faces.landmarks import DOUBTFUL, read_landmarks
from specularip.registration.outlines import Outline
from specularip.registration.posed_shape import PosedShape, ShapeModel

CROP = 0.5
"""Metres of the square that is cut out around the middle of the head, of an adult."""
CROP_SIZE = 256
LEAST_CROP = 36
"""Pixels of the image across that square; in smaller ones a face is a dozen pixels wide."""
OUTER_CORNERS = (33, 263)
"""The landmarks at the outer corners of the eyes."""
MOST_APART = 0.35
"""Mean distance, in those between the corners' landmarks, from which on a face is not this head's: those that
look elsewhere are at 0.5 and more."""


@dataclass(frozen=True)
class SeenFace:
    """The face in one image: its number, and the landmarks [468,2] in its pixels."""

    view: int
    points: Tensor


def seen_faces(
    model: ShapeModel, shape: PosedShape, outlines: Sequence[Outline], views: PosedImages
) -> list[SeenFace]:
    """The faces in the outlines' images; `shape` tells where the head is, not where it looks."""
    found = []
    for outline in outlines:
        view = views[outline.view]
        camera = view.camera.to("cpu")
        middle, top = _head(model, shape)
        pixels, depth = camera.project(torch.stack([middle, top]).float())
        if not bool((depth > 0).all()):
            continue
        side = CROP * shape.scale * float(camera.Ks[0, 0, 0] / depth[0, 0])
        at, upwards = pixels[0, 0].numpy(), (pixels[0, 1] - pixels[0, 0]).numpy()
        inside = (at > 0).all() and at[0] < camera.width and at[1] < camera.height
        if not inside or side < LEAST_CROP or np.hypot(*upwards) < 1e-6:
            continue
        down = -upwards / np.hypot(*upwards)
        right = np.array([down[1], -down[0]])
        corner = at - side / 2 * (right + down)
        crop = _cut_out((view.image.cpu() * 255).byte().numpy(), corner, side * right, side * down)
        candidates = detect(Image.fromarray(crop), 1, 0.0)
        if not candidates:
            continue
        face = read_landmarks(crop, max(candidates, key=lambda one: one[1])[0])
        if face.score > DOUBTFUL:  # `of_head` looks at them again
            shares = face.points[:, :2].astype(np.float64) / CROP_SIZE
            points = corner + side * (shares[:, :1] * right + shares[:, 1:] * down)
            found.append(SeenFace(outline.view, torch.from_numpy(points)))
    return found


def of_head(
    model: ShapeModel, shape: PosedShape, faces: Sequence[SeenFace], views: PosedImages
) -> list[SeenFace]:
    """Those of the faces that look as this body's would."""
    landmarks = HeadModel.load().landmarks(model.posed_vertices(shape).float())
    kept = []
    for face in faces:
        expected = views[face.view].camera.to("cpu").project(landmarks)[0][0].double()
        a, b = (points - points.mean(0) for points in (face.points, expected))
        unit = (face.points[OUTER_CORNERS[0]] - face.points[OUTER_CORNERS[1]]).norm().clamp_min(a.std())
        if float((a - b).norm(dim=1).mean() / unit) < MOST_APART:
            kept.append(face)
    return kept


def _head(model: ShapeModel, shape: PosedShape) -> tuple[Tensor, Tensor]:
    """The middle of the head, and a point above it, in the capture; [3] each."""
    places = model.skeleton(shape)[1]
    head, neck = (model.joint_names.index(name) for name in ("head", "neck01"))
    up = places[head] - places[neck]
    middle = places[head] + 0.6 * up
    return tuple(shape.placement.points(point) for point in (middle, middle + up))  # type: ignore[return-value]


def _cut_out(image: np.ndarray, corner: np.ndarray, right: np.ndarray, down: np.ndarray) -> np.ndarray:
    """The square of an image, uint8 [H,W,3], with this upper left corner and these edges, black beyond the
    image."""
    # Pillow's coefficients lead from the crop's pixels to the image's.
    (a, d), (b, e) = right / CROP_SIZE, down / CROP_SIZE
    matrix = (a, b, corner[0], d, e, corner[1])
    photo = Image.fromarray(image)
    cut = photo.transform((CROP_SIZE, CROP_SIZE), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(cut)
