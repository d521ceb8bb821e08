"""The CUDA path: gsplat's kernels under two autograd functions of ours, the counterparts of those in `cpu`.

gsplat's own `rasterization` spends more time in Python and in small kernels than one camera takes to render.
Calling its kernels directly saves that time and leaves room for the test for finite values, which gsplat
lacks. We use gsplat's unpacked layout: `benchmarks/raster.py` measures both, and the packed one is slower
where most splats are in view, as an avatar's are. One host synchronisation remains, inside `intersect_tile`,
which reads the number of splat-tile pairs to allocate memory for them.

The kernels are private to gsplat, so the extra `cuda` pins its version.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from math import inf
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.errors import UserError
from specularip.raster.types import Raster, Scene

GSPLAT = "1.5.3"
TILE = 16
BLUR, NEAR, FAR = 0.3, 0.01, 1e10
CHANNELS_AT_ONCE = 32
"""More do not fit the shared memory of every GPU."""
KERNEL_WIDTHS = (1, 2, 3, 4, 5, 8, 9, 16, 17, 32)
"""Channel counts that gsplat compiles kernels for."""


def rasterize_gsplat(scene: Scene) -> Raster:
    """See `rasterize`."""
    means2d, conics, peaks, depths, radii = _Project.apply(
        scene.means, scene.quats, scene.scales, scene.opacities, scene.viewmats, scene.Ks.detach(),
        scene.colors.detach(), scene.width, scene.height, scene.antialiased,
    )  # fmt: skip
    image, alpha, depth = _Composite.apply(
        means2d, conics, peaks, depths, scene.colors, scene.background, radii, scene.width, scene.height,
        scene.depth,
    )  # fmt: skip
    # gsplat gives half the width and half the height of a splat's box.
    return Raster(image, alpha, depth, means2d, radii.amax(-1))


class _Project(torch.autograd.Function):
    """means, quats, scales, opacities, viewmats -> means2d, conics, peaks, depths; radii [B,N,2]."""

    @staticmethod
    def forward(ctx: Any, means, quats, scales, opacities, viewmats, Ks, colors, width, height, antialiased):
        means, quats, opacities = means.contiguous(), quats.contiguous(), opacities.contiguous()
        scales = _nan_where_not_finite(scales, opacities, colors)
        viewmats, Ks = viewmats.contiguous(), Ks.contiguous()
        radii, means2d, depths, conics, factors = _kernels().projection_ewa_3dgs_fused_fwd(
            means, None, quats, scales, opacities, viewmats, Ks, width, height,
            BLUR, NEAR, FAR, 0.0, antialiased, _pinhole(),
        )  # fmt: skip
        factors = factors if antialiased else None
        peaks = opacities.expand(radii.shape[:2]).contiguous() if factors is None else opacities * factors
        ctx.size = (width, height)
        ctx.save_for_backward(means, quats, scales, opacities, viewmats, Ks, radii, conics, factors)
        ctx.mark_non_differentiable(radii)
        return means2d, conics, peaks, depths, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_means2d, g_conics, g_peaks, g_depths, _):
        means, quats, scales, opacities, viewmats, Ks, radii, conics, factors = ctx.saved_tensors
        g_factors = None
        if factors is not None:
            g_factors, g_peaks = g_peaks * opacities, g_peaks * factors
        g_means, _, g_quats, g_scales, g_viewmats = _kernels().projection_ewa_3dgs_fused_bwd(
            means, None, quats, scales, viewmats, Ks, *ctx.size, BLUR, _pinhole(), radii, conics, factors,
            g_means2d.contiguous(), g_depths.contiguous(), g_conics.contiguous(), g_factors,
            ctx.needs_input_grad[4],
        )  # fmt: skip
        g_opacities = g_peaks[0] if len(g_peaks) == 1 else g_peaks.sum(0)
        poses = g_viewmats if ctx.needs_input_grad[4] else None
        return g_means, g_quats, g_scales, g_opacities, poses, None, None, None, None, None


class _Composite(torch.autograd.Function):
    """means2d, conics, peaks, depths, colors, background -> image, alpha, depth.

    With `with_depth`, depth is composited as one more channel, the first. Channels are composited in passes
    of up to CHANNELS_AT_ONCE.
    """

    @staticmethod
    def forward(
        ctx: Any, means2d, conics, peaks, depths, colors, background, radii, width, height, with_depth
    ):
        count, n = peaks.shape
        first = int(with_depth)  # of the colour channels
        kernels = _kernels()
        across, down = -(-width // TILE), -(-height // TILE)
        features, behind = colors.expand(count, n, -1), background
        if with_depth:
            features = torch.cat([depths[..., None], features], -1)
            behind = None if behind is None else torch.nn.functional.pad(behind, (1, 0))
        else:
            features = features.clone()  # the caller may change theirs before the backward pass
        parts = _passes(features.shape[-1])
        passes = [
            (_padded(features[..., part]), None if behind is None else _padded(behind[:, part]))
            for part in parts
        ]
        # Host synchronisation: the number of splat-tile pairs must be known.
        _, pairs, splats = kernels.intersect_tile(
            means2d, radii, depths, None, None, count, TILE, across, down, True, False
        )
        starts = kernels.intersect_offset(pairs, count, across, down)
        drawn = []
        for part, (channels, back) in zip(parts, passes):
            layer, alpha, last = kernels.rasterize_to_pixels_3dgs_fwd(
                means2d, conics, channels, peaks, back, None, width, height, TILE, starts, splats
            )
            drawn.append(layer[..., : part.stop - part.start])
        layers = drawn[0] if len(drawn) == 1 else torch.cat(drawn, -1)
        raw_alpha, alpha = alpha, alpha.float()  # the backward kernel needs the dtype that it had
        image, depth = layers[..., first:], layers[..., :first] / alpha.clamp_min(1e-10)
        ctx.passes, ctx.size, ctx.color_shape, ctx.first = passes, (width, height), colors.shape, first
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(means2d, conics, peaks, starts, splats, raw_alpha, last, alpha, depth)
        return image, alpha, depth

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_image, g_alpha, g_depth):
        means2d, conics, peaks, starts, splats, raw_alpha, last, alpha, depth = ctx.saved_tensors
        channels = ctx.color_shape[-1]
        g_background = None
        if ctx.needs_input_grad[5] and g_image is not None:
            g_background = (g_image * (1 - alpha)).sum((1, 2))
        if g_alpha is None:
            g_alpha = torch.zeros_like(alpha)
        if g_depth is not None:
            g_depth = g_depth / alpha.clamp_min(1e-10)
            g_alpha = torch.addcmul(g_alpha, g_depth, depth, value=-1)
        if g_image is None:
            g_image = alpha.new_zeros(*alpha.shape[:3], channels)
        if g_depth is None:
            g_layers = torch.nn.functional.pad(g_image, (ctx.first, 0))
        else:
            g_layers = torch.cat([g_depth, g_image], -1)
        totals: list[Tensor] = []
        g_features = []
        for part, (some, back) in zip(_passes(channels + ctx.first), ctx.passes):
            _, *gradients = _kernels().rasterize_to_pixels_3dgs_bwd(
                means2d, conics, some, peaks, back, None, *ctx.size, TILE, starts, splats, raw_alpha, last,
                _padded(g_layers[..., part]), g_alpha.contiguous(), False,
            )  # fmt: skip
            g_alpha = torch.zeros_like(alpha)  # counted in the first pass only
            g_features.append(gradients.pop(2)[..., : part.stop - part.start])
            totals = [a + b for a, b in zip(totals, gradients)] if totals else gradients
        features = g_features[0] if len(g_features) == 1 else torch.cat(g_features, -1)
        g_means2d, g_conics, g_peaks = totals
        g_depths = features[..., 0] if ctx.first else None
        g_colors = features[..., ctx.first :]
        if len(ctx.color_shape) == 2:
            g_colors = g_colors[0] if len(g_colors) == 1 else g_colors.sum(0)
        return g_means2d, g_conics, g_peaks, g_depths, g_colors, g_background, None, None, None, None


def _passes(channels: int) -> list[slice]:
    starts = range(0, channels, CHANNELS_AT_ONCE)
    return [slice(first, min(first + CHANNELS_AT_ONCE, channels)) for first in starts]


def _padded(tensor: Tensor) -> Tensor:
    """Padded with zero channels up to the next width that has a kernel; contiguous."""
    channels = tensor.shape[-1]
    width = next(width for width in KERNEL_WIDTHS if width >= channels)
    return torch.nn.functional.pad(tensor, (0, width - channels)) if width > channels else tensor.contiguous()


def _nan_where_not_finite(scales: Tensor, opacities: Tensor, colors: Tensor) -> Tensor:
    """scales [N,3], NaN where a splat's scales, opacity or colour are not finite.

    gsplat culls splats whose mean, quaternion or scale is NaN (their radius, cast to an integer, is 0) and
    those at infinity, but composites other bad values. Only three kernels: for small images their launches
    cost more than their work.
    """
    fields = [scales, opacities[:, None]] if colors.ndim == 3 else [scales, opacities[:, None], colors]
    largest = torch.linalg.vector_norm(torch.cat(fields, -1), inf, -1, keepdim=True)
    if colors.ndim == 3:
        largest = torch.maximum(largest, torch.linalg.vector_norm(colors, inf, (0, 2))[:, None])
    return torch.add(scales, largest, alpha=0)  # 0 times infinity is NaN


def pick_device(device: torch.device | str | None) -> torch.device:
    """`device`; if None, CUDA where `available`, else the CPU. Raises UserError for CUDA where there is
    none."""
    if device is None:
        device = "cuda" if available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("PyTorch finds no CUDA GPU: use the CPU (--device cpu)")
    return device


def available() -> bool:
    """Whether there is a GPU and gsplat runs on it; may build gsplat's kernels."""
    if not torch.cuda.is_available():
        return False
    try:
        check_kernels()
    except UserError:
        return False
    return True


