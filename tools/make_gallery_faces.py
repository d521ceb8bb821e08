"""The made faces of examples/gallery: people who do not exist, drawn with nothing but what the package ships.

    python tools/make_gallery_faces.py [--out examples/gallery/faces] [--only NAME ...]

The compact prior draws head and shoulders from a sentence and no photo: hair, clothes, the tone of the skin
and its light. Its faces are soft, so the face is drawn again on the body that the prior was given, which has
a random head: the mesh of millimetres under a lamp, with lips, brows, eyes and pores. A core takes 15 seconds
a face.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from torch import Tensor

from specularip.body import Body, anny_body, phenotype_from_text
from specularip.body.dense_head import DenseHead
from specularip.body.head import HeadModel
from specularip.cameras import FULL, HEAD, Cameras, Views
from specularip.diffusion.prior import Prior
from specularip.diffusion.prompts import PromptBook
from specularip.diffusion.sample import sample
from specularip.faces.projection import BROWS, EYES, LIPS, OVAL
from specularip.files import atomic_path
from specularip.presets import preset_config
from specularip.raster.mesh import render_attributes
from specularip.run_networks import load_prior
from specularip.stages.guide import Guide

FACES = Path(__file__).resolve().parents[1] / "examples" / "gallery" / "faces"
SIZE, QUALITY = 448, 90
"""Side of a photo in pixels, and its JPEG quality."""
LOOKS = ((HEAD, 0.0), (HEAD, 50.0), (HEAD, -50.0), (HEAD, 180.0), (FULL, 0.0), (FULL, 180.0))
"""The views that the prior draws together; the first becomes the photo."""
ELEVATION_DEG = 3.0
FRAME = 1.8
"""Side of the photo in heights of the face."""
SHAPE = 0.4
"""Deviation of the weights of the head's shapes, 1 being usual: the fewer corners, the likelier the face."""
BROWN, DARK, HAZEL, BLUE = (0.30, 0.17, 0.09), (0.13, 0.08, 0.06), (0.36, 0.28, 0.15), (0.36, 0.47, 0.56)
JAW = (
    234, 93, 132, 58, 172, 136, 150, 149, 176, 148, 152,
    377, 400, 378, 379, 365, 397, 288, 361, 323, 454,
)  # fmt: skip
CHEEKS = (425, 426, 327, 2, 98, 206, 205)
UPPER_LIP = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
LOWER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291)
"""Landmarks: the jaw from ear to ear, where a beard ends on the cheeks, and the outer edges of the lips."""
FINE = 4
"""Samples of a drawn mask in a pixel, in each direction."""
Rgb = tuple[float, float, float]


@dataclass(frozen=True)
class Face:
    """text: as the prior reads it. iris, brows (and beard), backdrop: sRGB in 0..1. beard: 0 none to 1 full.
    lips: how red they are, 0 as the skin to 1."""

    text: str
    seed: int
    iris: Rgb
    brows: Rgb
    backdrop: Rgb
    beard: float = 0.0
    lips: float = 0.6


