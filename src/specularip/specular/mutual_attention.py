"""Mutual attention between the diffuse colour and the material of a Gaussian.

Each Gaussian is a few narrow tokens that attend to each other, with weights shared by all Gaussians.
Everything up to the output layer is `attend`, one kernel on CUDA. There, products whose inner dimension is
the number of Gaussians (gradients of weights) use split-K.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from specularip.specular.dispatch import triton_missing_error
from specularip.specular.shading import LATENTS
from specularip.specular.tokens import GROUPS, TOKENS, split_matmul, token_inputs

WIDEST = 16
"""Largest token width of the kernel, which keeps a Gaussian's tokens in one lane's registers."""


class MutualAttention(nn.Module):
    """A residual on the latents, [N,34], from attention between diffuse and specular tokens.

    The diffuse colour is one token, each of GROUPS another. The diffuse token attends to all tokens, each
    specular token to the diffuse one and itself. The output layer starts at zero.
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
        attended = attend(latents, diffuse, self._projection())
        weight = torch.cat([self.answer.weight, self.answer.bias[:, None]], 1)
        # Divided by the number of inputs: otherwise, at the one learning rate of the head, the output layer
        # would learn faster than the latents and give all Gaussians one material.
        residual: Tensor = _Product.apply(attended.T, weight.T / self.answer.in_features)
        return residual

    def _projection(self) -> Tensor:
        """The map from `token_inputs` to each token of width W, its query, key and value: [5·4W,3+34+1]."""
        layers: list[Any] = [self.diffuse_token, *self.latent_tokens]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        # Centred colours: 2 diffuse - 1.
        weights[0], biases[0] = 2 * weights[0], biases[0] - weights[0].sum(1)
        own = torch.eye(len(biases[0]), dtype=biases[0].dtype, device=biases[0].device)
        heads = torch.cat([own, self.qkv.weight])
        tokens = torch.cat([torch.block_diag(*weights), torch.cat(biases)[:, None]], 1)
        return (heads @ tokens.unflatten(0, (TOKENS, -1))).flatten(0, 1)


class _Product(torch.autograd.Function):
    """a @ b; the gradient of a has a's memory layout."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a @ b

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        contract = split_matmul if grad.is_cuda else torch.matmul
        g_a = contract(grad, b.T) if a.is_contiguous() else contract(b, grad.T).T
        return g_a, contract(a.T, grad)


def attend(latents: Tensor, diffuse: Tensor, projection: Tensor) -> Tensor:
    """The tokens after attention, the diffuse one first, and a 1: [5·W+1,N]; one kernel on CUDA.

    latents [N,34], diffuse [N,3]; projection [5·4·W,38]: from `token_inputs` to each token, its query, key
    and value, 0 for the inputs of other tokens. Raises UserError for CUDA tensors where Triton is missing.
    """
    if latents.is_cuda and latents.dtype == torch.float32 and len(projection) <= 4 * TOKENS * WIDEST:
        try:
            from specularip.specular.triton_mutual_attention import attend_triton
        except ImportError as error:
            raise triton_missing_error() from error
        return attend_triton(latents, diffuse, projection)
    # Gaussians last, so that elementwise operations run over contiguous memory.
    projected: Tensor = _Product.apply(projection, token_inputs(latents, diffuse).T)
    token, query, key, value = projected.unflatten(0, (TOKENS, 4, -1)).unbind(1)
    scale = 1 / math.sqrt(token.shape[1])
    # Elementwise: batched products of thousands of tiny matrices are slow.
    weights = torch.softmax(scale * (query[0] * key).sum(1, keepdim=True), 0)
    diffuse_token = token[:1] + (weights * value).sum(0, keepdim=True)
    # A softmax over two scores is a sigmoid.
    share = torch.sigmoid(scale * (query[1:] * (key[0] - key[1:])).sum(1, keepdim=True))
    others = token[1:] + value[1:] + share * (value[0] - value[1:])
    one = torch.ones_like(diffuse_token[0, :1])
    return torch.cat([diffuse_token.flatten(0, 1), others.flatten(0, 1), one])