def check_kernels() -> None:
    """Load gsplat's kernels, or build them. Raises UserError, which says why they cannot be used."""
    _kernels()


@cache
def _kernels() -> Any:
    """gsplat's compiled module; gsplat builds it on first use where it was installed without."""
    try:
        found = version("gsplat")
    except PackageNotFoundError:
        found = None  # perhaps a copy without package metadata
    if found is not None and found.split("+")[0] != GSPLAT:
        raise UserError(
            f"Rendering on a GPU needs gsplat {GSPLAT}, not {found}: pip install 'specularip[cuda]'."
        )
    try:
        from gsplat.cuda._backend import _C
    except ImportError as error:
        raise UserError(
            "Rendering on a GPU needs gsplat: pip install 'specularip[cuda]', or move everything to the CPU."
        ) from error
    except (RuntimeError, OSError) as error:  # its kernels could not be built or loaded
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise UserError(
            f"gsplat's kernels cannot be built or loaded ({reason}): install a CUDA toolkit that matches "
            f"this torch, or a wheel of gsplat {GSPLAT} built for it, or move everything to the CPU."
        ) from error
    if _C is None:
        raise UserError(
            "gsplat has no compiled kernels and found no CUDA toolkit (nvcc) to build them: install the "
            f"toolkit, or a wheel of gsplat {GSPLAT} built for this torch, or move everything to the CPU."
        )
    return _C


@cache
def _pinhole() -> Any:
    return _kernels().CameraModelType.PINHOLE
