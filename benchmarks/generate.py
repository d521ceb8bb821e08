"""`specularip generate` end to end: time, memory, and whether the avatar matches text and photo.

    python benchmarks/generate.py [NAME ...] [--out out/bench] [--jobs 1]

Generates every avatar of CASES (or those named) through the command line, each in its own process; finished
run folders are kept. Then measures all finished ones: the colour of the torso, satin, leather and metal
against cotton, a dark face against a light one, the same seed twice. Writes results/generate.json and
results/generate.md beside this file, prints the latter, and draws the four materials from seven directions
in docs/highlights.png.

Times are valid with `--jobs 1` on an otherwise idle machine; concurrent runs share its cores and are marked.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs import PORTRAIT, RESULTS, ROOT, Order, cost_of, in_own_process, machine, make

if TYPE_CHECKING:
    from torch import Tensor

    from specularip.avatar import Avatar


@dataclass(frozen=True)
class Case:
    """One run. photo: portrait (the shipped photo), dark (the same, toned), or man (a face drawn by tools/).
    color: of the garment over the torso, for the colour check."""

    name: str
    text: str
    photo: str = "portrait"
    color: str = ""


CASES = (
    # Five colours on two garments, in several materials.
    Case("red-dress", "A woman in a red satin dress", color="red"),
    Case("red-t-shirt", "A man in a red cotton t-shirt and black jeans", "man", "red"),
    Case("blue-dress", "A young woman with long blonde hair in a blue cotton dress", color="blue"),
    Case("blue-t-shirt", "A man in a blue satin t-shirt and grey trousers", "man", "blue"),
    Case("green-dress", "A woman in a green silk dress", color="green"),
    Case("green-t-shirt", "A muscular man in a green wool t-shirt and brown shorts", "man", "green"),
    Case("yellow-dress", "An old woman with grey hair in a yellow satin dress", color="yellow"),
    Case("yellow-t-shirt", "A heavy man in a yellow cotton t-shirt and blue jeans", "man", "yellow"),
    Case("white-dress", "A tall woman in a white satin dress", color="white"),
    Case("white-t-shirt", "A man in a white cotton t-shirt and navy shorts", "man", "white"),
    # Each differs from red-dress in one thing: the cloth, the face, or nothing.
    Case("red-cotton-dress", "A woman in a red cotton dress"),
    Case("red-leather-dress", "A woman in a red leather dress"),
    Case("red-metallic-dress", "A woman in a red metallic dress"),
    Case("dark-face", "A woman in a red satin dress", "dark"),
    Case("red-dress-again", "A woman in a red satin dress"),
    # More of the wardrobe, for docs/gallery.md.
    Case("leather-jacket", "A man in a black leather jacket and blue jeans", "man"),
    Case("ski-suit", "A woman in an orange ski suit"),
)

# Targets for the finished avatars.
MAX_SECONDS, MAX_GIB = 300.0, 2.0
MIN_COLORS = 9
MIN_SHINE = 1.5
DRESSES = {
    "satin": "red-dress",
    "leather": "red-leather-dress",
    "metallic": "red-metallic-dress",
    "cotton": "red-cotton-dress",
}
"""The same dress in four materials, of which the first three shine."""
MAX_DIFFERENCE = 1e-4

LIGHT_SKIN, DARK_SKIN = (0.87, 0.68, 0.56), (0.37, 0.23, 0.16)
"""sRGB. The dark portrait is the light one times their ratio, in linear light."""
LUMA = (0.2126, 0.7152, 0.0722)


def draw_photos(folder: Path, assets: Path) -> None:
    """Write the photos that are not shipped: dark.png and man.png."""
    import torch
    from subjects import Studio, fitting_face, to_linear, to_srgb

    from specularip.faces.image_file import read_image
    from specularip.files import to_uint8, write_png

    gain = to_linear(torch.tensor(DARK_SKIN)) / to_linear(torch.tensor(LIGHT_SKIN))
    light = torch.from_numpy(read_image(PORTRAIT)).float() / 255
    write_png(folder / "dark.png", to_uint8(to_srgb(to_linear(light) * gain)))
    studio = Studio.open(assets)
    write_png(folder / "man.png", studio.photo(fitting_face(0, "male", "adult", 0.4, beard=False)))


def torso_share(avatar: Avatar, cameras: Any) -> Tensor:
    """Contribution of the torso's Gaussians to each pixel, [B,H,W] in 0..1."""
    from specularip.body.regions import TORSO
    from specularip.raster import rasterize

    cloud = avatar.gaussians
    return rasterize(
        cloud.means,
        cloud.quats,
        cloud.scales,
        cloud.opacities,
        (cloud.regions == TORSO).float()[:, None],
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
    ).image[..., 0]


