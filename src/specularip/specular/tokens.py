"""The tokens of mutual attention, and the split product that its gradients need."""

from __future__ import annotations

import torch
from torch import Tensor

GROUPS = (3, 3, 4, 24)
"""Sizes of the parts of a latent that are one token each: shape, reflectance, visibility and residual."""
TOKENS = 1 + len(GROUPS)
"""The diffuse colour's token comes first."""
PARTS = 128


def token_inputs(latents: Tensor, diffuse: Tensor) -> Tensor:
    """Diffuse, latents and a 1, [N,38]: the inputs of the affine map to tokens."""
    return torch.cat([diffuse, latents, torch.ones_like(diffuse[:, :1])], 1)


def split_matmul(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; a long inner dimension is split into PARTS whose products are summed (split-K). Libraries assign
    few multiprocessors to a small result."""
    each = a.shape[1] // PARTS
    if each < PARTS:
        return a @ b
    whole = PARTS * each
    a_parts = a[:, :whole].unflatten(1, (PARTS, each)).transpose(0, 1)
    b_parts = b[:whole].unflatten(0, (PARTS, each))
    return (a_parts @ b_parts).sum(0) + a[:, whole:] @ b[whole:]
