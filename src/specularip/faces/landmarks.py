"""Finding the faces of a photo, with 468 landmarks each: MediaPipe's detector and face mesh, in torch.

The detector (`faces.detection`) says where to look. The mesh says whether that is a face, and where its
points are; it looks again at the square around them until they stay where they are. Then they depend little
on how good the detector's square was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from specularip.errors import UserError
from specularip.faces.alignment import CROP_PER_BOX, EYE_LINE, FaceBox, sample_square
from specularip.faces.image_file import MIN_FACE

if TYPE_CHECKING:
    from specularip.faces.detection import Square

# The search.
TURNS_DEG = (45.0, -45.0, 90.0, -90.0, 180.0)
"""Tilts of the face, tried in turn if a search for upright faces, which finds most tilted ones, fails."""
SMALLEST_TILE, MAX_HALVINGS = 3.5 * MIN_FACE, 4
"""Parts of a photo that are smaller, in its pixels, are not looked at: their faces would be too small to use.
Nor are parts of less than a sixteenth of its side: in a photo of 100 megapixels, that would take long."""
CANDIDATES = 16
"""Squares of one search that the mesh looks at, the surest first."""
MAX_OVERLAP = 0.3
LARGER, MUCH_LARGER = 1.5, 2.5
"""Doubtful faces count beside clear ones if they are so much larger: the clear one may be a reflection of who
is half hidden. What lies within a clear face so much larger is a reflection in glasses, or painted on it."""
REFINEMENTS, STILL = 5, 0.015
"""How often at most the mesh looks again; it stops when the landmarks move by less than this part of their
radius. Undoes errors of the detector of 40 degrees."""
HOPELESS, MIN_SCORE, DOUBTFUL, LIKELY, SURE = -4.0, 1.0, 4.0, 8.0, 12.0
"""Scores of the mesh. Clear faces have 20 to 28, faces half covered or turned by 55 degrees about 5, things
that are no faces up to 6, faces read upside down up to 10."""
DETECTOR_SURE = 1.0
"""Log odds of the detector, which gives clear faces 2 or more, and hardly anything else."""
MAX_YAW_DEG, DOUBTFUL_YAW_DEG = 60.0, 50.0
"""Beyond 55 degrees, the angle that the landmarks show grows no more, but the score falls."""

# Numbers of landmarks. Left and right are the person's.
RIGHT_EYE, LEFT_EYE = (33, 133, 159, 145), (263, 362, 386, 374)
RIGHT_SIDE, LEFT_SIDE = (33, 127, 234, 132), (263, 356, 454, 361)
SIDE_PER_RADIUS = 2.92
"""Side of `FaceBox` over `Landmarks.radius`. Gives the framing that the compact prior was trained on."""


@dataclass(frozen=True, eq=False)
class Landmarks:
    """A face. points: float32 [468,3], numbered as in MediaPipe's face mesh: x to the right and y down in
    pixels of the photo (0.5 is the middle of the first pixel), z in the same unit, smaller towards the
    camera. score: log odds of its being a face, see `SURE`. doubtful: it may be something else."""

    points: np.ndarray
    score: float
    doubtful: bool = False

    @property
    def eyes(self) -> np.ndarray:
        """(x, y) in the middle of the person's right eye, at the left of an upright photo, and of the left
        one: float64 [2,2]."""
        eyes = self.points[[RIGHT_EYE, LEFT_EYE], :2]
        return eyes.mean(1, dtype=np.float64)

    @property
    def radius(self) -> float:
        """Root mean square distance of the points from their middle, in pixels, the same from all sides."""
        return float(np.sqrt(((self.points - self.points.mean(0)) ** 2).sum(1).mean()))

    @property
    def yaw_deg(self) -> float:
        """How far the head is turned aside, positive if the person's right is nearer. Right within some
        degrees up to 50, beyond that too small."""
        right, left = self.points[[RIGHT_SIDE, LEFT_SIDE]].mean(1)
        x, y, z = left - right
        return float(np.degrees(np.arctan2(z, np.hypot(x, y))))


def find_face(image: np.ndarray, name: str = "the photo") -> FaceBox:
    """Where the largest face of a photo is; arguments and errors are those of `usable_faces`."""
    return face_box(usable_faces(image, name)[0])


def usable_faces(image: np.ndarray, name: str = "the photo") -> list[Landmarks]:
    """At least one face, the largest first: that one tilted by any angle, and turned aside by at most about
    60 degrees.

    image: uint8 [H,W,3]. name: of the photo, for messages. Raises UserError if there is no face, or if the
    largest is narrower than MIN_FACE pixels or turned further.
    """
    faces = find_faces(image)
    if not faces:
        raise UserError(
            f"no face found in {name}: use a well-lit photo that looks into the camera, "
            "with the face not too small in the frame"
        )
    face = faces[0]
    side = face_box(face).side
    if side < MIN_FACE:
        raise UserError(
            f"the largest face in {name} is only {side:.0f} pixels wide, {MIN_FACE} are needed: "
            "use a closer or larger photo"
        )
    if abs(face.yaw_deg) > (MAX_YAW_DEG if face.score > DOUBTFUL else DOUBTFUL_YAW_DEG):
        raise UserError(
            f"the largest face in {name} looks too far aside, by some 60 degrees or more: "
            "use a photo that looks into the camera"
        )
    return faces


def face_box(face: Landmarks) -> FaceBox:
    """The square around a face in which it is cut out (`alignment.align_face`)."""
    side = SIDE_PER_RADIUS * face.radius
    right, left = face.eyes
    across = (left - right) / np.hypot(*(left - right))
    down = np.array([-across[1], across[0]])
    center = (right + left) / 2 + (0.5 - EYE_LINE) * CROP_PER_BOX * side * down
    return FaceBox(_pair(center), side, (_pair(right), _pair(left)))


def find_faces(image: np.ndarray) -> list[Landmarks]:
    """The faces of a photo, uint8 [H,W,3], the largest first.

    Faces wider than a tenth of the photo are all found. Smaller ones and some upside down or lying are looked
    for only while none is found that is likely one, down to MIN_FACE pixels and an 80th of the photo.
    Doubtful faces come last, and beside others only if they are larger than all of these.
    """
    from specularip.faces.detection import detect

    photo = Image.fromarray(image)
    halvings = min(MAX_HALVINGS, int(np.log2(max(photo.size) / SMALLEST_TILE)))
    searches = [(0.0, (1, 2)), *((0.0, (2**count,)) for count in range(2, halvings + 1))]
    searches += [(turn, (1, 2)) for turn in TURNS_DEG]
    unlikely: list[Landmarks] = []
    for turn, divisions in searches:
        squares = [one for parts in divisions for one in detect(photo, parts, turn)]
        faces = _confirmed(image, squares, SURE if turn or unlikely else MIN_SCORE)
        usable = [face for face in faces if face_box(face).side >= MIN_FACE]
        if usable or unlikely:  # better than clear ones that are too small to use
            faces = usable
        if any(face.score > DOUBTFUL for face in faces):
            return _ordered(faces + unlikely)
        unlikely = unlikely or faces
    return _ordered(unlikely)


def _ordered(faces: list[Landmarks]) -> list[Landmarks]:
    """The clear ones before the doubtful ones, see `find_faces`."""
    by_size = sorted(faces, key=lambda face: -face.radius)
    clear = [face for face in by_size if not face.doubtful]
    least = LARGER * clear[0].radius if clear else 0.0
    return clear + [face for face in by_size if face.doubtful and face.radius > least]


def read_landmarks(image: np.ndarray, square: Square) -> Landmarks:
    """What the mesh sees in a square of a photo, uint8 [H,W,3]; a face should be upright in it, and about two
    thirds as wide. Beyond the border, the photo is mirrored."""
    import torch

    from specularip.faces.networks import MESH_SIZE, load

    _, mesh = load()
    crop = sample_square(image, _pair(square.corner), _pair(square.edge), MESH_SIZE)
    with torch.no_grad():
        points, logit = mesh(torch.from_numpy(crop).float().permute(2, 0, 1)[None])
    places = points[0].numpy().astype(np.float64) / MESH_SIZE
    xy = square.corner + places[:, :2] @ square.axes
    z = places[:, 2:] * np.hypot(*square.edge)
    return Landmarks(np.concatenate([xy, z], 1).astype(np.float32), float(logit))


def _confirmed(image: np.ndarray, squares: list[tuple[Square, float]], min_score: float) -> list[Landmarks]:
    """The faces that the mesh sees in the detector's squares, each once, the surest first."""
    best = _distinct([square.box for square, _ in squares], [logit for _, logit in squares], nested=False)
    found: list[Landmarks] = []
    for i in best[:CANDIDATES]:
        face = _settled(image, squares[i][0])
        if HOPELESS < face.score < SURE:  # perhaps it lies or is upside down
            turned = [_settled(image, _around(face).turned(quarters)) for quarters in (1, 2, 3)]
            face = max([face, *(other for other in turned if other.score > SURE)], key=lambda one: one.score)
        if face.score > min_score:
            enough = DOUBTFUL if squares[i][1] > DETECTOR_SURE else LIKELY
            found.append(replace(face, doubtful=face.score <= enough))
    own = [face for face in found if not any(_is_on(face, other) for other in found)]
    clear, doubtful = ([face for face in own if face.doubtful == which] for which in (False, True))
    ranked = clear + doubtful
    boxes = [_box(face.points[:, :2]) for face in ranked]
    # Clear ones have any score above that of doubtful ones, so that these do not hide them.
    ranks = [face.score - (1000.0 if face.doubtful else 0.0) for face in ranked]
    return [ranked[i] for i in _distinct(boxes, ranks, nested=True)]


