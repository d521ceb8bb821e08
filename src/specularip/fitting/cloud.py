"""Gaussians under optimisation: tensors by name, one Adam, and the moves that keep their number."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from specularip.gaussians import rotation_matrices

DEAD = 0.02
"""Opacity below which a Gaussian is moved to where it is of use."""
SHARE = 0.02
"""Of all Gaussians, those that may move at once."""
SHRINK = (1.25, 1.25, 1.12)
"""By what a Gaussian's axes shrink when a second one joins it."""


@dataclass
class Cloud:
    """N Gaussians. fields: what is optimised, named as in `Gaussians` where it is the same thing. ties: what
    only follows its Gaussian. strain [N] and looks [N]: the summed gradient in the image plane and the images
    it was summed over, since the last `relocate`."""

    fields: dict[str, Tensor]
    ties: dict[str, Tensor] = field(default_factory=dict)
    strain: Tensor = field(default_factory=lambda: torch.zeros(0))
    looks: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        if len(self.strain) != len(self):
            self.strain, self.looks = (torch.zeros(len(self), device=self.means.device) for _ in range(2))

    def __len__(self) -> int:
        return len(self.fields["means"])

    @property
    def means(self) -> Tensor:
        return self.fields["means"]

    @property
    def scales(self) -> Tensor:
        return self.fields["log_scales"].exp()

    @property
    def opacities(self) -> Tensor:
        return self.fields["opacity_logits"].sigmoid()

    def pack(self) -> dict[str, Any]:
        """Nested dicts of tensors, for a checkpoint."""
        return {"fields": self.fields, "ties": self.ties, "strain": self.strain, "looks": self.looks}

    @torch.no_grad()
    def note(self, gradients: Tensor, radii: Tensor) -> None:
        """Add one image's gradients at the projected means [B,N,2], and which were drawn (radii [B,N])."""
        drawn = radii > 0
        self.strain += torch.where(drawn, gradients.norm(dim=-1), 0.0).sum(0)
        self.looks += drawn.sum(0)


@torch.no_grad()
def relocate(cloud: Cloud, optimizer: torch.optim.Optimizer, generator: torch.Generator) -> Tensor:
    """Move faded and useless Gaussians to where the image strains most; returns the indices that moved.

    As in 3DGS-MCMC (Kheradmand et al. 2024) nothing is added or removed: a moved Gaussian becomes a second
    one at its new place, and both are as opaque together as the first was alone. Places are drawn in
    proportion to the mean gradient to the power of 1.5. generator: on the CPU.
    """
    fields = cloud.fields
    device = cloud.means.device
    strain = (cloud.strain / cloud.looks.clamp_min(1)).cpu()
    opacities, looks = cloud.opacities.cpu(), cloud.looks.cpu()
    dead = opacities < DEAD
    count = max(min(int(SHARE * len(cloud)), int((strain > 0).sum())), int(dead.sum()))
    usefulness = torch.where(dead, -1.0, torch.where(looks > 0, strain * opacities, torch.inf))
    moved = usefulness.argsort(stable=True)[:count]
    moved = moved[usefulness[moved] < torch.inf]
    weights = strain.clamp_min(0) ** 1.5
    weights[moved] = 0
    moved = moved[: int((weights > 0).sum())]
    cloud.strain.zero_()
    cloud.looks.zero_()
    if len(moved) == 0:
        return moved.to(device)
    target = torch.multinomial(weights, len(moved), replacement=False, generator=generator).to(device)
    noise = torch.randn(len(moved), 3, generator=generator).to(device)
    moved = moved.to(device)

    turned = rotation_matrices(fields["quats"][target])
    offset = (turned @ (cloud.scales[target] * noise)[..., None])[..., 0]
    half = 1 - (1 - cloud.opacities[target].clamp_max(0.999)).sqrt()
    fields["opacity_logits"][target] = torch.logit(half.clamp(0.005, 0.995))
    fields["log_scales"][target] -= noise.new_tensor([math.log(s) for s in SHRINK])
    for tensor in fields.values():
        tensor[moved] = tensor[target]
        forget(optimizer, tensor, moved)
    for tensor in cloud.ties.values():
        tensor[moved] = tensor[target]
    fields["means"][moved] += offset
    fields["means"][target] -= 0.5 * offset
    return moved


def forget(optimizer: torch.optim.Optimizer, tensor: Tensor, rows: Tensor) -> None:
    """Clear Adam's averages for `rows` of a parameter [N,...]: they speak of what was there before."""
    for value in optimizer.state.get(tensor, {}).values():
        if isinstance(value, Tensor) and value.ndim and len(value) == len(tensor):
            value[rows] = 0
