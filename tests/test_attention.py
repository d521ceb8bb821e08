"""The attention's kernel against its plain tensors in float64. What the whole computes, test_specular has."""

import importlib.util

import pytest
import torch
from test_raster import fresh_seed

from specularip.specular.attention import PARTS, TOKENS, MutualAttention, in_parts, look


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.parametrize("count", [0, 1, 33, 5000])
@pytest.mark.parametrize("width", [1, 8, 12])
def test_the_kernel_is_the_plain_one(count: int, width: int) -> None:
    seed = fresh_seed()
    generator = torch.Generator().manual_seed(seed)
    seen = 3 * torch.randn(TOKENS, 4, width, count, generator=generator)
    upstream = torch.randn(TOKENS, width, count, generator=generator)
    results = []
    for given in (seen.double(), seen.cuda()):
        given.requires_grad_()
        found = look(given)
        grad = torch.autograd.grad(found, given, upstream.to(found))[0]
        results.append((found.detach().double().cpu(), grad.double().cpu()))
        with torch.no_grad():
            assert torch.equal(look(given), found)
    for wanted, found in zip(*results):
        assert wanted.shape == found.shape
        assert wanted.numel() == 0 or float((found - wanted).abs().max()) < 1e-4 * float(wanted.abs().max())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_large_scores_stay_finite() -> None:
    seen = (1e4 * torch.randn(TOKENS, 4, 8, 100, device="cuda")).requires_grad_()
    found = look(seen)
    found.sum().backward()
    assert found.isfinite().all() and seen.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(fresh_seed())
    attention = MutualAttention(3).double()
    torch.nn.init.normal_(attention.answer.weight)
    inputs = torch.randn(4, 34).double(), torch.rand(4, 3).double()
    assert torch.autograd.gradcheck(attention, tuple(given.requires_grad_() for given in inputs))


@pytest.mark.parametrize("inner", [5, PARTS**2 - 1, PARTS**2, PARTS**2 + 77])
def test_parts_add_up_to_the_whole(inner: int) -> None:
    generator = torch.Generator().manual_seed(fresh_seed())
    a, b = (torch.randn(inner, size, generator=generator).double() for size in (3, 4))
    assert torch.allclose(in_parts(a.T, b), a.T @ b)
    assert torch.allclose(in_parts(a.T.contiguous(), b.T.contiguous().T), a.T @ b)
