"""Baking: the head's colours as explicit functions of the view direction, which a viewer evaluates.

The colour that the head gives a Gaussian depends on the view direction only, so baking needs no images: the
head is sampled in directions all over the sphere, and an explicit function is fitted by least squares,
Gaussian by Gaussian.

- **ASGs** (`asg`): a smooth part and four lobes; a few lines of shader, see docs/baking.md.
- **SH-3** (`HarmonicColors`): spherical harmonics to degree 3, which every 3DGS viewer shows.
- **Spherical Betas** (`SphericalBetas`): lobes of view directions, for viewers of such PLY.

The fit should minimise the error of rendered images. A direction's weight is therefore the square of the
Gaussian's contribution to an image from there: errors of neighbouring Gaussians are alike, so that they add
up before they are squared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from specularip.baking.beta import fit_betas
from specularip.baking.contributions import cameras_around, contributions, extent
from specularip.colors import Asgs, Colors, HarmonicColors, SphericalBetas
from specularip.colors.harmonics import harmonics_3
from specularip.gaussians import Gaussians, turned_to
from specularip.progress import Progress
from specularip.specular import SpecularHead
from specularip.specular.head import fibonacci_directions, shading_normals
from specularip.specular.shading import tangent_frames

Target = Literal["asg", "sh3", "sb"]
DIRECTIONS: dict[Target, int] = {"asg": 1024, "sh3": 384, "sb": 1024}
"""Sampled view directions: 6.4° apart, and 10.4°."""
KEPT = 640
"""Lobes are fitted to as many of them, those with the largest weights."""
CHUNK = 2048
"""Gaussians that are sampled and fitted together."""
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


@torch.no_grad()
def bake(
    gaussians: Gaussians,
    head: SpecularHead,
    to: Target = "asg",
    *,
    antialiased: bool = False,
    progress: Progress | None = None,
) -> Colors:
    """The colours that the head gives N Gaussians as explicit functions: "asg", four lobes per Gaussian,
    "sh3" or "sb", on the device of the Gaussians. Deterministic, in bounded memory. ASGs are fitted on the
    CPU's cores, also for Gaussians on a GPU. antialiased: how they are rendered, see `rasterize`.

    `metrics.agreement` and `metrics.mean_psnr` measure the loss of quality. Raises ValueError for another
    `to`.
    """
    fits: dict[str, Callable[[BakeBatch], Colors]]
    fits = {"asg": _asgs_for, "sh3": _harmonics_for, "sb": _betas_for}
    if to not in fits:
        raise ValueError(f"to must be 'asg', 'sh3' or 'sb', got {to!r}")
    sampler, fit_batch = BakeSampler.of(gaussians, head, DIRECTIONS[to], antialiased), fits[to]
    if progress is not None:
        progress.start("bake", len(gaussians))
    parts = []
    for index in torch.arange(len(gaussians), device=gaussians.means.device).split(CHUNK):
        parts.append(fit_batch(sampler.batch(index)))
        if progress is not None:
            progress.step(min(len(parts) * CHUNK, len(gaussians)))
    return type(parts[0])(
        **{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(parts[0])}
    )


@torch.no_grad()
def harmonics_of(colors: Asgs | SphericalBetas, chunk: int = 4096) -> HarmonicColors:
    """The spherical harmonics closest to lobes over all view directions, which weigh the same."""
    tensors = colors.tensors()
    first = next(iter(tensors.values()))
    directions = fibonacci_directions(DIRECTIONS["sh3"]).to(first.device)
    parts = []
    for index in torch.arange(len(first), device=directions.device).split(chunk):
        part = type(colors)(**{name: tensor[index] for name, tensor in tensors.items()})
        values = part(directions[:, None].expand(-1, len(index), 3))
        weights = torch.ones(len(index), len(directions), device=directions.device)
        frames = weights.new_zeros(len(index), 4)  # harmonics have none
        parts.append(_harmonics_for(BakeBatch(directions, values, weights, frames)).coefficients)
    return HarmonicColors(torch.cat(parts))


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

    gaussians: Gaussians
    head: SpecularHead
    directions: Tensor
    contributions: Tensor
    interpolation: Tensor

    @staticmethod
    def of(gaussians: Gaussians, head: SpecularHead, count: int, antialiased: bool) -> BakeSampler:
        device = gaussians.means.device
        directions = fibonacci_directions(count).to(device)
        views = fibonacci_directions(VIEWS).to(device)
        interpolation = torch.softmax((directions @ views.T - 1) / math.radians(BLUR_DEG) ** 2, 1)
        contributions = _contributions(gaussians, views, antialiased).square()
        return BakeSampler(gaussians, head, directions, contributions, interpolation)

    def batch(self, index: Tensor) -> BakeBatch:
        head, part = self.head, self.gaussians.select(index)
        prepared, normals = head.prepare(part.latents, part.diffuse), shading_normals(part)
        # Only directions matter: all Gaussians at the origin, cameras on the unit sphere.
        colors = part.diffuse + head.shade(prepared, normals, torch.zeros_like(part.means), self.directions)
        weights = self.contributions[index] @ self.interpolation.T
        weights = weights / weights.mean(1, keepdim=True).clamp_min(1e-12) + UNSEEN
        frames = turned_to(normals, tangent_frames(normals, prepared.latents[:, 2:3])[0])
        return BakeBatch(self.directions, colors, weights / weights.mean(1, keepdim=True), frames)


def _asgs_for(batch: BakeBatch) -> Asgs:
    from specularip.baking.numba_asg import fit_asgs_numba  # numba slows every start

    weights, kept = batch.weights.topk(KEPT, 1, sorted=False)
    colors = batch.colors.transpose(0, 1).gather(1, kept[..., None].expand(-1, -1, 3))
    directions = batch.directions[kept]
    found = fit_asgs_numba(directions.cpu(), colors.cpu(), weights.cpu(), batch.frames.cpu())
    return found.to(weights.device)


def _betas_for(batch: BakeBatch) -> SphericalBetas:
    weights, kept = batch.weights.topk(KEPT, 1, sorted=False)
    colors = batch.colors.transpose(0, 1).gather(1, kept[..., None].expand(-1, -1, 3))
    return fit_betas(batch.directions[kept], colors, weights)


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


def _contributions(gaussians: Gaussians, directions: Tensor, antialiased: bool) -> Tensor:
    """Each Gaussian's contribution to images from distant cameras in `directions` [V,3], [N,V], in pixels."""
    centre, radius = extent(gaussians.means.detach())
    fov_y = 2 * math.degrees(math.atan(1.02 / FAR))
    cameras = cameras_around(centre, directions, FAR * radius, fov_y, VIEW_SIZE)
    columns = [contributions(gaussians, cameras[k], antialiased)[:, 0] for k in range(len(cameras))]
    return torch.stack(columns, 1)
