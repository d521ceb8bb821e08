"""Mutual attention between the diffuse colour and the material of a Gaussian.

Each Gaussian is a few short tokens that look at each other, with weights that all Gaussians share. What comes
before the answer is `look`, one kernel on CUDA. Products whose inner side is as long as there are Gaussians
(the gradients of weights) are added up in parts there.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from specularip.specular.dispatch import no_triton
from specularip.specular.shading import LATENTS

GROUPS = (3, 3, 4, 24)
"""What the attention sees as one token each: shape, reflectance, visibility and residual of a latent."""
TOKENS = 1 + len(GROUPS)
PARTS = 128
WIDEST = 16
"""Token that the kernel is for: it keeps all numbers of a Gaussian in one lane's registers."""


class MutualAttention(nn.Module):
    """Diffuse and specular look at each other: a change of the latents [N,34].

    The diffuse colour is one token, each of GROUPS another. The diffuse token attends to all of them, each
    specular token to the diffuse one and itself. The change is zero at the start.
    """

    def __init__(self, token: int) -> None:
        super().__init__()
        self.diffuse_token = nn.Linear(3, token)
        self.latent_tokens = nn.ModuleList(nn.Linear(group, token) for group in GROUPS)
        self.qkv = nn.Linear(token, 3 * token, bias=False)
        self.answer = nn.Linear(TOKENS * token, LATENTS)
        for tensor in self.answer.parameters():
            nn.init.zeros_(tensor)

    def forward(self, latents: Tensor, diffuse: Tensor) -> Tensor:
        answers = look(latents, diffuse, self._projection())
        weight = torch.cat([self.answer.weight, self.answer.bias[:, None]], 1)
        # A mean: the sum of so many, all following one rate, would outrun the latents themselves and make one
        # material of all Gaussians.
        change: Tensor = _Product.apply(answers.T, weight.T / self.answer.in_features)
        return change

    def _projection(self) -> Tensor:
        """Of diffuse, latents and a 1 to each token of width W, its query, key and value: [5·4W,3+34+1]."""
        layers: list[Any] = [self.diffuse_token, *self.latent_tokens]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        # Colours count from grey: 2 diffuse - 1.
        weights[0], biases[0] = 2 * weights[0], biases[0] - weights[0].sum(1)
        own = torch.eye(len(biases[0]), dtype=biases[0].dtype, device=biases[0].device)
        heads = torch.cat([own, self.qkv.weight])
        tokens = torch.cat([torch.block_diag(*weights), torch.cat(biases)[:, None]], 1)
        return (heads @ tokens.unflatten(0, (TOKENS, -1))).flatten(0, 1)


class _Product(torch.autograd.Function):
    """a @ b; the gradient of a lies in memory as a does."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        contract = in_parts if grad.is_cuda else torch.matmul
        g_a = contract(grad, b.T) if a.is_contiguous() else contract(b, grad.T).T
        return g_a, contract(a.T, grad)


def in_parts(a: Tensor, b: Tensor) -> Tensor:
    """a @ b; a long inner side is cut into PARTS that are added up. Libraries leave few rows and columns to
    few processors."""
    each = a.shape[1] // PARTS
    if each < PARTS:
        return a @ b
    whole = PARTS * each
    a_parts = a[:, :whole].unflatten(1, (PARTS, each)).transpose(0, 1)
    b_parts = b[:whole].unflatten(0, (PARTS, each))
    return (a_parts @ b_parts).sum(0) + a[:, whole:] @ b[whole:]


def look(latents: Tensor, diffuse: Tensor, projection: Tensor) -> Tensor:
    """What the tokens become, the diffuse one first, and a 1: [5·W+1,N]; one kernel on CUDA. Raises UserError
    for CUDA tensors where Triton is missing.

    latents [N,34], diffuse [N,3]; projection [5·4·W,38]: of diffuse, latents and a 1 to each token itself,
    its query, key and value, 0 where a token does not see.
    """
    if latents.is_cuda and latents.dtype == torch.float32 and len(projection) <= 4 * TOKENS * WIDEST:
        try:
            from specularip.specular.triton_attention import look_triton
        except ImportError as error:
            raise no_triton() from error
        return look_triton(latents, diffuse, projection)
    # Gaussians last: what lies side by side in memory is then treated alike.
    seen: Tensor = _Product.apply(projection, together(latents, diffuse).T)
    token, query, key, value = seen.unflatten(0, (TOKENS, 4, -1)).unbind(1)
    scale = 1 / math.sqrt(token.shape[1])
    # Written out: for small matrices by the thousand, products are slow.
    weights = torch.softmax(scale * (query[0] * key).sum(1, keepdim=True), 0)
    answer = token[:1] + (weights * value).sum(0, keepdim=True)
    # A softmax over two.
    share = torch.sigmoid(scale * (query[1:] * (key[0] - key[1:])).sum(1, keepdim=True))
    others = token[1:] + value[1:] + share * (value[0] - value[1:])
    return torch.cat([answer.flatten(0, 1), others.flatten(0, 1), torch.ones_like(answer[0, :1])])


def together(latents: Tensor, diffuse: Tensor) -> Tensor:
    """Diffuse, latents and a 1, [N,38]."""
    return torch.cat([diffuse, latents, torch.ones_like(diffuse[:, :1])], 1)
