"""The CUDA path: gsplat's kernels, called one by one rather than through its `rasterization`.

That leaves out what we have no use for (a concatenated colour-and-depth image, distributed and other
modes), and the time saved pays for the test of finite numbers, which gsplat lacks. Unpacked:
`benchmarks/raster.py` measures the packed form too, which is slower wherever most splats are in view, as an
avatar's are. The one host synchronisation left is inside gsplat's `isect_tiles`, which reads the number of
pairs back to allocate them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.errors import UserError

TILE = 16
CHANNELS_AT_ONCE = 32
"""More do not fit the shared memory of every card."""


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
        from gsplat import fully_fused_projection, isect_offset_encode, isect_tiles, rasterize_to_pixels
    except ImportError as error:
        raise UserError(
            "Drawing on a GPU needs gsplat: pip install 'specularip[cuda]', or move everything to the CPU."
        ) from error
    count, n = len(viewmats), len(means)
    # gsplat culls by opacity; it lets NaN through.
    opacities = torch.where(_finite(means, quats, scales, opacities, colors), opacities, 0.0)
    radii, means2d, depths, conics, factors = fully_fused_projection(
        means, None, quats, scales, viewmats, Ks, width, height,
        calc_compensations=antialiased, opacities=opacities,
    )  # fmt: skip
    peaks = opacities.expand(count, n) if factors is None else opacities * factors
    tiles_x, tiles_y = -(-width // TILE), -(-height // TILE)
    _, pairs, splats = isect_tiles(means2d, radii, depths, TILE, tiles_x, tiles_y, n_images=count)
    starts = isect_offset_encode(pairs, count, tiles_x, tiles_y)
    features = torch.cat([depths[..., None], colors.expand(count, n, -1)], -1)
    if background is not None:
        background = torch.cat([background.new_zeros(count, 1), background], -1)
    drawn, alphas = [], []
    for first in range(0, features.shape[-1], CHANNELS_AT_ONCE):
        some = slice(first, first + CHANNELS_AT_ONCE)
        layer, alpha = rasterize_to_pixels(
            means2d, conics, features[..., some], peaks, width, height, TILE, starts, splats,
            None if background is None else background[..., some],
        )  # fmt: skip
        drawn.append(layer)
        alphas.append(alpha)
    layers = drawn[0] if len(drawn) == 1 else torch.cat(drawn, -1)
    depth = layers[..., :1] / alphas[0].clamp_min(1e-10)
    # gsplat measures the box by half width and half height.
    return layers[..., 1:], alphas[0], depth, means2d, radii.amax(-1)


def _finite(means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor) -> Tensor:
    """Which splats hold finite numbers only, [N] bool; a sum is not finite as soon as one term is not."""
    with torch.no_grad():
        color_sum = colors.sum(-1) if colors.ndim == 2 else colors.sum((0, 2))
        return torch.isfinite(means.sum(-1) + quats.sum(-1) + scales.sum(-1) + opacities + color_sum)
