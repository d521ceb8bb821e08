"""Finding the largest face of a photo with scikit-image's cascade, which needs no download.

The cascade (Liao et al. 2007, multi-block LBP) has many false positives, but rarely several for the same
place, while a face is detected at many positions, scales, image sizes and in the mirror image. So detections
are counted, and only places with enough of them are faces.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from PIL import Image

from specularip.errors import UserError
from specularip.faces.alignment import FaceBox, rotate_about
from specularip.faces.eyes import BOX_EYE_SPACING, BOX_EYE_Y, refine_eyes
from specularip.faces.photo import GREY, MIN_FACE

SEARCHES = ((400, 0.0), (320, 18.0), (320, -18.0), (800, 0.0))
"""Long side of the downscaled image and tilt of the face, tried in turn until a face is found."""
MIN_VOTES = 26
"""Detections over four passes that count as a face."""


def find_face(image: np.ndarray, name: str = "the photo") -> FaceBox:
    """The largest roughly frontal face of a photo, upright or tilted by up to about 25 degrees.

    image: uint8 [H,W,3]. name: of the photo, for messages. Raises UserError if there is no face, or if the
    largest is narrower than MIN_FACE pixels.
    """
    # A clear pair of eyes confirms a face; without one, more detections are required.
    faces: list[FaceBox] = []
    doubtful: list[FaceBox] = []
    for size, tilt in SEARCHES:
        if size > SEARCHES[0][0] >= max(image.shape[:2]):
            continue  # an upscaled image shows nothing new
        for center, side, votes in _detect(image, size, tilt):
            face = refine_eyes(image, _box_face(center, side, tilt))
            if face.eyes_found:
                faces.append(face)
            elif votes >= 1.5 * MIN_VOTES:
                doubtful.append(face)
        if faces:
            break
    faces = faces or doubtful
    if not faces:
        raise UserError(
            f"no face found in {name}: use an upright, well-lit photo that looks into the camera, "
            "with the face not too small in the frame"
        )
    face = max(faces, key=lambda face: face.side)
    if face.side < MIN_FACE:
        raise UserError(
            f"the largest face in {name} is only {face.side:.0f} pixels wide, {MIN_FACE} are needed: "
            "use a closer or larger photo"
        )
    return replace(face, count=len(faces))


def _box_face(center: tuple[float, float], side: float, tilt_deg: float) -> FaceBox:
    """A face with the eyes at their usual place in the detector's square."""
    half, up = 0.5 * BOX_EYE_SPACING * side, (0.5 - BOX_EYE_Y) * side
    eyes = (rotate_about(center, tilt_deg, -half, -up), rotate_about(center, tilt_deg, half, -up))
    return FaceBox(center, side, tilt_deg, eyes, False, 1)


def _detect(image: np.ndarray, size: int, tilt_deg: float) -> list[tuple[tuple[float, float], float, int]]:
    """Candidates (center (x, y), side, votes) in pixels of `image`, from two sizes, each also mirrored."""
    from skimage.data import lbp_frontal_face_cascade_filename
    from skimage.feature import Cascade

    cascade = Cascade(lbp_frontal_face_cascade_filename())
    height, width = image.shape[:2]
    found: list[tuple[float, float, float]] = []
    largest = min(1.0, size / max(height, width))
    for scale in (largest, 0.75 * largest):
        extent = (max(1, round(width * scale)), max(1, round(height * scale)))
        small = Image.fromarray(image).resize(extent, Image.Resampling.BOX, reducing_gap=2.0)
        margin = max(small.size) // 8  # a face may extend to the border
        padded = np.pad(np.asarray(small), ((margin, margin), (margin, margin), (0, 0)), mode="edge")
        if tilt_deg:  # rotate the content upright about the centre
            turned = Image.fromarray(padded).rotate(tilt_deg, Image.Resampling.BILINEAR, fillcolor=GREY)
            padded = np.asarray(turned)
        for mirrored in (False, True):
            view = np.ascontiguousarray(padded[:, ::-1]) if mirrored else padded
            for hit in cascade.detect_multi_scale(
                view,
                scale_factor=1.1,
                step_ratio=1,
                min_size=(24, 24),
                max_size=view.shape[:2],
                min_neighbor_number=1,
                intersection_score_threshold=2.0,  # unreachable, so that detections are not merged
            ):
                x = hit["c"] + hit["width"] / 2 - view.shape[1] / 2
                y = hit["r"] + hit["width"] / 2 - view.shape[0] / 2
                found.append(((-x if mirrored else x) / scale, y / scale, hit["width"] / scale))
    places = []
    for group in _group(found):
        if len(group) >= MIN_VOTES:
            x, y, side = (float(value) for value in np.mean(group, 0))
            places.append((rotate_about((width / 2, height / 2), tilt_deg, x, y), side, len(group)))
    return places


def _group(found: list[tuple[float, float, float]]) -> list[list[tuple[float, float, float]]]:
    """Sets of detections (x, y, side) whose centres and sizes agree, the largest boxes first."""
    groups: list[list[tuple[float, float, float]]] = []
    for hit in sorted(found, key=lambda hit: -hit[2]):
        for group in groups:
            x, y, side = np.mean(group, 0)
            if hit[2] > side / 1.6 and max(abs(hit[0] - x), abs(hit[1] - y)) < 0.25 * side:
                group.append(hit)
                break
        else:
            groups.append([hit])
    return groups
