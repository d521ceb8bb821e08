"""Appearance models: how Gaussians get their colours during a fit.

`fit` uses SpecularAppearance; benchmarks compare it with others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.fitting.initial_shading import fit_initial_shading
from specularip.fitting.observations import Observations, quantile_colors
from specularip.fitting.point_init import PointInit
from specularip.gaussians import PARAMETERS, Gaussians, rotation_matrices
from specularip.kernels.cuda_graphs import GraphedFunction
from specularip.progress import Report, unheard
from specularip.specular import SpecularHead, in_view
from specularip.specular.shading import LATENTS, RESIDUAL
from specularip.training.optimizer import SHARED

COLOR_TIE_SHARE = 0.3
"""Weight of the difference of neighbours' diffuse colours, relative to that of their materials."""
RESIDUAL_WEIGHT = 1e-5
SHARED_RATE = 1e-2

Fields = Mapping[str, Tensor]
"""Parameters and ties of N Gaussians by name, a row for each: `TrainState.fields`."""


class Appearance(Protocol):
    """The colours of Gaussians."""

    rates: dict[str, float]
    """Adam's learning rates of the parameters that `begin` adds, and of the shared ones (SHARED)."""

    @property
    def shared(self) -> nn.Module:
        """The module of parameters that belong to no single Gaussian; perhaps an empty one."""

    def begin(
        self,
        init: PointInit,
        observations: Observations,
        cameras: Tensor,
        generator: torch.Generator,
        report: Report = unheard,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The model's own parameters and ties, a row for each initial point, on their device. cameras
        [V,3]: positions of the observations' cameras."""

    def colors(self, fields: Fields, camera: Cameras, share: float) -> Tensor:
        """Displayed colours [1,N,3] for one camera; share 0..1: the progress of the fit."""

    def penalty(self, fields: Fields, near: Tensor) -> Tensor:
        """A scalar to add to the loss. near [N]: for each Gaussian, the index of one of its neighbours."""


def initial_colors(observations: Observations, points: Tensor) -> Tensor:
    """Logits [N,3] of initial diffuse colours: the observed 30 % quantile, below most highlights."""
    return torch.logit(quantile_colors(observations, 0.3, points).clamp(0.02, 0.98))


class SpecularAppearance:
    """The specular head, with normals that start on the mesh and are optimised."""

    def __init__(
        self,
        head: SpecularHead,
        initial_shading_steps: int = 400,
        material_tie: float = 0.1,
        rates: dict[str, float] | None = None,
    ) -> None:
        """material_tie: weight of the difference of a Gaussian's material from its neighbour's."""
        self.head, self.initial_shading_steps, self.material_tie = head, initial_shading_steps, material_tie
        own = {"color_logits": 2e-2, "latents": 1e-2, "normal_residuals": 1e-3, SHARED: SHARED_RATE}
        self.rates = {**own, **(rates or {})}
        self._graphed_colors = GraphedFunction(self._colors)
        self._graphed_penalty = GraphedFunction(self._penalty)

    @property
    def shared(self) -> SpecularHead:
        return self.head

    def begin(
        self,
        init: PointInit,
        observations: Observations,
        cameras: Tensor,
        generator: torch.Generator,
        report: Report = unheard,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        points, normals = init.points, init.normals
        colors = initial_colors(observations, points)
        latents = torch.zeros(len(points), LATENTS, device=points.device)
        if normals is not None:
            steps = self.initial_shading_steps
            latents = fit_initial_shading(
                self.head, points, normals, observations, cameras, colors, steps, generator, report
            )
        params = {"color_logits": colors, "latents": latents, "normal_residuals": torch.zeros_like(points)}
        if normals is None:
            normals = rotation_matrices(init.quats)[..., 2]
        return params, {"initial_normals": normals.clone()}

    def normals(self, fields: Fields) -> Tensor:
        """Unit normals [N,3], of either sign."""
        return F.normalize(fields["initial_normals"] + fields["normal_residuals"], dim=-1)

    def colors(self, fields: Fields, camera: Cameras, share: float) -> Tensor:
        return self._graphed_colors(
            fields["color_logits"],
            fields["latents"],
            fields["normal_residuals"],
            fields["initial_normals"],
            fields["means"].detach(),
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
        initial_normals: Tensor,
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
        normals = F.normalize(initial_normals + normal_residuals, dim=-1)
        visible = in_view(means, log_scales.exp(), camera)
        named = {name: value for (name, _), value in zip(self.head.named_parameters(), parameters)}
        return diffuse + functional_call(
            self.head, named, (latents, diffuse, normals, means, camera.positions, visible)
        )

    def penalty(self, fields: Fields, near: Tensor) -> Tensor:
        return self._graphed_penalty(fields["latents"], fields["color_logits"], near)

    def _penalty(self, latents: Tensor, colors: Tensor, near: Tensor) -> Tensor:
        penalty: Tensor = _NeighbourPenalty.apply(latents, colors, near, self.material_tie)
        return penalty

    @torch.no_grad()
    def gaussians(self, fields: Fields) -> Gaussians:
        """Detached copies as `Gaussians`; normals become residuals of the shortest axes."""
        params = {name: fields[name].detach().clone() for name in PARAMETERS}
        shortest = params["log_scales"].argmin(-1)[:, None, None].expand(-1, 3, 1)
        axis = rotation_matrices(params["quats"]).gather(2, shortest)[..., 0]
        # The normal keeps its sign: tangent angles are measured around it.
        params["normal_residuals"] = self.normals(fields) - axis
        count, device = len(axis), axis.device
        weights = torch.zeros(count, 4, device=device)
        weights[:, 0] = 1
        return Gaussians(
            **params,
            regions=torch.zeros(count, dtype=torch.int64, device=device),
            bind_joints=torch.zeros(count, 4, dtype=torch.int64, device=device),
            bind_weights=weights,
        )


class _NeighbourPenalty(torch.autograd.Function):
    """L1 differences of materials [N,34] and diffuse logits [N,3] from those of the neighbours `near`, and a
    small L2 penalty on the residual. The forward pass computes the gradient too, in one tensor; autograd
    would allocate one for each slice."""

    @staticmethod
    def forward(ctx: Any, latents: Tensor, colors: Tensor, near: Tensor, tie: float) -> Tensor:
        material, residual = latents[:, :RESIDUAL], latents[:, RESIDUAL:]
        material_step, color_step = material - material[near], colors - colors[near]
        g_latents = latents * (2 * RESIDUAL_WEIGHT / residual.numel())
        g_latents[:, :RESIDUAL] = material_step.sign() * (tie / material_step.numel())
        ctx.save_for_backward(g_latents, color_step.sign() * (COLOR_TIE_SHARE * tie / color_step.numel()))
        difference = material_step.abs().mean() + COLOR_TIE_SHARE * color_step.abs().mean()
        return tie * difference + RESIDUAL_WEIGHT * residual.square().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        g_latents, g_colors = ctx.saved_tensors
        return grad * g_latents, grad * g_colors, None, None
