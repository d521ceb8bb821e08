"""Captures, and people in splat files, fitted by the command line."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import made_captures as made
import numpy as np
from input_rows import (
    FACE,
    QUICK,
    ROOT,
    SHORT,
    Row,
    Unexpected,
    colors_in,
    refusal,
    shows_something,
    specularip,
    success,
)
from made_captures import (
    ELSEWHERE,
    HERE,
    nerfstudio,
    shots,
)

from specularip.avatar import load


def fits() -> list[Row]:
    def anywhere(folder: Path) -> str:
        nerfstudio(folder, shots(), world=ELSEWHERE)
        run = folder / "run"
        success(specularip("fit", folder, "--out", run, *SHORT), "units from the origin")
        shows_something(run, folder)
        success(specularip("eval", run, "--data", folder, "--device", "cpu", "--out", folder / "m.json"))
        quality = json.loads((folder / "m.json").read_text())["psnr"]
        truth = ELSEWHERE.points(made.subject().gaussians.means)
        exported = load(run / "avatar.ply")
        world = exported.placement or HERE
        found = world.points(exported.gaussians.means)
        off = float((found.median(0).values - truth.median(0).values).norm()) / ELSEWHERE.scale
        got = f"a picture of it; eval {quality:.1f} dB; the .ply is {off:.2f} m from the capture's subject"
        if quality < 15 or off > 0.2:
            raise Unexpected(got)
        return got

    def no_rembg(folder: Path) -> str:
        nerfstudio(folder, shots(), save=made.save_opaque((120, 96, 80)))
        package = folder / "shim" / "rembg"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise ImportError('no rembg')\n")
        paths = os.pathsep.join([str(folder / "shim"), str(ROOT / "src")])
        return refusal(specularip("masks", folder, PYTHONPATH=paths), "pip install")

    def exposed(folder: Path) -> str:
        gains = np.random.default_rng(0).uniform(0.6, 1.0, (10, 1, 1, 3))
        darker = [
            replace(
                shot,
                pixels=np.concatenate([shot.pixels[..., :3] * gain, shot.pixels[..., 3:]], -1).astype(
                    np.uint8
                ),
            )
            for shot, gain in zip(shots(), gains[:, 0])
        ]
        nerfstudio(folder, darker)
        made.write_cloud(folder / "sparse_pc.ply")
        result = specularip("fit", folder, "--out", folder / "run", *SHORT)
        return success(result, "exposure and white balance differ")

    def alike(folder: Path) -> str:
        nerfstudio(folder, shots())
        result = specularip("fit", folder, "--out", folder / "run", *SHORT)
        if "white balance" in result.out + result.err:
            raise Unexpected("compensated")
        return success(result)

    def rigged(folder: Path) -> str:
        nerfstudio(folder, shots(16))
        result = specularip("fit", folder, "--out", folder / "run", "--body", *SHORT, timeout=400)
        success(result)
        picture = folder / "walk.png"
        success(specularip("animate", folder / "run", "--motion", "walk", "--size", "96", "--out", picture))
        if (count := colors_in(picture)) < 50:
            raise Unexpected(f"a picture of {count} colours")
        return "it walks"

    def splats_of(folder: Path) -> Path:
        return made.subject().export(folder / "person.ply")

    def fit_init(folder: Path) -> str:
        nerfstudio(folder, shots(16))
        result = specularip("fit", folder, "--out", folder / "run", "--init", splats_of(folder), *SHORT)
        success(result)
        return shows_something(folder / "run", folder)

    def generate_init(folder: Path) -> str:
        ply, run = splats_of(folder), folder / "run"
        text = "A woman in a red satin dress"
        arguments = ("generate", text, "--image", FACE, "--out", run, "--init", ply, "--set", *QUICK)
        success(specularip(*arguments, timeout=500))
        return shows_something(run, folder)

    return [
        Row("a subject anywhere", "fit, render, eval, .ply", "shown; .ply in the capture's world", anywhere),
        Row("no alpha", "masks, rembg is not installed", "refused, names the package", no_rembg),
        Row("exposure", "gains of 0.6 to 1 a channel", "compensated, said", exposed),
        Row("exposure", "the same in all images", "left alone", alike),
        Row("fit --body", "16 views of a person", "an avatar that walks", rigged),
        Row("fit --init", "a person's .ply, A-pose", "an avatar", fit_init),
        Row("generate --init", "a person's .ply, A-pose", "an avatar", generate_init),
    ]
