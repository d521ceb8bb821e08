"""The mutual attention kernel against plain tensors in float64. test_specular tests the whole module."""

import pytest
import torch

from specularip.specular.mutual_attention import MutualAttention, attend
from specularip.specular.shading import LATENTS
from specularip.specular.tokens import PARTS, split_matmul

pytestmark = pytest.mark.usefixtures("seed")


def inputs(count: int, width: int = 8) -> list[torch.Tensor]:
    """Latents, diffuse and a projection: float64 tensors of float32 values."""
    attention = MutualAttention(width)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    given = torch.randn(count, LATENTS), torch.rand(count, 3), attention._projection().detach()
    return [tensor.double() for tensor in given]


@pytest.mark.gpu(needs="triton")
class TestKernel:
    @pytest.mark.parametrize("count", [0, 1, 33, 20_000])
    @pytest.mark.parametrize("width", [1, 8, 12])
    def test_matches_plain_tensors(self, count: int, width: int) -> None:
        arguments, results = inputs(count, width), []
        upstream = torch.randn(5 * width + 1, count).double()
        for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32), ("cpu", torch.float32)):
            given = [tensor.to(device, dtype).requires_grad_() for tensor in arguments]
            found = attend(*given)
            grads = torch.autograd.grad(found, given, upstream.to(found))
            results.append([tensor.detach().double().cpu() for tensor in (found, *grads)])
            with torch.no_grad():
                assert torch.equal(attend(*given), found)
        for wanted, found, plain in zip(*results):
            assert wanted.shape == found.shape
            if wanted.numel():
                error, rounding = ((result - wanted).abs().max() for result in (found, plain))
                assert error <= max(1e-4 * wanted.abs().max(), 16 * rounding)

    def test_large_scores_stay_finite(self) -> None:
        given = [(1e3 * tensor.float()).cuda().requires_grad_() for tensor in inputs(100)]
        found = attend(*given)
        assert found.isfinite().all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(found.sum(), given))


def test_gradients_match_finite_differences() -> None:
    latents, diffuse, _ = inputs(4)
    attention = MutualAttention(3).double()
    torch.nn.init.normal_(attention.answer.weight)
    assert torch.autograd.gradcheck(attention, (latents.requires_grad_(), diffuse.requires_grad_()))


@pytest.mark.parametrize("inner", [5, PARTS**2 - 1, PARTS**2, PARTS**2 + 77])
def test_split_matmul_is_matmul(inner: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(inner, size, generator=generator).double() for size in (3, 4))
    assert torch.allclose(split_matmul(a.T, b), a.T @ b)
    assert torch.allclose(split_matmul(a.T.contiguous(), b.T.contiguous().T), a.T @ b)
