"""Are words understood that the prior was not trained on? 60 sentences of `captions.words_benchmark`.

    python benchmarks/words.py --assets assets.npz [--prior FOLDER] [--device cpu|cuda] [--each 40]
        [--as-written]

Sentences are read as `generate` reads them: rare names of colours and clothes are replaced by the words of
the prior's table of synonyms. With --as-written they are not: what the text encoder makes of them alone.

For each sentence the prior draws three views (the whole body from front and back, the upper body from the
front) of the body that the package reads in it, with the face of a fresh person of that sex.

colour    Median over the part of the body under the garment (its torso; its thighs for dungarees), one pixel
          from the border, in the two views from the front: long hair covers the back. The nearest in CIELAB
          of the twelve colours as the studio lights them, on whichever of the LIT materials, must be the one
          in the sentence: in 95 %.
garment   The prior's views are classified among the outermost garments (tops, outer, whole outfits) by
          nearest neighbours among true renders: EACH people of the training generator a garment, in whatever
          else they wear, standing upright. Its accuracy on people that it did not learn from (four-fold cross
          validation) is printed as the ceiling ("studio"). Two garments that it takes for each other there
          (`measures.alike`) count as the same, and are printed. In 90 % the garment must be the one in the
          sentence.

The reference is rendered once (on a GPU, as it is 800 people) and kept in out/words/reference.npz: delete it
when the generator changes. Prints a table, writes results/words.json, and puts all samples on
out/words/sheet.png. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from measures import Recognizer, alike, confusion, cross_validated, eroded, median_color, nearest, skin_of
from runs import RESULTS, ROOT, machine
from samples import SHIPPED, Asked, Sampling, draw_samples, load
from subjects import (
    ASSETS,
    BASIC,
    FIRST_SEED,
    GARMENTS,
    MAP_SIZE,
    UPRIGHT,
    Person,
    Studio,
    contact_sheet,
    draw_person,
    lit_colors,
    region_mask,
    views_of,
    words_benchmark,
)
from torch import Tensor

from specularip.body import AnnyModel, Body, anny_body, phenotype_from_text
from specularip.body.coordinate_map import body_map
from specularip.body.regions import TORSO, UPPER_LEG
from specularip.cameras import FULL, UPPER, Views
from specularip.files import write_json, write_png
from specularip.pipeline import readable

GOALS = {"colour": 0.95, "garment": 0.90}
LOOKS = ((FULL, 0.0), (FULL, 180.0), (UPPER, 0.0))
"""Framing and azimuth of the views."""
SIZE = 256
FINE = 128
"""Pixels at which the features are measured."""
LIT = ("cotton", "wool", "leather", "satin")
JUDGED = tuple(name for name, garment in GARMENTS.items() if garment.slot in ("top", "outer", "whole"))
SLOTS = ("outer", "whole", "top")
ROWS, COLUMNS, STRIPS = 16, 4, 24
"""Cells of the body: by height, and by distance from its middle; and strips of height for the outline."""
REACH = 0.32
"""The distance from the middle at which the last column begins to be the hands', in body heights."""
FACES = 4


# Garments from pictures


def features(images: Tensor, maps: Tensor, face: Tensor) -> np.ndarray:
    """What tells garments apart in one person's pictures [V,5,S,S], body maps [V,4,FINE,FINE], and face crop
    [3,F,F]; colours count only as garment, skin and neither.

    For each view and each cell of the body's surface (ROWS heights times COLUMNS distances from the middle):
    how much like the garment, how much like skin, and how uneven in lightness its pixels are. For each view
    and each of STRIPS heights: how far the silhouette stands out over the body.
    """
    images = F.interpolate(images[:, :4], size=(FINE, FINE), mode="area")
    rgb, alpha = images[:, :3].movedim(1, -1), images[:, 3]
    chest = (maps[:, 2] - 0.68).abs() < 0.10
    chest &= ((maps[:, 0] - 0.5).abs() < 0.08) & (maps[:, 3] > 0.9)
    garment = median_color(rgb, chest)
    like_garment, like_skin = (
        torch.exp(-(rgb - color).square().sum(-1) / 0.045) for color in (garment, skin_of(face))
    )
    light = rgb.mean(-1)
    row = (maps[:, 2] * ROWS).long().clamp(0, ROWS - 1)
    column = ((maps[:, 0] - 0.5).abs() / REACH * COLUMNS).long().clamp(0, COLUMNS - 1)
    strip = (maps[:, 2] * STRIPS).long().clamp(0, STRIPS - 1)
    found = []
    for k in range(len(images)):
        inside = maps[k, 3] > 0.5
        cell = (row[k] * COLUMNS + column[k])[inside]
        count = torch.bincount(cell, minlength=ROWS * COLUMNS)

        def mean(values: Tensor, cell=cell, inside=inside, count=count) -> Tensor:
            return torch.bincount(cell, values[inside], ROWS * COLUMNS) / count.clamp_min(1)

        uneven = (mean(light[k] ** 2) - mean(light[k]) ** 2).clamp_min(0).sqrt()
        extra = ((alpha[k] > 0.5) & ~inside).flatten()
        out = torch.bincount(strip[k].flatten(), extra.float(), STRIPS) / FINE
        found += [mean(like_garment[k]), mean(like_skin[k]), 4 * uneven, out]
    return torch.cat(found).numpy()


