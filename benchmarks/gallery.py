"""docs/gallery.md, docs/gallery.png and docs/gallery/*.png: sixteen avatars, generated and rendered.

    python benchmarks/gallery.py --assets assets.npz [--runs out/gallery] [--jobs 1] [--only NAME ...]

Finished runs are reused; with --only, the others keep their pictures. Faces are the shipped portrait and
renders of people of the training generator whom training never saw: no private persons.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runs import PORTRAIT, ROOT, Order, cost_of, in_own_process, is_finished, make, render

if TYPE_CHECKING:
    import numpy as np

DOCS = ROOT / "docs"
SIZE, SMALL = 512, 160
COLORS = 224
"""Of a strip's palette: a PNG of 2048 x 512 pixels then takes about 350 kB."""
GREY = 153


@dataclass(frozen=True)
class Face:
    """Who of the training generator lends a face: sex, age (people.AGES), and the place on the skin ramp, 0
    pale to 1 very dark; with a beard or without."""

    sex: str
    age: str
    tone: float
    beard: bool = False


@dataclass(frozen=True)
class Entry:
    """face None: the shipped portrait."""

    text: str
    face: Face | None


ENTRIES = {
    "satin-dress": Entry("A woman in a red satin dress", None),
    "suit": Entry(
        "An African man with a short beard in a navy wool suit, a white shirt and brown leather shoes",
        Face("male", "adult", 0.8, beard=True),
    ),
    "child": Entry(
        "A boy with short brown hair in a yellow cotton t-shirt, denim shorts and white sneakers",
        Face("male", "child", 0.25),
    ),
    "gown": Entry(
        "A slender young woman with dark skin and black hair in a bun in an emerald satin gown",
        Face("female", "young", 0.75),
    ),
    "leather-jacket": Entry(
        "A young man with blonde hair in a black leather jacket over a white t-shirt, blue jeans and boots",
        Face("male", "young", 0.15),
    ),
    "coat": Entry(
        "An old woman with a white bob, wearing a long camel wool coat, grey trousers and brown boots",
        Face("female", "old", 0.2),
    ),
    "ski": Entry(
        "A woman with a blonde ponytail in an orange ski suit, a white beanie and black gloves",
        Face("female", "young", 0.1),
    ),
    "sweater": Entry(
        "A heavy old man with grey hair and a full beard in a burgundy wool sweater and brown trousers",
        Face("male", "old", 0.3, beard=True),
    ),
    "metallic": Entry(
        "A tall Asian woman with a black bob in a silver metallic mini dress and silver high heels",
        Face("female", "young", 0.3),
    ),
    "dungarees": Entry(
        "A girl with a red braid in denim dungarees over a green t-shirt and red sneakers",
        Face("female", "child", 0.1),
    ),
    "tank-top": Entry(
        "A muscular young man with very dark skin, bald, in a grey tank top, black shorts and blue sneakers",
        Face("male", "young", 0.95),
    ),
    "blouse": Entry(
        "A heavy middle-aged woman with short brown hair in a pink silk blouse, a black skirt and high heels",
        Face("female", "middle-aged", 0.4),
    ),
    "hoodie": Entry(
        "A teenage boy with a black afro in a purple hoodie, black jeans and white sneakers",
        Face("male", "teen", 0.6),
    ),
    "cotton-dress": Entry(
        "A short woman with long red hair in a blue cotton dress and brown sandals",
        Face("female", "adult", 0.05),
    ),
    "raincoat": Entry(
        "A slim middle-aged Asian man in a yellow raincoat, navy trousers and black boots",
        Face("male", "middle-aged", 0.35),
    ),
    "blazer": Entry(
        "A woman with brown skin and curly black hair in a white blazer over a black top and blue jeans",
        Face("female", "adult", 0.55),
    ),
}


def draw_faces(assets: Path, device: str, folder: Path, names: list[str]) -> None:
    """NAME.png: a photo of a person who fits the entry's `Face`."""
    from subjects import Studio, fitting_face

    from specularip.files import write_png

    studio = Studio.open(assets, device)
    for name in names:
        if (face := ENTRIES[name].face) is not None:
            number = list(ENTRIES).index(name)
            person = fitting_face(number, face.sex, face.age, face.tone, face.beard)
            write_png(folder / f"{name}.png", studio.photo(person))


