"""The attention's kernel against its plain tensors in float64. What the whole computes, test_specular has."""

import pytest
import torch

from specularip.specular.attention import PARTS, MutualAttention, in_parts, look
from specularip.specular.shading import LATENTS

pytestmark = pytest.mark.usefixtures("seed")


def inputs(count: int, width: int = 8) -> list[torch.Tensor]:
    """Latents, diffuse and a projection, in float64 with float32's values."""
    attention = MutualAttention(width)
    for parameter in attention.parameters():
        torch.nn.init.normal_(parameter)
    given = torch.randn(count, LATENTS), torch.rand(count, 3), attention._projection().detach()
    return [tensor.double() for tensor in given]


@pytest.mark.gpu(needs="triton")
class TestKernel:
    @pytest.mark.parametrize("count", [0, 1, 33, 20_000])
    @pytest.mark.parametrize("width", [1, 8, 12])
    def test_it_is_the_plain_one(self, count: int, width: int) -> None:
        arguments, results = inputs(count, width), []
        upstream = torch.randn(5 * width + 1, count).double()
        for device, dtype in (("cpu", torch.float64), ("cuda", torch.float32), ("cpu", torch.float32)):
            given = [tensor.to(device, dtype).requires_grad_() for tensor in arguments]
            found = look(*given)
            grads = torch.autograd.grad(found, given, upstream.to(found))
            results.append([tensor.detach().double().cpu() for tensor in (found, *grads)])
            with torch.no_grad():
                assert torch.equal(look(*given), found)
        for wanted, found, plain in zip(*results):
            assert wanted.shape == found.shape
            if wanted.numel():
                error, excuse = ((some - wanted).abs().max() for some in (found, plain))
                assert error <= max(1e-4 * wanted.abs().max(), 16 * excuse)

    def test_large_scores_stay_finite(self) -> None:
        given = [(1e3 * tensor.float()).cuda().requires_grad_() for tensor in inputs(100)]
        found = look(*given)
        assert found.isfinite().all()
        assert all(grad.isfinite().all() for grad in torch.autograd.grad(found.sum(), given))


def test_gradients_are_those_of_finite_differences() -> None:
    latents, diffuse, _ = inputs(4)
    attention = MutualAttention(3).double()
    torch.nn.init.normal_(attention.answer.weight)
    assert torch.autograd.gradcheck(attention, (latents.requires_grad_(), diffuse.requires_grad_()))


@pytest.mark.parametrize("inner", [5, PARTS**2 - 1, PARTS**2, PARTS**2 + 77])
def test_parts_add_up_to_the_whole(inner: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(inner, size, generator=generator).double() for size in (3, 4))
    assert torch.allclose(in_parts(a.T, b), a.T @ b)
    assert torch.allclose(in_parts(a.T.contiguous(), b.T.contiguous().T), a.T @ b)
