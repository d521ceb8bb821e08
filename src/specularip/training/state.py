"""What a stage optimises, and all of it that a checkpoint must hold for a resumed run to go the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from specularip.body import Body
from specularip.gaussians import Gaussians, turned_to
from specularip.specular import LATENTS, SpecularConfig, SpecularHead
from specularip.stages.settings import RateConfig
from specularip.training.density import DensityStats
from specularip.training.parallel import ALONE, Team

REGION_WEIGHTS = {"head": 6.0, "neck": 1.6, "hand": 1.3, "foot": 1.2}
"""Samples per area, relative to the rest of the body: close-ups look at the head."""


@dataclass
class State:
    """Gaussians and head under one Adam, and what goes with them.

    anchors [N,3]: where on the body each Gaussian (or its ancestor) started. generator: the only source of
    random numbers, on the CPU. skipped: non-finite losses in a row, a scalar int64; a GPU counts them itself.
    All tensors are on one device.
    """

    gaussians: Gaussians
    head: SpecularHead
    anchors: Tensor
    optimizer: torch.optim.Adam
    stats: DensityStats
    generator: torch.Generator
    skipped: Tensor

    def pack(self) -> dict[str, Any]:
        """Everything, as nested dicts of tensors."""
        return {
            "gaussians": self.gaussians.tensors(),
            "head": self.head.state_dict(),
            "head_config": asdict(self.head.config),
            "anchors": self.anchors,
            "optimizer": self.optimizer.state_dict(),
            "stats": self.stats.tensors(),
            "generator": self.generator.get_state(),
            "skipped": int(self.skipped),
        }

    @staticmethod
    def unpack(packed: dict[str, Any], device: torch.device | str = "cpu") -> State:
        """The inverse of `pack`, on `device`."""
        gaussians = Gaussians(**packed["gaussians"]).to(device).requires_grad_()
        head = SpecularHead(SpecularConfig(**packed["head_config"]))
        head.load_state_dict(packed["head"])
        optimizer = make_optimizer(gaussians, head.to(device))
        optimizer.load_state_dict(packed["optimizer"])
        generator = torch.Generator()
        generator.set_state(packed["generator"])
        return State(
            gaussians,
            head,
            packed["anchors"].to(device),
            optimizer,
            DensityStats(**{name: tensor.to(device) for name, tensor in packed["stats"].items()}),
            generator,
            torch.tensor(packed["skipped"], device=device),
        )


def make_optimizer(gaussians: Gaussians, head: SpecularHead) -> torch.optim.Adam:
    """One group per field, named after it as `density` wants, and one for the head; stages set the rates."""
    groups: list[dict[str, Any]] = [
        {"params": [tensor], "name": name} for name, tensor in gaussians.parameters().items()
    ]
    groups.append({"params": list(head.parameters()), "name": "head"})
    set_rates(groups, RateConfig())
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12, fused=gaussians.means.is_cuda)


def set_rates(
    groups: list[dict[str, Any]],
    rates: RateConfig,
    factor: float = 1.0,
    slowed: Mapping[str, float] = MappingProxyType({}),
    steady: Sequence[str] = (),
) -> None:
    """Learning rates of an optimizer's groups: `rates` times `factor`, and times what `slowed` has by name.
    Groups named in `steady` keep their plain rate."""
    for group in groups:
        rate = getattr(rates, group["name"])
        group["lr"] = rate if group["name"] in steady else rate * factor * slowed.get(group["name"], 1.0)


def start(body: Body, points: int, seed: int, lights: int = 24, device: torch.device | str = "cpu") -> State:
    """Flat grey Gaussians on the skin of `body`, under a dim light of so many lobes, on `device`."""
    generator = torch.Generator().manual_seed(seed)
    samples = body.to("cpu").sample_surface(points, generator, REGION_WEIGHTS)
    config = SpecularConfig(lights, attention=True, radiance=0.1)
    head = SpecularHead(config, seed).to(device)
    gaussians = Gaussians(
        means=samples.points.clone(),
        quats=turned_to(samples.normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.85, 0.85, 0.3])),
        opacity_logits=torch.full((points,), 2.0),
        color_logits=torch.zeros(points, 3),
        latents=torch.zeros(points, LATENTS),
        normal_residuals=torch.zeros(points, 3),
        regions=samples.regions,
        bind_joints=samples.bind_joints,
        bind_weights=samples.bind_weights,
    )
    gaussians = gaussians.to(device).requires_grad_()
    optimizer = make_optimizer(gaussians, head)
    stats = DensityStats.zeros(points, device)
    anchors, skipped = samples.points.clone().to(device), torch.tensor(0, device=device)
    return State(gaussians, head, anchors, optimizer, stats, generator, skipped)


def take_step(
    state: State,
    loss: Tensor,
    own_loss: Tensor | None = None,
    ownership: Tensor | None = None,
    team: Team = ALONE,
) -> Tensor:
    """Backward and one step of Adam; a scalar, False where loss or gradient is not finite and nothing was
    changed. On a GPU nothing waits for it.

    own_loss speaks for the Gaussians by their `ownership` [N] in 0..1: there the gradients of `loss` fade out
    before those of own_loss are added. Gradients are averaged over the `team`. The caller stops the run when
    three steps in a row were not finite (`state.skipped`).
    """
    state.optimizer.zero_grad(set_to_none=True)
    loss.backward()
    if own_loss is not None and ownership is not None:
        for tensor in state.gaussians.parameters().values():
            if tensor.grad is not None:
                tensor.grad *= (1 - ownership).reshape(-1, *[1] * (tensor.ndim - 1))
        own_loss.backward()
    gradients = [
        p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None
    ]
    team.average(gradients)
    # One look for all: the largest of each gradient is NaN or infinite if any of it is.
    largest = torch._foreach_norm(gradients, torch.inf)
    losses = [] if team.size > 1 else [loss.detach()]  # the others' differ, and all must decide alike
    if own_loss is not None:
        losses.append(own_loss.detach())
    finite = torch.stack([*largest, *losses]).isfinite().all()
    if gradients[0].is_cuda:
        # The GPU itself leaves the step out: nobody waits for the answer.
        state.optimizer.found_inf = (~finite).float()  # type: ignore[attr-defined]
    elif not bool(finite):
        state.optimizer.zero_grad(set_to_none=True)
        state.skipped = state.skipped + 1
        return finite
    fields = state.gaussians.parameters()
    # Colours and latents have gradients of own_loss to follow; what else the photo owns stays where it is.
    free = ("color_logits", "latents")
    before = {} if ownership is None else {k: v.detach().clone() for k, v in fields.items() if k not in free}
    state.optimizer.step()
    with torch.no_grad():
        for name, old in before.items():
            # Adam takes full steps on any gradient, however faded, so the step itself has to fade as well.
            fields[name].lerp_(old, ownership.reshape(-1, *[1] * (old.ndim - 1)))  # type: ignore[union-attr]
    state.skipped = torch.where(finite, 0, state.skipped + 1)
    return finite
