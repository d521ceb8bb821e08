"""CUDA graphs give the results of their function for any values, shapes and constants."""

import gc

import pytest
import torch

from specularip.kernels.cuda_graphs import GraphCache, GraphedFunction, gc_paused, signature


def weighed(first: torch.Tensor, second: torch.Tensor, factor: float) -> torch.Tensor:
    return (first.sin() * second * factor).sum(-1)


def check(graphed: GraphedFunction, first: torch.Tensor, second: torch.Tensor, factor: float) -> None:
    """One call: value and gradients against autograd."""
    wanted = [tensor for tensor in (first, second) if tensor.requires_grad]
    value = graphed(first, second, factor=factor)
    upstream = torch.rand_like(value)
    found = [value.detach().clone()]
    found += [g.clone() for g in (torch.autograd.grad(value, wanted, upstream) if wanted else [])]
    value = weighed(first, second, factor)
    true = [value, *(torch.autograd.grad(value, wanted, upstream) if wanted else [])]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, true, strict=True))


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.gpu),
        pytest.param("cuda:1", marks=pytest.mark.gpu(devices=2)),
    ],
)
def test_results_and_gradients_are_those_of_the_function(device, seed):
    calls = []

    def counted(*tensors, **constants):
        calls.append(1)
        return weighed(*tensors, **constants)

    graphed = GraphedFunction(counted)
    parameter = torch.rand(5, 3, device=device).requires_grad_()
    for _ in range(3):
        check(graphed, parameter, torch.rand(5, 3, device=device), 2.0)
        with torch.no_grad():
            parameter.add_(0.5)  # in place, as optimizers do
    before = parameter.detach().clone()
    leaf = torch.rand(5, 3, device=device).requires_grad_()
    check(graphed, leaf + 1, torch.rand(5, 3, device=device), 2.0)
    after = len(calls)
    check(graphed, leaf + 2, torch.rand(5, 3, device=device), 2.0)  # another tensor, and no leaf
    if device == "cuda":
        assert len(calls) == after, "the graph was not replayed"
    assert torch.equal(parameter, before), "a parameter was written to"
    kept = torch.rand(5, 3, device=device)
    check(graphed, parameter, kept, 3.0)
    before = kept.clone()
    check(graphed, parameter, torch.rand(5, 3, device=device), 3.0)
    assert torch.equal(kept, before), "an input was written to"
    check(graphed, torch.rand(7, 3, device=device).requires_grad_(), torch.rand(7, 3, device=device), 3.0)
    check(graphed, torch.rand(7, 3, device=device), torch.rand(7, 3, device=device), 3.0)
    with torch.no_grad():
        assert not graphed(parameter, kept, factor=1.0).requires_grad


def test_garbage_collection_is_paused_during_a_capture():
    assert gc.isenabled()
    with pytest.raises(KeyError), gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            pass
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


@pytest.mark.gpu
def test_captured_graphs_replay_with_new_inputs():
    cache = GraphCache()
    for _ in range(2):
        for size in (3, 5, 3):
            x = torch.rand(size, device="cuda")
            graph = cache.get(signature(x, None), lambda x=x: cache.capture(lambda x, y: x.sin(), x, None))
            assert torch.equal(graph.replay(x, None), x.sin())
        cache.clear()


def test_graph_cache_captures_each_key_once():
    cache, captured = GraphCache(), []
    for size in (3, 5, 3):
        cache.get(signature(torch.zeros(size)), lambda size=size: captured.append(size))
    assert captured == [3, 5]
    cache.clear()
    cache.get(signature(torch.zeros(3)), lambda: captured.append(3))
    assert captured == [3, 5, 3]
