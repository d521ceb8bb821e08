"""Baking: the head's colours as explicit functions of the view direction, which a viewer evaluates.

The colour that the head gives a Gaussian depends on the view direction only, so baking needs no images: the
head is sampled in directions all over the sphere, and an explicit function is fitted by least squares,
Gaussian by Gaussian.

- **ASGs** (`asg`): a smooth part and four lobes; a few lines of shader, see docs/baking.md.
- **SH-3** (`HarmonicColors`): spherical harmonics to degree 3, which every 3DGS viewer shows.

The fit should minimise the error of rendered images. A direction's weight is therefore the square of the
Gaussian's contribution to an image from there: errors of neighbouring Gaussians are alike, so that they add
up before they are squared.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import GREY, Avatar, contributions, extent
from specularip.avatar_file import (
    BAKED_HEADER,
    DamagedFile,
    open_tensors,
    save_tensors,
    take,
    take_gaussians,
)
from specularip.baking.asg import LOBES, SMOOTH, Asgs, fit_asgs
from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.export.ply import SH_0, read_harmonics, read_ply, write_ply
from specularip.gaussians import Gaussians, turned_to
from specularip.metrics import psnr
from specularip.posed_images import PosedImages
from specularip.progress import Progress
from specularip.raster import rasterize
from specularip.specular.head import fibonacci_directions, shading_normals
from specularip.specular.shading import tangent_frames

Target = Literal["asg", "sh3"]
FORMAT = 2
"""Version of the baked .safetensors."""
FILE_NAMES: dict[str, str] = {"asg": "baked.safetensors", "sh3": "baked.ply"}
DIRECTIONS, KEPT = 1024, 640
"""Sampled view directions, 6.4° apart, and how many of them, those with the largest weights, ASGs are fitted
to."""
VIEWS, VIEW_SIZE = 128, 384
"""Number and size in pixels of the images that measure contributions."""
FAR = 20.0
"""Distance of their cameras, in radii of the avatar: view directions are nearly the same for all
Gaussians."""
BLUR_DEG = 6.0
"""Kernel width of the interpolation of contributions between those images, a third of the angle between
them."""
UNSEEN = 1e-3
"""Weight, relative to the mean, of a direction that a Gaussian is never seen from: bounds the fit there."""
ROUGH = 1e-4
"""Pull of a harmonic of degree l towards 0, times l (l + 1)."""


@dataclass(frozen=True)
class HarmonicColors:
    """N colours as spherical harmonics to degree 3, with the order, signs and offset of 3DGS: coefficients
    [N,16,3]."""

    coefficients: Tensor

    def __call__(self, view_dirs: Tensor) -> Tensor:
        """Colours [B,N,3] seen along view_dirs [B,N,3], unit, from surface to camera. Clamped at 0, as in
        3DGS renderers."""
        return (torch.einsum("bnj,njc->bnc", harmonics_3(-view_dirs), self.coefficients) + 0.5).clamp_min(0)


@dataclass
class Baked:
    """An avatar with explicit colours. The Gaussians' diffuse colours are not used, and they have no latents.

    antialiased: how it is rendered, see `rasterize`.
    """

    gaussians: Gaussians
    colors: Asgs | HarmonicColors
    antialiased: bool = False
    provenance: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def render(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Tensor:
        """Images [B,H,W,3] in 0..1 over the background (a grey or an RGB), on the device of the Gaussians."""
        cloud = self.gaussians
        cameras = cameras.to(cloud.means.device)
        grey = torch.as_tensor(background, dtype=torch.float32, device=cloud.means.device)
        view_dirs = F.normalize(cameras.positions[:, None] - cloud.means, dim=-1)
        return rasterize(
            cloud.means, cloud.quats, cloud.scales, cloud.opacities, self.colors(view_dirs),
            cameras.viewmats, cameras.Ks, cameras.width, cameras.height, grey.expand(3),
            antialiased=self.antialiased, depth=False,
        ).image.clamp(0, 1)  # fmt: skip

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file and return its path: .safetensors for ASGs, a 3DGS .ply for harmonics; a folder gets
        baked.safetensors or baked.ply. Atomic.

        Raises UserError for another suffix or where nothing can be written.
        """
        if isinstance(self.colors, HarmonicColors):
            path = file_for(path, "sh3")
            base = self.colors.coefficients[:, 0] * SH_0 + 0.5
            write_ply(path, self.gaussians, base, self.colors.coefficients[:, 1:])
            return path
        path = file_for(path, "asg")
        tensors = {f"gaussians.{name}": tensor for name, tensor in self.gaussians.tensors().items()}
        tensors |= {f"asg.{name}": tensor for name, tensor in self.colors.tensors().items()}
        header = {"format": FORMAT, "antialiased": self.antialiased, "provenance": self.provenance}
        save_tensors(path, tensors, {BAKED_HEADER: json.dumps(header)})
        return path


