"""Captures of a known subject, made by program as capture tools and phones write them.

The subject is drawn by our rasteriser. How images of a lens are made from that is written here once more, not
taken from the reader: points on rays are projected by the lens's formula, which is inverted numerically. So
lens, pose, mask, orientation and colours are all judged by one number: how far the images that the reader
returns are from the subject as drawn for the cameras that it returns (`agreement`).
"""

from __future__ import annotations

import json
import math
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from specularip.avatar import Avatar
from specularip.body import Phenotype, anny_body
from specularip.cameras import Cameras
from specularip.captures.frames import Lens
from specularip.captures.views import PosedImages
from specularip.files import to_uint8
from specularip.gaussians import Gaussians
from specularip.placement import Placement
from specularip.specular import LATENTS

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from colour_profiles import DISPLAY_P3, PROPHOTO, SRGB, Primaries, profile  # noqa: F401

SIZE, FOCAL = 96, 110.0
PORTRAIT = Lens("pinhole", 72, SIZE, FOCAL, FOCAL, 36, SIZE / 2)
PINHOLE = Lens("pinhole", SIZE, SIZE, FOCAL, FOCAL, SIZE / 2, SIZE / 2)
OPENCV = Lens(
    "opencv", SIZE, SIZE, FOCAL, 1.02 * FOCAL, SIZE / 2 + 1.5, SIZE / 2 - 1, (-0.2, 0.05, 2e-3, -1e-3)
)
FISHEYE = Lens("fisheye", SIZE, SIZE, 90.0, 90.0, SIZE / 2, SIZE / 2, (0.05, -0.02, 0.01, -0.005))
HERE = Placement.identity()
ELSEWHERE = Placement(
    100.0,
    torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]]),
    torch.tensor([300.0, -120.0, 50.0]),
)
"""y up, centimetres, and farther from the origin than a person is tall."""
GAUSSIANS = 6000


@dataclass(frozen=True)
class Shot:
    """pose [4,4] float64: camera to world, OpenGL axes. pixels: uint8 [H,W,4], straight alpha."""

    pose: np.ndarray
    pixels: np.ndarray


@cache
def subject() -> Avatar:
    """A person in A-pose: Gaussians on the body model's surface, in colours that vary from place to place."""
    generator = torch.Generator().manual_seed(0)
    body = anny_body(Phenotype())
    corners = body.vertices[body.faces]
    areas = torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]).norm(dim=-1)
    chosen = torch.multinomial(areas, GAUSSIANS, replacement=True, generator=generator)
    weights = torch.rand(GAUSSIANS, 3, generator=generator).log()
    means = ((weights / weights.sum(1, keepdim=True))[..., None] * corners[chosen]).sum(1)
    waves = torch.tensor([[3.0, 1.0, 5.0], [-2.0, 4.0, 7.0], [5.0, -3.0, 4.0]])
    colors = 0.5 + 0.4 * torch.sin(means @ waves.T + torch.tensor([0.0, 2.0, 4.0]))
    quats = torch.zeros(GAUSSIANS, 4)
    quats[:, 0] = 1.0
    joints, joint_weights = torch.zeros(GAUSSIANS, 4, dtype=torch.long), torch.zeros(GAUSSIANS, 4)
    joint_weights[:, 0] = 1.0
    return Avatar(
        Gaussians(
            means=means,
            quats=quats,
            log_scales=torch.full((GAUSSIANS, 3), math.log(0.012)),
            opacity_logits=torch.full((GAUSSIANS,), 4.0),
            color_logits=torch.logit(colors),
            latents=torch.zeros(GAUSSIANS, LATENTS),
            normal_residuals=torch.zeros(GAUSSIANS, 3),
            regions=torch.zeros(GAUSSIANS, dtype=torch.long),
            bind_joints=joints,
            bind_weights=joint_weights,
        ),
        None,
        {"prompt": "a person made by program"},
    )


def drawn(cameras: Cameras) -> tuple[torch.Tensor, torch.Tensor]:
    """The subject: images [V,H,W,3], premultiplied on black, and alphas [V,H,W,1]."""
    with torch.no_grad():
        frame = subject().prepare().render(cameras, 0.0)
    return frame.image, frame.alpha


@cache
def shots(count: int = 10, lens: Lens = PINHOLE) -> tuple[Shot, ...]:
    """The subject from all sides."""
    azimuths = [360.0 * k / count for k in range(count)]
    elevations = [(8.0, 20.0, -5.0)[k % 3] for k in range(count)]
    orbit = Cameras.orbit(azimuths, elevations, 2.6, 40.0, 8, 8)
    found = []
    for viewmat in orbit.viewmats:
        pose = np.linalg.inv(viewmat.double().numpy())
        pose[:3, 1:3] *= -1
        found.append(Shot(pose, _taken(viewmat, lens)))
    return tuple(found)


