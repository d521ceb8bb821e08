"""The avatar: Gaussians, their view-dependent colours, the skeleton that they are bound to, and provenance.

`shade` computes each Gaussian's colour for each camera; training calls it before `rasterize`. `Avatar.render`
and `Prepared` do both, without gradients. `save` writes avatar.safetensors, which holds everything (see
`avatar_file`), `export` files for other programs; `load` reads both.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar_file import FILE_NAME, AvatarContents, read_avatar, write_avatar
from specularip.baking.bake import Target, harmonics_of
from specularip.baking.bake import bake as bake_colors
from specularip.baking.preview import preview_harmonics
from specularip.cameras import Cameras
from specularip.colors import Asgs, Colors, SphericalBetas
from specularip.errors import UserError, escaped
from specularip.export.glb import read_glb, write_glb
from specularip.export.placing import placed
from specularip.export.ply import read_ply, write_ply
from specularip.export.sog import read_sog, write_sog
from specularip.export.spz import read_spz, write_spz
from specularip.gaussians import Binding, Expressions, Gaussians
from specularip.motion.clip import Clip
from specularip.motion.colors import posed_colors
from specularip.motion.dispatch import pose
from specularip.motion.posing import Rest
from specularip.motion.quaternions import rotate
from specularip.motion.skinning import Blend, bone_table, expressed, joint_transforms
from specularip.placement import Placement
from specularip.progress import Progress
from specularip.raster import Raster, rasterize
from specularip.specular import PreparedShading, SpecularHead, facing, in_view, shading_normals
from specularip.viewer.html import write_html
from specularip.viewer.notebook import Framed
from specularip.viewer.pack import pack

READERS = {".ply": read_ply, ".spz": read_spz, ".sog": read_sog, ".glb": read_glb}
"""By the suffix of files that `load` reads, besides .safetensors."""
SUFFIXES = (*READERS, ".html")
"""Suffixes of the files that `Avatar.export` writes, besides .safetensors."""
CONTENTS = tuple(field.name for field in fields(AvatarContents))
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
    `SpecularHead.shade`. head and shading, or colors, as in `Avatar`; all None: diffuse only.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    diffuse: Tensor
    normals: Tensor
    head: SpecularHead | None
    shading: PreparedShading | None
    colors: Colors | None
    antialiased: bool

    @torch.no_grad()
    def specular(self, cameras: Cameras) -> Tensor | None:
        """The specular colours, [B,N,3], 0 for Gaussians out of view; None for diffuse only."""
        if self.colors is not None:
            return self.colors(self._view_dirs(cameras)) - self.diffuse
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
        normals = facing(self.normals, self._view_dirs(cameras))
        layers = torch.cat([self.diffuse + specular, specular, normals], -1)
        raster = self._rasterize(layers, cameras, torch.cat([rgb, rgb.new_zeros(6)]))
        image, highlight, normal = raster.image.split(3, -1)
        return Frame(image.clamp(0, 1), raster.alpha, raster.depth, F.normalize(normal, dim=-1), highlight)

    def _view_dirs(self, cameras: Cameras) -> Tensor:
        return F.normalize(cameras.positions[:, None] - self.means, dim=-1)

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
    """A complete avatar, diffuse only if both head and colors are None.

    head: the specular head, which the Gaussians' latents are for. colors: explicit colours instead, baked or
    from a file of another program; the Gaussians' own colour is then the diffuse part. provenance: JSON-ready
    facts about the run. binding: the skeleton. antialiased: how it was trained, and so how it is rendered,
    see `rasterize`. expressions: facial actions. placement: from the avatar's world, which is about the
    origin, in metres, z up, to that of the capture it was fitted to; None: they are the same. Raises
    ValueError for both head and colors.
    """

    gaussians: Gaussians
    head: SpecularHead | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    binding: Binding | None = None
    antialiased: bool = False
    colors: Colors | None = None
    expressions: Expressions | None = None
    placement: Placement | None = None

    def __post_init__(self) -> None:
        if self.head is not None and self.colors is not None:
            raise ValueError("an avatar has a head or explicit colours, not both")

    def to(self, device: torch.device | str) -> Avatar:
        """A copy on `device`."""
        head = None if self.head is None else deepcopy(self.head).to(device)
        colors = None if self.colors is None else self.colors.to(device)
        expressions = None if self.expressions is None else self.expressions.to(device)
        cloud = self.gaussians.to(device)
        return replace(self, gaussians=cloud, head=head, colors=colors, expressions=expressions)

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
            colors=self.colors,
            antialiased=self.antialiased,
        )

    def render(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Frame:
        """Render all cameras, on the device of the Gaussians. background: a grey or an RGB, in 0..1.

        Without gradients; to train, use `shade` and `rasterize`. For many frames, see `prepare`. Raises
        ValueError for a background of another shape.
        """
        return self.prepare().render(cameras, background)

    @torch.no_grad()
    def posed(
        self,
        rotations: Tensor,
        translation: Tensor | None = None,
        expressions: Tensor | None = None,
        blend: Blend = "linear",
    ) -> Avatar:
        """The avatar in another pose; highlights follow, the light stays. For many frames, see `Posable`.

        rotations [J,4] wxyz: of the joints of `binding`, each relative to the rest pose and its parent, in
        world-aligned axes. translation [3] of the root, metres. expressions [E]: strengths of the facial
        actions, 0 to 1. blend: see `motion.skinning`. The result is fixed in its pose: it has no binding, and
        mutual attention is part of its latents. Raises UserError for an avatar without binding.
        """
        cloud, head = self.gaussians, self.head
        binding = self.skeleton()
        bones = bone_table(joint_transforms(binding, rotations.to(cloud.means), translation))
        means = cloud.means.detach()
        if expressions is not None and self.expressions is not None:
            means = expressed(means, self.expressions, expressions)
        latents = cloud.latents
        if head is not None:
            latents, head = head.prepare(latents, cloud.diffuse).latents, head.without_attention()
        posed = pose(Rest.of(cloud, latents), bones, blend, means)
        cloud = replace(
            cloud,
            means=posed.means,
            quats=posed.quats,
            normal_residuals=rotate(posed.turns, cloud.normal_residuals.detach()),
            latents=posed.latents,
        )
        colors = None if self.colors is None else posed_colors(self.colors, posed.turns)
        return replace(self, gaussians=cloud, head=head, colors=colors, binding=None, expressions=None)

    def skeleton(self) -> Binding:
        """The binding. Raises UserError if there is none."""
        if self.binding is None:
            raise UserError(
                "this avatar has no skeleton to move: those that `specularip generate` or `fit --body` made "
                "have one, in their avatar.safetensors"
            )
        return self.binding

    def baked(self, to: Target = "asg", *, progress: Progress | None = None) -> Avatar:
        """The avatar with explicit colours instead of the head: "asg", four lobes per Gaussian, "sh3" or
        "sb". Its Gaussians have no latents.

        `metrics.agreement` measures the loss of quality. Raises UserError without a head, ValueError for
        another `to`.
        """
        if self.head is None:
            raise UserError("this avatar has no highlights to bake: give a run folder or its .safetensors")
        cloud = self.gaussians.select(torch.arange(len(self.gaussians), device=self.gaussians.means.device))
        colors = bake_colors(cloud, self.head, to, antialiased=self.antialiased, progress=progress)
        cloud.latents = cloud.latents.new_zeros(len(cloud), 0)
        return replace(self, gaussians=cloud, head=None, colors=colors)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write everything to a .safetensors, or to avatar.safetensors in the folder `path`, and return the
        file. Atomic.

        Raises UserError for another suffix or where nothing can be written.
        """
        path = Path(path)
        if path.is_dir() or not path.suffix:
            path = path / FILE_NAME
        if path.suffix != ".safetensors":
            raise UserError(f"cannot save an avatar as {path}: use a folder or .safetensors, or export it")
        write_avatar(path, AvatarContents(**{name: getattr(self, name) for name in CONTENTS}))
        return path

    def export(
        self,
        path: str | os.PathLike[str],
        *,
        bake: bool = True,
        clips: Sequence[Clip] = (),
        spz_version: Literal[3, 4] = 3,
        betas: bool = False,
        progress: Progress | None = None,
    ) -> Path:
        """Write a file for other programs and return it, by the suffix of `path`, see SUFFIXES. Atomic.

        All but .html are in the world of the capture, see `placement`: they fit its cameras and its other
        parts.

        bake: with the highlights, which are baked into the form that the format has; this takes a while for
        an avatar with a head. Else diffuse colours. A .glb has them twice: as harmonics for every viewer, and
        as ASGs for those that know our extension. clips: motions, for .glb and .html. betas: Spherical Betas
        instead of harmonics, for .ply. docs/files.md says what each format keeps. Raises UserError for
        another suffix, for clips without skeleton, for clips or betas that the format lacks, for betas of
        other explicit colours, or where nothing can be written.
        """
        path = Path(path)
        suffix = path.suffix.lower()
        if suffix == ".safetensors":
            return self.save(path)
        if suffix not in SUFFIXES:
            raise UserError(f"cannot export to {path}: end the name in {_any_suffix(SUFFIXES)}")
        moves = suffix in (".glb", ".html")
        if clips and not moves:
            raise UserError(f"cannot write motions to {path}: only .glb and .html hold them")
        if betas and suffix != ".ply":
            raise UserError(f"cannot write Spherical Betas to {path}: only .ply holds them")
        if betas and self.head is None and not isinstance(self.colors, SphericalBetas):
            raise UserError("Spherical Betas are fitted to an avatar with highlights: give a run folder")
        binding = self.skeleton() if clips else self.binding
        colors = self.colors if bake else None
        if bake and self.head is not None:
            to: Target = "asg" if moves else "sb" if betas else "sh3"
            colors = self.baked(to, progress=progress).colors
        if suffix == ".html":
            return write_html(path, replace(self, head=None, colors=colors).packed(clips=clips), self.title)
        harmonics = harmonics_of(colors) if isinstance(colors, Asgs | SphericalBetas) else colors
        if suffix == ".glb":
            write_glb(
                path, self.gaussians, harmonics, asgs=colors if isinstance(colors, Asgs) else None,
                binding=binding, clips=clips, antialiased=self.antialiased, placement=self.placement,
            )  # fmt: skip
            return path
        if suffix == ".ply":
            kept = colors if isinstance(colors, SphericalBetas) else harmonics
            write_ply(path, *placed(self.gaussians, kept, self.placement))
            return path
        cloud, harmonics = placed(self.gaussians, harmonics, self.placement)
        if suffix == ".sog":
            write_sog(path, cloud, harmonics, antialiased=self.antialiased)
        else:
            write_spz(path, cloud, harmonics, antialiased=self.antialiased, version=spz_version)
        return path

    def packed(self, title: str = "", clips: Sequence[Clip] = ()) -> bytes:
        """The avatar for the viewer's page. A head becomes spherical harmonics, which takes a second;
        explicit colours stay. clips: motions of its skeleton. Raises UserError for numbers that are not
        finite."""
        colors = self.colors
        if self.head is not None:
            colors = preview_harmonics(self.gaussians, self.head)
        return pack(
            self.gaussians,
            colors,
            binding=self.binding,
            expressions=self.expressions,
            clips=clips,
            antialiased=self.antialiased,
            meta={"title": title or self.title},
        )

    @property
    def title(self) -> str:
        """The text or the file that the avatar was made from."""
        names = (self.provenance.get(name) for name in ("text", "source", "data"))
        return next((name for name in names if isinstance(name, str) and name), "Avatar")

    def _repr_html_(self) -> str:
        """The avatar in a notebook; with a head, its highlights are approximate until it is `baked`."""
        return Framed(self.packed(), self.title)._repr_html_()

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Avatar:
        """See `load`."""
        return load(path)


