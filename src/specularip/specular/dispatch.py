"""Chooses the implementation of shading: Triton on CUDA, numba on the CPU, plain tensors for other dtypes."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.errors import UserError
from specularip.specular.shading import LATENTS, Light, Surface, specular_reference


def shade_fused(surface: Surface, light: Light, centres: Tensor, visible: Tensor | None = None) -> Tensor:
    """`shading.specular_reference`, [B,N,3], by a fused kernel: Triton on CUDA, numba on the CPU.

    centres [B,3]: positions of the cameras. visible [B,N] bool: which Gaussians to shade for which camera;
    the others' colours and gradients are 0 and cost almost nothing. Gradients reach latents, diffuse, normals
    and the light, not means and centres. Tensors that are not float32 take the plain path. Raises UserError
    for CUDA tensors where Triton is missing.
    """
    if any(tensor.dtype != torch.float32 for tensor in (*surface, centres, *light)):
        surface = surface._replace(means=surface.means.detach())
        specular = specular_reference(surface, light, centres.detach())
        return specular if visible is None else torch.where(visible[..., None], specular, 0)
    device = surface.latents.device
    if device.type == "cuda":
        try:
            from specularip.specular.triton_shading import shade_triton
        except ImportError as error:
            raise triton_missing_error() from error
        return shade_triton(surface, light, centres, visible)
    if device.type == "cpu":
        from specularip.specular.numba_shading import shade_numba

        return shade_numba(surface, light, centres, visible)
    raise UserError(f"highlights are shaded on CUDA or on the CPU, not on {device.type!r}")


def triton_missing_error() -> UserError:
    """The error to raise for CUDA tensors where Triton is not installed."""
    return UserError("Highlights on a GPU need Triton: pip install triton, or move everything to the CPU.")


def warm_up(device: torch.device | str = "cpu") -> None:
    """Compile the kernels of `device`, or load them from their cache: shade one Gaussian, forward and
    backward.

    Raises UserError if Triton (CUDA) is not installed or numba has no writable cache folder.
    """
    up, one = torch.tensor([[0.0, 0.0, 1.0]]).to(device), torch.ones(1, device=device)
    latents = torch.zeros(1, LATENTS, device=device, requires_grad=True)
    surface = Surface(latents, diffuse=up * 0.5, normals=up, means=up * 0.0)
    light = Light(axes=up, widths=one, colors=up, ambient=torch.zeros(9, 3, device=device))
    shade_fused(surface, light, up * 2.0).sum().backward()
