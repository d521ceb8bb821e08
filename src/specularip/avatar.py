"""The avatar: Gaussians, the specular head, the ties to a skeleton, and where it came from.

Here the specular branch meets the rasteriser: `shade` gives each Gaussian its colour for each camera, and is
what both stages call before `rasterize`; `Avatar.render` and `Prepared` do both for people who only look.
`save` and `load` keep all of it in one `avatar.safetensors`; PLY keeps what other viewers can show.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.errors import UserError
from specularip.export.ply import read_ply, write_ply
from specularip.files import atomic_path
from specularip.gaussians import Gaussians
from specularip.raster import Raster, rasterize
from specularip.specular import LATENTS, Lobes, SpecularConfig, SpecularHead, facing, in_view, shading_normals

FORMAT = 3
"""Version of avatar.safetensors; raised when an older reader would misread a file."""
FILE_NAME = "avatar.safetensors"
GREY = 0.6


@dataclass(frozen=True)
class Frame:
    """What the cameras see, float32 [B,H,W,C], premultiplied where alpha < 1.

    image [..3]: over the background, clamped to 0..1. alpha [..1]. depth [..1]: expected depth, metres along
    the optical axis, 0 where empty. normal [..3]: world space, unit, 0 where empty. specular [..3]: the
    specular layer alone, premultiplied, without background; where the head's residual darkens, below 0.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    normal: Tensor
    specular: Tensor


@dataclass
class Binding:
    """The skeleton that `Gaussians.bind_joints` counts in, at rest. joints [J,3] metres; a parent of -1 is a
    root."""

    joint_names: list[str]
    joint_parents: list[int]
    joints: Tensor

    def __post_init__(self) -> None:
        count = len(self.joint_names)
        if len(self.joint_parents) != count or self.joints.shape != (count, 3):
            shape = list(self.joints.shape)
            raise ValueError(
                f"{count} joint_names need as many joint_parents and joints [{count},3], got {shape}"
            )


