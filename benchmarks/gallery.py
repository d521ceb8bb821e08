"""docs/gallery.png, docs/gallery.md and docs/gallery/*.png: the avatars of examples/gallery.

    specularip batch --texts examples/gallery/gallery_text_prompts.txt \\
        --images examples/gallery/gallery_image_prompts.txt --pair zip --out out/gallery
    python benchmarks/gallery.py out/gallery [--docs docs]

A run's pictures are its photo and its preview.png: nothing is rendered and no torch is loaded. Prompts
without a finished run are named and left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from runs import ROOT

from specularip.files import atomic_path

PROMPTS = ROOT / "examples" / "gallery"
TEXTS, IMAGES = PROMPTS / "gallery_text_prompts.txt", PROMPTS / "gallery_image_prompts.txt"
HEIGHT, SMALL = 256, 192
"""Of an avatar's strip in pixels, by itself and on the sheet."""
ACROSS, GAP = 3, 8
"""Strips in a row of the sheet, and the pixels between them."""
FIGURE = 0.6
"""Width of a view of the whole body relative to its height: its sides are empty."""
COLORS = 224
"""Of a picture's palette: a PNG is then a third of the size of true colour."""


@dataclass(frozen=True)
class Shown:
    """One prompt with its finished run; photo: the face; report: the run's report.json."""

    text: str
    photo: Path
    folder: Path
    report: dict[str, Any]


def prompts() -> list[tuple[str, Path]]:
    """The sentences, each with its photo."""
    texts, images = (path.read_text(encoding="utf-8").splitlines() for path in (TEXTS, IMAGES))
    return [(text, PROMPTS / image) for text, image in zip(texts, images, strict=True)]


def finished(runs: Path) -> list[Shown | None]:
    """The run of each prompt in a folder of run folders, told by its text and its photo's name; None where
    there is none, or where it is not finished."""
    made: dict[tuple[str, str], tuple[Path, dict[str, Any]]] = {}
    for path in sorted(runs.glob("*/report.json"), reverse=True):
        report = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(report.get("image"), str) and (path.parent / "preview.png").exists():
            made[report["text"], Path(report["image"]).name] = path.parent, report
    runs_of = [made.get((text, photo.name)) for text, photo in prompts()]
    return [run and Shown(*prompt, *run) for prompt, run in zip(prompts(), runs_of)]


def strip(shown: Shown, height: int) -> Image.Image:
    """Side by side: the photo; the avatar from the front, three-quarter, from the back; and its head."""
    with Image.open(shown.photo) as file:
        photo = file.convert("RGB")
    side = min(photo.size)
    left = (photo.width - side) // 2
    tiles = [photo.crop((left, 0, left + side, side)).resize((height, height))]
    with Image.open(shown.folder / "preview.png") as file:
        preview = file.convert("RGB")
    size = preview.height
    for view in range(4):
        part = preview.crop((view * size, 0, (view + 1) * size, size)).resize((height, height))
        margin = round((1 - FIGURE) / 2 * height) if view < 3 else 0
        tiles.append(part.crop((margin, 0, height - margin, height)))
    return Image.fromarray(np.concatenate([np.asarray(tile) for tile in tiles], 1))


def sheet(strips: Sequence[Image.Image]) -> Image.Image:
    """Strips of one size, ACROSS in a row."""
    width, height = strips[0].size
    rows = -(-len(strips) // ACROSS)
    size = ACROSS * (width + GAP) - GAP, rows * (height + GAP) - GAP
    result = Image.new("RGB", size, "white")
    for i, one in enumerate(strips):
        result.paste(one, (i % ACROSS * (width + GAP), i // ACROSS * (height + GAP)))
    return result


def write_strip(path: Path, pixels: np.ndarray) -> None:
    """uint8 [H,W,3] as a PNG with a palette of its own, dithered."""
    picture = Image.fromarray(pixels)
    palette = picture.quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    with atomic_path(path) as temporary:
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
            temporary, format="PNG", optimize=True
        )


def page(shown: Sequence[tuple[str, Shown]]) -> str:
    """docs/gallery.md; shown: the name of each strip's file, and what it shows."""
    devices = sorted({"a CPU" if one.report["device"] == "cpu" else "a GPU" for _, one in shown})
    lines = [
        "# Gallery",
        "",
        f"{len(shown)} avatars of the compact preset, made by `specularip batch` on {' and '.join(devices)}",
        "from the sentences and faces in [examples/gallery](../examples/gallery/README.md), which says whose",
        "faces they are, and put together by `benchmarks/gallery.py`. Seed 0 throughout, nothing retouched.",
        "Each row: the photo; the avatar from the front, three-quarter, from the back; its head.",
        "",
        "![All of them on one sheet](gallery.png)",
        "",
    ]
    for name, one in shown:
        lines += [f"**{one.text}**", "", f"![{one.text}](gallery/{name})", ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", type=Path, help="the folder of the batch")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="where the pictures go")
    args = parser.parse_args()
    found = finished(args.runs)
    for (text, photo), run in zip(prompts(), found):
        if run is None:
            print(f"no finished run of '{text}' with {photo.name}", file=sys.stderr)
    shown = [(f"{i:02d}.png", run) for i, run in enumerate(found, 1) if run is not None]
    if not shown:
        raise SystemExit(f"{args.runs} has no finished run of a prompt in {TEXTS.parent}")
    pictures = args.docs / "gallery"
    pictures.mkdir(parents=True, exist_ok=True)
    for name, run in shown:
        write_strip(pictures / name, np.asarray(strip(run, HEIGHT)))
    write_strip(args.docs / "gallery.png", np.asarray(sheet([strip(run, SMALL) for _, run in shown])))
    (args.docs / "gallery.md").write_text(page(shown), encoding="utf-8")
    for old in pictures.glob("*.png"):
        if old.name not in {name for name, _ in shown}:
            old.unlink()
    total = sum(path.stat().st_size for path in (args.docs / "gallery.png", *pictures.iterdir())) / 2**20
    print(f"{len(shown)} avatars, {total:.1f} MiB: {args.docs / 'gallery.png'} and {pictures}")


if __name__ == "__main__":
    main()
