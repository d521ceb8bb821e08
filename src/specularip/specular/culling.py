"""Frustum culling: which Gaussians a camera may see, so that only those are shaded."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.cameras import Cameras

REACH = 4.0
"""Standard deviations beyond which a splat is not rendered, with a margin."""
NEAR = 1e-3
BORDER = 2.0
"""Pixels that the rasteriser's low-pass filter may add."""


@torch.no_grad()
def in_view(means: Tensor, scales: Tensor, cameras: Cameras) -> Tensor:
    """Which Gaussians may overlap the image, [B,N] bool; one kernel on CUDA if Triton is installed.

    means [N,3]; scales [N,3], standard deviations along the axes. Conservative: a splat's extent is bounded
    by its longest axis, taken perpendicular to the ray to its mean. Occlusion is not tested.
    """
    numbers = (means, scales, cameras.viewmats, cameras.Ks)
    if means.is_cuda and all(tensor.dtype == torch.float32 for tensor in numbers):
        try:
            from specularip.specular.triton_culling import in_view_triton
        except ImportError:
            pass
        else:
            return in_view_triton(means, scales, cameras, REACH, NEAR, BORDER)
    view = means @ cameras.viewmats[:, :3, :3].transpose(1, 2) + cameras.viewmats[:, None, :3, 3]
    depth = view[..., 2]
    safe = depth.clamp_min(NEAR)
    x, y, _ = ((view @ cameras.Ks.transpose(1, 2)) / safe[..., None]).unbind(-1)
    focal = torch.maximum(cameras.Ks[:, 0, 0], cameras.Ks[:, 1, 1])[:, None]
    # Moving the mean by 1 moves its projection by at most focal |view| / depth².
    reach = REACH * scales.amax(-1) * focal * view.norm(dim=-1) / safe.square() + BORDER
    inside = (x > -reach) & (y > -reach) & (x < cameras.width + reach) & (y < cameras.height + reach)
    return inside & (depth > NEAR)