PEOPLE = {
    "woman_young_dark": Face(
        "A young African woman with dark skin and long black hair, in a white t-shirt",
        1, DARK, (0.05, 0.04, 0.04), (0.55, 0.60, 0.63), lips=0.9,
    ),
    "man_young_fair": Face(
        "A young man with fair skin and short blonde hair, in a navy sweater",
        2, BLUE, (0.40, 0.29, 0.18), (0.62, 0.64, 0.60),
    ),
    "man_old_bearded": Face(
        "An old man with fair skin, short white hair and a full beard, in a blue shirt",
        3, BLUE, (0.62, 0.60, 0.58), (0.50, 0.55, 0.52), beard=0.75,
    ),
    "man_middle_aged_asian": Face(
        "A middle-aged Asian man with short black hair, in a grey suit and a white shirt",
        4, DARK, (0.06, 0.05, 0.05), (0.60, 0.58, 0.54),
    ),
    "boy_brown_hair": Face(
        "A boy with pale skin and short brown hair, in a red t-shirt",
        31, BROWN, (0.36, 0.25, 0.18), (0.63, 0.66, 0.70),
    ),
    "girl_red_hair": Face(
        "A girl with pale skin and a red braid, in a green t-shirt",
        6, HAZEL, (0.50, 0.28, 0.15), (0.66, 0.64, 0.58),
    ),
    "man_bald_dark": Face(
        "An African man with very dark skin, bald, with a short beard, in an orange sweater",
        7, DARK, (0.04, 0.035, 0.035), (0.52, 0.56, 0.60), beard=0.5,
    ),
    "woman_young_asian": Face(
        "A young Asian woman with long black hair, in a pink blouse",
        8, DARK, (0.08, 0.06, 0.06), (0.64, 0.60, 0.62), lips=0.9,
    ),
    "woman_middle_aged_brown": Face(
        "A heavy middle-aged woman with brown skin and long black hair, in a yellow blouse",
        9, BROWN, (0.08, 0.06, 0.05), (0.56, 0.60, 0.56), lips=0.9,
    ),
    "boy_teenage_brown": Face(
        "A teenage boy with brown skin and a black afro, in a purple hoodie",
        10, BROWN, (0.07, 0.05, 0.05), (0.60, 0.62, 0.66),
    ),
    "woman_old": Face(
        "An old woman with light skin and short white hair, in a burgundy sweater",
        11, BLUE, (0.55, 0.52, 0.50), (0.58, 0.56, 0.52), lips=0.9,
    ),
    "woman_olive": Face(
        "A woman with olive skin and long brown hair, in a white shirt",
        12, HAZEL, (0.20, 0.13, 0.09), (0.60, 0.58, 0.58), lips=0.9,
    ),
}  # fmt: skip


# What the prior draws


@torch.no_grad()
def head_and_shoulders(prior: Prior, face: Face, body: Body) -> tuple[np.ndarray, np.ndarray, Cameras]:
    """The prior's front view [S,S,3] and alpha [S,S,1] in 0..1, and its camera."""
    config = preset_config("compact")
    count = len(LOOKS)
    framings, azimuth = [look for look, _ in LOOKS], torch.tensor([angle for _, angle in LOOKS])
    targets = torch.zeros(count, 3)
    targets[:, 2] = torch.tensor([framing.target_z for framing in framings]) * body.height
    distance = torch.tensor([framing.distance for framing in framings]) * body.height
    fov, size = torch.tensor([framing.fov_y_deg for framing in framings]), prior.image_size
    cameras = Cameras.orbit(azimuth, ELEVATION_DEG, distance, fov, size, size, targets)
    views = Views(cameras, azimuth, torch.full((count,), ELEVATION_DEG), framings, targets)
    guide = Guide(prior, PromptBook(prior), face.text, prior.null_face(1), body, config)
    images = sample(
        prior, guide.condition(views), steps=config.start.ddim_steps, scale=config.start.scale,
        rescale=config.start.rescale, last=config.start.last_timesteps,
        generator=torch.Generator().manual_seed(face.seed), batch=count,
    )  # fmt: skip
    front = images[0].float().clamp(0, 1).permute(1, 2, 0).numpy()
    return front[..., :3], front[..., 3:4], cameras[0]


def cropped(camera: Cameras, corner: np.ndarray, side: float) -> Cameras:
    """The camera of a square of its image, SIZE pixels wide.

    corner [2], the upper left one, and side are in pixels of the image.
    """
    Ks = camera.Ks.clone()
    Ks[:, :2, 2] -= torch.from_numpy(corner).float()
    Ks[:, :2] *= SIZE / side
    return Cameras(camera.viewmats, Ks, SIZE, SIZE)


def enlarged(image: np.ndarray, corner: np.ndarray, side: float) -> np.ndarray:
    """That square of an image [S,S,C], as [SIZE,SIZE,C]; beyond the image its edge goes on."""
    beyond = image.shape[0] // 4
    image = np.pad(image, ((beyond, beyond), (beyond, beyond), (0, 0)), mode="edge")
    box = (*(corner + beyond).tolist(), *(corner + beyond + side).tolist())
    channels = [
        Image.fromarray(image[..., c]).resize((SIZE, SIZE), Image.Resampling.BICUBIC, box=box)
        for c in range(image.shape[-1])
    ]
    return np.clip(np.stack([np.asarray(channel) for channel in channels], -1), 0, 1)


