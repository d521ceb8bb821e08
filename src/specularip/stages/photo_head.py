"""The head that photos show: fitted, painted, and on the body."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specularip.body import Body, Phenotype, anny_body
from specularip.body.head import HeadModel
from specularip.faces.head_fit import FittedHead, fit_head
from specularip.faces.photo import Photo
from specularip.faces.photo_hair import PhotoHair, photo_hair
from specularip.faces.projection import paint
from specularip.stages.photo_face import PhotoFace, photo_face


@dataclass(frozen=True)
class PhotoHead:
    """fitted: what the landmarks say; face: the painted head on the body; hair: that of the clearest photo,
    if the text is silent about it."""

    fitted: FittedHead
    face: PhotoFace
    hair: PhotoHair | None


def photo_head(
    photos: Sequence[Photo],
    clearest: int,
    text: str,
    told: Phenotype,
    weight: float,
    keep_expression: bool,
) -> tuple[Body, PhotoHead]:
    """The body with the head of `photos`, whose faces have been found; clearest: the number of one of them.

    told: what the text says about the body. weight: how far the head's shape and colours are the photos',
    0..1. keep_expression: of the clearest photo; else the face is neutral.
    """
    faces = [photo.landmarks for photo in photos if photo.landmarks is not None]
    extents = [(photo.pixels.shape[1], photo.pixels.shape[0]) for photo in photos]
    fitted = fit_head(faces, extents, told)
    expression = weight * fitted.expressions[clearest] if keep_expression else None
    body = anny_body(fitted.phenotype, HeadModel.load().offsets(weight * fitted.shape, expression))
    painted = paint([photo.pixels for photo in photos], faces, fitted)
    best = photos[clearest]
    hair = None if best.grey else photo_hair(text, best.pixels, fitted, clearest)
    grey = all(photo.grey for photo in photos)
    color = None if hair is None else hair.color
    return body, PhotoHead(fitted, photo_face(painted, body, weight, text, grey, color), hair)
