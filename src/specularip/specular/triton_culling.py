"""`culling.in_view` in one kernel. Importing this module needs Triton."""
# In kernels, tl's operators determine the types, not the annotations.
# mypy: disable-error-code="operator, assignment, no-untyped-def"

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from specularip.cameras import Cameras
from specularip.kernels.launch import launch

BLOCK = 128


def in_view_triton(
    means: Tensor, scales: Tensor, cameras: Cameras, reach: float, near: float, border: float
) -> Tensor:
    """See `culling.in_view`, also for the three limits; float32 tensors on one CUDA device."""
    means, scales = means.detach().contiguous(), scales.detach().contiguous()
    viewmats, Ks = cameras.viewmats.detach().contiguous(), cameras.Ks.detach().contiguous()
    n, count = len(means), len(viewmats)
    seen = torch.empty(count, n, dtype=torch.uint8, device=means.device)
    if n and count:
        arguments = (means, scales, viewmats, Ks, seen, n, cameras.width, cameras.height)
        launch(_in_view, (-(-n // BLOCK), count, 1), arguments, (reach, near, border, BLOCK))
    return seen.view(torch.bool)


@triton.jit(do_not_specialize=list(range(8)))
def _in_view(
    means, scales, viewmats, Ks, seen, n, width, height,
    REACH: tl.constexpr, NEAR: tl.constexpr, BORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    pose, K = viewmats + b * 16, Ks + b * 9
    mean_x = tl.load(means + i * 3, mask=inside, other=0.0)
    mean_y = tl.load(means + i * 3 + 1, mask=inside, other=0.0)
    mean_z = tl.load(means + i * 3 + 2, mask=inside, other=0.0)
    view_x = tl.load(pose) * mean_x + tl.load(pose + 1) * mean_y + tl.load(pose + 2) * mean_z
    view_y = tl.load(pose + 4) * mean_x + tl.load(pose + 5) * mean_y + tl.load(pose + 6) * mean_z
    depth = tl.load(pose + 8) * mean_x + tl.load(pose + 9) * mean_y + tl.load(pose + 10) * mean_z
    view_x, view_y, depth = (
        view_x + tl.load(pose + 3),
        view_y + tl.load(pose + 7),
        depth + tl.load(pose + 11),
    )
    safe = tl.maximum(depth, NEAR)
    x = (tl.load(K) * view_x + tl.load(K + 1) * view_y + tl.load(K + 2) * depth) / safe
    y = (tl.load(K + 3) * view_x + tl.load(K + 4) * view_y + tl.load(K + 5) * depth) / safe
    longest = tl.maximum(
        tl.load(scales + i * 3, mask=inside, other=0.0),
        tl.maximum(
            tl.load(scales + i * 3 + 1, mask=inside, other=0.0),
            tl.load(scales + i * 3 + 2, mask=inside, other=0.0),
        ),
    )
    distance = tl.sqrt(view_x * view_x + view_y * view_y + depth * depth)
    focal = tl.maximum(tl.load(K), tl.load(K + 4))
    reach = REACH * longest * focal * distance / (safe * safe) + BORDER
    near = (x > -reach) & (y > -reach) & (x < width + reach) & (y < height + reach) & (depth > NEAR)
    tl.store(seen + b * n + i, near.to(tl.uint8), mask=inside)