# What is drawn by program


def lit(body: Body, camera: Cameras) -> np.ndarray:
    """The head in white under a lamp in front of it and a bright room, [SIZE,SIZE,1]."""
    dense = DenseHead.load()
    points = dense.at(body.vertices)
    corners = points[dense.faces]
    across = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals = torch.zeros_like(points).index_add(0, dense.faces.flatten(), across.repeat_interleave(3, 0))
    normals = torch.nn.functional.normalize(normals, dim=1)
    lamp = torch.nn.functional.normalize(torch.tensor([-0.35, -0.8, 0.5]), dim=0)
    light = 0.45 + 0.55 * (normals @ lamp).clamp_min(0)[:, None]
    images, _ = render_attributes(points, dense.faces, light, camera, 3)
    return images[0].permute(1, 2, 0).numpy()


def drawn(draw: Callable[[ImageDraw.ImageDraw], None], blur: float = 0.0) -> np.ndarray:
    """A mask [SIZE,SIZE,1] in 0..1 of what is drawn in units of 1/FINE pixel."""
    mask = Image.new("L", (SIZE * FINE, SIZE * FINE))
    draw(ImageDraw.Draw(mask))
    pixels = np.asarray(mask.resize((SIZE, SIZE), Image.Resampling.BOX), np.float32) / 255
    return gaussian_filter(pixels, blur)[..., None]


def corners_of(points: np.ndarray) -> list[tuple[float, ...]]:
    return [tuple(point) for point in points * FINE]


def polygon(points: np.ndarray, blur: float, scale: float = 1.0) -> np.ndarray:
    """The mask of the polygon of points [n,2], enlarged about its middle."""
    outline = points.mean(0) + scale * (points - points.mean(0))
    return drawn(lambda draw: draw.polygon(corners_of(outline), fill=255), blur)


def line(points: np.ndarray, width: float, blur: float) -> np.ndarray:
    """The mask of the line through points [n,2]."""
    wide = round(width * FINE)
    return drawn(lambda draw: draw.line(corners_of(points), fill=255, width=wide, joint="curve"), blur)


def noise(rng: np.random.Generator, sigma: float | tuple[float, float]) -> np.ndarray:
    """A field [SIZE,SIZE,1] of deviation 1 whose details are sigma pixels wide, or (high, wide)."""
    field = gaussian_filter(rng.standard_normal((SIZE, SIZE)), sigma)
    return (field / field.std()).astype(np.float32)[..., None]


def over(image: np.ndarray, color: Rgb | np.ndarray, mask: np.ndarray) -> np.ndarray:
    return image + mask * (np.asarray(color, np.float32) - image)


def darker(image: np.ndarray, factor: float | Rgb, mask: np.ndarray) -> np.ndarray:
    return image * (1 + mask * (np.asarray(factor, np.float32) - 1))


def smooth(image: np.ndarray, weight: np.ndarray, sigma: float) -> np.ndarray:
    """Means of an image [H,W,C] over its surroundings, by weight [H,W,1]."""
    total = gaussian_filter(weight, (sigma, sigma, 0)) + 1e-4
    return gaussian_filter(image * weight, (sigma, sigma, 0)) / total


