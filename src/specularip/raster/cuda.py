"""The CUDA path: gsplat's unpacked rasterisation."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.errors import UserError


def rasterize_gsplat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Image, alpha, depth, means2d and radii, as `rasterize` documents them; background is [B,C] or None."""
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise UserError(
            "Drawing on a GPU needs gsplat: pip install 'specularip[cuda]', or move everything to the CPU."
        ) from error
    # gsplat culls by opacity; it lets NaN through.
    opacities = torch.where(_finite(means, quats, scales, opacities, colors), opacities, 0.0)
    drawn, alpha, meta = rasterization(
        means,
        quats,
        scales,
        opacities,
        colors,
        viewmats,
        Ks,
        width,
        height,
        packed=False,
        backgrounds=None if background is None else background.contiguous(),
        render_mode="RGB+ED",
        rasterize_mode="antialiased" if antialiased else "classic",
    )
    # gsplat measures the box by half width and half height.
    return drawn[..., :-1], alpha, drawn[..., -1:], meta["means2d"], meta["radii"].amax(-1)


def _finite(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor) -> Tensor:
    """Which splats hold finite numbers only, [N] bool; a sum is not finite as soon as one term is not."""
    with torch.no_grad():
        color_sum = colors.sum(-1) if colors.ndim == 2 else colors.sum((0, 2))
        return torch.isfinite(means.sum(-1) + quats.sum(-1) + scales.sum(-1) + opacities + color_sum)
