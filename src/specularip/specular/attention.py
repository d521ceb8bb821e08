"""Mutual attention between the diffuse colour and the material of a Gaussian.

Each Gaussian is a few short tokens that look at each other, with weights that all Gaussians share. What is
linear before the scores (tokens, queries, keys, values) is one matrix product, and so is the answer; what
lies between is `look`, which a Triton kernel computes on CUDA.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specularip.specular.shading import LATENTS

GROUPS = (3, 3, 4, 24)
"""What the attention sees as one token each: shape, reflectance, visibility and residual of a latent."""
TOKENS = 1 + len(GROUPS)


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
        weight, bias = self._projection()
        # Gaussians last: what lies side by side in memory is then treated alike.
        seen = torch.addmm(bias[:, None], weight, torch.cat([diffuse, latents], 1).T)
        answers = look(seen.unflatten(0, (TOKENS, 4, -1))).flatten(0, 1)
        # A mean: the sum of so many, all following one rate, would outrun the latents themselves and make one
        # material of all Gaussians.
        share = 1 / len(answers)
        return F.linear(answers.T, share * self.answer.weight, share * self.answer.bias)

    def _projection(self) -> tuple[Tensor, Tensor]:
        """Weight [5·4W,3+34] and bias of diffuse and latents to each token of width W, its query, key and
        value."""
        layers: list[Any] = [self.diffuse_token, *self.latent_tokens]
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        # Colours count from grey: 2 diffuse - 1.
        weights[0], biases[0] = 2 * weights[0], biases[0] - weights[0].sum(1)
        own = torch.eye(len(biases[0]), dtype=biases[0].dtype, device=biases[0].device)
        heads = torch.cat([own, self.qkv.weight])
        tokens = torch.block_diag(*weights).unflatten(0, (TOKENS, -1))
        return (heads @ tokens).flatten(0, 1), (torch.stack(biases) @ heads.T).flatten()


def look(seen: Tensor) -> Tensor:
    """What the tokens become, [5,W,N]. seen [5,4,W,N]: of each, itself, its query, key and value; the diffuse
    token first. One kernel on CUDA, where Triton is there."""
    if seen.is_cuda and seen.dtype == torch.float32:
        try:
            from specularip.specular.triton_attention import look_triton
        except ImportError:
            pass
        else:
            return look_triton(seen)
    token, query, key, value = seen.unbind(1)
    scale = 1 / math.sqrt(token.shape[1])
    # Written out: for small matrices by the thousand, products are slow.
    weights = torch.softmax(scale * (query[0] * key).sum(1, keepdim=True), 0)
    diffuse = token[:1] + (weights * value).sum(0, keepdim=True)
    # A softmax over two.
    share = torch.sigmoid(scale * (query[1:] * (key[0] - key[1:])).sum(1, keepdim=True))
    return torch.cat([diffuse, token[1:] + value[1:] + share * (value[0] - value[1:])])