def whole_body(avatar: Avatar, azimuth_deg: list[float], size: int) -> Any:
    from specularip.cameras import FULL, Cameras

    distance = FULL.distance * avatar.provenance["height"]
    return Cameras.orbit(azimuth_deg, 5.0, distance, FULL.fov_y_deg, size, size)


def torso_color(avatar: Avatar) -> list[float]:
    """Median colour of the torso's pixels from the front and from the back, sRGB in 0..1."""
    cameras = whole_body(avatar, [0.0, 180.0], 256)
    pixels = avatar.render(cameras).image[torso_share(avatar, cameras) > 0.6]
    return [round(float(value), 4) for value in pixels.median(0).values]


def nearest_color(rgb: list[float]) -> tuple[str, dict[str, float]]:
    """The nearest of the twelve basic colours by CIELAB distance, and the distance to each."""
    import numpy as np
    from measures import lab
    from subjects import BASIC, COLORS

    distance = np.linalg.norm(lab(np.array([COLORS[name] for name in BASIC])) - lab(np.array(rgb)), axis=1)
    distances = {name: round(float(d), 1) for name, d in zip(BASIC, distance)}
    return min(distances, key=distances.__getitem__), distances


def torso_specular(avatar: Avatar) -> dict[str, float]:
    """The specular layer of the torso from 16 sides, in luminance.

    energy: the mean over the torso's pixels of what it adds (it may also darken). variation: the change of
    one Gaussian's specular colour with the view, root mean square; zero for a layer that is only a second
    diffuse colour. image: mean excess of the final pixels over the torso's median in the same view,
    independent of the layers.
    """
    import torch

    from specularip.avatar import shade
    from specularip.body.regions import TORSO
    from specularip.raster import rasterize

    cloud, luma = avatar.gaussians, torch.tensor(LUMA)
    cameras = whole_body(avatar, [22.5 * i for i in range(16)], 192)
    # Contribution of each Gaussian to the image: the gradient of the sum with respect to its colour.
    ones = torch.ones(len(cameras), len(cloud), 1, requires_grad=True)
    drawn = rasterize(
        cloud.means,
        cloud.quats,
        cloud.scales,
        cloud.opacities,
        ones,
        cameras.viewmats,
        cameras.Ks,
        cameras.width,
        cameras.height,
    )
    (weight,) = torch.autograd.grad(drawn.image.sum(), ones)
    with torch.no_grad():
        weight = weight[..., 0] * (cloud.regions == TORSO)
        layer = shade(cloud, avatar.head, cameras)[1] @ luma
        light = layer.clamp_min(0)
        total = weight.sum(0).clamp_min(1e-9)
        mean = (weight * layer).sum(0) / total
        energy = float((weight * light).sum() / weight.sum())
        spread = float((weight * (layer - mean).square()).sum() / weight.sum())
        excess = []
        for index in range(len(cameras)):
            camera = cameras[index]
            pixels = avatar.render(camera).image[torso_share(avatar, camera) > 0.6] @ luma
            excess.append(float((pixels - pixels.median()).clamp_min(0).mean()))
    return {
        "energy": round(energy, 5),
        "variation": round(math.sqrt(spread), 5),
        "image": round(sum(excess) / len(excess), 5),
    }


def face_luminance(avatar: Avatar, text: str) -> float:
    """Mean luminance of the avatar's face, framed and masked as the photo's face."""
    from specularip.body import anny_body, phenotype_from_text
    from specularip.cameras import face_camera

    eyes = anny_body(phenotype_from_text(text)).keypoints[14:16]
    camera = face_camera(eyes.mean(0), float((eyes[0] - eyes[1]).norm()), 96)
    return _masked_luminance(avatar.render(camera).image[0].permute(2, 0, 1))


def photo_luminance(path: Path) -> float:
    from specularip.faces.alignment import align_face
    from specularip.faces.image_file import read_image
    from specularip.faces.landmarks import find_face

    photo = read_image(path)
    return _masked_luminance(align_face(photo, find_face(photo, path.name), 96))


def _masked_luminance(face: Tensor) -> float:
    """face [3,S,S]."""
    from specularip.faces.alignment import face_mask

    mask = face_mask(face.shape[-1])
    return round(float((face * face.new_tensor(LUMA)[:, None, None] * mask).sum() / mask.sum()), 4)


