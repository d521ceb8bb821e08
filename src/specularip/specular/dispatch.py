"""The specular colour by the fastest means at hand."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.errors import UserError
from specularip.raster.api import no_cache
from specularip.specular.shading import LATENTS, specular_reference


def shade_fused(
    latents: Tensor,
    diffuse: Tensor,
    normals: Tensor,
    means: Tensor,
    centres: Tensor,
    light_axes: Tensor,
    light_widths: Tensor,
    light_colors: Tensor,
    ambient: Tensor,
    visible: Tensor | None = None,
) -> Tensor:
    """`shading.specular_reference`, [B,N,3], by a fused kernel: Triton on CUDA, numba on the CPU.

    visible: [B,N] bool, which Gaussians are wanted in which camera; the others' colours and gradients are 0
    and cost next to nothing. Gradients reach latents, diffuse, normals and the light, not means and centres.
    Whatever is not float32 takes the plain path. Raises UserError for CUDA tensors where Triton is missing.
    """
    arguments = (
        latents, diffuse, normals, means, centres, light_axes, light_widths, light_colors, ambient,
    )  # fmt: skip
    if any(argument.dtype != torch.float32 for argument in arguments):
        means, centres = means.detach(), centres.detach()
        shown = specular_reference(*arguments[:3], means, centres, *arguments[5:])
        return shown if visible is None else torch.where(visible[..., None], shown, 0)
    if latents.is_cuda:
        try:
            from specularip.specular.triton_shading import shade_triton as shade
        except ImportError as error:
            raise no_triton() from error
    elif latents.device.type == "cpu":
        try:
            from specularip.specular.numba_shading import shade_numba as shade
        except RuntimeError as error:
            raise no_cache(error) from error
    else:
        raise UserError(f"highlights are drawn on CUDA or on the CPU, not on {latents.device.type!r}")
    return shade(*arguments, visible)


def no_triton() -> UserError:
    """What to tell where CUDA tensors came and Triton is not there."""
    return UserError("Highlights on a GPU need Triton: pip install triton, or move everything to the CPU.")


def warm_up(device: torch.device | str = "cpu") -> None:
    """Compile the kernels of `device`, or load them from their cache, by shading and differentiating one
    Gaussian. Raises UserError where something that they need is not installed."""
    up, one = torch.tensor([[0.0, 0.0, 1.0]]).to(device), torch.ones(1, device=device)
    latents = torch.zeros(1, LATENTS, device=device, requires_grad=True)
    light = (up, one, up, torch.zeros(9, 3, device=device))
    shade_fused(latents, up * 0.5, up, up * 0.0, up * 2.0, *light).sum().backward()