def _taken(viewmat: torch.Tensor, lens: Lens) -> np.ndarray:
    """The subject through a lens, uint8 [H,W,4], straight alpha."""
    K = torch.tensor([[lens.fx, 0.0, lens.cx], [0.0, lens.fy, lens.cy], [0.0, 0.0, 1.0]])
    if lens.model == "pinhole":
        image, alpha = drawn(Cameras(viewmat[None], K[None], lens.width, lens.height))
        pixels = torch.cat([image, alpha], -1)[0]
    else:
        # A wide pinhole image of the same focal length, looked up where the lens's rays meet it.
        rays = rays_of(lens)
        side = math.ceil(2.05 * np.abs(rays).max() * lens.fx)
        wide = torch.tensor([[lens.fx, 0.0, side / 2], [0.0, lens.fx, side / 2], [0.0, 0.0, 1.0]])
        image, alpha = drawn(Cameras(viewmat[None], wide[None], side, side))
        pixels = resampled(torch.cat([image, alpha], -1)[0], rays * lens.fx + side / 2)
    return straight(pixels)


def straight(pixels: torch.Tensor) -> np.ndarray:
    """uint8 [H,W,4] with straight alpha, of premultiplied pixels [H,W,4] in 0..1."""
    alpha = pixels[..., 3:].clamp(0, 1)
    color = (pixels[..., :3] / alpha.clamp_min(1e-6)).clamp(0, 1) * (alpha > 0)
    return to_uint8(torch.cat([color, alpha], -1))


def resampled(pixels: torch.Tensor, places: np.ndarray) -> torch.Tensor:
    """Pixels [H,W,4] at places [h,w,2], bicubic, centres at +0.5; nothing is outside."""
    height, width = pixels.shape[:2]
    grid = torch.from_numpy(places / (width, height) * 2 - 1).float()
    found = torch.nn.functional.grid_sample(
        pixels.movedim(-1, 0)[None], grid[None], mode="bicubic", padding_mode="zeros", align_corners=False
    )
    return found[0].movedim(0, -1).clamp(0, 1)


@cache
def rays_of(lens: Lens) -> np.ndarray:
    """Where the rays of the pixels' centres meet the plane at depth 1, [H,W,2]: OpenCV's formulas, inverted
    by fixed-point iteration (as its undistortPoints does) and by Newton's method."""
    v, u = np.mgrid[: lens.height, : lens.width] + 0.5
    target = np.stack([(u - lens.cx) / lens.fx, (v - lens.cy) / lens.fy], -1)
    if lens.model == "fisheye":
        distance = np.linalg.norm(target, axis=-1)
        theta = distance.copy()
        for _ in range(30):
            powers = [theta ** (2 * k) for k in range(5)]
            value = theta * sum(c * p for c, p in zip((1.0, *lens.distortion), powers))
            slope = sum((2 * k + 1) * c * p for k, (c, p) in enumerate(zip((1.0, *lens.distortion), powers)))
            theta -= (value - distance) / slope
        return target * (np.tan(theta) / np.maximum(distance, 1e-12))[..., None]
    k1, k2, p1, p2, k3 = (*lens.distortion, 0.0)[:5]
    rays = target.copy()
    for _ in range(100):
        x, y = rays[..., 0], rays[..., 1]
        r2 = x * x + y * y
        tangential = np.stack(
            [2 * p1 * x * y + p2 * (r2 + 2 * x * x), p1 * (r2 + 2 * y * y) + 2 * p2 * x * y], -1
        )
        rays = (target - tangential) / (1 + r2 * (k1 + r2 * (k2 + r2 * k3)))[..., None]
    return rays


def moved(pose: np.ndarray, world: Placement) -> np.ndarray:
    """A camera-to-world matrix in the world to which `world` leads."""
    rotation, found = world.rotation.double().numpy(), pose.copy()
    found[:3, :3] = rotation @ pose[:3, :3]
    found[:3, 3] = world.scale * rotation @ pose[:3, 3] + world.translation.double().numpy()
    return found