def bake(avatar: Avatar, to: Target = "asg", *, progress: Progress | None = None) -> Avatar:
    """See `Avatar.baked`."""
    return avatar.baked(to, progress=progress)


def load(path: str | os.PathLike[str]) -> Avatar:
    """Read an avatar: a run folder (its avatar.safetensors), a .safetensors file, or a file of 3D Gaussians
    that this or another program wrote (.ply, .spz, .sog, .glb), which has explicit colours instead of a head.

    What had to be left out of a file of another program is said in a warning, as is where its subject lies if
    that is far from the origin or of another size than people: see `placement`. Raises UserError with one
    line when the file is missing, damaged, of another kind, or contradicts itself.
    """
    path = Path(path)
    if path.is_dir():
        if not (path / FILE_NAME).is_file():
            raise UserError(f"{path} contains no {FILE_NAME}; is it a finished run folder?")
        path = path / FILE_NAME
    if not path.is_file():
        raise UserError(f"no avatar at {path}")
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        return Avatar(**vars(read_avatar(path)))
    if suffix not in READERS:
        raise UserError(
            f"cannot load {path}: give a run folder, or a file that ends in {_any_suffix(READERS)}"
        )
    splats = READERS[suffix](path)
    for note in splats.notes:
        warnings.warn(f"{path}: {note}", stacklevel=2)
    return Avatar(
        splats.gaussians,
        provenance={"source": escaped(path.name)},
        binding=splats.binding,
        antialiased=splats.antialiased,
        colors=splats.colors,
        placement=splats.placement,
    )


def _any_suffix(suffixes: Iterable[str]) -> str:
    return f"{', '.join(suffixes)} or .safetensors"
