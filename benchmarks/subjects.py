"""People of the training generator as ground truth: who they are, the sentence about them, their pictures.

Their seeds are FIRST_SEED and above. Those of training are 100,000 times its --seed, plus 100 times the rank,
plus the process: below FIRST_SEED for --seed 0 to 8.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from measures import eroded, median_color
from torch import Tensor

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools" / "compact"))
from assets import Assets  # noqa: E402
from captions import is_plural, join, with_article, words_benchmark  # noqa: E402
from data import FACE_SIZE, MAP_SIZE  # noqa: E402
from dressing import PersonMesh, dress, luminance  # noqa: E402
from mesh_render import BACKGROUND, Renderer  # noqa: E402
from people import (  # noqa: E402
    BASIC,
    COLORS,
    CUTS,
    DENIM_BLUE,
    GARMENTS,
    HAIR_COLORS,
    HATS,
    MATERIALS,
    POSE_SIGMA,
    SKIN_RAMP,
    Person,
    Piece,
    draw_person,
    held_out,
)
from studio import Lighting, direction, to_linear, to_srgb  # noqa: E402

from specularip.body import AnnyModel, Body, phenotype_from_text  # noqa: E402
from specularip.body.regions import HEAD, TORSO  # noqa: E402
from specularip.cameras import UPPER, Cameras, Framing, Views, face_camera  # noqa: E402
from specularip.errors import UserError  # noqa: E402
from specularip.faces.landmarks import find_face  # noqa: E402
from specularip.files import to_uint8  # noqa: E402
from specularip.raster.mesh import rasterize_mesh  # noqa: E402

__all__ = [
    "BACKGROUND",
    "BASIC",
    "COLORS",
    "FACE_SIZE",
    "GARMENTS",
    "HAIR_COLORS",
    "MAP_SIZE",
    "MATERIALS",
    "Lighting",
    "Person",
    "PersonMesh",
    "direction",
    "held_out",
    "to_linear",
    "to_srgb",
    "words_benchmark",
]

FIRST_SEED = 900_000
ASSETS = ROOT / "assets.npz"
"""Where `tools/compact/assets.py` writes by default."""
NOUNS = {
    "child": ("boy", "girl"),
    "teen": ("teenage boy", "teenage girl"),
    "young": ("young man", "young woman"),
    "adult": ("man", "woman"),
    "middle-aged": ("middle-aged man", "middle-aged woman"),
    "old": ("old man", "old woman"),
}
HAIR = {
    "short": "short {} hair",
    "bob": "a {} bob",
    "long": "long {} hair",
    "ponytail": "a {} ponytail",
    "braid": "a {} braid",
    "afro": "a {} afro",
    "bun": "{} hair in a bun",
}
PHOTO, PHOTO_DISTANCES = 512, (14.0, 11.0, 18.0)
"""Size of photos in pixels, and how far the camera may be from the face, in eye distances."""
EYE_TOLERANCE = 0.2
SLOTS = ("outer", "whole", "top", "bottom", "feet", "extra")
"""The order in which a sentence names the clothes."""
UPRIGHT = (0.0,) * len(POSE_SIGMA)


# Who


def stranger(seed: int) -> Person:
    """Person `seed` of those that training never saw, a man or a woman."""
    rng = random.Random(FIRST_SEED + seed)
    while True:
        person = draw_person(rng)
        if person.words["sex"] != "neutral":
            return person


def fitting_face(seed: int, sex: str, age: str, tone: float, beard: bool) -> Person:
    """Of many people whom training never saw, of this sex and age (a key of `people.AGES`), with a beard or
    without: the one whose skin is nearest to `tone` on the ramp, 0 pale to 1 very dark."""
    rng = random.Random(FIRST_SEED + 40_000 + seed)
    drawn = (draw_person(rng) for _ in range(3000))
    fits = [
        p
        for p in drawn
        if (p.words["sex"], p.words["age"]) == (sex, age) and bool(p.beard) == beard and not wears_hat(p)
    ]
    wanted = luminance(SKIN_RAMP[round(tone * (len(SKIN_RAMP) - 1))])
    return replace(min(fits, key=lambda p: abs(luminance(p.skin) - wanted)), pose=UPRIGHT)


def wears_hat(person: Person) -> bool:
    return any(piece.garment in HATS for piece in person.pieces)


def plain_piece(garment: str, color: str, material: str) -> Piece:
    """The garment in the middle of its colour's range and of all its cuts."""
    rgb = DENIM_BLUE[""] if (color, material) == ("blue", "denim") else COLORS[color]
    return Piece(garment, color, rgb, material, dict.fromkeys(CUTS, 0.5))


def as_told(person: Person) -> tuple[Person, str]:
    """`person` as text and photo determine them, and the sentence.

    The body is the one that the package reads in the sentence, in its A-pose. What no sentence tells (the
    shade of a colour, the cut of a garment) is in the middle of its range, and the beard is one of two. Skin,
    eyes and brows are left: the photo shows them.
    """
    plain = replace(
        person,
        hair_rgb=HAIR_COLORS[person.hair_color],
        beard=0.0 if not person.beard else 0.35 if person.beard < 0.5 else 0.8,
        pieces=[plain_piece(piece.garment, piece.color, piece.material) for piece in person.pieces],
        pose=UPRIGHT,
    )
    text = sentence(plain)
    return with_body(plain, text), text