def agreement(
    views: PosedImages, world: Placement = HERE, background: Sequence[float] | None = None
) -> float:
    """PSNR in dB, over colours and alpha of all views, of what was read against the subject as drawn for the
    cameras that were read. background: of images without alpha."""
    error, count = 0.0, 0
    to_subject = world.inverse() @ views.placement
    for view in views:
        image, alpha = drawn(to_subject.cameras(view.camera))
        if background is not None:
            image = image + (1 - alpha) * torch.tensor(background)
            alpha = torch.ones_like(alpha)
        for read, truth in ((view.image, image[0]), (view.alpha, alpha[0])):
            error += float((read - truth).double().square().sum())
            count += truth.numel()
    return -10 * math.log10(max(error / count, 1e-10))


# Writers


def save_png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def in_profile(primaries: Primaries, gamma: float, path: Path, pixels: np.ndarray) -> None:
    """A PNG in another colour space, whose profile it has."""
    value = pixels[..., :3] / 255
    linear = np.where(value < 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    other = (linear @ np.array(SRGB) @ np.linalg.inv(np.array(primaries))).clip(0, 1) ** (1 / gamma)
    encoded = np.concatenate([np.rint(255 * other).astype(np.uint8), pixels[..., 3:]], -1)
    Image.fromarray(encoded).save(path, icc_profile=profile(primaries, gamma))


def save_opaque(color: tuple[int, int, int], **options: Any) -> Callable[[Path, np.ndarray], None]:
    """Saves pixels over a colour, without alpha. options: Pillow's."""

    def save(path: Path, pixels: np.ndarray) -> None:
        over = Image.new("RGBA", pixels.shape[1::-1], (*color, 255))
        Image.alpha_composite(over, Image.fromarray(pixels)).convert("RGB").save(path, **options)

    return save


def lens_keys(lens: Lens) -> dict[str, Any]:
    """As nerfstudio writes it."""
    keys: dict[str, Any] = {"w": lens.width, "h": lens.height, "fl_x": lens.fx, "fl_y": lens.fy}
    keys |= {"cx": lens.cx, "cy": lens.cy}
    if lens.model == "opencv":
        return keys | {"camera_model": "OPENCV"} | dict(zip(("k1", "k2", "p1", "p2"), lens.distortion))
    if lens.model == "fisheye":
        return (
            keys | {"camera_model": "OPENCV_FISHEYE"} | dict(zip(("k1", "k2", "k3", "k4"), lens.distortion))
        )
    return keys


def nerfstudio(
    folder: Path,
    taken: Sequence[Shot],
    lens: Lens | None = PINHOLE,
    name: str = "images/frame_{:05d}.png",
    save: Callable[[Path, np.ndarray], None] = save_png,
    world: Placement = HERE,
    told: Callable[[str], str] = str,
    each: Mapping[str, Sequence[Any]] | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """transforms.json and its images. lens: for all frames; None: `keys` or `each` say it. told: how the file
    writes an image's name. each: keys of frames and their values. Returns the table."""
    frames = []
    for index, shot in enumerate(taken):
        path = folder / name.format(index)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(path, shot.pixels)
        pose = moved(shot.pose, world).tolist()
        frame = {key: values[index] for key, values in (each or {}).items()}
        frames.append({"file_path": told(name.format(index)), "transform_matrix": pose, **frame})
    table = {**(lens_keys(lens) if lens else {}), **keys, "frames": frames}
    write_table(folder, table)
    return table


def write_table(folder: Path, table: dict[str, Any], name: str = "transforms.json") -> None:
    (folder / name).write_text(json.dumps(table))


def write_masks(folder: Path, taken: Sequence[Shot], name: str = "masks/frame_{:05d}.png") -> list[str]:
    """The shots' alphas as grey images. Returns their names."""
    names = [name.format(index) for index in range(len(taken))]
    for one, shot in zip(names, taken):
        (folder / one).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(shot.pixels[..., 3])).save(folder / one)
    return names


def cloud() -> np.ndarray:
    """Points [N,3] on the subject."""
    return subject().gaussians.means[::20].double().numpy()


def write_cloud(path: Path) -> None:
    """The points as an ASCII PLY, as nerfstudio writes sparse_pc.ply."""
    points = cloud()
    header = f"ply\nformat ascii 1.0\nelement vertex {len(points)}\n"
    header += "".join(f"property float {axis}\n" for axis in "xyz")
    header += "".join(f"property uint8 {color}\n" for color in ("red", "green", "blue")) + "end_header\n"
    path.write_text(header + "".join("{:.6f} {:.6f} {:.6f} 120 90 60\n".format(*point) for point in points))


def colmap(folder: Path, taken: Sequence[Shot], lens: Lens = PINHOLE, binary: bool = True) -> None:
    """sparse/0 and images/, as COLMAP writes them."""
    (folder / "images").mkdir()
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    numbers = {"pinhole": 1, "opencv": 4, "fisheye": 5}
    names = {"pinhole": "PINHOLE", "opencv": "OPENCV", "fisheye": "OPENCV_FISHEYE"}
    parameters = (lens.fx, lens.fy, lens.cx, lens.cy, *lens.distortion[:4])
    images, points = [], cloud()
    for index, shot in enumerate(taken):
        file = f"{index:03d}.png"
        save_png(folder / "images" / file, shot.pixels)
        flipped = shot.pose.copy()
        flipped[:3, 1:3] *= -1
        viewmat = np.linalg.inv(flipped)
        images.append((index + 1, _quaternion(viewmat[:3, :3]), viewmat[:3, 3], file))
    if binary:
        data = struct.pack("<QIiQQ", 1, 1, numbers[lens.model], lens.width, lens.height)
        (model / "cameras.bin").write_bytes(data + struct.pack(f"<{len(parameters)}d", *parameters))
        data = struct.pack("<Q", len(images))
        for number, quat, shift, file in images:
            data += (
                struct.pack("<I7dI", number, *quat, *shift, 1) + file.encode() + b"\0" + struct.pack("<Q", 0)
            )
        (model / "images.bin").write_bytes(data)
        data = struct.pack("<Q", len(points))
        for number, point in enumerate(points):
            data += struct.pack("<Q3d3BdQ", number, *point, 120, 90, 60, 0.5, 0)
        (model / "points3D.bin").write_bytes(data)
        return
    line = " ".join(map(str, (1, names[lens.model], lens.width, lens.height, *parameters)))
    (model / "cameras.txt").write_text(f"# Camera list\n{line}\n")
    lines = [
        f"{number} {' '.join(map(str, [*quat, *shift]))} 1 {file}\n\n" for number, quat, shift, file in images
    ]
    (model / "images.txt").write_text("# Image list\n" + "".join(lines))
    rows = ["{} {} {} {} 120 90 60 0.5\n".format(number, *point) for number, point in enumerate(points)]
    (model / "points3D.txt").write_text("".join(rows))


def _quaternion(rotation: np.ndarray) -> np.ndarray:
    """wxyz: the eigenvector of the largest eigenvalue of Bar-Itzhack's matrix (2000)."""
    a = rotation
    K = np.array(
        [
            [a[0, 0] + a[1, 1] + a[2, 2], a[2, 1] - a[1, 2], a[0, 2] - a[2, 0], a[1, 0] - a[0, 1]],
            [a[2, 1] - a[1, 2], a[0, 0] - a[1, 1] - a[2, 2], a[0, 1] + a[1, 0], a[0, 2] + a[2, 0]],
            [a[0, 2] - a[2, 0], a[0, 1] + a[1, 0], a[1, 1] - a[0, 0] - a[2, 2], a[1, 2] + a[2, 1]],
            [a[1, 0] - a[0, 1], a[0, 2] + a[2, 0], a[1, 2] + a[2, 1], a[2, 2] - a[0, 0] - a[1, 1]],
        ]
    )
    return np.linalg.eigh(K)[1][:, -1]


def polycam(folder: Path, taken: Sequence[Shot]) -> None:
    """Polycam's raw data."""
    cameras, images = folder / "keyframes/corrected_cameras", folder / "keyframes/corrected_images"
    cameras.mkdir(parents=True)
    images.mkdir()
    lens = {"fx": FOCAL, "fy": FOCAL, "cx": SIZE / 2, "cy": SIZE / 2, "width": SIZE, "height": SIZE}
    for index, shot in enumerate(taken):
        save_png(images / f"{index}.png", shot.pixels)
        entries = {f"t_{row}{column}": shot.pose[row, column] for row in range(3) for column in range(4)}
        (cameras / f"{index}.json").write_text(json.dumps({**entries, **lens}))


def record3d(folder: Path, taken: Sequence[Shot]) -> None:
    """Record3D's export as images."""
    (folder / "rgb").mkdir()
    poses = []
    for index, shot in enumerate(taken):
        save_png(folder / "rgb" / f"{index}.png", shot.pixels)
        w, x, y, z = _quaternion(shot.pose[:3, :3])
        poses.append([x, y, z, w, *shot.pose[:3, 3]])
    K = [FOCAL, 0, 0, 0, FOCAL, 0, SIZE / 2, SIZE / 2, 1]  # by columns
    (folder / "metadata.json").write_text(json.dumps({"poses": poses, "K": K, "w": SIZE, "h": SIZE}))
