"""Does the compact prior follow sentences, poses and faces that it was not trained on? Four checks.

    python benchmarks/prior.py --assets assets.npz [--prior FOLDER] [--device cpu|cuda] [--seed 0]

Every sentence comes from `TEMPLATES`, which training captions never follow; bodies, faces and colours of skin
are those of people whom training never saw. The views of a person are drawn together. The same measures are
taken of the training renderer's own images of the same people ("studio"): the score of a perfect prior, which
shows how far each measure can be trusted. All images are put on out/prior/CHECK.png, above the studio's.

colour    Twelve garment colours, eight images each: four people, from a random side, whole, and from the
          opposite one, upper body. Garment and material are held-out outfits (`people.held_out`: never in
          training with that colour); half of the sentences also name trousers of another colour. The median
          colour of the torso (where the bare body's torso is the nearest surface, a pixel from its border,
          and alpha is above 0.5) is compared in CIELAB with the twelve as the studio lights them on that
          material. Hair is short, so that it hides no torso.
pose      Mean IoU of alpha > 0.5 with the outline of the bare body's mesh: twelve people in random poses,
          each whole, upper and lower body, from all sides and heights of training; a tight tank top and
          leggings, barefoot, bald. Cloth still stands some millimetres off the skin, so even the studio does
          not reach 1. Also reported: against the outline of the person as the studio draws them.
identity  Spearman's rank correlation, over twenty people, of the skin's luminance (linear light, median over
          cheeks and nose) in the given face crop and in a drawn head close-up from within 30 degrees of the
          front. Sentences name no skin, hair or age.
material  Satin and metallic against cotton and wool, on the same bodies, views, colours, garments, sentences
          and noise; garments that are closed at the front, short hair or none; all twelve colours, two people
          each, upper body. These outfits are not all held out; the sentences are. Highlight energy: the mean
          over the torso, in linear light, of the excess of a pixel's luminance over 1.25 times the median.
          Passed if mean(satin) and mean(metallic) each are at least twice mean(cotton and wool).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measures import eroded, median_color, nearest, silhouette_iou, skin_of
from runs import RESULTS, ROOT, machine
from samples import SHIPPED, Asked, Sampling, draw_samples, load
from subjects import (
    ASSETS,
    BASIC,
    FIRST_SEED,
    GARMENTS,
    MATERIALS,
    Person,
    Piece,
    Studio,
    cheeks_mask,
    contact_sheet,
    draw_person,
    held_out,
    lit_colors,
    plain_piece,
    region_mask,
    to_linear,
    views_of,
)
from torch import Tensor

from specularip.body.regions import NAMES, TORSO
from specularip.cameras import FULL, HEAD, LOWER, UPPER, Framing
from specularip.files import write_json, write_png

TEMPLATES = (
    "{hue} {cloth} {garment}{more}, {noun}",
    "the {noun} wears {a} {hue} {cloth} {garment}{more}",
    "{a} {noun} at the studio, dressed in {a} {hue} {garment} made of {cloth}{more}",
    "{a} fashion model, {noun}, in {a} {cloth} {garment} of {hue}{more}",
    "{a} {hue} {cloth} {garment}{more} and the {noun} who wears this",
)
GOALS = {"colour": 0.97, "pose": 0.93, "identity": 0.80, "material": 2.0}
SIZE = 256
COLORED = (
    "t-shirt",
    "shirt",
    "sweater",
    "hoodie",
    "dress",
    "gown",
    "suit",
    "ski suit",
    "jumpsuit",
    "raincoat",
)
"""Garments of the colour check: they cover the torso, whatever is worn under them."""
CLOSED = ("shirt", "sweater", "t-shirt")
SHINY, DULL = ("satin", "metallic"), ("cotton", "wool")


@dataclass(frozen=True)
class View:
    framing: Framing
    azimuth: float
    elevation: float


@dataclass(frozen=True)
class Case:
    """One person to be drawn: seen from `views`, from noise of `seed`."""

    person: Person
    text: str
    views: tuple[View, ...]
    seed: int


@dataclass
class Drawn:
    """A case and V images of it [V,5,S,S], the prior's or the studio's. true_alpha [V,S,S]: the studio's.
    torso, body, cheeks: what the bare body shows there, bool [V,S,S]; skin: median colour of the given face
    [3]."""

    case: Case
    images: Tensor
    true_alpha: Tensor
    torso: Tensor
    body: Tensor
    cheeks: Tensor
    skin: Tensor

    @property
    def rgb(self) -> Tensor:
        return self.images[:, :3].movedim(1, -1)

    @property
    def alpha(self) -> Tensor:
        return self.images[:, 3]

    @property
    def main(self) -> Piece:
        return self.case.person.pieces[0]


# Who is drawn


def grown(rng: random.Random, *, female: bool | None = None, short_hair: bool = False) -> Person:
    """A random grown man or woman without a beard."""
    while True:
        person = draw_person(rng)
        sex = person.words["sex"]
        if person.words["age"] == "child" or person.beard or sex == "neutral":
            continue
        if female is not None and (sex == "female") != female:
            continue
        if short_hair and person.hair_style not in ("short", "bald"):
            continue
        return person


def wearing(person: Person, garment: str, color: str, material: str, bottom: Piece | None = None) -> Person:
    """`person` in this garment, unless it is a whole outfit with `bottom` (None: plain black trousers)."""
    whole = GARMENTS[garment].slot == "whole"
    pieces = [plain_piece(garment, color, material)]
    if not whole:
        pieces.append(bottom or plain_piece("trousers", "black", "cotton"))
    return replace(person, pieces=[*pieces, plain_piece("shoes", "black", "leather")])


def tight(person: Person) -> Person:
    """`person` bald, barefoot, and in the tightest cut of the clothes."""
    clothes = [piece for piece in person.pieces if piece.slot != "feet"]
    clothes = [
        replace(piece, cut=piece.cut | {"loose": 0.0, "flare": 0.0, "folds": 0.0}) for piece in clothes
    ]
    return replace(person, pieces=clothes, hair_style="bald")


def sentence(person: Person, template: int) -> str:
    """The sentence for the prior; it names the trousers unless they are plain."""
    top, *more = (piece for piece in person.pieces if piece.slot != "feet")
    named = [f" with {piece.color} {piece.garment}" for piece in more if piece.color != "black"]
    noun = "woman" if person.words["sex"] == "female" else "man"
    return TEMPLATES[template % len(TEMPLATES)].format(
        a="a", hue=top.color, cloth=top.material, garment=top.garment, more="".join(named), noun=noun
    )


def unseen(garment: str) -> list[tuple[str, str]]:
    """Colours and materials in which `garment` is held out of training."""
    return [(c, m) for c in BASIC for m in MATERIALS if held_out(garment, c, m)]


def turned(azimuth: float) -> float:
    return (azimuth + 180) % 360 - 180


def color_cases(rng: random.Random) -> list[Case]:
    cases = []
    for color in BASIC:
        outfits = [(g, m) for g in COLORED for c, m in unseen(g) if c == color]
        rng.shuffle(outfits)
        for i in range(4):
            garment, material = outfits[i % len(outfits)]
            other = plain_piece("trousers", rng.choice([c for c in BASIC if c != color]), "cotton")
            female = True if garment in ("dress", "gown") else None
            who = grown(rng, female=female, short_hair=True)
            who = wearing(who, garment, color, material, other if i % 2 else None)
            azimuth = 90 * i + rng.uniform(-45, 45)
            views = (
                View(FULL, turned(azimuth), rng.uniform(-5, 25)),
                View(UPPER, turned(azimuth + 180), rng.uniform(-5, 25)),
            )
            cases.append(Case(who, sentence(who, len(cases)), views, len(cases)))
    return cases


def pose_cases(rng: random.Random) -> list[Case]:
    cases = []
    for i in range(12):
        leggings = plain_piece("leggings", rng.choice(BASIC), "cotton")
        who = tight(wearing(grown(rng), "tank top", *rng.choice(unseen("tank top")), leggings))
        views = tuple(
            View(f, turned(360 * (i + k / 3) / 12 + 120 * k), rng.uniform(*f.elevation_deg))
            for k, f in enumerate((FULL, UPPER, LOWER))
        )
        cases.append(Case(who, f"{sentence(who, i)}, bald, barefoot", views, i))
    return cases


def identity_cases(rng: random.Random) -> list[Case]:
    cases = []
    for i in range(20):
        who = wearing(grown(rng), "t-shirt", "grey", "cotton")
        view = View(HEAD, rng.uniform(-30, 30), rng.uniform(-5, 15))
        cases.append(Case(who, sentence(who, i), (view,), i))
    return cases


def material_cases(rng: random.Random) -> list[Case]:
    cases = []
    for number, color in enumerate(color for color in BASIC for _ in range(2)):
        # Closed at the front, and no hair over it: nothing bright except the cloth.
        person, garment = grown(rng, short_hair=True), CLOSED[number % len(CLOSED)]
        view = View(UPPER, (-1) ** number * rng.uniform(15, 55) + 180 * (number % 4 == 3), rng.uniform(0, 20))
        for material in (*SHINY, *DULL):
            who = wearing(person, garment, color, material)
            cases.append(Case(who, sentence(who, number), (view,), number))
    return cases


def drawn_both(studio: Studio, case: Case, draw: Callable[[Asked, int], Tensor]) -> tuple[Drawn, Drawn]:
    """A case as the prior draws it, and as the studio does."""
    mesh = studio.dress(case.person)
    views = views_of(
        [(v.framing, v.azimuth) for v in case.views], mesh.height, SIZE, [v.elevation for v in case.views]
    )
    body, face = mesh.body.cpu(), studio.face(mesh)
    masks = (
        eroded(region_mask(body, views, SIZE, (TORSO,)), 1),
        region_mask(body, views, SIZE, tuple(range(len(NAMES)))),
        eroded(cheeks_mask(body, views, SIZE), 1),
        skin_of(face),
    )
    images = draw(Asked(case.text, views, studio.body_maps(mesh, views), face), case.seed)
    true = studio.images(mesh, views, SIZE)
    return Drawn(case, images, true[:, 3], *masks), Drawn(case, true, true[:, 3], *masks)


# Measures


def measure_color(drawn: list[Drawn], palettes: dict[str, Tensor]) -> dict[str, Any]:
    right, totals, wrong = Counter[str](), Counter[str](), []
    for number, one in enumerate(drawn):
        piece = one.main
        for rgb, mask in zip(one.rgb, one.torso & (one.alpha > 0.5)):
            found = nearest(median_color(rgb, mask), palettes[piece.material])
            hit = found >= 0 and BASIC[found] == piece.color
            kinds = ("all", piece.color, piece.material, f"template {number % len(TEMPLATES)}")
            totals.update(kinds)
            if hit:
                right.update(kinds)
            else:
                answer = BASIC[found] if found >= 0 else "nothing"
                wrong.append(f"{piece.color} {piece.material} {piece.garment} -> {answer}")
    shares = {kind: round(right[kind] / totals[kind], 3) for kind in totals}
    return {"value": right["all"] / totals["all"], "shares": shares, "wrong": wrong}


def measure_pose(drawn: list[Drawn]) -> dict[str, Any]:
    iou = torch.stack([silhouette_iou(one.alpha, one.body.float()) for one in drawn])
    dressed = torch.stack([silhouette_iou(one.alpha, one.true_alpha) for one in drawn])
    by_framing = dict(zip(("full", "upper", "lower"), iou.mean(0).tolist()))
    return {"value": float(iou.mean()), "by framing": by_framing, "dressed": float(dressed.mean())}


def measure_identity(drawn: list[Drawn]) -> dict[str, Any]:
    given = [float(luminance(one.skin)) for one in drawn]
    found = [float(luminance(one.rgb[one.cheeks & (one.alpha > 0.5)]).median()) for one in drawn]
    rank = lambda x: np.argsort(np.argsort(x))  # noqa: E731
    return {"value": float(np.corrcoef(rank(given), rank(found))[0, 1]), "given": given, "found": found}


def measure_material(drawn: list[Drawn]) -> dict[str, Any]:
    energy: dict[str, list[float]] = {name: [] for name in (*SHINY, *DULL)}
    for one in drawn:
        y = luminance(one.rgb[one.torso & (one.alpha > 0.5)])
        energy[one.main.material].append(float((y - 1.25 * y.median()).clamp_min(0).mean()))
    mean = {name: float(np.mean(values)) for name, values in energy.items()}
    dull = max(sum(mean[name] for name in DULL) / len(DULL), 1e-9)
    ratios = {name: mean[name] / dull for name in SHINY}
    return {"value": min(ratios.values()), **ratios, "mean energy": mean}


def luminance(srgb: Tensor) -> Tensor:
    """Relative luminance, in linear light, of sRGB colours [...,3]."""
    return to_linear(srgb) @ srgb.new_tensor([0.2126, 0.7152, 0.0722])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--assets", type=Path, default=ASSETS)
    parser.add_argument("--prior", type=Path, default=SHIPPED)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Sampling.steps)
    parser.add_argument("--scale", type=float, default=Sampling.scale, help="classifier-free guidance")
    parser.add_argument("--only", choices=tuple(GOALS), nargs="+", default=tuple(GOALS))
    parser.add_argument("--out", type=Path, default=RESULTS / "prior.json")
    args = parser.parse_args()
    began = time.perf_counter()
    studio, prior = Studio.open(args.assets, args.device), load(args.prior, args.device)
    sampling = Sampling(args.steps, args.scale)
    palettes = {m: lit_colors(studio, m) for m in MATERIALS} if "colour" in args.only else {}
    checks: dict[str, tuple[Callable[[random.Random], list[Case]], Callable[[list[Drawn]], dict[str, Any]]]]
    checks = {
        "colour": (color_cases, lambda drawn: measure_color(drawn, palettes)),
        "pose": (pose_cases, measure_pose),
        "identity": (identity_cases, measure_identity),
        "material": (material_cases, measure_material),
    }
    results: dict[str, dict[str, Any]] = {}
    print(f"{'check':<10}{'goal':>8}{'prior':>8}{'studio':>8}", flush=True)
    for name in args.only:
        make_cases, measure = checks[name]
        first = 1000 * args.seed + 100 * list(GOALS).index(name)
        cases = make_cases(random.Random(FIRST_SEED + 30_000 + first))
        pairs = [
            drawn_both(studio, case, lambda a, seed: draw_samples(prior, a, first + seed, sampling))  # noqa: B023
            for case in cases
        ]
        found, ceiling = (measure(list(side)) for side in zip(*pairs))
        passed = found["value"] >= GOALS[name]
        results[name] = {"goal": GOALS[name], "passed": passed, "prior": found, "studio": ceiling}
        results[name]["sentences"] = [case.text for case in cases]
        figures = "".join(f"{v:>8.3f}" for v in (GOALS[name], found["value"], ceiling["value"]))
        print(f"{name:<10}{figures}{'' if passed else '  FAILED'}", flush=True)
        tall = [torch.cat([one.images[:, :3], true.images[:, :3]], 2) for one, true in pairs]
        write_png(
            ROOT / "out" / "prior" / f"{name}.png", contact_sheet(tall, across=12 // len(cases[0].views))
        )
    report = {
        "machine": machine(),
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "cpu",
        "dtype": str(prior.dtype),
        "seed": args.seed,
        "sampling": vars(sampling),
        "seconds": round(time.perf_counter() - began, 1),
        "checks": results,
    }
    write_json(args.out, report)
    print(f"{report['seconds']} s; {args.out}")
    sys.exit(0 if all(result["passed"] for result in results.values()) else 1)


if __name__ == "__main__":
    main()
