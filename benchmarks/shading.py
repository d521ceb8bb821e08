"""Time of the specular colour: the plain tensors of `specular_reference` against the fused kernels.

    python benchmarks/shading.py [--device cpu|cuda] [--gaussians 100000] [--lights 64] [--cameras 1]
                                 [--share-visible 1.0] [--repeats 30]

Random Gaussians, materials and lights. Forward alone and without a graph, then forward and backward with
gradients for all inputs, on the calling thread as in a fit. Rounds of the two alternate; a figure is the
median over the rounds. A round on CUDA is CALLS consecutive calls on an idle device between two CUDA events,
so that Python's launch overhead is included where it exceeds the kernels' time. Prints milliseconds per call
and the ratio; `--share-visible` below 1 gives the fused kernels a mask.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.specular.dispatch import shade_fused
from specularip.specular.shading import LATENTS, Light, Surface, specular_reference


def scene(n: int, cameras: int, lights: int, device: str, seed: int = 0) -> list[Tensor]:
    """The tensors of a surface, the cameras' centres, and a light, float32; all but means and centres require
    gradients."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, generator=generator)

    def uniform(*size: int) -> Tensor:
        return torch.rand(*size, generator=generator)

    arguments = [
        0.5 * normal(n, LATENTS),
        uniform(n, 3),
        F.normalize(normal(n, 3), dim=-1),
        0.3 * normal(n, 3),
        3 * F.normalize(normal(cameras, 3), dim=-1),
        F.normalize(normal(lights, 3), dim=-1),
        0.005 + 0.1 * uniform(lights),
        uniform(lights, 3) / lights,
        0.2 * normal(9, 3),
    ]
    return [a.to(device).requires_grad_(i not in (3, 4)) for i, a in enumerate(arguments)]


CALLS = 10


def milliseconds(work: Callable[[], object], device: str) -> float:
    if device == "cpu":
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)
    before, after = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    before.record()
    for _ in range(CALLS):
        work()
    after.record()
    torch.cuda.synchronize()
    return before.elapsed_time(after) / CALLS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--gaussians", type=int, default=100_000)
    parser.add_argument("--lights", type=int, default=64)
    parser.add_argument("--cameras", type=int, default=1)
    parser.add_argument("--share-visible", type=float, default=1.0)
    parser.add_argument("--repeats", type=int, default=30)
    options = parser.parse_args()
    device = options.device
    arguments = scene(options.gaussians, options.cameras, options.lights, device)
    visible = None
    if options.share_visible < 1:
        visible = (torch.rand(options.cameras, options.gaussians) < options.share_visible).to(device)
    surface, centres, light = Surface(*arguments[:4]), arguments[4], Light(*arguments[5:])
    upstream = torch.randn(options.cameras, options.gaussians, 3).to(device)

    def plain() -> Tensor:
        return specular_reference(surface, light, centres)

    def fused() -> Tensor:
        return shade_fused(surface, light, centres, visible)

    def forward(shade: Callable[[], Tensor]) -> None:
        with torch.no_grad():
            shade()

    wanted = [argument for argument in arguments if argument.requires_grad]

    def both_ways(shade: Callable[[], Tensor]) -> None:
        with torch.autograd.set_multithreading_enabled(False):
            torch.autograd.grad(shade(), wanted, upstream)

    print(
        f"{options.gaussians} Gaussians, {options.lights} lights, {options.cameras} camera(s), "
        f"{options.share_visible:.0%} visible, {device}, median of {options.repeats}"
    )
    for name, work in (("forward", forward), ("forward + backward", both_ways)):
        slow, fast = partial(work, plain), partial(work, fused)
        slow(), fast()  # the first calls compile
        rounds = [[milliseconds(one, device) for one in (slow, fast)] for _ in range(options.repeats)]
        a, b = (statistics.median(column) for column in zip(*rounds))
        print(f"{name:19s} plain {a:9.3f} ms   fused {b:9.3f} ms   {a / b:6.1f}x")


if __name__ == "__main__":
    main()