def largest_difference(a: Path, b: Path) -> float:
    """Largest difference over all tensors of two avatar files; infinite if their sizes differ."""
    from safetensors.torch import load_file

    first, second = load_file(a), load_file(b)
    shapes = [{name: tensor.shape for name, tensor in file.items()} for file in (first, second)]
    if shapes[0] != shapes[1]:
        return math.inf
    return max(float((first[name].double() - second[name].double()).abs().max()) for name in first)


def measure(out: Path, photos: dict[str, Path]) -> dict[str, Any]:
    """All measurements of the finished runs in `out`."""
    from specularip.avatar import load

    runs: dict[str, Any] = {}
    for case in CASES:
        folder = out / case.name
        if not (folder / "report.json").exists():
            continue
        avatar, report = load(folder), json.loads((folder / "report.json").read_text())
        rgb = torso_color(avatar)
        nearest, distances = nearest_color(rgb)
        runs[case.name] = {
            "text": case.text,
            "photo": case.photo,
            "asked": case.color,
            "torso": rgb,
            "nearest": nearest,
            "distance": distances,
            "specular": torso_specular(avatar),
            "face": face_luminance(avatar, case.text),
            "gaussians": len(avatar.gaussians),
            "notes": report.get("notes", []),
            "stages": report.get("seconds", {}),
            "cost": cost_of(out, case.name),
        }
    return {
        "machine": machine(),
        "runs": runs,
        "faces": {name: photo_luminance(path) for name, path in photos.items() if path.exists()},
        "repeat": largest_difference(*(out / name / "avatar.safetensors" for name in REPEAT))
        if set(REPEAT) <= set(runs)
        else None,
    }


REPEAT = ("red-dress", "red-dress-again")


def highlight_sheet(out: Path) -> Tensor | None:
    """The four dresses, a row each, from seven directions 15 degrees apart, to see whether highlights move
    over the cloth: [4*256,7*256,3] in 0..1. None if one is missing."""
    import torch

    from specularip.avatar import load
    from specularip.cameras import Cameras

    if not all((out / name / "report.json").exists() for name in DRESSES.values()):
        return None
    rows = []
    for name in DRESSES.values():
        avatar = load(out / name)
        height = avatar.provenance["height"]
        target = torch.tensor([0.0, 0.0, 0.05 * height])
        cameras = Cameras.orbit([15.0 * i for i in range(-3, 4)], 5.0, 1.15 * height, 40.0, 256, 256, target)
        rows.append(torch.cat(list(avatar.render(cameras).image), 1))
    return torch.cat(rows)


