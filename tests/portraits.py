"""The shipped portrait, and harder photos made of it. Free of torch: tools/face_landmarks uses this too."""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

PORTRAIT = Path(__file__).parents[1] / "examples" / "eileen_collins.jpg"


def portrait() -> Image.Image:
    """512 x 512 pixels, with a face about 100 wide at (222, 117)."""
    return Image.open(PORTRAIT).convert("RGB")


def variants() -> dict[str, Image.Image]:
    """The portrait as it is and changed, by name."""
    whole = portrait()
    background = whole.getpixel((5, 5))
    covered = whole.copy()
    ImageDraw.Draw(covered).rectangle((224, 40, 300, 200), (128, 128, 128))
    return {
        "plain": whole,
        "tilted left": whole.rotate(25, Image.Resampling.BICUBIC, fillcolor=background),
        "tilted right": whole.rotate(-25, Image.Resampling.BICUBIC, fillcolor=background),
        "small": whole.resize((301, 301), Image.Resampling.LANCZOS),
        "dark": whole.point(lambda value: round(0.15 * value)),
        "covered": covered,
    }