def with_body(person: Person, text: str) -> Person:
    """`person` with the body that the package reads in `text`, and with skin of its age."""
    phenotype = asdict(phenotype_from_text(text))
    del phenotype["matched"]
    age = phenotype["age"]
    family = "young" if age < 0.74 else "middleage" if age < 0.9 else "old"
    sex = person.skin_texture.partition("_")[2]
    return replace(person, phenotype=phenotype, skin_texture=f"{family}_{sex}")


def sentence(person: Person) -> str:
    """A sentence that names everything about `person` that a sentence can."""
    words, hue = person.words, person.hair_color
    noun = NOUNS[words["age"]][words["sex"] == "female"]
    ancestry = {"african": "African", "asian": "Asian", "caucasian": "European"}.get(
        words.get("ancestry", "")
    )
    who = " ".join(word for word in (words.get("build"), ancestry, noun) if word)
    bald = person.hair_style == "bald"
    traits = [f"{words['skin']} skin", "a bald head" if bald else HAIR[person.hair_style].format(hue)]
    if person.beard:
        traits.append("a short beard" if person.beard < 0.5 else "a full beard")
    clothes = [named(piece) for piece in sorted(person.pieces, key=lambda piece: SLOTS.index(piece.slot))]
    text = f"{with_article(who)} with {join(traits)}, wearing {join(clothes)}"
    return text[0].upper() + text[1:]


def named(piece: Piece) -> str:
    """ "a red satin dress", "blue jeans"."""
    told = piece.garment in ("jeans", "leather jacket", "necklace")
    phrase = " ".join(w for w in (piece.color, "" if told else piece.material, piece.garment) if w)
    return phrase if is_plural(phrase) else with_article(phrase)


# Pictures


@dataclass
class Studio:
    """Dresses people and renders them as training did."""

    assets: Assets
    renderer: Renderer

    @staticmethod
    def open(assets: Path, device: str = "cpu") -> Studio:
        if not assets.exists():
            raise SystemExit(f"{assets} is missing: write it with tools/compact/assets.py, or give --assets")
        loaded = Assets.load(assets)  # dressing is work of the CPU
        return Studio(loaded, Renderer(loaded, device))

    def dress(self, person: Person, shift: Tensor | None = None) -> PersonMesh:
        """shift [B,3]: see `dressing.dress`."""
        return dress([person], self.assets, None if shift is None else shift[None])[0]

    def images(self, mesh: PersonMesh, views: Views, size: int) -> Tensor:
        """[V,5,size,size] in 0..1: RGB over grey, alpha, depth."""
        return self.renderer.images([mesh], [views.cameras], [views.targets], size).cpu()

    def parts(self, mesh: PersonMesh, views: Views, size: int) -> Tensor:
        """The part of the mesh at each pixel, [V,size,size] int64, an index of `names(mesh)`; -1 outside."""
        parts = self.renderer.labels([mesh], [views.cameras], size)[1].cpu()
        index = torch.tensor([names(mesh).index(part.name) for part in mesh.parts] + [-1])
        return index[parts]

    def body_maps(self, mesh: PersonMesh, views: Views) -> Tensor:
        """The prior's conditioning [V,4,MAP_SIZE,MAP_SIZE]."""
        return self.renderer.body_maps([mesh], [views.cameras], [views.targets], MAP_SIZE).cpu()

    def face(self, mesh: PersonMesh, azimuth_deg: float = 0.0) -> Tensor:
        """The face [3,FACE_SIZE,FACE_SIZE] as a photo would be cropped."""
        camera = face_camera(mesh.face_center, mesh.face_unit, FACE_SIZE, azimuth_deg, 2.0)
        return self._close(mesh, camera, mesh.face_center, FACE_SIZE)

    def photo(self, person: Person) -> np.ndarray:
        """A photo of head and shoulders, uint8 [PHOTO,PHOTO,3], in which the package finds the eyes.

        Hair over an eye, deep wrinkles and very dark skin mislead its face detector, which is not at stake
        here: so the photo is the best of several distances and, if need be, with the hair tied up.
        """
        best, least = None, float("inf")
        for hair in (person.hair_style, "bun"):
            mesh = self.dress(replace(person, hair_style=hair))
            for distance in PHOTO_DISTANCES:
                picture, eyes = self._portrait(mesh, distance)
                error = eye_error(picture, eyes)
                if error < least:
                    best, least = picture, error
                if least < EYE_TOLERANCE:
                    return best
            if person.hair_style == "bald":
                break
        if best is None:
            raise RuntimeError("the package finds no face in any photo of this person")
        return best

    def _portrait(self, mesh: PersonMesh, distance: float) -> tuple[np.ndarray, Tensor]:
        """A photo from so many eye distances, and where the eyes are in it, [2,2] pixels."""
        center, unit = mesh.face_center.cpu(), mesh.face_unit
        target = center - torch.tensor([0.0, 0.0, 0.3 * unit])
        camera = Cameras.orbit(0.0, 2.0, distance * unit, 36.0, PHOTO, PHOTO, target)
        aside = torch.tensor([unit / 2, 0.0, 0.0])
        eyes = camera.project(torch.stack([center - aside, center + aside]))[0][0]
        return to_uint8(self._close(mesh, camera, target, PHOTO).movedim(0, -1)), eyes

    def _close(self, mesh: PersonMesh, camera: Cameras, target: Tensor, size: int) -> Tensor:
        return self.renderer.images([mesh], [camera], [target[None].cpu()], size)[0, :3].cpu()