def _is_on(face: Landmarks, other: Landmarks) -> bool:
    """Whether a face is within a clear and much larger one."""
    if other.doubtful or other.radius < MUCH_LARGER * face.radius:
        return False
    low, high = other.points[:, :2].min(0), other.points[:, :2].max(0)
    middle = face.points[:, :2].mean(0)
    return bool((low < middle).all() and (middle < high).all())


def _settled(image: np.ndarray, square: Square) -> Landmarks:
    """What the mesh sees in a square, then around that, and so on until it stays or the mesh is less sure."""
    face = read_landmarks(image, square)
    for _ in range(REFINEMENTS if face.score > HOPELESS else 0):
        again = read_landmarks(image, _around(face))
        if again.score < min(face.score, SURE) - 1:
            break
        moved = np.sqrt(((again.points - face.points)[:, :2] ** 2).sum(1).mean())
        face = again
        if moved < STILL * face.radius:
            break
    return face


def _around(face: Landmarks) -> Square:
    """The square for the mesh around a known face."""
    from specularip.faces.detection import MESH_PER_BOX, Square

    points = face.points[:, :2].astype(np.float64)
    level = Square.along(np.zeros(2), 1.0, points[LEFT_EYE[0]] - points[RIGHT_EYE[0]]).axes
    box = _box(points @ level.T)
    return Square.along((box[:2] + box[2:]) / 2 @ level, MESH_PER_BOX * (box[2:] - box[:2]).max(), level[0])


def _box(points: np.ndarray) -> np.ndarray:
    """Left, top, right and bottom of points [n,2]."""
    return np.concatenate([points.min(0), points.max(0)])


def _distinct(boxes: list[np.ndarray], scores: list[float], nested: bool) -> list[int]:
    """Indices of the boxes (left, top, right, bottom) that overlap no better one, the best first.

    nested: a box within another overlaps it too: the shared area counts relative to the smaller box, and not
    to what both cover.
    """
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        for j in kept:
            extent = np.minimum(boxes[i][2:], boxes[j][2:]) - np.maximum(boxes[i][:2], boxes[j][:2])
            shared = np.prod(np.clip(extent, 0, None))
            areas = [np.prod(box[2:] - box[:2]) for box in (boxes[i], boxes[j])]
            if shared > MAX_OVERLAP * (min(areas) if nested else sum(areas) - shared):
                break
        else:
            kept.append(i)
    return kept


def _pair(values: np.ndarray) -> tuple[float, float]:
    return float(values[0]), float(values[1])
