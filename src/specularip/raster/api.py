"""The front door: checks its arguments, then hands over to the numba kernels (CPU) or gsplat (CUDA)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specularip.errors import UserError


@dataclass(frozen=True)
class Raster:
    """What `rasterize` draws.

    image: [B,H,W,C], composited over the background. alpha: [B,H,W,1] in 0..1.
    depth: [B,H,W,1] expected depth sum(w z) / alpha in the units of `means`, 0 where nothing was hit;
    [B,H,W,0] if it was not asked for.
    means2d: [B,N,2] pixel positions of the splats, part of the graph: call `retain_grad()` on it before
    `backward()` and its `.grad` is d loss / d pixel position. Meaningless where `radii` is 0.
    radii: [B,N] int32, half the longer side of the splat's box in pixels, 0 = culled.
    """

    image: Tensor
    alpha: Tensor
    depth: Tensor
    means2d: Tensor
    radii: Tensor


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    background: Tensor | None = None,
    *,
    antialiased: bool = False,
    depth: bool = True,
) -> Raster:
    """Draw N 3D Gaussians into B pinhole cameras (Kerbl et al. 2023, with gsplat 1.5.3's conventions).

    means: [N,3]. quats: [N,4] wxyz, normalised here. scales: [N,3] standard deviations along the axes.
    opacities: [N] in 0..1. colors: [N,C], or [B,N,C] with a colour for each camera; any C >= 1.
    viewmats: [B,4,4] world-to-camera, OpenCV axes. Ks: [B,3,3] in pixels, pixel centres at +0.5.
    background: [C] or [B,C], black when None. All float32, all on one device.
    antialiased: scale opacities by sqrt(det / det_blurred) of the projected covariance (Mip-Splatting).
    depth: draw it too, which on CUDA costs as much as a channel of colour.

    Gradients reach every float input except Ks, which counts as a constant. Splats with a NaN or an infinity
    among their values are culled (on CUDA in all cameras, also where only one camera's colour is bad), and
    so are splats nearer than 0.01 to the camera plane. The CPU path gives the same bits from run to run,
    whatever the number of threads (SPECULARIP_NUM_THREADS limits them).

    Raises ValueError, naming the argument, for a wrong shape, dtype or device; UserError for CUDA tensors
    where gsplat is not installed.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, background)
    if background is not None and background.ndim == 1:
        background = background.expand(len(viewmats), -1)
    if len(means) == 0 or len(viewmats) == 0:
        return _empty(means, quats, scales, opacities, colors, viewmats, width, height, background, depth)
    if means.is_cuda:
        from specularip.raster.cuda import rasterize_gsplat as draw
    else:
        try:
            from specularip.raster.cpu import rasterize_numba as draw
        except RuntimeError as error:
            raise no_cache(error) from error
    drawn = draw(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, background, antialiased, depth
    )
    return Raster(*drawn)


def no_cache(error: RuntimeError) -> UserError:
    """What to tell where numba found no folder for its cache, which it says while kernels are imported."""
    return UserError(
        f"The CPU kernels cannot be kept ({error}): set NUMBA_CACHE_DIR to a folder you may write to."
    )


def warm_up(device: torch.device | str = "cpu") -> None:
    """Compile the kernels of `device`, or load them from their cache, by drawing and differentiating a splat.

    Raises UserError where something that they need is not installed.
    """
    one = torch.ones(1, 3, device=device, requires_grad=True)
    quats, opacities = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).to(one), torch.full((1,), 0.5).to(one)
    focal = torch.tensor([[[8.0, 0.0, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]]])
    viewmats, Ks = torch.eye(4)[None].to(one), focal.to(one)
    raster = rasterize(one, quats, one * 0.1, opacities, one, viewmats, Ks, 8, 8)
    (raster.image.sum() + raster.depth.sum()).backward()


def _empty(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    width: int,
    height: int,
    background: Tensor | None,
    depth: bool,
) -> Raster:
    """No splats or no cameras: the background, still tied to the graph so that `backward()` works."""
    count, channels = len(viewmats), colors.shape[-1]
    # Empty sums are 0 whatever the numbers are, and carry a graph.
    tied = (means[:0], quats[:0], scales[:0], opacities[:0], colors[..., :0], viewmats[:, :0])
    blank = torch.stack([tensor.sum() for tensor in tied]).sum()
    alpha = blank.expand(count, height, width, 1)
    image = blank.expand(count, height, width, channels)
    if background is not None:
        image = image + background[:, None, None, :]
    means2d = means.new_zeros(count, len(means), 2) + blank
    radii = torch.zeros(count, len(means), dtype=torch.int32, device=means.device)
    return Raster(image.clone(), alpha.clone(), alpha[..., : int(depth)].clone(), means2d, radii)


_NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "background")


def _check(
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
) -> None:
    device = means.device if isinstance(means, Tensor) else None
    named = zip(_NAMES, (means, quats, scales, opacities, colors, viewmats, Ks, background))
    for name, tensor in named:
        if not isinstance(tensor, Tensor):
            if name == "background" and tensor is None:
                continue
            raise ValueError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
        if tensor.dtype is not torch.float32:
            raise ValueError(f"{name} must be float32, got {tensor.dtype}")
        if tensor.device != device:
            raise ValueError(f"{name} is on {tensor.device}, but means is on {device}")
    if means.device.type not in ("cpu", "cuda"):
        raise ValueError(f"means must be on the CPU or on CUDA, got {means.device}")
    if means.ndim != 2 or means.shape[1] != 3:
        raise ValueError(f"means must be [N,3], got {list(means.shape)}")
    if viewmats.ndim != 3 or viewmats.shape[1:] != (4, 4):
        raise ValueError(f"viewmats must be [B,4,4], got {list(viewmats.shape)}")
    n, b = len(means), len(viewmats)
    shapes = (("quats", quats, (n, 4)), ("scales", scales, (n, 3)), ("opacities", opacities, (n,)))
    for name, tensor, shape in (*shapes, ("Ks", Ks, (b, 3, 3))):
        if tensor.shape != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(tensor.shape)}")
    channels = colors.shape[-1] if colors.ndim else 0
    if channels < 1 or colors.shape not in ((n, channels), (b, n, channels)):
        raise ValueError(f"colors must be [{n},C] or [{b},{n},C] with C >= 1, got {list(colors.shape)}")
    if background is not None and background.shape not in ((channels,), (b, channels)):
        raise ValueError(f"background must be [{channels}] or [{b},{channels}], got {list(background.shape)}")
    for name, size in (("width", width), ("height", height)):
        if not isinstance(size, int) or not 1 <= size <= 65536:
            raise ValueError(f"{name} must be a whole number of pixels, 1 to 65536, got {size!r}")