def portrait(
    face: Face, soft: np.ndarray, cover: np.ndarray, places: np.ndarray, shaded: np.ndarray
) -> np.ndarray:
    """The photo [SIZE,SIZE,3]: the prior's soft one, of alpha `cover`, with the face drawn in.

    places [468,2]: the landmarks in the photo. The face has the tones of `soft`, and the relief of `shaded`.
    """
    rng = np.random.default_rng(face.seed)
    unit = float(np.linalg.norm(places[EYES[0][0]] - places[EYES[1][0]]))  # between the outer corners
    rows = np.arange(SIZE)[:, None, None]
    oval, covered = places[list(OVAL)], (shaded > 0).astype(np.float32)
    skin = np.median(soft[polygon(oval, 0.0, 0.8)[..., 0] > 0.9], axis=0)
    unlike = np.where(soft > skin, 0.7, 1.0) * (soft - skin)  # highlights are skin, too
    alike = gaussian_filter(np.exp(-np.square(unlike / 0.22).sum(-1, keepdims=True)), (2, 2, 0))
    wide = polygon(oval - np.array([0, 0.06 * unit]), 0.10 * unit, 1.08)
    below_brows = (rows > places[9, 1] - 0.12 * unit) * np.ones((SIZE, SIZE, 1))
    core = polygon(oval, 0.05 * unit, 0.85) * gaussian_filter(below_brows, (0.05 * unit, 0, 0))
    inside = np.maximum(core, wide * alike) * covered  # above the brows only skin, for there hair may hang
    # The relief is the mesh's, the tone that of the prior, which knows the sentence.
    relief = shaded * (1 + 0.012 * noise(rng, 0.7) + 0.012 * noise(rng, 2.5) + 0.015 * noise(rng, 8.0))
    weight = np.maximum(wide, 0.01) * alike * covered
    image = relief * smooth(soft, weight, 0.2 * unit) / smooth(relief, weight, 0.2 * unit).clip(0.05)
    image = mouth(image, face, places, unit)
    if face.beard:
        image = bearded(image, face, places, unit, rng)
    for brow in BROWS:
        image = over(image, face.brows, eyebrow(places[list(brow)], unit, rng))
    for eye in EYES:
        image = eyeball(image, face, places[list(eye)], unit)
    unlike_skin = np.linalg.norm(soft - skin, axis=-1, keepdims=True)
    above_chin = np.clip((places[152, 1] - rows) / unit + 0.3, 0, 1)
    hair = np.clip(unlike_skin / 0.15 - 1, 0, 1) * cover * (1 - wide) * above_chin
    return np.clip(over(soft * (1 + 0.10 * hair * noise(rng, (5.0, 0.8))), image, inside), 0, 1)


def mouth(image: np.ndarray, face: Face, places: np.ndarray, unit: float) -> np.ndarray:
    """Red lips and the line between them."""
    image = darker(image, (0.88, 0.70, 0.70), face.lips * polygon(places[list(LIPS)], 0.012 * unit))
    between = 0.55 * places[list(UPPER_LIP)] + 0.45 * places[list(LOWER_LIP)]
    return darker(image, (0.45, 0.3, 0.3), 0.6 * line(between, 0.02 * unit, 0.008 * unit))


def bearded(
    image: np.ndarray, face: Face, places: np.ndarray, unit: float, rng: np.random.Generator
) -> np.ndarray:
    """Short hairs on chin, jaw and upper lip."""
    region = polygon(places[list(JAW + CHEEKS)], 0.05 * unit)
    region *= 1 - polygon(places[list(LIPS)], 0.015 * unit, 1.06)
    hairs = np.clip(0.75 + 0.25 * noise(rng, (2.2, 0.7)), 0, 1)
    color = np.asarray(face.brows) * (1 + 0.15 * noise(rng, (3.0, 0.8)))
    return over(image, color, face.beard * region * hairs)


def eyebrow(outline: np.ndarray, unit: float, rng: np.random.Generator) -> np.ndarray:
    """The mask of hairs in the outline [10,2] of a brow: its upper edge inwards, its lower edge outwards."""
    upper, lower = outline[:5], outline[:4:-1]
    outwards = (upper[0] - upper[4]) / np.linalg.norm(upper[0] - upper[4])
    place = rng.uniform((0, 0.15), (4, 0.85), (160, 2))
    at = np.stack([interp(place[:, :1], upper), interp(place[:, :1], lower)])
    roots = place[:, 1:] * at[0] + (1 - place[:, 1:]) * at[1]
    tips = roots + unit * (0.045 * outwards + (0, -0.02) + rng.normal(0, 0.006, (160, 2)))

    def hairs(draw: ImageDraw.ImageDraw) -> None:
        for hair in np.stack([roots, tips], 1):
            draw.line(corners_of(hair), fill=200, width=3)

    shadow = polygon(np.concatenate([upper, lower[::-1]]), 0.015 * unit, 0.9)
    return np.clip(0.3 * shadow + 0.75 * drawn(hairs), 0, 0.8)


