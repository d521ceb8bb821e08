"""`rasterize`: checks its arguments, then runs the numba kernels (CPU) or gsplat's (CUDA)."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.raster.types import Raster, Scene


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
    """Render N 3D Gaussians through B pinhole cameras (Kerbl et al. 2023, with gsplat 1.5.3's conventions).

    means: [N,3]. quats: [N,4] wxyz, normalised here. scales: [N,3] standard deviations along the axes.
    opacities: [N] in 0..1. colors: [N,C], or [B,N,C] with a colour for each camera; any C >= 1.
    viewmats: [B,4,4] world-to-camera, OpenCV axes. Ks: [B,3,3] in pixels, pixel centres at +0.5.
    background: [C] or [B,C], black when None. All float32, all on one device.
    antialiased: scale opacities by sqrt(det / det_blurred) of the projected covariance (Mip-Splatting).
    depth: render it too, which on CUDA costs as much as one more colour channel.

    Gradients reach every float input except Ks, which counts as a constant. Splats with a NaN or an infinity
    among their values are culled (on CUDA in all cameras, even where only one camera's colour is bad), and
    so are splats nearer than 0.01 to the camera plane. The CPU path gives the same bits from run to run,
    whatever the number of threads (SPECULARIP_NUM_THREADS limits them).

    Raises ValueError, naming the argument, for a wrong shape, dtype or device; UserError for CUDA tensors
    where gsplat is not installed.
    """
    scene = Scene(
        means, quats, scales, opacities, colors, viewmats, Ks, width, height, background, antialiased, depth
    )
    _check(scene)
    if background is not None and background.ndim == 1:
        scene.background = background.expand(len(viewmats), -1)
    if len(means) == 0 or len(viewmats) == 0:
        return _background_only(scene)
    if means.is_cuda:
        from specularip.raster.cuda import rasterize_gsplat

        return rasterize_gsplat(scene)
    from specularip.raster.cpu import rasterize_numba

    return rasterize_numba(scene)


def warm_up(device: torch.device | str = "cpu") -> None:
    """Compile the kernels of `device`, or load them from their cache: render one splat, forward and backward.

    Raises UserError if gsplat (CUDA) is not installed.
    """
    one = torch.ones(1, 3, device=device, requires_grad=True)
    quats, opacities = torch.tensor([[1.0, 0.0, 0.0, 0.0]]).to(one), torch.full((1,), 0.5).to(one)
    focal = torch.tensor([[[8.0, 0.0, 4.0], [0.0, 8.0, 4.0], [0.0, 0.0, 1.0]]])
    viewmats, Ks = torch.eye(4)[None].to(one), focal.to(one)
    raster = rasterize(one, quats, one * 0.1, opacities, one, viewmats, Ks, 8, 8)
    (raster.image.sum() + raster.depth.sum()).backward()


def _background_only(scene: Scene) -> Raster:
    """No splats or no cameras: the background, connected to the autograd graph so that `backward()` works."""
    means, viewmats, background = scene.means, scene.viewmats, scene.background
    count, channels = len(viewmats), scene.colors.shape[-1]
    # Sums over nothing: 0 whatever the values are, and part of the graph.
    quats, scales, opacities, colors = scene.quats, scene.scales, scene.opacities, scene.colors
    empty = (means[:0], quats[:0], scales[:0], opacities[:0], colors[..., :0], viewmats[:, :0])
    zero = torch.stack([tensor.sum() for tensor in empty]).sum()
    alpha = zero.expand(count, scene.height, scene.width, 1)
    image = zero.expand(count, scene.height, scene.width, channels)
    if background is not None:
        image = image + background[:, None, None, :]
    means2d = means.new_zeros(count, len(means), 2) + zero
    radii = torch.zeros(count, len(means), dtype=torch.int32, device=means.device)
    return Raster(image.clone(), alpha.clone(), alpha[..., : int(scene.depth)].clone(), means2d, radii)


_TENSORS = ("means", "quats", "scales", "opacities", "colors", "viewmats", "Ks", "background")


def _check(scene: Scene) -> None:
    """Raise ValueError, naming the argument, for a wrong type, dtype, device or shape."""
    means, colors, viewmats, background = scene.means, scene.colors, scene.viewmats, scene.background
    device = means.device if isinstance(means, Tensor) else None
    for name in _TENSORS:
        tensor = getattr(scene, name)
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
    for name, shape in (("quats", (n, 4)), ("scales", (n, 3)), ("opacities", (n,)), ("Ks", (b, 3, 3))):
        found = getattr(scene, name).shape
        if found != shape:
            raise ValueError(f"{name} must be {list(shape)}, got {list(found)}")
    channels = colors.shape[-1] if colors.ndim else 0
    if channels < 1 or colors.shape not in ((n, channels), (b, n, channels)):
        raise ValueError(f"colors must be [{n},C] or [{b},{n},C] with C >= 1, got {list(colors.shape)}")
    if background is not None and background.shape not in ((channels,), (b, channels)):
        raise ValueError(f"background must be [{channels}] or [{b},{channels}], got {list(background.shape)}")
    for name in ("width", "height"):
        size = getattr(scene, name)
        if not isinstance(size, int) or not 1 <= size <= 65536:
            raise ValueError(f"{name} must be a whole number of pixels, 1 to 65536, got {size!r}")
