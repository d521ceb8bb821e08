"""The attention kernel for Hopper against the definition in float64, on random inputs."""

from __future__ import annotations

import math

import pytest
import torch
from closeness import relative
from torch import Tensor

from specularip.diffusion.fast import hopper_attention, ops

pytestmark = pytest.mark.usefixtures("seed")


def exact(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    q, k, v = (t.double().unflatten(-1, (heads, -1)).transpose(1, 2) for t in (query, key, value))
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


def test_fallback_is_the_library() -> None:
    query, key, value = torch.randn(2, 9, 80), torch.randn(2, 64, 80), torch.randn(2, 64, 80)
    assert not hopper_attention.suits(query, key, value, 2)
    assert relative(ops.self_attention(query, key, value, 2), exact(query, key, value, 2)) < 1e-5


@pytest.mark.gpu(capability=(9, 0))
@pytest.mark.parametrize(
    ("images", "queries", "keys", "heads"),
    [(1, 64, 64, 1), (2, 1, 128, 3), (3, 257, 448, 8), (2, 1000, 4096, 2), (1, 4096, 8192, 8)],
)
@pytest.mark.parametrize("spread", [0.1, 1.0, 3.0])
def test_against_float64(images: int, queries: int, keys: int, heads: int, spread: float) -> None:
    """Queries that are slices of a packed projection, and keys and values of other images."""
    width = 40 * heads
    own = spread * torch.randn(images, queries, 3 * width, device="cuda")
    other = spread * torch.randn(images, keys, 2 * width, device="cuda")
    query, (key, value) = own.half()[..., :width], other.half().chunk(2, -1)
    assert hopper_attention.suits(query, key, value, heads)
    found = ops.self_attention(query, key, value, heads)
    assert relative(found, exact(query, key, value, heads)) < 2e-3
    assert found.is_contiguous()


@pytest.mark.gpu(capability=(9, 0))
@pytest.mark.parametrize("order", ["rising", "falling", "one", "constant", "sink", "far below zero"])
def test_scores_that_vary_along_the_keys(order: str) -> None:
    """The reference score must follow growing scores and stay valid for falling ones."""
    key, value = torch.randn(2, 2048, 80, device="cuda"), torch.randn(2, 2048, 80, device="cuda")
    query = torch.randn(2, 300, 80, device="cuda")
    growth = torch.linspace(0.02, 9, 2048, device="cuda")[:, None]
    if order == "rising":
        key = key * growth
    elif order == "falling":
        key = key * growth.flip(0)
    elif order == "one":
        key[:, torch.randint(2048, (1,)).item()] *= 30
    elif order == "constant":
        key = torch.zeros_like(key)
    elif order == "sink":  # the first key 12 nats above the mean of the others, which matter together
        first, second = query.unflatten(-1, (2, 40)), key.unflatten(-1, (2, 40))
        first[..., 0], second[..., 0], second[:, 0, :, 0] = 1, 0, 12 * math.sqrt(40)
    else:
        query, key = query.abs() + 2, -key.abs() * 3 - 1
    inputs = [t.half() for t in (query, key, value)]
    assert relative(ops.self_attention(*inputs, 2), exact(*inputs, 2)) < 5e-3


@pytest.mark.gpu(capability=(9, 0))
def test_unsupported_inputs_are_refused() -> None:
    tensors = [torch.randn(1, 128, 80, device="cuda").half() for _ in range(3)]
    assert hopper_attention.suits(*tensors, 2)
    assert not hopper_attention.suits(*(t.float() for t in tensors), 2)
    assert not hopper_attention.suits(*tensors, 1)  # heads of 80
    assert not hopper_attention.suits(tensors[0], *(t[:, :100] for t in tensors[1:]), 2)
    assert not hopper_attention.suits(
        *(t[:, :, 4:].repeat(1, 1, 2)[..., 4:84] for t in tensors), 2
    )  # unaligned
    leaf = tensors[0].clone().requires_grad_()
    assert not hopper_attention.suits(leaf, *tensors[1:], 2)


@pytest.mark.gpu(capability=(9, 0))
def test_in_a_cuda_graph_and_on_another_stream() -> None:
    tensors = [torch.randn(1, 256, 80, device="cuda").half() for _ in range(3)]
    truth = exact(*tensors, 2)
    assert relative(ops.self_attention(*tensors, 2), truth) < 2e-3
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.self_attention(*tensors, 2)
    out.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert relative(out, truth) < 2e-3
