"""Files for other programs: seconds to write and read them, bytes a Gaussian, and what they lose.

    python benchmarks/export.py AVATAR [--baked FILE] [--count 100000] [--rounds 5] [--out JSON]

AVATAR is a run folder or its avatar.safetensors. It is baked to spherical harmonics, or read from --baked if
that file is there, else written to it. Each Gaussian is then split into two at the same place, of which one
is a millimetre aside, until there are --count. The bake is not part of the times.

Times: CPU seconds, the least of --rounds, as other work on the machine only adds.
Loss: PSNR in dB of the picture of the file as read back against that of what was written, from a camera on
the whole body and one on the head. .safetensors is the lossless baseline; its bytes include what the others
do not keep. .glb is written without lobes of our extension, so that all hold the same.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from specularip.avatar import Avatar, load
from specularip.cameras import Cameras
from specularip.colors import HarmonicColors
from specularip.export.glb import read_glb, write_glb
from specularip.export.ply import read_ply, write_ply
from specularip.export.sog import read_sog, write_sog
from specularip.export.spz import read_spz, write_spz
from specularip.files import write_json
from specularip.metrics import psnr

ASIDE = 1e-3
"""Metres between a Gaussian and its double."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--baked", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    avatar = enlarged(baked(args.avatar, args.baked), args.count)
    cameras = views(avatar)
    expected = [avatar.render(camera, 0.0).image for camera in cameras]
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (write, read) in formats().items():
            path = Path(folder) / f"avatar.{name.split()[0]}"
            written, _ = timed(lambda: write(path, avatar), args.rounds)  # noqa: B023
            took, found = timed(lambda: read(path), args.rounds)  # noqa: B023
            back = Avatar(found.gaussians, colors=found.colors, antialiased=avatar.antialiased)
            loss = [float(psnr(back.render(c, 0.0).image, image)) for c, image in zip(cameras, expected)]
            rows[name] = {
                "write_s": round(written, 3),
                "read_s": round(took, 3),
                "bytes_per_gaussian": round(path.stat().st_size / len(avatar.gaussians), 1),
                "body_db": round(loss[0], 1),
                "head_db": round(loss[1], 1),
            }
            print(f"{name:12}", *(f"{key} {value}" for key, value in rows[name].items()), sep="  ")
    if args.out:
        write_json(args.out, {"gaussians": len(avatar.gaussians), "formats": rows})


def formats() -> dict[str, tuple[Callable[[Path, Avatar], Any], Callable[[Path], Any]]]:
    """How each is written and read."""

    def spz(version: int) -> Callable[[Path, Avatar], Any]:
        return lambda path, a: write_spz(path, a.gaussians, a.colors, version=version)

    return {
        "ply": (lambda path, a: write_ply(path, a.gaussians, a.colors), read_ply),
        "spz 3": (spz(3), read_spz),
        "spz 4": (spz(4), read_spz),
        "sog": (lambda path, a: write_sog(path, a.gaussians, a.colors), read_sog),
        "glb": (lambda path, a: write_glb(path, a.gaussians, a.colors), read_glb),
        "safetensors": (lambda path, a: a.save(path), load),
    }


def baked(source: Path, kept: Path | None) -> Avatar:
    if kept is not None and kept.is_file():
        return load(kept)
    avatar = load(source).baked("sh3")
    if kept is not None:
        avatar.save(kept)
    return avatar


def enlarged(avatar: Avatar, count: int) -> Avatar:
    """With `count` Gaussians; doubles are beside their originals, and all are as much more transparent as
    keeps the picture."""
    number = len(avatar.gaussians)
    index = torch.arange(count) % number
    cloud = avatar.gaussians.select(index)
    cloud.means = cloud.means + ASIDE * (torch.arange(count)[:, None] // number)
    times = torch.bincount(index)[index]
    alphas = 1 - (1 - cloud.opacities).clamp_min(1e-6) ** (1 / times)
    cloud.opacity_logits = torch.logit(alphas)
    colors = avatar.colors
    assert isinstance(colors, HarmonicColors)
    return Avatar(cloud, colors=HarmonicColors(colors.coefficients[index]), antialiased=avatar.antialiased)


def views(avatar: Avatar) -> list[Cameras]:
    """The whole body, and the head."""
    means = avatar.gaussians.means
    top = float(means[:, 2].quantile(0.999))
    head = means[means[:, 2] > top - 0.25].mean(0)
    body = (means.amax(0) + means.amin(0)) / 2
    height = float(means[:, 2].max() - means[:, 2].min())
    return [
        Cameras.orbit(20.0, 5.0, 1.6 * height, 40.0, 512, 512, target=body.tolist()),
        Cameras.orbit(-30.0, 5.0, 0.7, 30.0, 512, 512, target=head.tolist()),
    ]


def timed(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    """The least CPU seconds, and what the work returned."""
    least, result = float("inf"), None
    for _ in range(rounds):
        start = time.process_time()
        result = work()
        least = min(least, time.process_time() - start)
    return least, result


if __name__ == "__main__":
    main()
