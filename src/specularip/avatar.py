"""The avatar: Gaussians, the specular head, the skeleton that they are bound to, and provenance.

`shade` computes each Gaussian's colour for each camera; training calls it before `rasterize`. `Avatar.render`
and `Prepared` do both, without gradients. `save` and `load` use avatar.safetensors (see `avatar_file`), or a
3DGS PLY with what other viewers can show.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar_file import FILE_NAME, AvatarContents, read_avatar, write_avatar
from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.export.ply import read_ply, write_ply
from specularip.gaussians import Binding, Expressions, Gaussians
from specularip.raster import Raster, rasterize
from specularip.specular import PreparedShading, SpecularHead, facing, in_view, shading_normals

GREY = 0.6
"""The default background."""


@dataclass(frozen=True)
class Frame:
    """A rendering for each camera, float32 [B,H,W,C], premultiplied where alpha < 1.

    image [..3]: over the background, clamped to 0..1. alpha [..1]. depth [..1]: expected depth, metres along
    the optical axis, 0 where empty. normal [..3]: world space, unit, 0 where empty. specular [..3]: the
    specular layer alone, premultiplied, without background; negative where the head's residual darkens.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    specular: Tensor


def shade(
    gaussians: Gaussians, head: SpecularHead | None, cameras: Cameras, specular_gain: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Colours [B,N,3] (diffuse + specular, not clamped) and the specular part alone [B,N,3], for `rasterize`.

    Differentiable in the Gaussians and the head. Positions get no gradient through the view direction: errors
    in colour should change colours and normals, not move Gaussians. Without a head, or with a gain of 0,
    specular is zero.
    """
    diffuse = gaussians.diffuse
    shape = (len(cameras), len(gaussians), 3)
    if head is None or specular_gain == 0:
        return diffuse.expand(shape), diffuse.new_zeros(()).expand(shape)
    prepared = head.prepare(gaussians.latents, diffuse)
    normals, means = shading_normals(gaussians), gaussians.means.detach()
    specular = specular_gain * head.shade(prepared, normals, means, cameras.positions)
    return diffuse + specular, specular


@dataclass(frozen=True)
class Prepared:
    """Everything about an avatar that is independent of the camera, computed once to render many frames
    (viewer, video). A snapshot, made by `Avatar.prepare`. N Gaussians; no gradients.

    means, scales, diffuse, normals [N,3]; quats [N,4]; opacities [N]; as in `rasterize` and
    `SpecularHead.shade`. head and shading None: diffuse only.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    diffuse: Tensor
    normals: Tensor
    head: SpecularHead | None
    shading: PreparedShading | None
    antialiased: bool

    @torch.no_grad()
    def specular(self, cameras: Cameras) -> Tensor | None:
        """The specular colours, [B,N,3], 0 for Gaussians out of view; None without a head."""
        if self.head is None or self.shading is None:
            return None
        visible = in_view(self.means, self.scales, cameras)
        return self.head.shade(self.shading, self.normals, self.means, cameras.positions, visible)

    @torch.no_grad()
    def image(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Tensor:
        """`render(cameras, background).image` alone, [B,H,W,3], which is faster."""
        cameras = cameras.to(self.means.device)
        specular = self.specular(cameras)
        colors = self.diffuse if specular is None else self.diffuse + specular
        black = isinstance(background, (int, float)) and background == 0
        raster = self._rasterize(colors, cameras, None if black else self._rgb(background), depth=False)
        return raster.image.clamp(0, 1)

    @torch.no_grad()
    def render(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Frame:
        """See `Avatar.render`."""
        cameras = cameras.to(self.means.device)
        rgb = self._rgb(background)
        specular = self.specular(cameras)
        if specular is None:
            specular = self.diffuse.new_zeros(()).expand(len(cameras), *self.diffuse.shape)
        view_dirs = F.normalize(cameras.positions[:, None] - self.means, dim=-1)
        layers = torch.cat([self.diffuse + specular, specular, facing(self.normals, view_dirs)], -1)
        raster = self._rasterize(layers, cameras, torch.cat([rgb, rgb.new_zeros(6)]))
        image, highlight, normal = raster.image.split(3, -1)
        return Frame(image.clamp(0, 1), raster.alpha, raster.depth, F.normalize(normal, dim=-1), highlight)

    def _rgb(self, background: float | Sequence[float] | Tensor) -> Tensor:
        rgb = torch.as_tensor(background, dtype=torch.float32, device=self.means.device)
        if rgb.shape not in ((), (1,), (3,)):
            raise ValueError(f"background must be one number or [3], got {list(rgb.shape)}")
        return rgb.expand(3)

    def _rasterize(
        self, layers: Tensor, cameras: Cameras, background: Tensor | None, depth: bool = True
    ) -> Raster:
        return rasterize(
            self.means,
            self.quats,
            self.scales,
            self.opacities,
            layers,
            cameras.viewmats,
            cameras.Ks,
            cameras.width,
            cameras.height,
            background,
            antialiased=self.antialiased,
            depth=depth,
        )


@dataclass
class Avatar:
    """A complete avatar. head None: diffuse only (a plain PLY). provenance: JSON-ready facts about the run.

    antialiased: how it was trained, and so how it is rendered, see `rasterize`.
    """

    gaussians: Gaussians
    head: SpecularHead | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    binding: Binding | None = None
    antialiased: bool = False
    expressions: Expressions | None = None

    def to(self, device: torch.device | str) -> Avatar:
        """A copy on `device`."""
        head = None if self.head is None else deepcopy(self.head).to(device)
        expressions = None if self.expressions is None else self.expressions.to(device)
        return replace(self, gaussians=self.gaussians.to(device), head=head, expressions=expressions)

    @torch.no_grad()
    def prepare(self) -> Prepared:
        """A snapshot of the avatar for rendering many frames."""
        cloud = self.gaussians
        diffuse = cloud.diffuse
        return Prepared(
            means=cloud.means.detach(),
            quats=cloud.quats.detach(),
            scales=cloud.scales,
            opacities=cloud.opacities,
            diffuse=diffuse,
            normals=shading_normals(cloud),
            head=self.head,
            shading=None if self.head is None else self.head.prepare(cloud.latents, diffuse),
            antialiased=self.antialiased,
        )

    def render(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Frame:
        """Render all cameras, on the device of the Gaussians. background: a grey or an RGB, in 0..1.

        Without gradients; to train, use `shade` and `rasterize`. For many frames, see `prepare`. Raises
        ValueError for a background of another shape.
        """
        return self.prepare().render(cameras, background)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the avatar and return the file. A folder gets avatar.safetensors; a .safetensors holds the
        whole avatar; a .ply holds diffuse plus mean specular colour for other viewers. Atomic.

        Raises UserError for another suffix or where nothing can be written.
        """
        path = Path(path)
        if path.is_dir():
            path = path / FILE_NAME
        if path.suffix == ".ply":
            write_ply(path, self.gaussians, self.gaussians.diffuse + mean_specular(self))
            return path
        if path.suffix != ".safetensors":
            if path.suffix:
                raise UserError(f"cannot save an avatar as {path}: use a folder, .safetensors or .ply")
            path = path / FILE_NAME
        write_avatar(path, AvatarContents(**{f.name: getattr(self, f.name) for f in fields(AvatarContents)}))
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Avatar:
        """See `load`."""
        return load(path)


def mean_specular(avatar: Avatar, size: int = 192) -> Tensor:
    """Each Gaussian's specular colour averaged over the views that see it, [N,3].

    16 cameras around the body; each view is weighted by the Gaussian's contribution to its pixels (see
    `contributions`). Gaussians that no view sees average all views.
    """
    cloud = avatar.gaussians
    if avatar.head is None:
        return torch.zeros_like(cloud.means)
    means = cloud.means.detach()
    middle, reach = extent(means)
    azimuth = torch.arange(16) * 360.0 / 16
    elevation = torch.tensor([5.0, 35.0, 5.0, -20.0]).repeat(4)
    cameras = Cameras.orbit(azimuth, elevation, 3.0 * reach, 40.0, size, size, middle.cpu()).to(means.device)
    total, weight, plain = torch.zeros_like(means), torch.zeros_like(means[:, :1]), torch.zeros_like(means)
    for index in range(len(cameras)):
        camera = cameras[index]
        with torch.no_grad():
            specular = shade(cloud, avatar.head, camera)[1][0]
        seen = contributions(cloud, camera, avatar.antialiased)
        total += seen * specular
        weight += seen
        plain += specular / len(cameras)
    return torch.where(weight > 1e-3, total / weight.clamp_min(1e-3), plain)


def extent(means: Tensor) -> tuple[Tensor, float]:
    """Centre [3] of the bounding box of means [N,3], and radius of a sphere around it that contains all
    means."""
    middle = (means.amax(0) + means.amin(0)) / 2
    return middle, float((means - middle).norm(dim=-1).max()) + 1e-3


def contributions(gaussians: Gaussians, camera: Cameras, antialiased: bool) -> Tensor:
    """Each Gaussian's contribution to one camera's image, [N,1]: its compositing weights summed over the
    pixels, which is the gradient of the summed image with respect to the Gaussian's colour."""
    means = gaussians.means.detach()
    with torch.enable_grad():
        ones = torch.ones_like(means[:, :1]).requires_grad_()
        drawn = rasterize(
            means, gaussians.quats.detach(), gaussians.scales.detach(), gaussians.opacities.detach(), ones,
            camera.viewmats, camera.Ks, camera.width, camera.height, antialiased=antialiased,
        )  # fmt: skip
        return torch.autograd.grad(drawn.image.sum(), ones)[0]


def load(path: str | os.PathLike[str]) -> Avatar:
    """Read an avatar: a run folder (its avatar.safetensors), a .safetensors file, or a 3DGS .ply (no head).

    Raises UserError with one line when the file is missing, damaged, of another kind, or contradicts itself.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise UserError(f"{path} contains no {FILE_NAME}; is it a finished run folder?")
        path = path / FILE_NAME
    if not path.is_file():
        raise UserError(f"no avatar at {path}")
    if path.suffix == ".ply":
        return Avatar(read_ply(path), provenance={"source": path.name})
    if path.suffix != ".safetensors":
        raise UserError(f"cannot load {path}: give a run folder, a .safetensors or a .ply file")
    return Avatar(**vars(read_avatar(path)))
