"""Speed of animation: posing Gaussians, and whole frames of an avatar that walks, highlights included.

    python benchmarks/motion.py [--gaussians 20000] [--size 256] [--avatar FILE]
    python benchmarks/motion.py --device cuda [--gaussians 100000] [--size 1024]

Scene: Gaussians on the skin of Anny's default body (or those of an avatar, a random selection if it has
more), with random materials, lit by 24 lobes, in the frames of the built-in walk; the body fills the picture.

Times are medians in milliseconds over three cycles after one to warm up. *pose* is `motion.dispatch.pose`:
means, orientations, normals and materials from the bones; *plain* is the same in plain tensors;
*frame* is posing, shading and rasterising to a picture, as `specularip animate` does without encoding. On the
CPU, *cpu* is processor time, which other programs do not change; on CUDA every time ends with a
synchronisation, except *stream*: frames one after the other, as a viewer has them. Prints a table and writes
results/motion_cpu.json or motion_cuda.json beside this file.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

# Waiting threads sleep soon, as under the command line (see specularip.cli).
os.environ.setdefault("GOMP_SPINCOUNT", "30000")

import torch

from specularip.avatar import Avatar, load
from specularip.body.anny import anny_body
from specularip.cameras import Cameras
from specularip.files import write_json
from specularip.gaussians import Binding, Gaussians, turned_to
from specularip.kernels.threads import thread_count
from specularip.motion.clips import built_in
from specularip.motion.dispatch import pose
from specularip.motion.posing import pose_reference
from specularip.posable import Posable
from specularip.specular import LATENTS, SpecularConfig, SpecularHead

RESULTS = Path(__file__).parent / "results"
CYCLES = 3


def scene(count: int, avatar: Path | None) -> Avatar:
    generator = torch.Generator().manual_seed(0)
    if avatar is not None:
        loaded = load(avatar)
        some = torch.randperm(len(loaded.gaussians), generator=generator)[:count]
        return replace(loaded, gaussians=loaded.gaussians.select(some))
    body = anny_body()
    samples = body.sample_surface(count, generator)
    gaussians = Gaussians(
        means=samples.points,
        quats=turned_to(samples.normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.8, 0.8, 0.2])),
        opacity_logits=torch.randn(count, generator=generator) + 2,
        color_logits=torch.randn(count, 3, generator=generator),
        latents=0.3 * torch.randn(count, LATENTS, generator=generator),
        normal_residuals=0.05 * torch.randn(count, 3, generator=generator),
        regions=samples.regions,
        bind_joints=samples.bind_joints,
        bind_weights=samples.bind_weights,
    )
    binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints)
    return Avatar(gaussians, SpecularHead(SpecularConfig(lights=24)), binding=binding)


class Timer:
    """Medians over all frames of a walk; `wall` and `cpu` in milliseconds."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def __call__(self, draw: Callable[[int], object], frames: int) -> dict[str, float]:
        for frame in range(frames):
            draw(frame)
        wall, cpu = [], []
        for frame in [*range(frames)] * CYCLES:
            self._wait()
            began, worked = time.perf_counter(), time.process_time()
            draw(frame)
            self._wait()
            wall.append(time.perf_counter() - began)
            cpu.append(time.process_time() - worked)
        return {"wall": 1e3 * statistics.median(wall), "cpu": 1e3 * statistics.median(cpu)}

    def stream(self, draw: Callable[[int], object], frames: int) -> float:
        """Mean milliseconds per frame without a synchronisation between them."""
        self._wait()
        began = time.perf_counter()
        for frame in [*range(frames)] * CYCLES:
            draw(frame)
        self._wait()
        return 1e3 * (time.perf_counter() - began) / (frames * CYCLES)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--gaussians", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--avatar", type=Path)
    args = parser.parse_args()
    on_gpu = args.device == "cuda"
    count, size = args.gaussians or (100_000 if on_gpu else 20_000), args.size or (1024 if on_gpu else 256)

    posable = Posable(scene(count, args.avatar).to(args.device))
    bones = posable.bones(built_in("walk", posable.binding))
    camera = Cameras.orbit(25, 6, 2.3, 45, size, size).to(args.device)
    frames, timer = len(bones), Timer(torch.device(args.device))
    rest = posable.rest

    def frame(index: int) -> object:
        return posable.posed(bones[index]).image(camera)

    rows = {
        "pose": timer(lambda index: pose(rest, bones[index]), frames),
        "plain": timer(lambda index: pose_reference(rest, bones[index], "linear", rest.means), frames),
        "frame": timer(frame, frames),
    }
    stream = timer.stream(frame, frames)
    machine = torch.cuda.get_device_name() if on_gpu else f"{platform.machine()}, {thread_count()} threads"
    print(f"{len(rest.means)} Gaussians, {size}², {machine}, load {os.getloadavg()[0]:.1f}")
    for name, row in rows.items():
        print(f"  {name:<6} {row['wall']:8.3f} ms   cpu {row['cpu']:8.3f} ms   {1e3 / row['wall']:7.1f}/s")
    print(f"  stream {stream:8.3f} ms                      {1e3 / stream:7.1f}/s")
    result = {"machine": machine, "gaussians": len(rest.means), "size": size, "ms": rows, "stream_ms": stream}
    print(write_json(RESULTS / f"motion_{args.device}.json", result))


if __name__ == "__main__":
    main()
