"""Seconds that baking takes, and PSNR of the baked renders against the head's own.

    python benchmarks/bake_speed.py AVATAR [--count 100000] [--device cuda] [--threads 2]

AVATAR is a run folder or its avatar.safetensors. With --count, Gaussians are split along their longest axis,
the largest first, or left out evenly, until there are as many. A first bake of a few Gaussians compiles the
kernels and is not timed.
"""

from __future__ import annotations

import argparse
import os
import time
from dataclasses import replace
from pathlib import Path

# Before torch loads: waiting threads sleep soon, as under the command line (see specularip.cli).
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import torch
from specular import synchronize

from specularip.avatar import Avatar, bake, load
from specularip.gaussians import Gaussians
from specularip.kernels.threads import thread_count
from specularip.metrics import agreement
from specularip.raster.cuda import pick_device


def resized(gaussians: Gaussians, count: int) -> Gaussians:
    """As many Gaussians, of about the same look. Deterministic."""
    while len(gaussians) < count:
        gaussians = split(gaussians, min(count - len(gaussians), len(gaussians)))
    return gaussians.select(torch.arange(count, device=gaussians.means.device) * len(gaussians) // count)


def split(gaussians: Gaussians, count: int) -> Gaussians:
    """With the `count` largest as two halves each, half a standard deviation from the centre."""
    order = gaussians.log_scales.amax(1).argsort(descending=True, stable=True)
    whole, rest = gaussians.select(order[:count]), gaussians.select(order[count:])
    size, axis = whole.scales.max(1)
    along = whole.rotations[torch.arange(count, device=axis.device), :, axis] * size[:, None]
    narrower = torch.nn.functional.one_hot(axis, 3) * 0.5 * torch.log(torch.tensor(0.75))
    halves = [
        replace(whole, means=whole.means + side * along, log_scales=whole.log_scales + narrower)
        for side in (-0.5, 0.5)
    ]
    parts = [cloud.tensors() for cloud in (*halves, rest)]
    return Gaussians(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--count", type=int, help="how many Gaussians; those of the avatar if omitted")
    parser.add_argument("--device")
    parser.add_argument("--threads", type=int, help="of the CPU; all cores if omitted")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    if arguments.threads:
        os.environ["SPECULARIP_NUM_THREADS"] = str(arguments.threads)
    torch.set_num_threads(thread_count())
    avatar = load(arguments.avatar).to(device)
    if arguments.count:
        avatar = replace(avatar, gaussians=resized(avatar.gaussians, arguments.count))
    few = replace(avatar, gaussians=resized(avatar.gaussians, 64))
    print(f"{len(avatar.gaussians)} Gaussians, {device}, {thread_count()} threads of the CPU")
    for to in ("asg", "sh3"):
        bake(few, to)
        synchronize(device)
        began = time.perf_counter()
        baked: Avatar = bake(avatar, to)
        synchronize(device)
        seconds = time.perf_counter() - began
        print(f"{to}: {seconds:.1f} s, {agreement(avatar, baked):.2f} dB against the head", flush=True)


if __name__ == "__main__":
    main()
