"""The CUDA path (gsplat) against the CPU path."""

import sys

import pytest
import torch
from scenes import assert_same, check_that_depth_changes_nothing_else, draw, scene, sure_pixels

from specularip.errors import UserError
from specularip.raster import cuda, rasterize


@pytest.mark.gpu(needs="gsplat")
@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
@pytest.mark.parametrize(
    "options",
    [
        {"channels": 1},
        {"channels": 6},
        {"channels": 7, "per_camera": True},
        {"channels": 40},
        {"behind": 0.5},
    ],
    ids=str,
)
def test_cuda_matches_cpu(options, antialiased, seed):
    arguments = scene(seed, n=300, width=70, height=50, **options)
    sure = sure_pixels(arguments, antialiased)
    on_gpu = draw(rasterize, arguments, seed, antialiased, device="cuda", sure=sure)
    on_cpu = draw(rasterize, arguments, seed, antialiased, sure=sure)
    assert_same(*on_gpu, *on_cpu, sure, seed)


@pytest.mark.gpu(needs="gsplat")
@pytest.mark.parametrize("channels", [1, 3, 6, 32, 40])
def test_depth_changes_nothing_else(channels, seed):
    check_that_depth_changes_nothing_else("cuda", seed, channels == 3, channels=channels)


@pytest.mark.gpu(needs="gsplat")
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
def test_cuda_culls_bad_values(name, bad, seed):
    """Only well-defined pixels can agree. With seed 1492067928 one is not, row 1, column 4 of camera 1: in
    float64 a splat's alpha there is (1 - 1.5e-6) / 255, and float32 rounding (of its position at 22.6 pixels,
    of its conic, of exp) decides whether it is composited, which changes the image by 2e-3. See
    `test_pixels_at_the_alpha_threshold_are_not_sure`. Bad scales are culled on both paths."""
    arguments = scene(seed, n=40)
    kept = {k: v[1::2] if isinstance(v, torch.Tensor) and len(v) == 40 else v for k, v in arguments.items()}
    arguments[name].view(40, -1)[::2, 0] = bad
    on_gpu = {k: v.cuda() if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    raster, wanted = rasterize(**on_gpu), rasterize(**kept)
    assert not raster.radii[:, ::2].any(), f"seed {seed}"
    error = ((raster.image.cpu() - wanted.image).abs() * sure_pixels(kept)).max()
    assert error < 1e-3, f"image off by {error}, seed {seed}"


def test_missing_gsplat_is_one_clear_line(monkeypatch):
    for name in ("gsplat", "gsplat.cuda", "gsplat.cuda._backend"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="needs gsplat"):
        cuda._kernels.__wrapped__()