def checks(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Target, measured value, and whether it passed (None: runs are missing)."""
    runs = found["runs"]
    rows: list[dict[str, Any]] = []

    def add(what: str, target: str, value: str | None, passed: bool | None = None) -> None:
        passed = None if value is None else passed
        rows.append({"what": what, "target": target, "value": value, "passed": passed})

    costs = [run["cost"] for run in runs.values() if run["cost"]]
    alone = [cost for cost in costs if cost["jobs"] == 1 and not cost["resumed"]]
    slowest = max((cost["seconds"] for cost in alone), default=None)
    add(
        f"wall time, slowest of {len(alone)} runs alone on the machine",
        f"≤ {MAX_SECONDS:.0f} s",
        None if slowest is None else f"{slowest:.0f} s",
        slowest is not None and slowest <= MAX_SECONDS,
    )
    peak = max((cost["peak_gib"] for cost in costs), default=None)
    add(
        f"peak memory, largest of {len(costs)} runs",
        f"≤ {MAX_GIB:.0f} GiB",
        None if peak is None else f"{peak:.2f} GiB",
        peak is not None and peak <= MAX_GIB,
    )

    wanted = [case.name for case in CASES if case.color]
    asked = [runs[name] for name in wanted if name in runs]
    right = sum(run["nearest"] == run["asked"] for run in asked)
    value = f"{right} of {len(asked)} finished" if asked else None
    add("torso colour nearest to the text's", f"≥ {MIN_COLORS} of {len(wanted)}", value, right >= MIN_COLORS)

    labels = {
        "energy": "specular energy",
        "image": "highlights in the image",
        "variation": "change with the view",
    }
    found_specular = {material: runs.get(name, {}).get("specular") for material, name in DRESSES.items()}
    matte = found_specular.pop("cotton")
    for material, shiny in found_specular.items():
        for key, label in labels.items():
            ratio = shiny[key] / max(matte[key], 1e-6) if shiny and matte else None
            judged = key == "energy"
            add(
                f"{label}, {material} over cotton, same red",
                f"≥ {MIN_SHINE}×" if judged else "",
                None if ratio is None else f"{ratio:.2f}×",
                ratio >= MIN_SHINE if ratio is not None and judged else None,
            )

    if {"red-dress", "dark-face"} <= set(runs) and {"portrait", "dark"} <= set(found["faces"]):
        photos = found["faces"]["portrait"] - found["faces"]["dark"]
        avatars = runs["red-dress"]["face"] - runs["dark-face"]["face"]
        add(
            "face luminance, light minus dark", f"> 0 (photos: {photos:+.3f})", f"{avatars:+.3f}", avatars > 0
        )
    else:
        add("face luminance, light minus dark", "> 0", None)

    repeat = found["repeat"]
    add(
        "same seed twice, largest difference of any tensor",
        f"≤ {MAX_DIFFERENCE:g}",
        None if repeat is None else f"{repeat:.1e}",
        repeat is not None and repeat <= MAX_DIFFERENCE,
    )
    return rows


def markdown(found: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    where = found["machine"]
    lines = [
        "## generate, end to end (`benchmarks/generate.py`)",
        "",
        f"{where['cpu']}, {where['cores']} cores, no GPU; Python {where['python']}, torch {where['torch']}; "
        f"{where['date']}.",
        "",
        "| what | target | measured | |",
        "|---|---|---|---|",
    ]
    verdicts = {True: "pass", False: "**fail**", None: ""}
    for row in rows:
        value = "not run" if row["value"] is None else row["value"]
        lines.append(f"| {row['what']} | {row['target']} | {value} | {verdicts[row['passed']]} |")
    columns = (
        "text",
        "face",
        "torso, median",
        "nearest (ΔE)",
        "specular",
        "face lum.",
        "points",
        "time",
        "memory",
    )
    lines += ["", f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for run in found["runs"].values():
        cost = run["cost"]
        together = f" ({cost['jobs']} at once)" if cost and cost["jobs"] > 1 else ""
        resumed = " (resumed)" if cost and cost["resumed"] else ""
        nearest = f"{run['nearest']} ({run['distance'][run['nearest']]:.0f})"
        if run["asked"] and run["asked"] != run["nearest"]:
            nearest += f", asked {run['asked']} ({run['distance'][run['asked']]:.0f})"
        hexadecimal = "#" + "".join(f"{round(255 * value):02x}" for value in run["torso"])
        spent = f"{cost['seconds']:.0f} s{together}{resumed}" if cost else ""
        memory = f"{cost['peak_gib']:.2f} GiB" if cost else ""
        energy, face = f"{run['specular']['energy']:.3f}", f"{run['face']:.2f}"
        cells = (run["text"], run["photo"], f"`{hexadecimal}`", nearest, energy, face, str(run["gaussians"]))
        lines.append(f"| {' | '.join((*cells, spent, memory))} |")
    lines += [
        "",
        "Torso: pixels of which the torso's Gaussians make up more than 0.6, from front and back; colours",
        "are compared in CIELAB with the twelve that the prior was trained on. Specular: mean luminance of",
        "the specular layer over the torso from 16 sides. Faces: `portrait` is the shipped photo, `dark` the",
        "same photo times the ratio of a dark skin to a light one in linear light, `man` a face drawn by",
        "`tools/compact`.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    names = ", ".join(case.name for case in CASES)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"only these of: {names}")
    parser.add_argument("--out", type=Path, default=ROOT / "out" / "bench", help="where the run folders are")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--assets", type=Path, default=ROOT / "assets.npz", help="to draw the man's face")
    args = parser.parse_args()
    if unknown := set(args.names) - {case.name for case in CASES}:
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    out: Path = args.out
    out.mkdir(parents=True, exist_ok=True)
    photos = {"portrait": PORTRAIT, **{name: out / "faces" / f"{name}.png" for name in ("dark", "man")}}
    if not all(path.exists() for path in photos.values()):
        (out / "faces").mkdir(parents=True, exist_ok=True)
        in_own_process(draw_photos, out / "faces", args.assets)
    todo = [case for case in CASES if not args.names or case.name in args.names]
    make([Order(case.name, case.text, photos[case.photo]) for case in todo], out, jobs=max(1, args.jobs))
    from specularip.files import atomic_path, write_json, write_png

    found = measure(out, photos)
    if not found["runs"]:
        raise SystemExit(f"no finished run in {out}: see the .log files there")
    rows = checks(found)
    block = markdown(found, rows)
    sheet = highlight_sheet(out)
    if sheet is not None:
        write_png(ROOT / "docs" / "highlights.png", sheet)
    write_json(RESULTS / "generate.json", {**found, "checks": rows})
    with atomic_path(RESULTS / "generate.md") as temporary:
        temporary.write_text(block, encoding="utf-8")
    print("\n" + block)


if __name__ == "__main__":
    main()