def strip(folder: Path, text: str) -> np.ndarray:
    """The avatar from the front, three-quarter, from the back, and its head: uint8 [SIZE,4 SIZE,3]."""
    from subjects import views_of

    from specularip.body import anny_body, phenotype_from_text
    from specularip.cameras import FULL, HEAD
    from specularip.files import to_uint8

    height = anny_body(phenotype_from_text(text)).height
    looks = ((FULL, 0.0), (FULL, 40.0), (FULL, 180.0), (HEAD, 15.0))
    images, _ = render(folder, views_of(looks, height, SIZE).cameras)
    return to_uint8(images.movedim(0, 1).flatten(1, 2))


def write_strip(path: Path, pixels: np.ndarray) -> None:
    """As a PNG with a palette of its own, dithered: a third of the size of true colour."""
    from PIL import Image

    from specularip.files import atomic_path

    picture = Image.fromarray(pixels)
    palette = picture.quantize(COLORS, method=Image.Quantize.MEDIANCUT)
    with atomic_path(path) as temporary:
        picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(
            temporary, format="PNG", optimize=True
        )


def write_sheet(path: Path, names: list[str]) -> None:
    """All strips on one sheet, two beside each other."""
    from PIL import Image

    columns, width = 2, 4 * SMALL
    sheet = Image.new("RGB", (columns * width, -(-len(names) // columns) * SMALL), (GREY,) * 3)
    for i, name in enumerate(names):
        strip_ = Image.open(DOCS / "gallery" / f"{name}.png").convert("RGB").resize((width, SMALL))
        sheet.paste(strip_, (i % columns * width, i // columns * SMALL))
    sheet.save(path, optimize=True)


def caption(name: str, runs: Path) -> str:
    entry = ENTRIES[name]
    parts = ["face: the shipped portrait" if entry.face is None else "face: drawn by the training tools"]
    cost = cost_of(runs, name)
    if cost and cost["jobs"] == 1 and not cost["resumed"]:
        parts.append(f"{cost['seconds']:.0f} s")
    return f"**{entry.text}**\n({', '.join(parts)})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = list(ENTRIES)
    parser.add_argument("--assets", type=Path, default=ROOT / "assets.npz")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="renders the faces")
    parser.add_argument("--runs", type=Path, default=ROOT / "out" / "gallery")
    parser.add_argument("--jobs", type=int, default=1, help="avatars at a time")
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    args = parser.parse_args()
    runs, faces = args.runs, args.runs / "faces"
    photos = {n: PORTRAIT if e.face is None else faces / f"{n}.png" for n, e in ENTRIES.items()}
    faces.mkdir(parents=True, exist_ok=True)
    if missing := [name for name in args.only if not photos[name].exists()]:
        in_own_process(draw_faces, args.assets, args.device, faces, missing)
    make([Order(name, ENTRIES[name].text, photos[name]) for name in args.only], runs, jobs=args.jobs)

    pictures = DOCS / "gallery"
    pictures.mkdir(exist_ok=True)
    for name in args.only:
        if is_finished(runs / name):
            write_strip(pictures / f"{name}.png", strip(runs / name, ENTRIES[name].text))
            print(pictures / f"{name}.png")
    for old in pictures.glob("*.png"):
        if old.stem not in names:
            old.unlink()
    shown = [name for name in ENTRIES if (pictures / f"{name}.png").exists()]
    if len(shown) < len(ENTRIES):
        print(f"only {len(shown)} of {len(ENTRIES)} avatars are there", file=sys.stderr)
    write_sheet(DOCS / "gallery.png", shown)
    text = [
        "# Gallery",
        "",
        f"{len(shown)} avatars of the compact preset, generated on a CPU and rendered by",
        "`benchmarks/gallery.py`. Seed 0 throughout, nothing retouched. Each row: front, three-quarter,",
        "back, head.",
        "",
        "![All of them on one sheet](gallery.png)",
        "",
    ]
    for name in shown:
        picture = f"![{ENTRIES[name].text}](gallery/{name}.png)"
        text += [caption(name, runs), "", picture, ""]
    (DOCS / "gallery.md").write_text("\n".join(text), encoding="utf-8")
    total = sum(path.stat().st_size for path in pictures.glob("*.png")) / 2**20
    print(f"{total:.1f} MiB in {pictures}")


if __name__ == "__main__":
    main()
