"""Reference implementation: the same image in plain float64 torch, dense over splats and pixels, with
autograd.

Memory grows as N x H x W. It is the reference of tests on small scenes, and documents what the fast kernels
compute.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.raster.types import Raster

NEAR = 0.01
BLUR = 0.3
ALPHA_MIN = 1.0 / 255.0
ALPHA_MAX = 0.999
TRANSMITTANCE_MIN = 1e-4


def rasterize_reference(
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
) -> Raster:
    """`rasterize`, slowly: the same arguments in any float dtype, the same outputs in float64."""
    means, quats, scales, opacities, colors, viewmats, Ks = (
        tensor.double() for tensor in (means, quats, scales, opacities, colors, viewmats, Ks)
    )
    count = len(viewmats)
    if background is None:
        background = colors.new_zeros(colors.shape[-1])
    background = background.double().expand(count, -1)
    covariances = _covariances(quats, scales)
    views = [_project(means, covariances, v, K, width, height) for v, K in zip(viewmats, Ks)]
    means2d = torch.stack([view[0] for view in views]) if views else means.new_zeros(0, len(means), 2)
    drawn = []
    for b, (_, covariance2d, depths) in enumerate(views):
        rgb = colors if colors.ndim == 2 else colors[b]
        drawn.append(
            _composite(
                means2d[b], covariance2d, depths, opacities, rgb, background[b], width, height, antialiased
            )
        )
    if not drawn:
        blank = means.new_zeros(0, height, width, 1)
        return Raster(
            blank.expand(-1, -1, -1, colors.shape[-1]), blank, blank, means2d, means2d[..., 0].int()
        )
    image, alpha, depth, radii = (torch.stack(parts) for parts in zip(*drawn))
    return Raster(image, alpha, depth, means2d, radii)


def _covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """R S S^T R^T of each splat, [N,3,3]."""
    w, x, y, z = (quats / quats.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    half = torch.stack(rows, -1).reshape(-1, 3, 3) * scales[:, None, :]
    return half @ half.transpose(1, 2)


def _project(
    means: Tensor, covariances: Tensor, viewmat: Tensor, K: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel positions [N,2], 2D covariances before the blur [N,2,2] and depths [N] in one camera.

    The affine approximation of EWA splatting (Zwicker et al. 2002). The point where the Jacobian is taken is
    clamped to 1.3 times the field of view, as in gsplat, because the Jacobian diverges far outside the image.
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    z_safe = torch.where(z.abs() < 1e-9, 1e-9, z)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = z_safe * torch.clamp(x / z_safe, -cx / fx - margin_x, (width - cx) / fx + margin_x)
    ty = z_safe * torch.clamp(y / z_safe, -cy / fy - margin_y, (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    rows = [fx / z_safe, zero, -fx * tx / z_safe**2, zero, fy / z_safe, -fy * ty / z_safe**2]
    to_pixels = torch.stack(rows, -1).reshape(-1, 2, 3) @ rotation
    means2d = torch.stack([fx * x / z_safe + cx, fy * y / z_safe + cy], -1)
    return means2d, to_pixels @ covariances @ to_pixels.transpose(1, 2), z


def _composite(
    means2d: Tensor,
    covariance2d: Tensor,
    depths: Tensor,
    opacities: Tensor,
    colors: Tensor,
    background: Tensor,
    width: int,
    height: int,
    antialiased: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Image [H,W,C], alpha and depth [H,W,1], radii [N] of one camera."""
    blurred = covariance2d + BLUR * torch.eye(2, dtype=means2d.dtype, device=means2d.device)
    det = torch.linalg.det(blurred)
    if antialiased:
        # The floor keeps the square root's gradient finite where a splat is seen edge on.
        opacities = opacities * (torch.linalg.det(covariance2d) / det).clamp_min(1e-12).sqrt()
    with torch.no_grad():
        extent = (2 * (opacities.clamp_min(ALPHA_MIN) / ALPHA_MIN).log()).sqrt().clamp_max(3.33)
        box = torch.ceil(extent[:, None] * blurred.diagonal(dim1=1, dim2=2).sqrt())
        size = means2d.new_tensor([width, height])
        inside = ((means2d + box > 0) & (means2d - box < size)).all(-1)
        finite = torch.isfinite(means2d).all(-1) & torch.isfinite(det) & torch.isfinite(colors).all(-1)
        visible = inside & finite & (depths >= NEAR) & (det > 0) & (opacities >= ALPHA_MIN)
        radii = torch.where(visible, torch.nan_to_num(box.amax(-1)), 0.0).int()
        order = torch.argsort(depths, stable=True)
        order = order[radii[order] > 0]
    inverse = torch.linalg.inv(blurred[order])
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([xs, ys], -1).reshape(-1, 2).to(means2d) + 0.5
    offset = pixels[None] - means2d[order][:, None]
    power = 0.5 * torch.einsum("npi,nij,npj->np", offset, inverse, offset)
    alphas = (opacities[order][:, None] * torch.exp(-power)).clamp_max(ALPHA_MAX)
    alphas = torch.where(alphas < ALPHA_MIN, 0.0, alphas)
    after = torch.cumprod(1 - alphas, 0)
    before = torch.cat([torch.ones_like(after[:1]), after[:-1]])
    weights = torch.where(after > TRANSMITTANCE_MIN, alphas * before, 0.0)
    alpha = weights.sum(0)[:, None]
    image = weights.T @ colors[order] + (1 - alpha) * background
    depth = (weights.T @ depths[order][:, None]) / alpha.clamp_min(1e-10)
    shape = (height, width, -1)
    return image.reshape(shape), alpha.reshape(shape), depth.reshape(shape), radii
