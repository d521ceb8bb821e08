"""Photos of the person: faces that are hard to find, profiles, and what is no face."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from input_rows import (
    FACE,
    Row,
    Unexpected,
    refused,
)
from made_captures import (
    DISPLAY_P3,
    in_profile,
)
from PIL import Image, ImageDraw, ImageFilter

from specularip.errors import UserError
from specularip.faces.photo import read_photo


@cache
def portrait() -> Image.Image:
    return Image.open(FACE).convert("RGB")


@cache
def eyes() -> np.ndarray:
    """Where the eyes of the portrait are, [2,2], in pixels."""
    face = read_photo(FACE).landmarks
    assert face is not None
    return np.asarray(face.eyes)[:, :2]


def in_glasses(scale: int, dark: bool) -> Image.Image:
    """The portrait in thick glasses; dark: sunglasses."""
    size = portrait().width * scale
    image = portrait().resize((size, size), Image.Resampling.LANCZOS)
    draw = ImageDraw.Draw(image)
    places = eyes() * scale
    apart = float(np.linalg.norm(places[1] - places[0]))
    for x, y in places:
        box = (x - 0.4 * apart, y - 0.3 * apart, x + 0.4 * apart, y + 0.3 * apart)
        draw.ellipse(box, (20, 20, 25) if dark else None, (15, 15, 15), max(2, round(0.07 * apart)))
    draw.line(
        [tuple(places[0]), tuple(places[1])], (15, 15, 15), max(2, round(0.05 * apart))
    ) if dark else None
    return image


def photo(given: str, make: Callable[[Path], tuple[Path, Sequence[float]]], may_refuse: bool = False) -> Row:
    """A photo whose face is found at (x, y), or refused if that may be."""

    def run(folder: Path) -> str:
        path, truth = make(folder)
        try:
            found = read_photo(path)
        except UserError as error:
            if may_refuse and "\n" not in str(error):
                return f"refused: {str(error).replace(str(path), path.name)}"
            raise Unexpected(f"refused: {str(error).replace(str(path), path.name)}") from None
        assert found.landmarks is not None and found.face is not None
        centre = np.asarray(found.landmarks.eyes)[:, :2].mean(0)
        off = float(np.linalg.norm(centre - truth)) / found.face.side
        got = f"a face of {found.face.side:.0f} pixels, eyes {off:.2f} of it from the true ones"
        if off > 0.2:
            raise Unexpected(got)
        return got

    return Row("photos", given, "the face, or a refusal" if may_refuse else "the face", run)


def pasted(width: int, height: int, side: int, folder: Path) -> tuple[Path, Sequence[float]]:
    """The portrait's face, so many pixels wide, in a large photo of something else."""
    scene = Image.effect_noise((width // 40, height // 40), 60).convert("RGB")
    scene = scene.resize((width, height), Image.Resampling.BICUBIC)
    small = portrait().resize((round(side * 5.1),) * 2, Image.Resampling.LANCZOS)  # its face is a fifth
    at = (width * 3 // 5, height // 3)
    scene.paste(small, at)
    scene.save(folder / "photo.jpg", quality=92)
    return folder / "photo.jpg", np.array(at) + eyes().mean(0) * small.width / portrait().width


def photos() -> list[Row]:
    def saved(scale: int, dark: bool, folder: Path) -> tuple[Path, Sequence[float]]:
        in_glasses(scale, dark).save(folder / "photo.png")
        return folder / "photo.png", scale * eyes().mean(0)

    def profiled(folder: Path) -> str:
        in_profile(DISPLAY_P3, 2.2, folder / "p3.png", np.asarray(portrait().convert("RGBA")))
        difference = np.abs(read_photo(folder / "p3.png").pixels.astype(int) - np.asarray(portrait()))
        if difference.mean() > 1.0:
            raise Unexpected(f"colours differ by {difference.mean():.1f} of 255")
        return f"colours differ by {difference.mean():.2f} of 255"

    def landscape(folder: Path) -> str:
        noise = Image.effect_noise((512, 512), 80).filter(ImageFilter.GaussianBlur(3))
        noise.save(folder / "photo.png")
        return refused(lambda: read_photo(folder / "photo.png"), "no face")

    def masked_face(folder: Path) -> tuple[Path, Sequence[float]]:
        """The face is grey: what else looks like one, such as a reflection, must not be taken for it."""
        image, (x, y) = portrait().copy(), eyes().mean(0)
        apart = float(np.linalg.norm(eyes()[1] - eyes()[0]))
        ImageDraw.Draw(image).ellipse(
            (x - 1.4 * apart, y - 1.2 * apart, x + 1.4 * apart, y + 2.2 * apart), (96,) * 3
        )
        image.resize((1024, 1024), Image.Resampling.LANCZOS).save(folder / "photo.png")
        return folder / "photo.png", 2 * eyes().mean(0)

    return [
        photo("glasses, 512 pixels", partial(saved, 1, False)),
        photo("glasses, 1024 pixels", partial(saved, 2, False)),
        photo("sunglasses, 1024 pixels", partial(saved, 2, True), may_refuse=True),
        photo("a face painted over", masked_face, may_refuse=True),
        photo("a face of 100 pixels in 12 megapixels", partial(pasted, 4000, 3000, 100)),
        photo("a face of 60 pixels in 12 megapixels", partial(pasted, 4000, 3000, 60)),
        photo("a face of 60 pixels in 1 megapixel", partial(pasted, 1200, 900, 60)),
        Row("photos", "Display P3", "its colours in sRGB", profiled),
        Row("photos", "no face", "refused", landscape),
    ]
