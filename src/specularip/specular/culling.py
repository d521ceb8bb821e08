"""Which Gaussians a camera may see, so that no other's highlight is worked out."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.cameras import Cameras

REACH = 4.0
"""Standard deviations beyond which a splat is not drawn any more, with a margin."""
NEAR = 1e-3
BORDER = 2.0
"""Pixels that the low-pass filter of the rasteriser may add."""


@torch.no_grad()
def in_view(means: Tensor, scales: Tensor, cameras: Cameras) -> Tensor:
    """Which Gaussians may reach into the image, [B,N] bool; one kernel on CUDA, where Triton is there.

    means [N,3], scales [N,3]: along the axes. A splat is as long, at most, as its longest axis would be if it
    lay across the ray to its mean. What hides behind others counts as seen.
    """
    numbers = (means, scales, cameras.viewmats, cameras.Ks)
    if means.is_cuda and all(tensor.dtype == torch.float32 for tensor in numbers):
        try:
            from specularip.specular.triton_culling import in_view_triton
        except ImportError:
            pass
        else:
            return in_view_triton(means, scales, cameras)
    view = means @ cameras.viewmats[:, :3, :3].transpose(1, 2) + cameras.viewmats[:, None, :3, 3]
    depth = view[..., 2]
    safe = depth.clamp_min(NEAR)
    x, y, _ = ((view @ cameras.Ks.transpose(1, 2)) / safe[..., None]).unbind(-1)
    focal = torch.maximum(cameras.Ks[:, 0, 0], cameras.Ks[:, 1, 1])[:, None]
    # A step of length 1 at the mean moves its image by at most focal |view| / depth².
    reach = REACH * scales.amax(-1) * focal * view.norm(dim=-1) / safe.square() + BORDER
    inside = (x > -reach) & (y > -reach) & (x < cameras.width + reach) & (y < cameras.height + reach)
    return inside & (depth > NEAR)
