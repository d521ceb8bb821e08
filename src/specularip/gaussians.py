"""Gaussians: their parameters, activations, and skinning weights; the skeleton that these refer to, and the
facial actions that move them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

PARAMETERS = ("means", "quats", "log_scales", "opacity_logits", "color_logits", "latents", "normal_residuals")
"""Names of the optimised fields; the others are fixed data of each Gaussian."""


class FieldSpec(NamedTuple):
    """Shape of a field of Gaussians without the leading N, and its dtype."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def field_specs(latents: int) -> dict[str, FieldSpec]:
    """The fields of Gaussians with latents [N,`latents`], by name, in the order of the class."""
    real, whole = torch.float32, torch.int64
    return {
        "means": FieldSpec((3,), real),
        "quats": FieldSpec((4,), real),
        "log_scales": FieldSpec((3,), real),
        "opacity_logits": FieldSpec((), real),
        "color_logits": FieldSpec((3,), real),
        "latents": FieldSpec((latents,), real),
        "normal_residuals": FieldSpec((3,), real),
        "regions": FieldSpec((), whole),
        "bind_joints": FieldSpec((4,), whole),
        "bind_weights": FieldSpec((4,), real),
    }


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotation matrices [N,3,3] of quats [N,4] wxyz, which are normalised here; column k is the k-th axis."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, -1).reshape(-1, 3, 3)


def turned_to(normals: Tensor, along: Tensor | None = None) -> Tensor:
    """Quaternions [N,4] wxyz that rotate z to `normals` [N,3]: by the smallest angle, or so that x rotates to
    `along` [N,3], unit and perpendicular to the normals."""
    quats = torch.stack(
        [1 + normals[:, 2], -normals[:, 1], normals[:, 0], torch.zeros_like(normals[:, 0])], -1
    )
    quats[quats.norm(dim=-1) < 1e-3] = quats.new_tensor([0.0, 1.0, 0.0, 0.0])
    quats = torch.nn.functional.normalize(quats, dim=-1)
    if along is None:
        return quats
    x, y, _ = (rotation_matrices(quats) * along[..., None]).sum(1).unbind(-1)  # `along` before the rotation
    half = 0.5 * torch.atan2(y, x)
    cos, sin = half.cos(), half.sin()
    w, i, j, k = quats.unbind(-1)  # a rotation about z first
    return torch.stack([w * cos - k * sin, i * cos + j * sin, j * cos - i * sin, w * sin + k * cos], -1)


def morton_order(means: Tensor) -> Tensor:
    """Indices [N] that sort points [N,3] along a Morton curve of 2^10 cells a side."""
    points = means.detach().cpu().double()
    if len(points) == 0:
        return torch.zeros(0, dtype=torch.int64, device=means.device)
    low, high = points.amin(0), points.amax(0)
    cells = ((points - low) / (high - low).amax().clamp_min(1e-12) * 1023).nan_to_num().long()
    code = torch.zeros(len(points), dtype=torch.int64)
    for bit in range(10):
        for axis in range(3):
            code |= (cells[:, axis] >> bit & 1) << (3 * bit + axis)
    return code.argsort(stable=True).to(means.device)


@dataclass
class Gaussians:
    """N Gaussians. The first seven fields are optimised, the last three bind each one to the body.

    means [N,3] metres; quats [N,4] wxyz, normalised on use; log_scales [N,3]; opacity_logits [N];
    color_logits [N,3], the diffuse colour before the sigmoid; latents [N,F], input of the specular head;
    normal_residuals [N,3], added to the shortest axis before normalising;
    regions [N] int64, the body region; bind_joints [N,4] int64 and bind_weights [N,4], linear blend skinning.
    `field_specs` has the same as a table.
    """

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    color_logits: Tensor
    latents: Tensor
    normal_residuals: Tensor
    regions: Tensor
    bind_joints: Tensor
    bind_weights: Tensor

    def __len__(self) -> int:
        return len(self.means)

    @property
    def scales(self) -> Tensor:
        return self.log_scales.exp()

    @property
    def opacities(self) -> Tensor:
        return self.opacity_logits.sigmoid()

    @property
    def diffuse(self) -> Tensor:
        return self.color_logits.sigmoid()

    @property
    def rotations(self) -> Tensor:
        """Rotation matrices [N,3,3]; column k is the world direction of the Gaussian's k-th axis."""
        return rotation_matrices(self.quats)

    def parameters(self) -> dict[str, Tensor]:
        return {name: getattr(self, name) for name in PARAMETERS}

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def select(self, index: Tensor) -> Gaussians:
        """The Gaussians at `index` (bool mask or indices), detached copies."""
        return Gaussians(**{name: tensor.detach()[index].clone() for name, tensor in self.tensors().items()})

    def to(self, device: torch.device | str) -> Gaussians:
        return Gaussians(**{name: tensor.to(device) for name, tensor in self.tensors().items()})

    def requires_grad_(self, on: bool = True) -> Gaussians:
        for name in PARAMETERS:
            getattr(self, name).requires_grad_(on)
        return self


@dataclass
class Binding:
    """The skeleton in its rest pose, which `Gaussians.bind_joints` indexes. joints [J,3] in metres; parent -1
    marks a root. stance [J,4] wxyz: how the joints are turned, each relative to the rest pose and its parent,
    where the Gaussians are; None: they are in the rest pose. Raises ValueError where the lengths differ."""

    joint_names: list[str]
    joint_parents: list[int]
    joints: Tensor
    stance: Tensor | None = None

    def __post_init__(self) -> None:
        count = len(self.joint_names)
        if len(self.joint_parents) != count or self.joints.shape != (count, 3):
            shape = list(self.joints.shape)
            raise ValueError(
                f"{count} joint_names need as many joint_parents and joints [{count},3], got {shape}"
            )
        if self.stance is not None and self.stance.shape != (count, 4):
            raise ValueError(f"stance must be [{count},4], got {list(self.stance.shape)}")


@dataclass(frozen=True)
class Expressions:
    """Facial actions, such as a smile, that move some of N Gaussians in the rest pose.

    names: of the E actions, ARKit's. index [n] int64: the Gaussians that any action moves, ascending. offsets
    [E,n,3], metres: added to their means by an action at full strength; strengths are 0..1, and actions add
    up. Raises ValueError where the lengths differ.
    """

    names: tuple[str, ...]
    index: Tensor
    offsets: Tensor

    def __post_init__(self) -> None:
        shape = (len(self.names), len(self.index), 3)
        if self.index.ndim != 1 or self.offsets.shape != shape:
            raise ValueError(f"offsets are {list(self.offsets.shape)}, not {list(shape)} as names and index")

    def to(self, device: torch.device | str) -> Expressions:
        return Expressions(self.names, self.index.to(device), self.offsets.to(device))