def bake(avatar: Avatar, to: Target = "asg", *, progress: Progress | None = None) -> Baked:
    """The avatar with explicit colours: "asg", four lobes per Gaussian, or "sh3". Deterministic; runs on the
    device of the Gaussians, in bounded memory.

    `agreement` and `held_out` measure the loss of quality. Raises UserError for an avatar without a head,
    ValueError for another `to`.
    """
    if to not in FILE_NAMES:
        raise ValueError(f"to must be 'asg' or 'sh3', got {to!r}")
    if avatar.head is None:
        raise UserError("this avatar has no highlights to bake: give the .safetensors, not the .ply")
    cloud = avatar.gaussians
    sampler = BakeSampler.of(avatar)
    fit_batch = _asgs_for if to == "asg" else _harmonics_for
    if progress is not None:
        progress.start("bake", len(cloud))
    parts = []
    threads = 1 if cloud.means.is_cuda else torch.get_num_threads()
    for part in _on_threads(threads, lambda index: fit_batch(sampler.batch(index)), sampler.chunks()):
        parts.append(part)
        if progress is not None:
            progress.step(min(len(parts) * sampler.chunk, len(cloud)))
    colors = type(parts[0])(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    )
    every = torch.arange(len(cloud), device=cloud.means.device)
    gaussians = replace(cloud.select(every), latents=cloud.latents.new_zeros(len(cloud), 0))
    return Baked(gaussians, colors, avatar.antialiased, dict(avatar.provenance))


def load_baked(path: str | os.PathLike[str]) -> Baked:
    """Read what `Baked.save` wrote, from a folder too, or any 3DGS .ply with its harmonics. A .ply does not
    record `antialiased`, which is then False.

    Raises UserError with one line when the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAMES["asg"]
    if path.suffix == ".ply":
        return Baked(read_ply(path), HarmonicColors(read_harmonics(path)), provenance={"source": path.name})
    if not path.is_file():
        raise UserError(f"no baked avatar at {path}")
    metadata, tensors = open_tensors(path)
    try:
        return _parse(metadata, tensors)
    except DamagedFile as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _parse(metadata: dict[str, str], tensors: dict[str, Tensor]) -> Baked:
    try:
        header = json.loads(metadata.get(BAKED_HEADER, "null"))
    except json.JSONDecodeError:
        raise DamagedFile("its header is not JSON") from None
    if not isinstance(header, dict):
        raise DamagedFile("it is not a baked avatar")
    if header.get("format") != FORMAT:
        raise DamagedFile(
            f"format {header.get('format')} is not {FORMAT}, the one this version reads: bake the avatar "
            "again, or update specularip if a newer version wrote it"
        )
    gaussians = take_gaussians(tensors, latents=0)
    count, lobes = len(gaussians), tensors.get("asg.lights", torch.empty(0, 0)).shape[1:2]
    shapes = {
        **{"quats": (4,), "smooth": (SMOOTH, 3)},
        **{name: (*lobes, 3) for name in ("lights", "shapes", "amplitudes")},
    }
    colors = Asgs(**{name: take(tensors, f"asg.{name}", (count, *shape)) for name, shape in shapes.items()})
    provenance = header.get("provenance")
    if not isinstance(provenance, dict):
        provenance = {}
    return Baked(gaussians, colors, header.get("antialiased") is True, provenance)


def is_baked(path: str | os.PathLike[str]) -> bool:
    """Whether the file is for `load_baked`: a .ply, or the .safetensors of a baked avatar."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            return BAKED_HEADER in (file.metadata() or {})
    except (OSError, SafetensorError):
        return path.suffix == ".ply"