def eye_error(photo: np.ndarray, eyes: Tensor) -> float:
    """How far from the eyes [2,2] the package finds them, in eye distances; infinite if it finds no face."""
    try:
        found = find_face(photo)
    except UserError:
        return float("inf")
    miss = (torch.tensor(found.eyes) - eyes).norm(dim=1).max()
    return float(miss / (eyes[0] - eyes[1]).norm())


def names(mesh: PersonMesh) -> list[str]:
    """The names of a mesh's parts, each once."""
    return list(dict.fromkeys(part.name for part in mesh.parts))


# Where, and in which colours


def views_of(
    looks: Sequence[tuple[Framing, float]],
    height: float,
    size: int,
    elevation_deg: float | Sequence[float] = 6.0,
) -> Views:
    """Views of a body of this height, by framing and azimuth in degrees."""
    framings = [framing for framing, _ in looks]
    azimuth = torch.tensor([azimuth for _, azimuth in looks])
    elevation = torch.as_tensor(elevation_deg).expand_as(azimuth)
    targets = torch.zeros(len(looks), 3)
    targets[:, 2] = torch.tensor([f.target_z for f in framings]) * height
    distance = torch.tensor([f.distance for f in framings]) * height
    fov = torch.tensor([f.fov_y_deg for f in framings])
    cameras = Cameras.orbit(azimuth, elevation, distance, fov, size, size, targets)
    return Views(cameras, azimuth, elevation, framings, targets)


def region_mask(body: Body | Tensor, views: Views, size: int, regions: tuple[int, ...]) -> Tensor:
    """Where one of these regions of the bare body (a Body, or vertices in AnnyModel's order) is the nearest
    surface, bool [V,size,size]."""
    model = AnnyModel.load()
    wanted = torch.isin(model.regions[model.faces[:, 0]], torch.tensor(regions))
    return _shown(body if isinstance(body, Tensor) else body.vertices, views, size, wanted)


def cheeks_mask(vertices: Tensor, views: Views, size: int) -> Tensor:
    """Where the bare body's cheeks and nose are the nearest surface, bool [V,size,size]: below the lids,
    above the lips, beside neither ear."""
    model = AnnyModel.load()
    eyes = model.template[model.eyeballs].mean(1)
    unit = (eyes[0] - eyes[1]).norm()
    x, y, z = ((model.template[model.faces].mean(1) - eyes.mean(0)) / unit).unbind(-1)
    head = model.regions[model.faces[:, 0]] == HEAD
    return _shown(vertices, views, size, head & (y < 0.9) & (x.abs() < 0.85) & (z > -0.9) & (z < -0.28))


def _shown(vertices: Tensor, views: Views, size: int, wanted: Tensor) -> Tensor:
    """Where one of the faces `wanted` (bool, one each) is the nearest surface."""
    faces = AnnyModel.load().faces
    found = rasterize_mesh(vertices, faces, views.cameras.resized(size, size)).triangles.long()
    return (found >= 0) & wanted[found.clamp_min(0)]


def lit_colors(studio: Studio, material: str) -> Tensor:
    """The twelve colours of BASIC as the studio lights them on this material, [12,3] sRGB: medians over the
    torso of one person in a sweater, from four sides."""
    person = replace(stranger(0), hair_style="short", beard=0.0, pose=UPRIGHT)
    found = []
    for color in BASIC:
        pieces = [plain_piece("sweater", color, material), plain_piece("trousers", "black", "cotton")]
        mesh = studio.dress(replace(person, pieces=pieces))
        views = views_of([(UPPER, azimuth) for azimuth in (0.0, 90.0, 180.0, -90.0)], mesh.height, 128)
        mask = eroded(region_mask(mesh.body.cpu(), views, 128, (TORSO,)), 1)
        found.append(median_color(studio.images(mesh, views, 128)[:, :3].movedim(1, -1), mask))
    return torch.stack(found)


def contact_sheet(pictures: list[Tensor], across: int = 5, tile: int = 144) -> np.ndarray:
    """People [V,3,S,S] side by side, `across` in a row, uint8 [H,W,3]."""
    strips = [torch.cat([*F.interpolate(p, size=(tile, tile), mode="area")], 2) for p in pictures]
    strips += [torch.ones_like(strips[0])] * (-len(strips) % across)
    lines = [torch.cat(strips[i : i + across], 2) for i in range(0, len(strips), across)]
    return (torch.cat(lines, 1).movedim(0, -1).clamp(0, 1) * 255).round().byte().numpy()