def interp(at: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Places [n,2] on the line through points [m,2], at [n,1] in 0..m-1."""
    return np.concatenate([np.interp(at, np.arange(len(points)), points[:, axis]) for axis in (0, 1)], 1)


def eyeball(image: np.ndarray, face: Face, lids: np.ndarray, unit: float) -> np.ndarray:
    """An eye between its lids [16,2]: outer corner, upper lid, inner corner, lower lid."""
    upper, lower = lids[:9], lids[[0, *range(15, 7, -1)]]
    middle = np.array([(upper[0, 0] + upper[8, 0]) / 2, 0.55 * upper[:, 1].min() + 0.45 * lower[:, 1].max()])

    def disc(radius: float, shift: tuple[float, float] = (0.0, 0.0)) -> np.ndarray:
        y, x = np.mgrid[:SIZE, :SIZE] + 0.5
        away = np.hypot(x - middle[0] - shift[0] * unit, y - middle[1] - shift[1] * unit)
        return np.clip(radius * unit - away + 0.5, 0, 1)[..., None].astype(np.float32)

    ball = over(np.full_like(image, (0.69, 0.62, 0.60)), (0.80, 0.77, 0.74), disc(0.11))
    ball = over(ball, np.multiply(face.iris, 0.45), disc(0.066))
    ball = over(ball, face.iris, disc(0.056) - 0.4 * disc(0.035))
    ball = over(ball, (0.02, 0.02, 0.02), disc(0.025))
    ball = over(ball, (0.95, 0.95, 0.95), disc(0.011, (-0.02, -0.022)))
    ball = darker(ball, 0.45, line(upper + (0, 0.015 * unit), 0.05 * unit, 0.012 * unit))  # noqa: RUF005
    image = over(image, ball, polygon(lids, 0.004 * unit))
    image = over(image, (0.06, 0.04, 0.04), 0.85 * line(upper, 0.02 * unit, 0.006 * unit))
    image = darker(image, 0.6, 0.6 * line(lower, 0.014 * unit, 0.006 * unit))
    return darker(image, 0.62, 0.6 * line(upper - (0, 0.055 * unit), 0.016 * unit, 0.012 * unit))


def make(name: str, prior: Prior) -> np.ndarray:
    """The photo of one of PEOPLE, uint8 [SIZE,SIZE,3]."""
    face, head = PEOPLE[name], HeadModel.load()
    shape = SHAPE * torch.randn(len(head.shapes), generator=torch.Generator().manual_seed(face.seed))
    body = anny_body(phenotype_from_text(face.text), head.offsets(shape))
    image, alpha, camera = head_and_shoulders(prior, face, body)
    landmarks: Tensor = head.landmarks(body.vertices)
    at = camera.project(landmarks)[0][0].numpy()
    side = FRAME * float(np.ptp(at[:, 1]))
    corner = 0.5 * (at.min(0) + at.max(0)) - np.array([0.5, 0.52]) * side
    corner[1] = min(corner[1], image.shape[0] - side)
    near = cropped(camera, corner, side)
    soft, cover = enlarged(image, corner, side), enlarged(alpha, corner, side)
    photo = portrait(face, soft, cover, near.project(landmarks)[0][0].numpy(), lit(body, near))
    grey = preset_config("compact").background
    photo = photo + (1 - cover) * (np.asarray(face.backdrop, np.float32) - grey)
    return (np.clip(photo, 0, 1) * 255).round().astype(np.uint8)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=FACES)
    parser.add_argument("--only", nargs="+", choices=list(PEOPLE), default=list(PEOPLE))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    prior = load_prior(preset_config("compact").prior)
    for name in args.only:
        with atomic_path(args.out / f"{name}.jpg") as temporary:
            Image.fromarray(make(name, prior)).save(temporary, format="JPEG", quality=QUALITY, optimize=True)
        print(args.out / f"{name}.jpg", flush=True)


if __name__ == "__main__":
    main()