def file_for(path: str | os.PathLike[str], to: Target) -> Path:
    """The file to write: `path` itself, or the default name in the folder `path`. Raises UserError for a file
    name with the wrong suffix."""
    path, default = Path(path), Path(FILE_NAMES[to])
    if path.is_dir() or not path.suffix:
        path = path / default
    if path.suffix != default.suffix:
        raise UserError(f"cannot write {to} to {path}: use a folder or a name that ends in {default.suffix}")
    return path


def agreement(avatar: Avatar, baked: Baked, size: int = 400) -> float:
    """PSNR in dB of the baked avatar's images against the head's: mean over 24 cameras around it, at
    elevations within ±37°."""
    directions = fibonacci_directions(40)
    directions = directions[directions[:, 2].abs() < 0.6].to(avatar.gaussians.means.device)
    centre, radius = extent(avatar.gaussians.means.detach())
    cameras, prepared = _cameras_around(centre, directions, 3 * radius, 40.0, size), avatar.prepare()
    values = [
        psnr(prepared.image(cameras[k], 0.0), baked.render(cameras[k], 0.0)).clamp_max(120)
        for k in range(len(cameras))
    ]
    return float(torch.cat(values).mean())


def held_out(avatar: Avatar, baked: Baked, posed: PosedImages) -> tuple[float, float]:
    """PSNR in dB against posed images, mean over views: of the avatar with its head, and of the baked one."""
    prepared, cameras = avatar.prepare(), posed.cameras.to(avatar.gaussians.means.device)
    with_head = explicit = 0.0
    for view in range(len(posed)):
        target = posed.images[view, None].to(cameras.viewmats.device)
        with_head += float(psnr(prepared.image(cameras[view], 0.0), target)) / len(posed)
        explicit += float(psnr(baked.render(cameras[view], 0.0), target)) / len(posed)
    return with_head, explicit


def harmonics_3(directions: Tensor) -> Tensor:
    """Real spherical harmonics to degree 3, [...,16], of unit directions [...,3], with the order and signs of
    3DGS and gsplat, which evaluate them at the direction from the camera to the Gaussian."""
    x, y, z = directions.unbind(-1)
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            torch.full_like(x, SH_0),
            -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
            1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (3 * zz - 1),
            -1.0925484305920792 * x * z, 0.5462742152960396 * (xx - yy),
            -0.5900435899266435 * y * (3 * xx - yy), 2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (5 * zz - 1), 0.3731763325901154 * z * (5 * zz - 3),
            -0.4570457994644658 * x * (5 * zz - 1), 1.445305721320277 * z * (xx - yy),
            -0.5900435899266435 * x * (xx - 3 * yy),
        ],
        -1,
    )  # fmt: skip


@dataclass(frozen=True)
class BakeBatch:
    """Samples to fit for n Gaussians: directions [D,3], unit, to the camera; colors [D,n,3]; weights [n,D] >
    0, of mean 1. frames [n,4]: quaternions of the head's tangents, bitangents and normals."""

    directions: Tensor
    colors: Tensor
    weights: Tensor
    frames: Tensor


