"""The variants that sd15.py compares with ours: networks under `torch.compile`, and ours without Triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo
from torch import Tensor
from torch._inductor import utils as inductor

from specularip.diffusion.fast import layers, ops, unet, vae
from specularip.diffusion.fast.features import Features, Norm, Part
from specularip.diffusion.prior import Prior

OPERATIONS = (
    "join", "coefficients", "normalize", "normalize_backward", "add_layer_norm", "geglu", "cross_attention",
    "softmax", "softmax_backward", "patches", "patches_backward", "spread",
)  # fmt: skip


@contextmanager
def empty_compiler_caches() -> Iterator[None]:
    """torch.compile from empty caches, without a limit on the number of shapes."""
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()
    limits = torch._dynamo.config.patch(recompile_limit=4096, accumulated_recompile_limit=4096)
    with limits, inductor.fresh_cache():
        yield
    torch.compiler.reset()
    torch._dynamo.utils.counters.clear()


def compiled_graphs() -> dict[str, int]:
    """Number of graphs that torch.compile made since its caches were emptied; {} if it was not used."""
    counters = torch._dynamo.utils.counters
    if not counters["stats"]:
        return {}
    breaks = sum(counters["graph_break"].values())
    return {"compiled graphs": counters["stats"]["unique_graphs"], "graph breaks": breaks}


def compile_networks(prior: Prior, backend: str, *, blocks: bool = False, graphs: bool = False) -> None:
    """Put diffusers' networks into channels-last order and compile them, in place.

    blocks: compile every transformer block and resnet by itself, not each network as a whole. graphs: let the
    compiler capture CUDA graphs (its mode "reduce-overhead").
    """
    networks = [prior.denoiser.unet, prior.denoiser.controlnet, prior.autoencoder.vae.encoder]  # type: ignore[attr-defined]
    for network in networks:
        network.to(memory_format=torch.channels_last)
        for module in network.modules() if blocks else [network]:
            if not blocks or type(module).__name__ in ("BasicTransformerBlock", "ResnetBlock2D"):
                module.compile(dynamic=False, backend=backend, mode="reduce-overhead" if graphs else None)


@contextmanager
def plain_operations() -> Iterator[None]:
    """Our networks with the plain-torch operations in place of the Triton kernels."""
    with patch.object(ops, "USE_TRITON", False):
        yield


@contextmanager
def compiled_operations(backend: str) -> Iterator[None]:
    """The same with those operations compiled, one by one and for any shape."""
    settings = torch._dynamo.config.patch(
        # The groups of a norm and the like are constants, not sizes; the lengths of parameters are not.
        specialize_int=True,
        specialize_float=True,
        force_parameter_static_shapes=False,
    )
    with ExitStack() as stack:
        for context in (empty_compiler_caches(), settings, plain_operations()):
            stack.enter_context(context)
        for name, compiled in {name: _compiled(name, backend) for name in OPERATIONS}.items():
            for module in (ops, layers, unet, vae):
                if hasattr(module, name):
                    stack.enter_context(patch.object(module, name, compiled))
        yield


def _compiled(name: str, backend: str) -> Callable[..., Any]:
    """An operation of `ops`, compiled; takes and returns what the operation does."""
    plain = getattr(ops, name)

    def compile_(function: Callable[..., Any]) -> Callable[..., Any]:
        return torch.compile(function, dynamic=True, backend=backend)

    # torch.compile gets functions of tensors and numbers, so that it can treat all norms alike.
    if name == "join":

        def join(sums: bool, *tensors: Tensor | None) -> tuple[Tensor, Tensor | None]:
            made = plain([Part(*tensors[i : i + 3]) for i in range(0, len(tensors), 3)], sums=sums)
            return made.x, made.sums

        flat = compile_(join)

        def join_parts(parts: list[Part], *, sums: bool = True) -> Features:
            return Features(*flat(sums, *(t for part in parts for t in (part.x, part.other, part.bias))))

        return join_parts
    if name == "coefficients":
        flat = compile_(lambda x, sums, *rest: plain(Features(x, sums), *rest).values)

        def coefficients(
            features: Features, weight: Tensor, bias: Tensor, groups: int, eps: float,
            shift: Tensor | None = None,
        ) -> Norm:  # fmt: skip
            if features.sums is None:
                features = ops.join([Part(features.x)])
            return Norm(flat(features.x, features.sums, weight, bias, groups, eps, shift), weight, groups)

        return coefficients
    if name == "normalize":
        flat = compile_(lambda x, values, silu: plain(x, Norm(values, values, 1), silu=silu))
        return lambda x, norm, *, silu=True: flat(x, norm.values, silu)
    if name == "normalize_backward":

        def backward(x: Tensor, grad: Tensor, residual: Tensor | None, silu: bool, *norm: Any) -> Tensor:
            return plain(x, grad, Norm(*norm), silu=silu, residual=residual)

        flat = compile_(backward)
        return lambda x, grad, norm, *, silu=True, residual=None: flat(
            x, grad, residual, silu, norm.values, norm.weight, norm.groups
        )
    return compile_(plain)
