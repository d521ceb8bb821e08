"""Frustum culling keeps every splat that is rendered, and the kernel agrees with plain tensors."""

import pytest
import torch

from specularip.cameras import Cameras
from specularip.raster import rasterize
from specularip.specular import in_view


def cloud(seed: int, n: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Means around the origin and outside the frusta, scales up to 0.5, quaternions."""
    g = torch.Generator().manual_seed(seed)
    scales = 0.5 * torch.rand(n, 3, generator=g) ** 4 + 1e-3
    return 2 * torch.randn(n, 3, generator=g), scales, torch.randn(n, 4, generator=g)


@pytest.mark.parametrize("fov_y_deg", [20.0, 60.0, 110.0])
def test_every_rendered_splat_is_in_view(fov_y_deg, seed):
    means, scales, quats = cloud(seed, 3000)
    cameras = Cameras.orbit([0.0, 130.0], [10.0, -60.0], 1.5, fov_y_deg, 160, 90)
    ones = torch.ones(len(means))
    drawn = rasterize(means, quats, scales, ones, means, cameras.viewmats, cameras.Ks, 160, 90).radii > 0
    seen = in_view(means, scales, cameras)
    assert seen.shape == (2, 3000) and seen.dtype == torch.bool
    assert drawn.any() and not (drawn & ~seen).any(), seed
    assert (~seen).float().mean() > 0.2, f"{seed}: hardly anything is culled"


@pytest.mark.gpu(needs="triton")
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_kernel_matches_plain_tensors(n, seed):
    means, scales, _ = cloud(seed, n)
    cameras = Cameras.orbit([0.0, 130.0, 250.0], [10.0, -60.0, 0.0], 1.5, 60.0, 160, 90)
    found = in_view(means.cuda(), scales.cuda(), cameras.to("cuda")).cpu()
    wanted = in_view(means, scales, cameras)
    assert found.shape == wanted.shape and found.dtype == torch.bool
    # Rounding decides for splats that just reach the border.
    assert (found != wanted).sum() <= 0.001 * wanted.numel(), seed
