"""A photo of the person: its pixels, the face in it, and what the user should know about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specularip.faces.alignment import FaceBox
from specularip.faces.image_file import read_image_file
from specularip.faces.landmarks import Landmarks, face_box, usable_faces
from specularip.faces.quality import faults, is_grey

ENOUGH_SIDE = 120.0
"""Side of a face in pixels from which a larger one is no better for the identity: the compact prior's encoder
sees 56 of them."""
NOTE_WORTH, CLEARLY_BETTER = 0.7, 1.25
"""A note is about something that makes a photo worse, such as sunglasses or a second face."""


@dataclass(frozen=True, eq=False)
class Photo:
    """pixels: uint8 [H,W,3], upright, read-only. face, landmarks: of the largest face; None if not searched
    for. grey: the face has hardly any colour (`quality.is_grey`). notes: lines for the user."""

    path: Path
    pixels: np.ndarray
    face: FaceBox | None = None
    landmarks: Landmarks | None = None
    grey: bool = False
    notes: tuple[str, ...] = ()

    @property
    def worth(self) -> float:
        """How well the face can be recognised, in 0..1: large, looking into the camera, nothing to note."""
        if self.face is None or self.landmarks is None:
            return 1.0
        size = min(1.0, self.face.side / ENOUGH_SIDE)
        frontal = float(np.cos(np.radians(self.landmarks.yaw_deg))) ** 2
        return size * frontal * NOTE_WORTH ** len(self.notes)


def read_photo(path: Path, look_for_face: bool = True) -> Photo:
    """Read an image file and find the face.

    Raises UserError if the file is no usable image (`image_file.read_image`), or if the image shows no usable
    face (`landmarks.usable_faces`).
    """
    pixels, notes = read_image_file(path)
    pixels.setflags(write=False)
    if not look_for_face:
        return Photo(path, pixels, notes=tuple(notes))
    faces = usable_faces(pixels, str(path))
    certain = [face for face in faces if not face.doubtful]
    side = round(face_box(faces[0]).side)
    if not certain:
        notes.append(f"{path}: what is taken for the face, {side} pixels wide, is hard to recognise as one")
    elif len(certain) < len(faces):
        notes.append(
            f"{path}: something larger than the face that is taken, {side} pixels wide, may be a face partly "
            "hidden: if it is, use a photo that shows it, as this may be its reflection"
        )
    if len(certain) > 1:
        notes.append(f"{len(certain)} faces in {path}: taking the largest")
    grey = is_grey(pixels, faces[0])
    if grey:
        notes.append(f"{path} is black and white: the tones of skin and hair are guessed")
    notes += [f"{path}: {fault}" for fault in faults(pixels, faces[0])]
    return Photo(path, pixels, face_box(faces[0]), faces[0], grey, tuple(notes))


def clearest(photos: Sequence[Photo]) -> Photo:
    """The photo to recognise the person by: the first, unless another is clearly better."""
    best = max(photos, key=lambda photo: photo.worth)
    return best if best.worth > CLEARLY_BETTER * photos[0].worth else photos[0]