def outermost(person: Person) -> str:
    """The garment by which a person is classified."""
    worn = [piece for piece in person.pieces if piece.slot in SLOTS]
    return min(worn, key=lambda piece: SLOTS.index(piece.slot)).garment


def people_in(each: int) -> dict[str, list[Person]]:
    """`each` people of the training generator in each garment of JUDGED, whom training never saw."""
    rng = random.Random(FIRST_SEED + 10_000)
    found: dict[str, list[Person]] = defaultdict(list)
    while any(len(found[name]) < each for name in JUDGED):
        person = draw_person(rng)
        worn = found[outermost(person)]
        if len(worn) < each:
            worn.append(replace(person, pose=UPRIGHT))
    return found


def reference(studio: Studio, each: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of EACH people a garment, from `path` or rendered now."""
    if path.exists():
        with np.load(path) as file:
            if file["each"] == each and tuple(file["names"]) == JUDGED:
                return file["features"], file["labels"]
    rows, labels = [], []
    faces, people = AnnyModel.load().faces, people_in(each)
    for label, name in enumerate(JUDGED):
        for person in people[name]:
            mesh = studio.dress(person)
            views = views_of(LOOKS, mesh.height, SIZE)
            cameras = views.cameras.resized(FINE, FINE)
            maps = body_map(mesh.body.cpu(), faces, mesh.height, cameras, views.targets)
            rows.append(features(studio.images(mesh, views, SIZE), maps, studio.face(mesh)))
            labels.append(label)
        print(f"reference: {name}", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, features=np.stack(rows), labels=labels, each=each, names=JUDGED)
    return np.stack(rows), np.array(labels)


@dataclass(frozen=True)
class Reference:
    """What true renders teach. exact, grouped: the recognizer's accuracy on people that it did not learn
    from, without and with `same`: for each garment, those that it cannot be told from."""

    recognizer: Recognizer
    exact: float
    grouped: float
    same: dict[str, set[str]]

    @staticmethod
    def learn(rows: np.ndarray, labels: np.ndarray) -> Reference:
        answers = cross_validated(rows, labels, JUDGED)
        groups = alike(confusion(labels, answers, len(JUDGED)))
        right = [answer in groups[label] for label, answer in zip(labels, answers)]
        same = {JUDGED[k]: {JUDGED[other] for other in group} for k, group in enumerate(groups)}
        recognizer = Recognizer.learn(rows, labels, JUDGED)
        return Reference(recognizer, float((labels == answers).mean()), float(np.mean(right)), same)

    def recognize(self, row: np.ndarray) -> str:
        return JUDGED[self.recognizer.classify(row[None])[0]]

    def print(self) -> None:
        print(f"garments, studio: {self.exact:.1%}, and {self.grouped:.1%} where these count as the same:")
        for name, others in self.same.items():
            if len(others) > 1:
                print(f"  {name}: {', '.join(sorted(others - {name}))}")


# Sentences


def faces_by_sex(studio: Studio) -> dict[bool, list[Tensor]]:
    """Face crops of grown men (False) and women (True) whom training never saw."""
    rng = random.Random(FIRST_SEED + 20_000)
    found: dict[bool, list[Tensor]] = {False: [], True: []}
    while min(map(len, found.values())) < FACES:
        person = draw_person(rng)
        female = person.phenotype["gender"] > 0.5
        grown = person.words["sex"] != "neutral" and person.words["age"] in ("young", "adult", "old")
        if grown and not person.beard and len(found[female]) < FACES:
            found[female].append(studio.face(studio.dress(person)))
    return found


def ask(text: str, face: Tensor) -> tuple[Asked, Body, Tensor]:
    """What the prior is given for a sentence; the body; its map [V,4,FINE,FINE]."""
    body = anny_body(phenotype_from_text(text))
    views = views_of(LOOKS, body.height, SIZE)

    def maps(size: int) -> Tensor:
        cameras = views.cameras.resized(size, size)
        return body_map(body.vertices, body.faces, body.height, cameras, views.targets)

    return Asked(text, views, maps(MAP_SIZE), face), body, maps(FINE)


def color_of(images: Tensor, body: Body, views: Views, garment: str) -> Tensor:
    """Median colour [3] of the garment in the views from the front."""
    region = UPPER_LEG if garment == "dungarees" else TORSO
    front = [row for row, (_, azimuth) in enumerate(LOOKS) if azimuth == 0]
    mask = eroded(region_mask(body, views, SIZE, (region,)), 1)[front]
    return median_color(images[front, :3].movedim(1, -1), mask & (images[front, 3] > 0.5))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = ROOT / "out" / "words"
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--prior", type=Path, default=SHIPPED)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--each", type=int, default=40, help="true people a garment")
    parser.add_argument("--steps", type=int, default=Sampling.steps)
    parser.add_argument("--scale", type=float, default=Sampling.scale, help="classifier-free guidance")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reference-only", action="store_true", help="render and learn the reference, and stop"
    )
    parser.add_argument("--as-written", action="store_true", help="without the table of synonyms")
    parser.add_argument("--out", type=Path, default=RESULTS / "words.json")
    args = parser.parse_args()

    studio = Studio.open(args.assets, args.device)
    prior = None if args.reference_only else load(args.prior, args.device)
    known = Reference.learn(*reference(studio, args.each, out / "reference.npz"))
    known.print()
    if prior is None:
        return
    palette = torch.stack([lit_colors(studio, material) for material in LIT], 1)  # [12,4,3]
    faces = faces_by_sex(studio)
    sampling = Sampling(args.steps, args.scale)
    rows: list[dict[str, Any]] = []
    pictures = []
    for number, (text, garment, color) in enumerate(words_benchmark()):
        female = phenotype_from_text(text).gender >= 0.5
        if not args.as_written:
            text = readable(prior, text, lambda line: None)
        asked, body, maps = ask(text, faces[female][number % FACES])
        images = draw_samples(prior, asked, args.seed * 1000 + number, sampling)
        pictures.append(images[:, :3])
        seen = color_of(images, body, asked.views, garment)
        found_color = nearest(seen, palette.flatten(0, 1)) // len(LIT)
        found = known.recognize(features(images, maps, asked.face))
        hue = BASIC[found_color] if found_color >= 0 else "none"
        right = {
            "colour": hue == color,
            "garment": found in known.same[garment],
        }
        rows.append({"text": text, "asked": [color, garment], "found": [hue, found], "right": right})
        wrong = [answer for answer, name in zip((hue, found), GOALS) if not right[name]]
        print(f"{number:2} {text}" + (f"  -> {', '.join(wrong)}" if wrong else ""), flush=True)
    shares = {name: sum(row["right"][name] for row in rows) / len(rows) for name in GOALS}
    print(f"\n{'':<10}{'goal':>8}{'prior':>8}{'studio':>8}")
    for name, share in shares.items():
        ceiling = f"{known.grouped:>8.3f}" if name == "garment" else ""
        print(
            f"{name:<10}{GOALS[name]:>8.3f}{share:>8.3f}{ceiling}{'' if share >= GOALS[name] else '  FAILED'}"
        )
    report = {
        "machine": machine(),
        "shares": shares,
        "studio": {
            "exact": known.exact,
            "grouped": known.grouped,
            "same": {name: sorted(others) for name, others in known.same.items() if len(others) > 1},
        },
        "sampling": vars(sampling),
        "as_written": args.as_written,
        "sentences": rows,
    }
    write_json(args.out, report)
    print(write_png(out / "sheet.png", contact_sheet(pictures)))
    sys.exit(0 if all(shares[name] >= goal for name, goal in GOALS.items()) else 1)


if __name__ == "__main__":
    main()