def shade(
    gaussians: Gaussians, head: SpecularHead | None, cameras: Cameras, specular_gain: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Colours [B,N,3] (diffuse + specular, not clamped) and the specular part alone [B,N,3], for `rasterize`.

    Differentiable in the Gaussians and the head. Positions get no gradient through the view direction: colour
    should be mended by colour and normals, not by walking. With no head, or a gain of 0, specular is zero.
    """
    diffuse = gaussians.diffuse
    shape = (len(cameras), len(gaussians), 3)
    if head is None or specular_gain == 0:
        return diffuse.expand(shape), diffuse.new_zeros(()).expand(shape)
    lobes = head.prepare(gaussians.latents, diffuse)
    normals, means = shading_normals(gaussians), gaussians.means.detach()
    specular = specular_gain * head.shade(lobes, normals, means, cameras.positions)
    return diffuse + specular, specular


@dataclass(frozen=True)
class Prepared:
    """All of an avatar that depends on no camera, worked out once for whoever draws many frames: a viewer, a
    film. Made by `Avatar.prepare`; once the avatar changes, make another. N Gaussians; no gradients.

    means, scales, diffuse, normals [N,3]; quats [N,4]; opacities [N]; as in `rasterize` and
    `SpecularHead.shade`. head and lobes None: diffuse only.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    diffuse: Tensor
    normals: Tensor
    head: SpecularHead | None
    lobes: Lobes | None
    antialiased: bool

    @torch.no_grad()
    def specular(self, cameras: Cameras) -> Tensor | None:
        """What the highlights add to `diffuse`, [B,N,3], 0 for what a camera does not see; None: no head."""
        if self.head is None or self.lobes is None:
            return None
        seen = in_view(self.means, self.scales, cameras)
        return self.head.shade(self.lobes, self.normals, self.means, cameras.positions, seen)

    @torch.no_grad()
    def image(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Tensor:
        """`render(cameras, background).image` alone, [B,H,W,3], in less time."""
        cameras = cameras.to(self.means.device)
        specular = self.specular(cameras)
        colors = self.diffuse if specular is None else self.diffuse + specular
        black = isinstance(background, (int, float)) and background == 0
        drawn = self._draw(colors, cameras, None if black else self._rgb(background), depth=False)
        return drawn.image.clamp(0, 1)

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
        drawn = self._draw(layers, cameras, torch.cat([rgb, rgb.new_zeros(6)]))
        image, highlight, normal = drawn.image.split(3, -1)
        return Frame(image.clamp(0, 1), drawn.alpha, drawn.depth, F.normalize(normal, dim=-1), highlight)

    def _rgb(self, background: float | Sequence[float] | Tensor) -> Tensor:
        rgb = torch.as_tensor(background, dtype=torch.float32, device=self.means.device)
        if rgb.shape not in ((), (1,), (3,)):
            raise ValueError(f"background must be one number or [3], got {list(rgb.shape)}")
        return rgb.expand(3)

    def _draw(
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
    """A finished person. head None: diffuse only (a plain PLY). provenance: JSON-ready facts of the run.

    antialiased: how it was fitted, and so how it is drawn, see `rasterize`.
    """

    gaussians: Gaussians
    head: SpecularHead | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    binding: Binding | None = None
    antialiased: bool = False

    def to(self, device: torch.device | str) -> Avatar:
        """The same on `device`; this one stays where it is."""
        head = None if self.head is None else deepcopy(self.head).to(device)
        return replace(self, gaussians=self.gaussians.to(device), head=head)

    @torch.no_grad()
    def prepare(self) -> Prepared:
        """The avatar as it is now, ready for many frames."""
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
            lobes=None if self.head is None else self.head.prepare(cloud.latents, diffuse),
            antialiased=self.antialiased,
        )

    def render(self, cameras: Cameras, background: float | Sequence[float] | Tensor = GREY) -> Frame:
        """Draw through every camera, on the device of the Gaussians. background: a grey or an RGB, in 0..1.

        No gradient flows; to train, use `shade` and `rasterize`. For many frames, see `prepare`.
        """
        return self.prepare().render(cameras, background)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the avatar and return the file: a folder gets avatar.safetensors; .safetensors is written
        whole; .ply keeps the look for other viewers (diffuse plus mean specular). Atomic.

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
        tensors = {f"gaussians.{name}": tensor for name, tensor in self.gaussians.tensors().items()}
        header: dict[str, Any] = {
            "format": FORMAT,
            "provenance": self.provenance,
            "head": None,
            "binding": None,
            "antialiased": self.antialiased,
        }
        if self.head is not None:
            header["head"] = asdict(self.head.config)
            tensors |= {f"head.{name}": tensor for name, tensor in self.head.state_dict().items()}
        if self.binding is not None:
            header["binding"] = {
                "joint_names": self.binding.joint_names,
                "joint_parents": self.binding.joint_parents,
            }
            tensors["binding.joints"] = self.binding.joints
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        metadata = {"specularip": json.dumps(header)}
        with atomic_path(path) as temporary:
            try:
                save_file(tensors, temporary, metadata)
            except SafetensorError as error:
                raise OSError(str(error)) from error
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Avatar:
        """See `load`."""
        return load(path)


def mean_specular(avatar: Avatar, size: int = 192) -> Tensor:
    """Each Gaussian's specular colour averaged over the views that see it, [N,3].

    16 cameras around the body; a view counts as much as the Gaussian contributes to its pixels. That weight
    is the gradient of the summed image with respect to the Gaussian's colour. Unseen Gaussians average all
    views.
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
    """The middle [3] of the box around means [N,3], and just over the farthest one's distance from it."""
    middle = (means.amax(0) + means.amin(0)) / 2
    return middle, float((means - middle).norm(dim=-1).max()) + 1e-3


def contributions(gaussians: Gaussians, camera: Cameras, antialiased: bool) -> Tensor:
    """What each Gaussian gives to the camera's picture, [N,1] in pixels: the gradient of the picture's sum by
    its colour."""
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
            raise UserError(f"{path} holds no {FILE_NAME}; is it a finished run folder?")
        path = path / FILE_NAME
    if not path.is_file():
        raise UserError(f"no avatar at {path}")
    if path.suffix == ".ply":
        return Avatar(read_ply(path), provenance={"source": path.name})
    if path.suffix != ".safetensors":
        raise UserError(f"cannot load {path}: give a run folder, a .safetensors or a .ply file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copies lie at aligned addresses, as what was saved did; else products differ in the last bit.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} is damaged or cut short: {error}") from error
    try:
        return _build(metadata, tensors)
    except _Damage as error:
        raise UserError(f"{path} cannot be read: {error}") from None


class _Damage(Exception):
    """What is wrong inside a file that could be opened."""


def _build(metadata: dict[str, str], tensors: dict[str, Tensor]) -> Avatar:
    """Tensors and header to an Avatar; _Damage when something is missing or does not fit."""
    try:
        header = json.loads(metadata.get("specularip", "null"))
    except json.JSONDecodeError:
        raise _Damage("its header is not JSON") from None
    if "specularip_baked" in metadata:
        raise _Damage("it is baked; render draws it, load_baked reads it, all else needs the avatar itself")
    if not isinstance(header, dict):
        raise _Damage("it has no specularip header")
    if header.get("format") in (1, 2):
        raise _Damage("it was made by an earlier version, with another kind of highlights: make it again")
    if header.get("format") != FORMAT:
        raise _Damage(f"format {header.get('format')} is not {FORMAT}, the one this version reads")
    provenance = header.get("provenance", {})
    if not isinstance(provenance, dict):
        raise _Damage("its provenance is not a table")

    head = _build_head(header.get("head"), tensors)
    means = tensors.get("gaussians.means", torch.empty(0))
    count = len(means) if means.ndim else 0
    if count < 1:
        raise _Damage("it holds no Gaussians")
    latents = tensors.get("gaussians.latents", torch.empty(0))
    width = LATENTS if head else (latents.shape[-1] if latents.ndim == 2 else 0)
    shapes = {
        **{"means": (3,), "quats": (4,), "log_scales": (3,), "opacity_logits": (), "color_logits": (3,)},
        **{"latents": (width,), "normal_residuals": (3,)},
        **{"regions": (), "bind_joints": (4,), "bind_weights": (4,)},
    }
    cloud = Gaussians(
        **{
            f.name: _take(
                tensors,
                f"gaussians.{f.name}",
                (count, *shapes[f.name]),
                torch.int64 if f.name in ("regions", "bind_joints") else torch.float32,
            )
            for f in fields(Gaussians)
        }
    )
    antialiased = header.get("antialiased", False)
    if type(antialiased) is not bool:
        raise _Damage("its way of drawing is neither true nor false")
    binding = _build_binding(header.get("binding"), tensors, cloud)
    return Avatar(cloud, head, provenance, binding, antialiased)


def _build_head(config: object, tensors: dict[str, Tensor]) -> SpecularHead | None:
    if config is None:
        return None
    known = asdict(SpecularConfig())
    if not isinstance(config, dict) or set(config) != set(known):
        raise _Damage("its head's configuration is not of this version")
    for name, usual in known.items():
        if type(config[name]) not in ((int, float) if type(usual) is float else (type(usual),)):
            raise _Damage(f"its head's {name} is not of type {type(usual).__name__}")
    try:
        head = SpecularHead(SpecularConfig(**config))
    except ValueError as error:
        raise _Damage(f"its head's {error}") from None
    state = head.state_dict()
    head.load_state_dict(
        {
            name: _take(tensors, f"head.{name}", tuple(tensor.shape), torch.float32)
            for name, tensor in state.items()
        }
    )
    return head


def _build_binding(header: object, tensors: dict[str, Tensor], cloud: Gaussians) -> Binding | None:
    if header is None:
        return None
    names = header.get("joint_names") if isinstance(header, dict) else None
    parents = header.get("joint_parents") if isinstance(header, dict) else None
    if not (isinstance(names, list) and isinstance(parents, list) and len(names) == len(parents)):
        raise _Damage("its skeleton's names and parents do not match")
    if not all(type(parent) is int and -1 <= parent < len(names) for parent in parents):
        raise _Damage("its skeleton's parents point nowhere")
    joints = _take(tensors, "binding.joints", (len(names), 3), torch.float32)
    if bool(((cloud.bind_joints < 0) | (cloud.bind_joints >= len(names))).any()):
        raise _Damage("Gaussians are bound to joints that its skeleton does not have")
    return Binding([str(name) for name in names], parents, joints)


def _take(tensors: dict[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor `name`, checked: there, of this shape and type, finite."""
    if name not in tensors:
        raise _Damage(f"{name} is missing")
    tensor = tensors[name]
    if tensor.dtype != dtype:
        raise _Damage(f"{name} is {tensor.dtype}, not {dtype}")
    if tuple(tensor.shape) != shape:
        raise _Damage(f"{name} is {list(tensor.shape)}, not {list(shape)}")
    if not bool(tensor.isfinite().all()):
        raise _Damage(f"{name} holds NaN or infinite values")
    return tensor
