"""What gives Gaussians their colours during a fit. `fit` uses SpecularAppearance; benchmarks bring others."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.fitting.cloud import Cloud
from specularip.fitting.first_light import fit_first_light
from specularip.fitting.start import Sightings, Start, quantile_colors
from specularip.gaussians import Gaussians, rotation_matrices
from specularip.kernels.cuda_graphs import GraphedFunction
from specularip.specular import SpecularHead, in_view
from specularip.specular.shading import LATENTS, RESIDUAL

TINT_SHARE = 0.3
"""How much of the tie of materials holds for diffuse colours."""
RESIDUAL_PULL = 1e-5


class Appearance(Protocol):
    """Colours of a `Cloud`."""

    rates: dict[str, float]
    """Adam's learning rate of each field that `begin` adds."""

    def begin(
        self, start: Start, sightings: Sightings, cameras: Cameras, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Fields and ties of its own, a row for each point of the start, on the start's device."""

    def shared(self) -> Iterable[tuple[nn.Parameter, float]]:
        """Parameters that all Gaussians share, with their learning rates."""

    def state_dict(self) -> dict[str, Tensor]:
        """Of what is shared."""

    def load_state_dict(self, state: dict[str, Tensor]) -> object: ...

    def colors(self, cloud: Cloud, camera: Cameras, share: float) -> Tensor:
        """[1,N,3], as shown, for one camera; share 0..1: how much of the fit is done."""

    def penalty(self, cloud: Cloud, near: Tensor) -> Tensor:
        """A scalar to add to the loss. near [N]: for each Gaussian, one of its neighbours."""


def start_colors(sightings: Sightings, points: Tensor) -> Tensor:
    """Logits [N,3] of a first diffuse colour: below it lie three of ten sightings, so that it is free of most
    highlights."""
    return torch.logit(quantile_colors(sightings, 0.3, points).clamp(0.02, 0.98))


class SpecularAppearance:
    """The specular head, with normals that start on the mesh and are learned."""

    def __init__(
        self,
        head: SpecularHead,
        first_light_steps: int = 400,
        material_tie: float = 0.1,
        rates: dict[str, float] | None = None,
    ) -> None:
        """material_tie: weight of the difference of a Gaussian's material from its neighbour's."""
        self.head, self.first_light_steps, self.material_tie = head, first_light_steps, material_tie
        self.rates = {"color_logits": 2e-2, "latents": 1e-2, "normal_residuals": 1e-3, **(rates or {})}
        self._graphed_colors, self._graphed_penalty = (
            GraphedFunction(self._colors),
            GraphedFunction(self._penalty),
        )

    def begin(
        self, start: Start, sightings: Sightings, cameras: Cameras, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        points = start.points
        colors = start_colors(sightings, points)
        if start.normals is not None and self.first_light_steps:
            latents = fit_first_light(
                self.head, start, sightings, cameras, colors, self.first_light_steps, generator
            )
        else:
            latents = torch.zeros(len(points), LATENTS, device=points.device)
        fields = {"color_logits": colors, "latents": latents, "normal_residuals": torch.zeros_like(points)}
        normals = start.normals
        if normals is None:
            normals = rotation_matrices(start.quats)[..., 2]
        return fields, {"start_normals": normals.clone()}

    def shared(self) -> Iterable[tuple[nn.Parameter, float]]:
        return [(parameter, 1e-2) for parameter in self.head.parameters()]

    def state_dict(self) -> dict[str, Tensor]:
        return self.head.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> object:
        return self.head.load_state_dict(state)

    def normals(self, cloud: Cloud) -> Tensor:
        """Unit normals [N,3], either side."""
        return F.normalize(cloud.ties["start_normals"] + cloud.fields["normal_residuals"], dim=-1)

    def colors(self, cloud: Cloud, camera: Cameras, share: float) -> Tensor:
        fields = cloud.fields
        return self._graphed_colors(
            fields["color_logits"],
            fields["latents"],
            fields["normal_residuals"],
            cloud.ties["start_normals"],
            cloud.means.detach(),
            fields["log_scales"].detach(),
            camera.viewmats,
            camera.Ks,
            *self.head.parameters(),
            width=camera.width,
            height=camera.height,
        )

    def _colors(
        self,
        color_logits: Tensor,
        latents: Tensor,
        normal_residuals: Tensor,
        start_normals: Tensor,
        means: Tensor,
        log_scales: Tensor,
        viewmats: Tensor,
        Ks: Tensor,
        *parameters: Tensor,
        width: int,
        height: int,
    ) -> Tensor:
        camera = Cameras(viewmats, Ks, width, height)
        diffuse = color_logits.sigmoid()
        normals = F.normalize(start_normals + normal_residuals, dim=-1)
        visible = in_view(means, log_scales.exp(), camera)
        named = {name: value for (name, _), value in zip(self.head.named_parameters(), parameters)}
        return diffuse + functional_call(
            self.head, named, (latents, diffuse, normals, means, camera.positions, visible)
        )

    def penalty(self, cloud: Cloud, near: Tensor) -> Tensor:
        return self._graphed_penalty(cloud.fields["latents"], cloud.fields["color_logits"], near)

    def _penalty(self, latents: Tensor, colors: Tensor, near: Tensor) -> Tensor:
        pull: Tensor = _Pull.apply(latents, colors, near, self.material_tie)
        return pull

    @torch.no_grad()
    def gaussians(self, cloud: Cloud) -> Gaussians:
        """The finished cloud, detached: normals are rewritten as residuals of the shortest axes."""
        fields = {name: tensor.detach().clone() for name, tensor in cloud.fields.items()}
        shortest = fields["log_scales"].argmin(-1)[:, None, None].expand(-1, 3, 1)
        axis = rotation_matrices(fields["quats"]).gather(2, shortest)[..., 0]
        # Not turned to the axis' side first: the tangents' angles count from the normal as it is.
        fields["normal_residuals"] = self.normals(cloud) - axis
        count, device = len(cloud), cloud.means.device
        weights = torch.zeros(count, 4, device=device)
        weights[:, 0] = 1
        return Gaussians(
            **fields,
            regions=torch.zeros(count, dtype=torch.int64, device=device),
            bind_joints=torch.zeros(count, 4, dtype=torch.int64, device=device),
            bind_weights=weights,
        )


class _Pull(torch.autograd.Function):
    """The pull of materials [N,34] and diffuse logits [N,3] to those of `near`, and of residuals to 0. The
    gradient, which is known at once, is written in one piece; autograd would write one for each slice."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, colors: Tensor, near: Tensor, tie: float) -> Tensor:
        material, residual = latents[:, :RESIDUAL], latents[:, RESIDUAL:]
        apart, tint = material - material[near], colors - colors[near]
        g_latents = latents * (2 * RESIDUAL_PULL / residual.numel())
        g_latents[:, :RESIDUAL] = apart.sign() * (tie / apart.numel())
        ctx.save_for_backward(g_latents, tint.sign() * (TINT_SHARE * tie / tint.numel()))
        difference = apart.abs().mean() + TINT_SHARE * tint.abs().mean()
        return tie * difference + RESIDUAL_PULL * residual.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        g_latents, g_colors = ctx.saved_tensors
        return grad * g_latents, grad * g_colors, None, None
