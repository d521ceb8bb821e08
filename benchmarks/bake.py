"""Loss of baking on held-out views: the head, baked to ASGs, baked to SH-3, and a model trained as SH-3.

    python benchmarks/bake.py DATA [--scenes satin leather metal] [--iterations 1800] [--points 100000]
        [--out bake.json]

DATA holds a folder per scene, in NeRF-synthetic's layout. The head and SH-3 are fitted from the same
initialisation with the same steps, by the loop of specular.py. "from_head" is the PSNR of the baked renders
against the head's own, in the same views; seconds are those of the bake, or of the fit.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from specular import begin_fit, make_appearance, run, synchronize
from torch import Tensor

from specularip.avatar import Avatar, bake
from specularip.cameras import Cameras
from specularip.captures.load import load_posed_images
from specularip.fitting.fit import resolved, train_step
from specularip.fitting.settings import FitConfig
from specularip.metrics import highlight_error, psnr
from specularip.raster.cuda import pick_device


def fit_head(folder: Path, config: FitConfig, device: torch.device, seed: int) -> Avatar:
    appearance = make_appearance("ours", config, seed)
    fitting, train = begin_fit(folder, "all", appearance, config, device, seed)
    for _ in range(config.iterations or 0):
        train_step(fitting, train, config)
    return Avatar(appearance.gaussians(fitting.state.fields), appearance.head, antialiased=True)


@torch.no_grad()
def measure(
    folder: Path, draw: Callable[[Cameras], Tensor], full: Callable[[Cameras], Tensor], device: torch.device
) -> dict[str, float]:
    test = load_posed_images(folder, "test")
    psnrs, likeness, error, pixels = [], [], 0.0, 0
    for view in test.to(device):
        image, target = draw(view.camera), view.image[None]
        psnrs.append(float(psnr(image, target)))
        likeness.append(float(psnr(image, full(view.camera))))
        view_error, view_pixels = highlight_error(image, target)
        error, pixels = error + float(view_error), pixels + int(view_pixels)
    return {
        "psnr": sum(psnrs) / len(psnrs),
        "highlight_psnr": -10 * math.log10(error / pixels) if error else math.nan,
        "from_head": sum(likeness) / len(likeness),
    }


def rows_of(folder: Path, config: FitConfig, device: torch.device, seed: int) -> list[dict[str, Any]]:
    avatar = fit_head(folder, config, device, seed)
    prepared = avatar.prepare()

    def full(camera: Cameras) -> Tensor:
        return prepared.image(camera, 0.0)

    def row(model: str, seconds: float, draw: Callable[[Cameras], Tensor]) -> dict[str, Any]:
        found = measure(folder, draw, full, device)
        return {"scene": folder.name, "model": model, **found, "seconds": seconds}

    rows = [row("head", 0.0, full)]
    for model, to in (("4 ASGs, baked", "asg"), ("SH-3, baked", "sh3")):
        synchronize(device)
        began = time.perf_counter()
        baked = bake(avatar, to)
        synchronize(device)
        rows.append(row(model, time.perf_counter() - began, partial(baked.prepare().image, background=0.0)))
    trained = run(folder, "sh3", "all", config, device, seed)
    kept = {name: trained[name] for name in ("psnr", "highlight_psnr", "seconds")}
    return [*rows, {"scene": folder.name, "model": "SH-3, trained", "from_head": math.nan, **kept}]


def print_rows(rows: list[dict[str, Any]]) -> None:
    print(f"{'scene':8} {'model':14} {'PSNR':>6} {'highlights':>10} {'from_head':>9} {'seconds':>7}")
    for row in rows:
        numbers = (row[name] for name in ("psnr", "highlight_psnr", "from_head", "seconds"))
        print("{:8} {:14} {:6.2f} {:10.2f} {:9.2f} {:7.1f}".format(row["scene"], row["model"], *numbers))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--scenes", nargs="+", default=["satin", "leather", "metal"])
    parser.add_argument("--iterations", type=int)
    parser.add_argument("--points", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device")
    parser.add_argument("--out", type=Path, help="where to write the rows as JSON")
    arguments = parser.parse_args()
    device = pick_device(arguments.device)
    config = resolved(FitConfig(iterations=arguments.iterations, points=arguments.points), device)
    rows = []
    for scene in arguments.scenes:
        rows += rows_of(arguments.data / scene, config, device, arguments.seed)
        print_rows(rows[-4:])
    if arguments.out:
        arguments.out.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