@dataclass(frozen=True)
class BakeSampler:
    """Samples the head's colours, and weights them. directions [D,3]; contributions [N,V], squared, to images
    from V sides; interpolation [D,V], the weights of those images for each direction."""

    avatar: Avatar
    directions: Tensor
    contributions: Tensor
    interpolation: Tensor

    @staticmethod
    def of(avatar: Avatar) -> BakeSampler:
        device = avatar.gaussians.means.device
        directions = fibonacci_directions(DIRECTIONS).to(device)
        views = fibonacci_directions(VIEWS).to(device)
        interpolation = torch.softmax((directions @ views.T - 1) / math.radians(BLUR_DEG) ** 2, 1)
        return BakeSampler(avatar, directions, _contributions(avatar, views).square(), interpolation)

    @property
    def chunk(self) -> int:
        return 4096 if self.directions.is_cuda else 256

    def chunks(self) -> list[Tensor]:
        return list(torch.arange(len(self.contributions), device=self.directions.device).split(self.chunk))

    def batch(self, index: Tensor) -> BakeBatch:
        head, part = self.avatar.head, self.avatar.gaussians.select(index)
        assert head is not None
        prepared, normals = head.prepare(part.latents, part.diffuse), shading_normals(part)
        # Only directions matter: all Gaussians at the origin, cameras on the unit sphere.
        colors = part.diffuse + head.shade(prepared, normals, torch.zeros_like(part.means), self.directions)
        weights = self.contributions[index] @ self.interpolation.T
        weights = weights / weights.mean(1, keepdim=True).clamp_min(1e-12) + UNSEEN
        frames = turned_to(normals, tangent_frames(normals, prepared.latents[:, 2:3])[0])
        return BakeBatch(self.directions, colors, weights / weights.mean(1, keepdim=True), frames)


Item = TypeVar("Item")
Found = TypeVar("Found")


def _on_threads(threads: int, work: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """work(item) of all items, in order. Items run in parallel with one torch thread each: torch's own
    threads would synchronise after every small product."""

    def without_grad(item: Item) -> Found:
        with torch.no_grad():  # the grad mode is per thread
            return work(item)

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(without_grad, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(usual)


def _asgs_for(batch: BakeBatch) -> Asgs:
    weights, kept = batch.weights.topk(KEPT, 1)
    colors = batch.colors.transpose(0, 1).gather(1, kept[..., None].expand(-1, -1, 3))
    return fit_asgs(batch.directions[kept], colors, weights, batch.frames, LOBES)


def _harmonics_for(batch: BakeBatch) -> HarmonicColors:
    basis = harmonics_3(-batch.directions)
    pairs = (basis[:, :, None] * basis[:, None]).flatten(1)
    share = batch.weights / len(basis)
    gram = (share @ pairs).unflatten(1, (16, 16)).double()
    degree = torch.tensor([l for l in range(4) for _ in range(2 * l + 1)], device=gram.device)
    gram = gram + torch.diag(ROUGH * degree * (degree + 1) + 1e-6)
    weighted = (share.T[..., None] * (batch.colors - 0.5)).flatten(1)
    target = (basis.T @ weighted).unflatten(1, (-1, 3)).transpose(0, 1).double()
    return HarmonicColors(torch.linalg.solve(gram, target).float())


def _contributions(avatar: Avatar, directions: Tensor) -> Tensor:
    """Each Gaussian's contribution to images from distant cameras in `directions` [V,3], [N,V], in pixels."""
    cloud = avatar.gaussians
    centre, radius = extent(cloud.means.detach())
    fov_y = 2 * math.degrees(math.atan(1.02 / FAR))
    cameras = _cameras_around(centre, directions, FAR * radius, fov_y, VIEW_SIZE)
    columns = [contributions(cloud, cameras[k], avatar.antialiased)[:, 0] for k in range(len(cameras))]
    return torch.stack(columns, 1)


def _cameras_around(
    target: Tensor, directions: Tensor, distance: float, fov_y_deg: float, size: int
) -> Cameras:
    """Cameras at `distance` from `target` [3] in `directions` [V,3], facing it."""
    x, y, z = directions.cpu().unbind(-1)
    azimuth, elevation = torch.rad2deg(torch.atan2(x, -y)), torch.rad2deg(torch.asin(z))
    cameras = Cameras.orbit(azimuth, elevation, distance, fov_y_deg, size, size, target.cpu())
    return cameras.to(directions.device)
