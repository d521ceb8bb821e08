"""Does the compact prior follow sentences, poses and faces that it was not trained on? Four checks.

    python benchmarks/prior.py [--prior FOLDER] [--device cpu|cuda] [--seed 0] [--sheet prior.png]

Prints a table and writes results/prior.json beside this file. Exit code 1 if a check fails.

Every image is drawn by DDIM from pure noise with classifier-free guidance. Every sentence comes from
`TEMPLATES`, which the captions of the training set (`wardrobe.describe`) never follow; bodies, faces and
colours of skin are fresh random people. The same measures are taken of the training renderer's own images
of the same people ("studio"): the score of a perfect prior, which shows how far each measure can be trusted.

colour    Twelve garment colours, eight images each; garment and material are held-out outfits
          (`wardrobe.held_out`: never in the training set with that colour), half of the sentences also name
          trousers of another colour. Full and upper-body views from all sides. The clothed region is where
          the torso of the bare body is the nearest surface, one pixel away from its border, and the image's
          alpha is above 0.5. Its median colour is compared, by distance in CIELAB, with the twelve colours
          as the studio lights them on that material (median over a torso, seen from eight sides). Also
          reported: against the flat palette, which ignores lighting and so confuses neighbours.
pose      Mean IoU of alpha > 0.5 with the bare body's own silhouette, drawn by the rasteriser that drew the
          training images (splats on the skin, whose soft edges every image of the prior has); full, upper
          and lower body in equal shares, azimuths evenly all around, elevations over the training range;
          clothes that follow the body (t-shirt, shirt, tank top or sweater, with leggings) and short hair or
          none. Cloth and hair stand a few millimetres to centimetres off the skin, and a pixel of a full-body
          view is 4 cm wide, so even the studio does not reach 1. Also reported: against the mesh's exact
          outline, which lies about a third of a pixel further in.
identity  Spearman's rank correlation, over twenty people, of the skin's luminance (linear light, median over
          the cheeks and the nose where they face the camera) in the input face crop and in a sampled
          head close-up from within 30 degrees of the front. Sentences name no skin, hair or age.
material  Satin and metallic against cotton and wool, on the same bodies, views, colours, garments, sentences
          and noise; garments that are closed at the front (shirt, sweater, hoodie), short hair or none; all
          twelve colours, two views of the upper body. The outfits are not all held out, because all
          four materials must be worn alike; the sentences are. Highlight energy of an image: the mean over
          the clothed region, in linear light, of the excess of a pixel's luminance over 1.25 times the
          region's median. Passed if mean(satin) and mean(metallic) each are at least twice mean(cotton and
          wool), over all images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

import numba
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from skimage.color import rgb2lab
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "compact"))
from data import SIZE, SUPERSAMPLE, Photographer, face_cameras, render_people  # noqa: E402
from dressing import SPLAT, Dressed, quats_from_normals  # noqa: E402
from studio import shade, to_linear  # noqa: E402
from wardrobe import (  # noqa: E402
    BOTTOM_NAMES,
    COLOR_NAMES,
    COLORS,
    HAIR_STYLES,
    MATERIAL_NAMES,
    TOP_NAMES,
    Person,
    draw_person,
    held_out,
)  # fmt: skip

from specularip.body.regions import NAMES  # noqa: E402
from specularip.cameras import FULL, HEAD, LOWER, UPPER, Cameras, Framing, view_name  # noqa: E402
from specularip.diffusion.conditioning import Condition  # noqa: E402
from specularip.diffusion.loading.folder import load_prior  # noqa: E402
from specularip.diffusion.loading.weights import pick_dtype  # noqa: E402
from specularip.diffusion.prior import Prior  # noqa: E402
from specularip.diffusion.prompts import view_prompt  # noqa: E402
from specularip.diffusion.sample import sample  # noqa: E402
from specularip.raster import rasterize  # noqa: E402

TEMPLATES = (
    "{hue} {cloth} {garment}{more}, {noun}",
    "the {noun} wears {a} {hue} {cloth} {garment}{more}",
    "{a} {noun} at the studio, dressed in {a} {hue} {garment} made of {cloth}{more}",
    "{a} fashion model, {noun}, in {a} {cloth} {garment} of {hue}{more}",
    "{a} {hue} {cloth} {garment}{more} and the {noun} who wears this",
)
WEARER = {"dress": "woman"}
GOALS = {"colour": 0.85, "pose": 0.80, "identity": 0.80, "material": 2.0}
FINE = 4
"""Supersampling factor of silhouettes and regions."""
BLOCK = 12
"""People dressed and rendered at once."""


@dataclass
class Asked:
    """The conditioning of N images, and their ground truth. poses [N,3,S,S], faces [N,3,S,S], studio
    [N,4,S,S] (the training renderer's image) in 0..1; silhouette (drawn in splats), outline (of the mesh),
    torso, skin, face_skin [N,S,S] bool (the last in the face crop's pixels)."""

    people: list[Person]
    captions: list[str]
    poses: Tensor
    faces: Tensor
    studio: Tensor
    silhouette: Tensor
    outline: Tensor
    torso: Tensor
    skin: Tensor
    face_skin: Tensor


@dataclass(frozen=True)
class View:
    framing: Framing
    azimuth: float
    elevation: float

    def camera(self, height: float) -> Cameras:
        f, size = self.framing, SIZE * SUPERSAMPLE
        target = (0.0, 0.0, f.target_z * height)
        return Cameras.orbit(
            self.azimuth, self.elevation, f.distance * height, f.fov_y_deg, size, size, target
        )

    def caption(self, text: str) -> str:
        return view_prompt(text, self.framing.name, view_name(self.azimuth, self.elevation))


# People


def stranger(rng: random.Random, *, male: bool | None = None, short_hair: bool = False) -> Person:
    """A random grown person without a beard."""
    while True:
        person = draw_person(rng)
        if person.phenotype["age"] < 0.6 or person.beard:
            continue
        if male is not None and (person.phenotype["gender"] < 0.5) != male:
            continue
        if short_hair and HAIR_STYLES[person.hair_style] not in ("short", "bald"):
            continue
        return person


def wear(person: Person, top: str, color: int, material: int, trousers: int | None = None) -> Person:
    """`person` in this garment, over trousers of colour `trousers` (None: the usual dark ones)."""
    bottom, bottom_color, bottom_material = "trousers", trousers, MATERIAL_NAMES.index("cotton")
    if top in ("suit", "ski suit", "dress"):
        bottom, bottom_color, bottom_material = "none" if top == "dress" else "trousers", color, material
    return replace(
        person, top=TOP_NAMES.index(top), top_color=color, top_material=material,
        bottom=BOTTOM_NAMES.index(bottom), bottom_material=bottom_material,
        bottom_color=COLOR_NAMES.index("black") if bottom_color is None else bottom_color,
        shoe_color=COLOR_NAMES.index("black"), plain_bottom=trousers is None, plain_shoes=True,
    )  # fmt: skip


def sentence(person: Person, template: int) -> str:
    """The sentence for the prior; it names the trousers unless they are the usual ones."""
    top = TOP_NAMES[person.top]
    noun = "man" if person.phenotype["gender"] < 0.5 else "woman"
    single = top in ("suit", "ski suit", "dress") or person.plain_bottom
    more = "" if single else f" with {COLOR_NAMES[person.bottom_color]} {BOTTOM_NAMES[person.bottom]}"
    return TEMPLATES[template % len(TEMPLATES)].format(
        a="a", hue=COLOR_NAMES[person.top_color], cloth=MATERIAL_NAMES[person.top_material], garment=top,
        more=more, noun=noun,
    )  # fmt: skip


def unseen(top: str) -> list[tuple[int, int]]:
    """(colour, material) of the garment `top` that are held out of training."""
    pairs = [(c, m) for c in range(len(COLOR_NAMES)) for m in range(len(MATERIAL_NAMES))]
    return [(c, m) for c, m in pairs if held_out(TOP_NAMES.index(top), c, m)]


def colour_people(rng: random.Random, each: int) -> tuple[list[Person], list[View]]:
    people, views = [], []
    for color in range(len(COLOR_NAMES)):
        outfits = [(top, m) for top in TOP_NAMES for c, m in unseen(top) if c == color]
        rng.shuffle(outfits)
        for i in range(each):
            top, material = outfits[i % len(outfits)]
            other = rng.choice([c for c in range(len(COLOR_NAMES)) if c != color]) if i % 2 else None
            male = False if top == "dress" else None
            people.append(wear(stranger(rng, male=male), top, color, material, other))
            azimuth = (360 * i / each + rng.uniform(-20, 20) + 180) % 360 - 180
            views.append(View((FULL, UPPER)[i // 2 % 2], azimuth, rng.uniform(-5, 25)))
    return people, views


def pose_people(rng: random.Random, count: int) -> tuple[list[Person], list[View]]:
    people, views = [], []
    for i in range(count):
        top = ("t-shirt", "shirt", "tank top", "sweater")[i % 4]
        framing = (FULL, UPPER, LOWER)[i % 3]
        color, material = rng.choice(unseen(top))
        person = wear(stranger(rng, short_hair=True), top, color, material, rng.randrange(len(COLOR_NAMES)))
        people.append(replace(person, bottom=BOTTOM_NAMES.index("leggings")))
        low, high = framing.elevation_deg
        views.append(View(framing, (360 * i / count + 180) % 360 - 180, low + (high - low) * rng.random()))
    return people, views


def identity_people(rng: random.Random, count: int) -> tuple[list[Person], list[View]]:
    grey = COLOR_NAMES.index("grey")
    people, views = [], []
    for _ in range(count):
        people.append(wear(stranger(rng), "t-shirt", grey, MATERIAL_NAMES.index("cotton")))
        views.append(View(HEAD, rng.uniform(-30, 30), rng.uniform(-5, 15)))
    return people, views


SHINY, DULL = ("satin", "metallic"), ("cotton", "wool")


def material_people(rng: random.Random) -> tuple[list[Person], list[View]]:
    people, views = [], []
    for color in range(len(COLOR_NAMES)):
        for k in range(2):
            # Closed at the front, and no hair over it: nothing bright except the cloth.
            top = ("shirt", "sweater", "hoodie")[(color + k) % 3]
            person = stranger(rng, short_hair=True)
            view = View(
                UPPER, (-1) ** k * rng.uniform(15, 55) + (180 if k and color % 2 else 0), rng.uniform(0, 20)
            )
            for name in (*SHINY, *DULL):
                people.append(wear(person, top, color, MATERIAL_NAMES.index(name)))
                views.append(view)
    return people, views


# Ground truth from the training renderer


@numba.njit(cache=True)
def nearest_face(xy: np.ndarray, depth: np.ndarray, faces: np.ndarray, size: int) -> np.ndarray:
    """The nearest triangle at each pixel's centre, [size,size] int32, -1: none. xy [V,2] in pixels, depth
    [V]."""
    best = np.full((size, size), np.inf)
    found = np.full((size, size), -1, np.int32)
    for f in range(len(faces)):
        i, j, k = faces[f]
        if min(depth[i], depth[j], depth[k]) <= 0:
            continue
        x0, y0, x1, y1, x2, y2 = xy[i, 0], xy[i, 1], xy[j, 0], xy[j, 1], xy[k, 0], xy[k, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if area == 0:
            continue
        for y in range(max(0, int(min(y0, y1, y2) - 0.5)), min(size - 1, int(max(y0, y1, y2) + 0.5)) + 1):
            for x in range(max(0, int(min(x0, x1, x2) - 0.5)), min(size - 1, int(max(x0, x1, x2) + 0.5)) + 1):
                px, py = x + 0.5, y + 0.5
                b = ((px - x0) * (y2 - y0) - (x2 - x0) * (py - y0)) / area
                c = ((x1 - x0) * (py - y0) - (px - x0) * (y1 - y0)) / area
                if b < 0 or c < 0 or b + c > 1:
                    continue
                z = (1 - b - c) * depth[i] + b * depth[j] + c * depth[k]
                if z < best[y, x]:
                    best[y, x] = z
                    found[y, x] = f
    return found


class Geometry:
    """Which part of the bare body each pixel shows."""

    def __init__(self, photographer: Photographer) -> None:
        m = photographer.mannequin
        self.device, self.faces = m.device, m.faces.cpu().numpy()
        region = m.model.regions[m.faces[:, 0]]
        fx, fy, fz = ((m.template[m.faces].mean(1) - m.eye_mid) / m.unit).unbind(-1)
        # Cheeks and nose: below the lids, above the lips, beside neither ear.
        skin = (fy < 0.9) & (fx.abs() < 0.85) & (fz > -0.90) & (fz < -0.28) & (region == NAMES.index("head"))
        self.skin, self.torso = skin.cpu().numpy(), (region == NAMES.index("torso")).cpu().numpy()

    def masks(self, vertices: Tensor, camera: Cameras) -> tuple[Tensor, Tensor, Tensor]:
        """Silhouette, torso and skin [S,S] bool of one body [V,3] in one camera. A pixel belongs to the part
        that covers most of it; torso and skin are eroded by a pixel."""
        fine = SIZE * FINE
        xy, depth = camera.resized(fine, fine).project(vertices.cpu())
        face = nearest_face(xy[0].double().numpy(), depth[0].double().numpy(), self.faces, fine)

        def most(covered: np.ndarray) -> Tensor:
            share = F.avg_pool2d(torch.from_numpy(covered.astype(np.float32))[None, None], FINE)
            return (share > 0.5).float()

        def shrunk(mask: Tensor) -> Tensor:
            return -F.max_pool2d(-mask, 3, 1, 1)

        seen = face >= 0
        parts = most(seen), shrunk(most(seen & self.torso[face])), shrunk(most(seen & self.skin[face]))
        silhouette, torso, skin = (part[0, 0].bool().to(self.device) for part in parts)
        return silhouette, torso, skin


def drawn_silhouette(photographer: Photographer, vertices: Tensor, camera: Cameras) -> Tensor:
    """Where the bare body [V,3] covers half of a pixel or more, drawn in splats as `dress` places them on the
    skin; bool [S,S]."""
    mannequin = photographer.mannequin
    normals = mannequin.vertex_normals(vertices[None])[0]
    on_skin = lambda x: (x[mannequin.corner] * mannequin.bary[..., None]).sum(1)  # noqa: E731
    size = float(vertices[:, 2].max() - vertices[:, 2].min()) / mannequin.height
    spacing = mannequin.spacing * size
    drawn = rasterize(
        on_skin(vertices),
        quats_from_normals(F.normalize(on_skin(normals), dim=-1)),
        torch.stack([spacing * SPLAT[0], spacing * SPLAT[0], spacing * SPLAT[1]], -1),
        torch.full_like(spacing, 0.97),
        spacing.new_zeros(len(spacing), 1),
        camera.viewmats.to(vertices),
        camera.Ks.to(vertices),
        camera.width,
        camera.height,
    )
    return F.avg_pool2d(drawn.alpha.permute(0, 3, 1, 2), SUPERSAMPLE)[0, 0] > 0.5


@torch.no_grad()
def ask(
    photographer: Photographer, geometry: Geometry, people: list[Person], views: list[View], alike: int = 1
) -> Asked:
    """The conditioning for these people and views, and the studio's images of them.
    Each `alike` consecutive ones get the same kind of sentence."""
    found: dict[str, list[Tensor]] = {}
    for start in range(0, len(people), BLOCK):
        part, looks = people[start : start + BLOCK], views[start : start + BLOCK]
        dressed: Dressed = photographer.mannequin.dress(part)
        cameras = [v.camera(float(h)) for v, h in zip(looks, dressed.heights)]
        face_views = face_cameras(dressed, photographer.generator)
        drawn = [geometry.masks(v, c) for v, c in zip(dressed.vertices, cameras)]
        # Only the identity check uses the skin in the crops.
        close = [v.framing is HEAD for v in looks]
        given = [
            geometry.masks(v, c)[2] if k else None for v, c, k in zip(dressed.vertices, face_views, close)
        ]
        for name, value in dict(
            studio=render_people(dressed, cameras),
            faces=render_people(dressed, face_views)[:, :3],
            poses=photographer.poses(dressed, cameras),
            silhouette=torch.stack(
                [drawn_silhouette(photographer, v, c) for v, c in zip(dressed.vertices, cameras)]
            ),
            outline=torch.stack([d[0] for d in drawn]),
            torso=torch.stack([d[1] for d in drawn]),
            skin=torch.stack([d[2] for d in drawn]),
            face_skin=torch.stack([torch.zeros_like(d[0]) if g is None else g for d, g in zip(drawn, given)]),
        ).items():
            found.setdefault(name, []).append(value)
    captions = [
        view.caption(sentence(person, i // alike)) for i, (person, view) in enumerate(zip(people, views))
    ]
    return Asked(people=people, captions=captions, **{k: torch.cat(v) for k, v in found.items()})


@torch.no_grad()
def draw(prior: Prior, asked: Asked, args: argparse.Namespace, seed: int, same_noise: int = 1) -> Tensor:
    """The prior's images [N,4,S,S]; each `same_noise` consecutive ones start from the same noise."""
    count = len(asked.captions)
    empty = prior.encode_text([""]).expand(count, -1, -1)
    condition = Condition(
        positive=prior.encode_text(asked.captions), negative=empty, null=empty,
        pose=asked.poses.to(prior.device),
        identity=prior.identity_tokens(prior.encode_face(asked.faces)),
        null_identity=prior.identity_tokens(prior.null_face(count)),
        identity_scale=torch.full((count,), args.identity, device=prior.device),
    )  # fmt: skip
    images = []
    generator = torch.Generator().manual_seed(seed)
    state = generator.get_state()
    if same_noise == 1:
        return sample(
            prior, condition, steps=args.steps, scale=args.scale, generator=generator, batch=args.batch
        )
    # One call for each member of the groups, all with the same generator state.
    for k in range(same_noise):
        generator.set_state(state)
        rows = torch.arange(k, count, same_noise, device=prior.device)
        images.append(
            sample(
                prior,
                condition[rows],
                steps=args.steps,
                scale=args.scale,
                generator=generator,
                batch=args.batch,
            )
        )
    return torch.stack(images, 1).flatten(0, 1)


# Measures


def region(image: Tensor, mask: Tensor) -> Tensor:
    """Colours [n,3] of an image [4,S,S] where the mask is set and alpha is high."""
    return image[:3, mask & (image[3] > 0.5)].T


def luminance(srgb: Tensor) -> Tensor:
    """Relative luminance [n], linear light, of colours [n,3]."""
    return to_linear(srgb) @ srgb.new_tensor([0.2126, 0.7152, 0.0722])


def median_colour(image: Tensor, mask: Tensor) -> Tensor:
    """[3]; NaN where the region is empty."""
    colours = region(image, mask)
    return colours.median(0).values if len(colours) else colours.new_full((3,), torch.nan)


def lit_palette(photographer: Photographer, rng: random.Random) -> Tensor:
    """The twelve colours as the studio lights them on each material, [materials,12,3] sRGB: medians over a
    sweater's torso of the points that face any of eight cameras."""
    mannequin = photographer.mannequin
    person = stranger(rng, male=True, short_hair=True)
    torso = (mannequin.region == NAMES.index("torso")).nonzero()[:, 0]
    palette = torch.zeros(len(MATERIAL_NAMES), len(COLOR_NAMES), 3)
    for material in range(len(MATERIAL_NAMES)):
        people = [wear(person, "sweater", color, material) for color in range(len(COLOR_NAMES))]
        d = mannequin.dress(people)
        points, normals, threads, albedo = (x[:, torso] for x in (d.points, d.normals, d.threads, d.albedo))
        views = [View(UPPER, azimuth, 8.0) for azimuth in range(0, 360, 45)]
        eye = torch.cat([v.camera(float(d.heights[0])).positions for v in views]).to(points.device)
        seen = shade(
            points, normals, threads, albedo, d.material[:, torso], d.occlusion[:, torso],
            eye.expand(len(people), -1, -1),
        )  # fmt: skip
        way = F.normalize(eye[:, None] - points[0], dim=-1)
        facing = (way * normals[0]).sum(-1) > 0.2
        palette[material] = seen[:, facing].median(1).values.cpu()
    return palette


def lab(srgb: Tensor) -> np.ndarray:
    return rgb2lab(srgb.double().cpu().numpy())


def measure_colour(asked: Asked, images: Tensor, palette: Tensor) -> dict[str, object]:
    flat = torch.tensor([rgb for rgb, _ in COLORS.values()])
    right, right_flat, wrong = 0, 0, []
    of_colour, of_material, of_template = Counter[str](), Counter[str](), Counter[str]()
    totals = Counter[str]()
    for i, (person, image, torso) in enumerate(zip(asked.people, images, asked.torso)):
        seen = lab(median_colour(image, torso)[None])
        nearest = int(np.linalg.norm(lab(palette[person.top_material]) - seen, axis=1).argmin())
        hue, cloth = COLOR_NAMES[person.top_color], MATERIAL_NAMES[person.top_material]
        right += (hit := nearest == person.top_color)
        right_flat += int(np.linalg.norm(lab(flat) - seen, axis=1).argmin()) == person.top_color
        of_colour[hue] += hit
        of_material[cloth] += hit
        of_template[str(i % len(TEMPLATES))] += hit
        totals.update((cloth, "template " + str(i % len(TEMPLATES))))
        if not hit:
            wrong.append(f"{hue} {cloth} {TOP_NAMES[person.top]} -> {COLOR_NAMES[nearest]}")
    return {
        "value": right / len(images), "against the flat palette": right_flat / len(images),
        "right by colour": {name: of_colour[name] for name in COLOR_NAMES},
        "share by material": {m: round(of_material[m] / totals[m], 3) for m in MATERIAL_NAMES if totals[m]},
        "share by template": [
            round(of_template[str(k)] / max(1, totals[f"template {k}"]), 3) for k in range(len(TEMPLATES))
        ],
        "wrong": wrong,
    }  # fmt: skip


def measure_pose(asked: Asked, images: Tensor) -> dict[str, object]:
    found, wanted = images[:, 3] > 0.5, asked.silhouette.to(images.device)
    exact = asked.outline.to(images.device)
    mesh = float(((found & exact).flatten(1).sum(1) / (found | exact).flatten(1).sum(1)).mean())
    iou = (found & wanted).flatten(1).sum(1) / (found | wanted).flatten(1).sum(1)
    of = {f.name: float(iou[i::3].mean()) for i, f in enumerate((FULL, UPPER, LOWER))}
    return {
        "value": float(iou.mean()),
        "by framing": of,
        "against the mesh": mesh,
        "lowest": float(iou.min()),
        "by image": [round(v, 3) for v in iou.tolist()],
    }


def measure_identity(asked: Asked, images: Tensor) -> dict[str, object]:
    given, found = [], []
    for face, image, face_skin, skin in zip(asked.faces, images, asked.face_skin, asked.skin):
        given.append(float(luminance(face[:, face_skin].T).median()))
        found.append(float(luminance(region(image, skin)).median()))
    rank = lambda x: np.argsort(np.argsort(x))  # noqa: E731
    return {
        "value": float(np.corrcoef(rank(given), rank(found))[0, 1]),
        "given": [round(v, 4) for v in given], "sampled": [round(v, 4) for v in found],
    }  # fmt: skip


def measure_material(asked: Asked, images: Tensor) -> dict[str, object]:
    energy: dict[str, list[float]] = {name: [] for name in (*SHINY, *DULL)}
    for person, image, torso in zip(asked.people, images, asked.torso):
        y = luminance(region(image, torso))
        energy[MATERIAL_NAMES[person.top_material]].append(float((y - 1.25 * y.median()).clamp_min(0).mean()))
    mean = {name: float(np.mean(values)) for name, values in energy.items()}
    dull = (mean["cotton"] + mean["wool"]) / 2
    pairs = {  # two views of each colour
        color: round(
            sum(energy[m][2 * i] + energy[m][2 * i + 1] for m in SHINY)
            / max(1e-6, sum(energy[m][2 * i] + energy[m][2 * i + 1] for m in DULL)), 2
        )
        for i, color in enumerate(COLOR_NAMES)
    }  # fmt: skip
    ratios = {name: mean[name] / max(dull, 1e-9) for name in SHINY}
    return {
        "value": min(ratios.values()), "satin": ratios["satin"], "metallic": ratios["metallic"],
        "mean energy": {k: round(v, 5) for k, v in mean.items()}, "ratio by colour": pairs,
    }  # fmt: skip


def sheet(path: Path, rows: list[Tensor]) -> None:
    """Rows of images [n,3|4,S,S], each padded to the longest, at twice their size."""
    longest = max(len(row) for row in rows)
    picture = torch.ones(len(rows), longest, 3, SIZE, SIZE)
    for i, row in enumerate(rows):
        picture[i, : len(row)] = row[:, :3].float().cpu().clamp(0, 1)
    pixels = picture.permute(0, 3, 1, 4, 2).reshape(len(rows) * SIZE, longest * SIZE, 3)
    image = Image.fromarray((pixels.numpy() * 255).round().astype(np.uint8))
    temporary = path.with_name(f".{path.name}.tmp")
    image.resize((image.width * 2, image.height * 2), Image.Resampling.NEAREST).save(temporary, format="PNG")
    os.replace(temporary, path)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prior", type=Path, default=ROOT / "src/specularip/assets/compact")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--scale", type=float, default=3.0, help="classifier-free guidance")
    parser.add_argument("--identity", type=float, default=1.0, help="identity scale")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--only", choices=tuple(GOALS), nargs="+", default=tuple(GOALS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/prior.json")
    parser.add_argument(
        "--sheet", type=Path, help="where to put a picture of all samples over the studio's own"
    )
    args = parser.parse_args()
    device = torch.device(args.device)
    began = time.perf_counter()
    # A seed that no training run uses.
    photographer = Photographer(device, seed=2**40 + args.seed)
    geometry = Geometry(photographer)
    # "auto", as the package runs it, so that the figures are those of the shipped prior.
    prior = load_prior(args.prior, device=device, dtype="auto")

    def palette() -> Tensor:
        return lit_palette(photographer, random.Random(f"palette {args.seed}"))

    lit = palette() if "colour" in args.only else torch.zeros(0)
    checks: dict[str, tuple[Callable, Callable, int]] = {
        "colour": (lambda rng: colour_people(rng, 8), lambda a, x: measure_colour(a, x, lit), 1),
        "pose": (lambda rng: pose_people(rng, 36), measure_pose, 1),
        "identity": (lambda rng: identity_people(rng, 20), measure_identity, 1),
        "material": (material_people, measure_material, 4),
    }
    results: dict[str, dict] = {}
    rows: list[Tensor] = []
    print(f"{'check':<10}{'goal':>8}{'prior':>8}{'studio':>8}", flush=True)
    for number, name in enumerate(GOALS):
        if name not in args.only:
            continue
        people, measure, same_noise = checks[name]
        photographer.generator.manual_seed(args.seed)
        asked = ask(photographer, geometry, *people(random.Random(f"{name} {args.seed}")), same_noise)
        images = draw(prior, asked, args, args.seed * 100 + number, same_noise)
        found, ceiling = measure(asked, images), measure(asked, asked.studio)
        passed = found["value"] >= GOALS[name]
        results[name] = {
            "goal": GOALS[name],
            "passed": passed,
            "prior": found,
            "studio": ceiling,
            "captions": asked.captions,
        }
        mark = "" if passed else "  FAILED"
        figures = "".join(f"{v:>8.3f}" for v in (GOALS[name], found["value"], ceiling["value"]))
        print(f"{name:<10}{figures}{mark}", flush=True)
        for start in range(0, len(images), 24):
            if name == "identity":
                rows.append(asked.faces[start : start + 24])
            rows += [images[start : start + 24], asked.studio[start : start + 24]]
        if args.sheet is not None:
            sheet(args.sheet, rows)
    report = {
        "date": date.today().isoformat(), "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "dtype": str(pick_dtype("auto", device)), "seed": args.seed, "steps": args.steps, "scale": args.scale,
        "identity": args.identity, "seconds": round(time.perf_counter() - began, 1), "checks": results,
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    temporary = args.out.with_name(f".{args.out.name}.tmp")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, args.out)
    print(f"{report['seconds']} s; {args.out}")
    sys.exit(0 if all(r["passed"] for r in results.values()) else 1)


if __name__ == "__main__":
    main()
