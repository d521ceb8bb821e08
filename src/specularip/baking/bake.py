"""Baking: the head's colours as plain numbers, which a viewer evaluates from the view direction alone.

The head gives a Gaussian a colour that depends on nothing but the direction it is seen from, so a bake needs
no images and no cameras' distances: the head is asked from directions all over the sphere, and the closest
explicit function is found by least squares, Gaussian by Gaussian.

- **ASGs** (`asg`): a smooth part and four lobes; a few lines of shader, see docs/baking.md.
- **SH-3** (`HarmonicColors`): what every viewer of 3DGS files shows.

What counts is the error in a picture. A direction therefore weighs as much as the Gaussian contributes to a
picture from there, squared: neighbours err alike, so that their errors add up before they are squared.
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
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import GREY, Avatar, contributions, extent
from specularip.baking.asg import LOBES, SMOOTH, Asgs, fit_asgs
from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.export.ply import SH_0, read_harmonics, read_ply, write_ply
from specularip.files import atomic_path
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
GAUSSIAN_SHAPES = {
    **{"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": (), "color_logits": (3,)},
    **{"latents": (0,), "normal_residuals": (3,)},
    **{"regions": (), "bind_joints": (4,), "bind_weights": (4,)},
}
DIRECTIONS, KEPT = 1024, 640
"""Directions that the head is asked from, 6.4° apart, and how many of them, the weightiest, lobes are fitted
to."""
VIEWS, VIEW_SIZE = 128, 384
"""Pictures that tell what is seen from where, and their pixels."""
FAR = 20.0
"""Distance of their cameras, in radii of the avatar: directions are nearly the same for all Gaussians."""
BLUR_DEG = 6.0
"""Over which visibility is interpolated between those pictures, a third of the angle between them."""
UNSEEN = 1e-3
"""Weight of a direction that a Gaussian is never seen from, relative to the mean: keeps it sane there."""
ROUGH = 1e-4
"""Pull of a harmonic of degree l towards 0, times l (l + 1)."""


@dataclass(frozen=True)
class HarmonicColors:
    """N colours as spherical harmonics to degree 3, in 3DGS's order, signs and offset: coefficients
    [N,16,3]."""

    coefficients: Tensor

    def __call__(self, view_dirs: Tensor) -> Tensor:
        """Colours [B,N,3] seen along view_dirs [B,N,3], unit, from surface to camera. Not below 0, as 3DGS's
        renderers have it."""
        return (torch.einsum("bnj,njc->bnc", harmonics_3(-view_dirs), self.coefficients) + 0.5).clamp_min(0)


@dataclass
class Baked:
    """An avatar whose colours are plain numbers. The Gaussians' diffuse colours and latents are not used.

    antialiased: how it is drawn, see `rasterize`.
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
        """Write it and return the file: .safetensors for ASGs, a 3DGS .ply for harmonics; a folder gets
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
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        header = {"format": FORMAT, "antialiased": self.antialiased, "provenance": self.provenance}
        with atomic_path(path) as temporary:
            try:
                save_file(tensors, temporary, {"specularip_baked": json.dumps(header)})
            except SafetensorError as error:
                raise OSError(str(error)) from error
        return path


def bake(avatar: Avatar, to: Target = "asg", *, progress: Progress | None = None) -> Baked:
    """The avatar with explicit colours: "asg", four lobes a Gaussian, or "sh3". Deterministic; works on the
    device of the Gaussians, in bounded memory.

    What that loses, `agreement` and `held_out` tell. Raises UserError for an avatar without highlights.
    """
    if to not in FILE_NAMES:
        raise ValueError(f"to must be 'asg' or 'sh3', got {to!r}")
    if avatar.head is None:
        raise UserError("this avatar has no highlights to bake: give the .safetensors, not the .ply")
    cloud = avatar.gaussians
    teacher = _Teacher.of(avatar)
    fit = _fit_asgs if to == "asg" else _fit_harmonics
    if progress is not None:
        progress.start("bake", len(cloud))
    parts = []
    threads = 1 if cloud.means.is_cuda else torch.get_num_threads()
    for part in _on_threads(threads, lambda index: fit(teacher.lesson(index)), teacher.chunks()):
        parts.append(part)
        if progress is not None:
            progress.step(min(len(parts) * teacher.chunk, len(cloud)))
    colors = type(parts[0])(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    )
    everyone = torch.arange(len(cloud), device=cloud.means.device)
    baked = replace(cloud.select(everyone), latents=cloud.latents.new_zeros(len(cloud), 0))
    return Baked(baked, colors, avatar.antialiased, dict(avatar.provenance))


def load_baked(path: str | os.PathLike[str]) -> Baked:
    """Read what `Baked.save` wrote, from a folder too, or any 3DGS .ply with its harmonics; a .ply does not
    say how it is drawn (`antialiased` comes back False).

    Raises UserError with one line when the file is missing, damaged or of another kind.
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE_NAMES["asg"]
    if path.suffix == ".ply":
        return Baked(read_ply(path), HarmonicColors(read_harmonics(path)), provenance={"source": path.name})
    if not path.is_file():
        raise UserError(f"no baked avatar at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("specularip_baked", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from error
    if not isinstance(header, dict):
        raise UserError(f"{path} is no baked avatar")
    if header.get("format") != FORMAT:
        told = f"{path} has format {header.get('format')} of baked avatars, this version reads {FORMAT}"
        raise UserError(f"{told}: bake the avatar again, or update specularip if another one wrote it")
    cloud = Gaussians(**_take(path, tensors, "gaussians", GAUSSIAN_SHAPES))
    lobes = tensors.get("asg.lights", torch.empty(0, 0)).shape[1:2]
    shapes = {
        **{"quats": (4,), "smooth": (SMOOTH, 3)},
        **{name: (*lobes, 3) for name in ("lights", "shapes", "amplitudes")},
    }
    colors = Asgs(**_take(path, tensors, "asg", shapes))
    provenance = header.get("provenance")
    if not isinstance(provenance, dict):
        provenance = {}
    return Baked(cloud, colors, header.get("antialiased") is True, provenance)


def is_baked(path: str | os.PathLike[str]) -> bool:
    """Whether `load_baked` is the one to read it: a .ply, or a .safetensors that says so."""
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            return "specularip_baked" in (file.metadata() or {})
    except (OSError, SafetensorError):
        return path.suffix == ".ply"


def file_for(path: str | os.PathLike[str], to: Target) -> Path:
    """The file that a bake goes to: `path` itself, or its usual name in the folder `path`. Raises UserError
    for a name with another ending than the kind has."""
    path, usual = Path(path), Path(FILE_NAMES[to])
    if path.is_dir() or not path.suffix:
        path = path / usual
    if path.suffix != usual.suffix:
        raise UserError(f"cannot write {to} to {path}: use a folder or a name that ends in {usual.suffix}")
    return path


def agreement(avatar: Avatar, baked: Baked, size: int = 400) -> float:
    """PSNR in dB of the baked avatar's pictures against the head's, the mean over 24 cameras around it, 37°
    up and down at most."""
    directions = fibonacci_directions(40)
    directions = directions[directions[:, 2].abs() < 0.6].to(avatar.gaussians.means.device)
    middle, reach = extent(avatar.gaussians.means.detach())
    cameras, prepared = _looking(directions, 3 * reach, 40.0, size, middle), avatar.prepare()
    found = [
        psnr(prepared.image(cameras[k], 0.0), baked.render(cameras[k], 0.0)).clamp_max(120)
        for k in range(len(cameras))
    ]
    return float(torch.cat(found).mean())


def held_out(avatar: Avatar, baked: Baked, posed: PosedImages) -> tuple[float, float]:
    """PSNR in dB of the head and of the baked avatar against posed images, means over views."""
    prepared, cameras = avatar.prepare(), posed.cameras.to(avatar.gaussians.means.device)
    full = other = 0.0
    for view in range(len(posed)):
        target = posed.images[view, None].to(cameras.viewmats.device)
        full += float(psnr(prepared.image(cameras[view], 0.0), target)) / len(posed)
        other += float(psnr(baked.render(cameras[view], 0.0), target)) / len(posed)
    return full, other


def harmonics_3(directions: Tensor) -> Tensor:
    """Real spherical harmonics to degree 3 in the order and with the signs of 3DGS and gsplat, [...,16] of
    unit directions [...,3]. They take the direction from the camera to the Gaussian."""
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
class _Lesson:
    """What n Gaussians look like: directions [D,3], unit, to the camera; colors [D,n,3]; weights [n,D] > 0,
    of mean 1. frames [n,4]: quaternions, of the head's tangents, bitangents and normals."""

    directions: Tensor
    colors: Tensor
    weights: Tensor
    frames: Tensor


@dataclass(frozen=True)
class _Teacher:
    """What lessons are made from. contributions [N,V], squared, of pictures from V sides; spread [D,V], their
    shares in each direction [D,3]."""

    avatar: Avatar
    directions: Tensor
    contributions: Tensor
    spread: Tensor

    @staticmethod
    def of(avatar: Avatar) -> _Teacher:
        device = avatar.gaussians.means.device
        directions = fibonacci_directions(DIRECTIONS).to(device)
        views = fibonacci_directions(VIEWS).to(device)
        spread = torch.softmax((directions @ views.T - 1) / math.radians(BLUR_DEG) ** 2, 1)
        return _Teacher(avatar, directions, _contributions(avatar, views).square(), spread)

    @property
    def chunk(self) -> int:
        return 4096 if self.directions.is_cuda else 256

    def chunks(self) -> list[Tensor]:
        return list(torch.arange(len(self.contributions), device=self.directions.device).split(self.chunk))

    def lesson(self, index: Tensor) -> _Lesson:
        head, part = self.avatar.head, self.avatar.gaussians.select(index)
        assert head is not None
        lobes, normals = head.prepare(part.latents, part.diffuse), shading_normals(part)
        # Positions say directions, no more: all Gaussians stand in one point.
        colors = part.diffuse + head.shade(lobes, normals, torch.zeros_like(part.means), self.directions)
        weights = self.contributions[index] @ self.spread.T
        weights = weights / weights.mean(1, keepdim=True).clamp_min(1e-12) + UNSEEN
        frames = turned_to(normals, tangent_frames(normals, lobes.latents[:, 2:3])[0])
        return _Lesson(self.directions, colors, weights / weights.mean(1, keepdim=True), frames)


Item = TypeVar("Item")
Found = TypeVar("Found")


def _on_threads(threads: int, work: Callable[[Item], Found], items: Sequence[Item]) -> Iterator[Found]:
    """work(item) of all items, in order. Each thread takes items of its own: torch's own threads would meet
    after every small product, and wait there for the slowest."""

    def alone(item: Item) -> Found:
        with torch.no_grad():  # each thread has its own
            return work(item)

    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    pool = ThreadPoolExecutor(threads)
    try:
        yield from pool.map(alone, items)
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(usual)


def _fit_asgs(lesson: _Lesson) -> Asgs:
    weights, kept = lesson.weights.topk(KEPT, 1)
    colors = lesson.colors.transpose(0, 1).gather(1, kept[..., None].expand(-1, -1, 3))
    return fit_asgs(lesson.directions[kept], colors, weights, lesson.frames, LOBES)


def _fit_harmonics(lesson: _Lesson) -> HarmonicColors:
    basis = harmonics_3(-lesson.directions)
    pairs = (basis[:, :, None] * basis[:, None]).flatten(1)
    share = lesson.weights / len(basis)
    gram = (share @ pairs).unflatten(1, (16, 16)).double()
    degree = torch.tensor([l for l in range(4) for _ in range(2 * l + 1)], device=gram.device)
    gram = gram + torch.diag(ROUGH * degree * (degree + 1) + 1e-6)
    weighted = (share.T[..., None] * (lesson.colors - 0.5)).flatten(1)
    target = (basis.T @ weighted).unflatten(1, (-1, 3)).transpose(0, 1).double()
    return HarmonicColors(torch.linalg.solve(gram, target).float())


def _contributions(avatar: Avatar, directions: Tensor) -> Tensor:
    """What each Gaussian gives to pictures from far off, [N,V], in pixels."""
    cloud = avatar.gaussians
    middle, reach = extent(cloud.means.detach())
    fov_y = 2 * math.degrees(math.atan(1.02 / FAR))
    cameras = _looking(directions, FAR * reach, fov_y, VIEW_SIZE, middle)
    found = [contributions(cloud, cameras[k], avatar.antialiased)[:, 0] for k in range(len(cameras))]
    return torch.stack(found, 1)


def _looking(directions: Tensor, distance: float, fov_y_deg: float, size: int, target: Tensor) -> Cameras:
    """Cameras that stand in `directions` [V,3] from `target` [3] and look at it."""
    x, y, z = directions.cpu().unbind(-1)
    azimuth, elevation = torch.rad2deg(torch.atan2(x, -y)), torch.rad2deg(torch.asin(z))
    cameras = Cameras.orbit(azimuth, elevation, distance, fov_y_deg, size, size, target.cpu())
    return cameras.to(directions.device)


def _take(path: Path, tensors: dict[str, Tensor], group: str, shapes: dict[str, tuple[int, ...]]) -> Any:
    """The tensors of a group by name, checked: there, of their shapes and types, finite."""
    count = len(tensors.get("gaussians.means", torch.empty(0)).reshape(-1, 3))
    found = {}
    for name, shape in shapes.items():
        tensor = tensors.get(f"{group}.{name}", torch.empty(0))
        dtype = torch.int64 if name in ("regions", "bind_joints") else torch.float32
        whole = tensor.shape == (count, *shape) and tensor.dtype == dtype and bool(tensor.isfinite().all())
        if count < 1 or not whole:
            raise UserError(f"{path} cannot be read: {group}.{name} is missing or damaged")
        found[name] = tensor
    return found
