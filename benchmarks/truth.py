"""The truth test: people of the training generator whom training never saw, generated from their sentence and
photo, against their own renders.

    python benchmarks/truth.py --assets assets.npz [--only N ...] [--runs DIR]
        [--baseline DIR --checkout PATH]

Person N is `subjects.stranger(N)`: the caption names everything that a sentence can, the body is the one that
the package reads in it, the photo is a render. `specularip generate` makes the avatars in out/truth/avatars
(or DIR of --runs; finished ones are reused). Avatar and person are rendered from the same cameras, with the
same background: 16 sides of the whole body, three of the head, eight of the silhouette at 720 pixels. With
--baseline, avatars of the version in --checkout are made and measured beside them.

silhouette  IoU of alpha > 0.5, mean over the sides.
PSNR        over the pixels that the person covers, of all sides together.
colours     Median of each garment, of skin and of hair over all sides, where the person's own render shows
            it, two pixels away from its border, in the avatar and in the person, by CIEDE2000. Parts of less
            than SMALLEST of the body's pixels (belts, necklaces) are left out.
head        SSIM of the close-up over the pixels that the person covers (the background would raise it), mean
            of three views from the front.
eyes        The same over two squares around the eyes, FEATURE of the image wide: a smooth face without eyes
            passes the measure above. Beside it, the contrast there (standard deviation of luminance) over the
            person's own.
bare skin   Of the pixels whose true part is a garment (as above), the share whose colour in the avatar is
            nearer in CIELAB to the person's skin than to the garment; each is represented by five colours,
            from its dark side to its highlights. The person's own share is the measure's error. Garments
            within CIEDE2000 ALIKE of the skin cannot be judged. Where a shirt is tucked in, black trousers
            may be nearer to skin than to a purple shirt: "patches" are the pixels that are also nearer to
            skin than to every other garment that can be judged.
edges       Pieces besides the largest in each silhouette, enclosed holes, and the length of the outline over
            that of the smoothed outline, each beside the person's own.
mean sample With --samples N: PSNR of avatar and of person against the mean of N images that the prior draws
            of the same views. What the prior itself gets wrong no avatar can get right.

Writes results/truth.json, prints a table, and puts out/truth/sheet.png together: person over avatar (over
baseline) in five views. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runs import RESULTS, ROOT, Order, cost_of, in_own_process, is_finished, machine, make, render

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from specularip.cameras import Views

SIDES, SIZE, ELEVATION_DEG = 16, 512, 6.0
HEAD_SIZE, HEAD_AZIMUTHS = 256, (-30.0, 0.0, 30.0)
OUTLINE_SIDES, OUTLINE_SIZE = 8, 720
EYES = [14, 15]
"""Among OpenPose's keypoints."""
FEATURE = 0.09
"""Side of the squares around the eyes, relative to the side of the head's image."""
BORDER = 2
"""Pixels of SIZE by which the parts are eroded."""
SMALLEST = 0.004
ALIKE = 15.0
SAMPLED_SIDES = (0, 4, 8, 12)
"""Front, left, back, right: what the mean sample shows."""
SHOWN = (0, 2, 4, 8)
"""The sides on the contact sheet, before the head."""
TILE = 224

GOALS = {
    # name: (label, smallest or largest, format)
    "iou_256": ("silhouette IoU, 256²", ">=", 0.90, "{:.3f}"),
    "iou_512": ("silhouette IoU, 512²", ">=", 0.90, "{:.3f}"),
    "psnr_256": ("PSNR over the body, 256², dB", ">=", 20.0, "{:.2f}"),
    "psnr_512": ("PSNR over the body, 512², dB", ">=", 20.0, "{:.2f}"),
    "colors": ("parts whose median is within CIEDE2000 12", ">=", 0.90, "{:.1%}"),
    "head_ssim": ("SSIM of the head (on the person)", ">=", 0.60, "{:.3f}"),
    "eyes_ssim": ("SSIM of the eyes", ">=", 0.60, "{:.3f}"),
    "bare": ("nearer to skin than to the garment", "<=", 0.01, "{:.2%}"),
    "patches": ("nearer to skin than to any garment", "<=", 0.01, "{:.2%}"),
    "specks": ("loose pieces in a silhouette, beyond the person's", "<=", 0.0, "{:.2f}"),
    "fray": ("length of the outline over the person's", "<=", 1.05, "{:.3f}"),
}
NEAR = 12.0


@dataclass
class Truth:
    """What is known of one person: whole [16,S,S,3], alpha and parts [16,S,S] (index of names; -1 outside),
    head [3,h,h,4] with alpha, outline [8,s,s] (alpha)."""

    text: str
    height: float
    names: list[str]
    cloth: list[str]
    whole: Tensor
    alpha: Tensor
    parts: Tensor
    head: Tensor
    outline: Tensor


def side_views(height: float) -> Views:
    from specularip.cameras import FULL, orbit_views

    return orbit_views(SIDES, FULL, size=SIZE, body_height=height, elevation_deg=ELEVATION_DEG)


def outline_views(height: float) -> Views:
    from specularip.cameras import FULL, orbit_views

    return orbit_views(
        OUTLINE_SIDES, FULL, size=OUTLINE_SIZE, body_height=height, elevation_deg=ELEVATION_DEG
    )


def head_views(height: float) -> Views:
    import torch

    from specularip.cameras import HEAD, Cameras, Views

    azimuth = torch.tensor(HEAD_AZIMUTHS)
    elevation = torch.full_like(azimuth, 4.0)
    target = torch.tensor([0.0, 0.0, HEAD.target_z * height])
    cameras = Cameras.orbit(
        azimuth, elevation, HEAD.distance * height, HEAD.fov_y_deg, HEAD_SIZE, HEAD_SIZE, target
    )
    return Views(cameras, azimuth, elevation, [HEAD] * len(azimuth), target.expand(len(azimuth), 3))


# The people


def draw_people(assets: Path, device: str, folder: Path, numbers: list[int]) -> None:
    """Write NN.png (the photo), NN.npz (the renders, and what the prior is given) and NN.json (the sentence)
    of these people."""
    import numpy as np
    from subjects import Studio, as_told, names, stranger

    from specularip.files import to_uint8, write_json, write_png

    folder.mkdir(parents=True, exist_ok=True)
    studio = Studio.open(assets, device)
    pixels = lambda x: to_uint8(x.movedim(1, -1))  # noqa: E731
    for number in numbers:
        person, text = as_told(stranger(number))
        mesh = studio.dress(person)
        sides, heads, outlines = side_views(mesh.height), head_views(mesh.height), outline_views(mesh.height)
        whole = studio.images(mesh, sides, SIZE)
        np.savez_compressed(
            folder / f"{number:02}.npz",
            whole=pixels(whole[:, :3]),
            alpha=to_uint8(whole[:, 3]),
            parts=studio.parts(mesh, sides, SIZE).byte(),
            head=pixels(studio.images(mesh, heads, HEAD_SIZE)[:, :4]),
            outline=to_uint8(studio.images(mesh, outlines, OUTLINE_SIZE)[:, 3]),
            maps=studio.body_maps(mesh, sides)[list(SAMPLED_SIDES)],
            face=studio.face(mesh),
        )
        write_png(folder / f"{number:02}.png", studio.photo(person))
        cloth = [part.name for part in mesh.parts if part.kind == "cloth"]
        about = {
            "text": text,
            "height": mesh.height,
            "names": names(mesh),
            "cloth": list(dict.fromkeys(cloth)),
        }
        write_json(folder / f"{number:02}.json", about)
        print(f"person {number}: {text}", flush=True)


def read_truth(folder: Path, number: int) -> Truth:
    import numpy as np
    import torch

    about = json.loads((folder / f"{number:02}.json").read_text())
    with np.load(folder / f"{number:02}.npz") as file:
        raw = {name: torch.from_numpy(file[name]) for name in ("whole", "alpha", "parts", "head", "outline")}
    parts = raw.pop("parts").to(torch.int8).long()  # 255 is -1
    return Truth(**about, parts=parts, **{name: value.float() / 255 for name, value in raw.items()})


# Measures


def halved(images: Tensor) -> Tensor:
    """Images [V,H,W,...] at half the size, by the mean of 2x2 pixels."""
    v, h, w, *rest = images.shape
    return images.reshape(v, h // 2, 2, w // 2, 2, *rest).mean((2, 4))


def compare(truth: Truth, folder: Path, checkout: Path) -> tuple[dict[str, Any], Tensor]:
    """All measures of one avatar, and its row [h,5h,3] of the contact sheet."""
    whole, alpha = render(folder, side_views(truth.height).cameras, checkout)
    head, _ = render(folder, head_views(truth.height).cameras, checkout)
    _, outline = render(folder, outline_views(truth.height).cameras, checkout)
    return {
        **likeness(truth, whole, alpha, head),
        **colors(truth, whole, alpha),
        **outlines(truth, outline),
        "whole": whole,
    }, row(whole, head)


def likeness(truth: Truth, whole: Tensor, alpha: Tensor, head: Tensor) -> dict[str, float]:
    from measures import body_psnr, body_ssim, contrast, silhouette_iou

    eyes = eye_masks(truth)
    small, small_truth = halved(whole), halved(truth.whole)
    small_alpha, small_truth_alpha = halved(alpha), halved(truth.alpha)
    return {
        "iou_256": float(silhouette_iou(small_alpha, small_truth_alpha).mean()),
        "iou_512": float(silhouette_iou(alpha, truth.alpha).mean()),
        "psnr_256": body_psnr(small, small_truth, small_truth_alpha),
        "psnr_512": body_psnr(whole, truth.whole, truth.alpha),
        "head_ssim": body_ssim(head, truth.head[..., :3], truth.head[..., 3]),
        "eyes_ssim": body_ssim(head, truth.head[..., :3], eyes),
        "eyes_contrast": contrast(head, eyes) / contrast(truth.head[..., :3], eyes),
    }


def eye_masks(truth: Truth) -> Tensor:
    """Squares around the eyes in the views of the head, [3,h,h]: 1 inside."""
    import torch

    from specularip.body import anny_body, phenotype_from_text

    body = anny_body(phenotype_from_text(truth.text))
    pixels, _ = head_views(truth.height).cameras.project(body.keypoints[EYES])
    at = torch.arange(HEAD_SIZE) + 0.5
    near = ((at - pixels[..., None]).abs() < FEATURE * HEAD_SIZE / 2).float()  # views, eyes, xy, pixels
    return torch.einsum("vew,veh->vhw", near[:, :, 0], near[:, :, 1]).clamp(max=1)


def colors(truth: Truth, whole: Tensor, alpha: Tensor) -> dict[str, Any]:
    """Median colours of the parts, and bare skin in the garments."""
    import numpy as np
    from measures import bare_share, ciede2000, eroded, lit_palette, median_color

    least = SMALLEST * float((truth.alpha > 0.5).sum())
    covered = {name: eroded(truth.parts == truth.names.index(name), BORDER) for name in truth.names}
    judged = [
        name for name in ("skin", "hair", *truth.cloth) if name in covered and covered[name].sum() > least
    ]
    medians, bare = {}, {}
    skin = truth.whole[covered["skin"]].median(0).values
    told_apart = [
        name
        for name in truth.cloth
        if name in covered and ciede2000(median_color(truth.whole, covered[name]), skin) > ALIKE
    ]
    skin_palette = lit_palette(truth.whole, covered["skin"])
    palettes = {name: lit_palette(truth.whole, covered[name]) for name in told_apart}
    for name in judged:
        mask = covered[name]
        true, drawn = median_color(truth.whole, mask), median_color(whole, mask & (alpha > 0.5))
        medians[name] = {
            "true": hexadecimal(true),
            "avatar": hexadecimal(drawn),
            "delta": ciede2000(true, drawn),
        }
        if name in told_apart:
            drawn_mask, own = mask & (alpha > 0.5), palettes[name]
            bare[name] = {
                "avatar": bare_share(whole, drawn_mask, own, skin_palette),
                "patches": bare_share(whole, drawn_mask, np.concatenate([*palettes.values()]), skin_palette),
                "true": bare_share(truth.whole, mask, own, skin_palette),
                "pixels": int(mask.sum()),
            }
    return {"medians": medians, "bare_by_garment": bare}


def outlines(truth: Truth, outline: Tensor) -> dict[str, Any]:
    from measures import edges

    own, true = edges(outline), edges(truth.outline)
    return {
        "specks": max(0.0, own.specks - true.specks),
        "fray": own.fray / true.fray,
        "edges": asdict(own),
        "true_edges": asdict(true),
    }


def hexadecimal(rgb: Tensor) -> str:
    return "#" + "".join("--" if math.isnan(c) else f"{round(255 * c):02x}" for c in rgb.tolist())


def mean_samples(
    prior_folder: Path, device: str, people: Path, numbers: list[int], count: int
) -> dict[int, Tensor]:
    """The mean of `count` drawings of each person in SAMPLED_SIDES, [4,256,256,3]."""
    import numpy as np
    import torch
    from samples import Asked, Sampling, draw_samples, load

    from specularip.cameras import Views

    prior = load(prior_folder, device)
    rows, found = list(SAMPLED_SIDES), {}
    for number in numbers:
        about = json.loads((people / f"{number:02}.json").read_text())
        sides = side_views(about["height"])
        views = Views(
            sides.cameras[rows],
            sides.azimuth_deg[rows],
            sides.elevation_deg[rows],
            [sides.framings[r] for r in rows],
            sides.targets[rows],
        )
        with np.load(people / f"{number:02}.npz") as file:
            maps, face = torch.from_numpy(file["maps"]), torch.from_numpy(file["face"])
        asked = Asked(about["text"], views, maps, face)
        drawn = torch.stack([draw_samples(prior, asked, seed, Sampling())[:, :3] for seed in range(count)])
        found[number] = drawn.mean(0).movedim(1, -1)
    return found


def summary(people: dict[int, dict[str, Any]]) -> dict[str, float]:
    """The figures of GOALS over all people."""
    mean = lambda name: sum(p[name] for p in people.values()) / max(1, len(people))  # noqa: E731
    deltas = [part["delta"] for p in people.values() for part in p["medians"].values()]
    garments = [garment for p in people.values() for garment in p["bare_by_garment"].values()]
    drawn = [g for g in garments if not math.isnan(g["avatar"])]
    pixels = max(1, sum(g["pixels"] for g in drawn))
    found = {name: mean(name) for name in GOALS if name not in ("colors", "bare", "patches")}
    found["colors"] = sum(delta <= NEAR for delta in deltas) / max(1, len(deltas))
    found["bare"] = sum(g["pixels"] * g["avatar"] for g in drawn) / pixels
    found["patches"] = sum(g["pixels"] * g["patches"] for g in drawn) / pixels
    found["bare_true"] = sum(g["pixels"] * g["true"] for g in garments) / max(
        1, sum(g["pixels"] for g in garments)
    )
    return found


def reached(name: str, value: float) -> bool:
    _, sense, goal, _ = GOALS[name]
    return value >= goal if sense == ">=" else value <= goal


# Presentation


def row(whole: Tensor, head: Tensor) -> Tensor:
    """SHOWN and the head from the front, side by side, uint8 [TILE, 5 TILE, 3]."""
    import torch
    import torch.nn.functional as F

    pictures = [*whole[list(SHOWN)], head[len(HEAD_AZIMUTHS) // 2]]
    tiles = [F.interpolate(p.movedim(-1, 0)[None], size=(TILE, TILE), mode="area")[0] for p in pictures]
    return (torch.cat(tiles, 2).movedim(0, -1) * 255).round().byte()


def sheet(rows: list[Tensor], each: int) -> np.ndarray:
    """Rows, `each` of one person, two people beside each other."""
    import torch

    people = [torch.cat(rows[i : i + each]) for i in range(0, len(rows), each)]
    if len(people) % 2 and len(people) > 1:
        people.append(torch.full_like(people[0], 153))
    lines = [torch.cat(people[i : i + 2], 1) for i in range(0, len(people), 2)]
    return torch.cat(lines).numpy()


def markdown(found: dict[str, Any]) -> str:
    versions = list(found["versions"])
    where = found["machine"]
    lines = [
        "## The truth test (`benchmarks/truth.py`)",
        "",
        f"{where['cpu']}, {where['cores']} cores; torch {where['torch']}; {where['date']}.",
        "",
        f"| what | goal | {' | '.join(versions)} | |",
        "|---" * (len(versions) + 3) + "|",
    ]
    for name, (label, sense, goal, pattern) in GOALS.items():
        values = [found["versions"][version]["summary"][name] for version in versions]
        verdict = "pass" if reached(name, values[0]) else "**fail**"
        sign = "≥" if sense == ">=" else "≤"
        cells = " | ".join(pattern.format(value) for value in values)
        lines.append(f"| {label} | {sign} {pattern.format(goal)} | {cells} | {verdict} |")
    floor = found["versions"][versions[0]]["summary"]["bare_true"]
    lines += ["", f"Of the people's own renders, {floor:.2%} of the garments' pixels count as bare skin.", ""]
    lines += [
        "| person | version | IoU | PSNR | head | eyes (contrast) | colours (CIEDE2000) | patches "
        "| specks | fray |",
        "|---" * 10 + "|",
    ]
    for number, text in found["people"].items():
        for version in versions:
            person = found["versions"][version]["people"].get(number)
            if person is None:
                continue
            deltas = ", ".join(f"{name} {part['delta']:.0f}" for name, part in person["medians"].items())
            bare = ", ".join(f"{name} {g['patches']:.1%}" for name, g in person["bare_by_garment"].items())
            cells = [
                f"{number}: {text}" if version == versions[0] else "",
                version,
                f"{person['iou_512']:.3f}",
                f"{person['psnr_512']:.1f}",
                f"{person['head_ssim']:.2f}",
                f"{person['eyes_ssim']:.2f} ({person['eyes_contrast']:.0%})",
                deltas,
                bare,
                f"{person['specks']:.1f}",
                f"{person['fray']:.2f}",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    out = ROOT / "out" / "truth"
    parser.add_argument("--assets", type=Path, default=ROOT / "assets.npz")
    parser.add_argument("--only", type=int, nargs="+", default=list(range(12)), help="numbers of the people")
    parser.add_argument("--people", type=Path, default=out / "people", help="where their pictures are kept")
    parser.add_argument("--runs", type=Path, default=out / "avatars")
    parser.add_argument("--baseline", type=Path, help="runs of another version, made if they are missing")
    parser.add_argument("--checkout", type=Path, default=ROOT, help="the other version's repository")
    parser.add_argument("--jobs", type=int, default=1, help="avatars at a time")
    parser.add_argument("--samples", type=int, default=0, help="drawings in the mean sample")
    parser.add_argument("--prior", type=Path, default=ROOT / "src/specularip/assets/compact")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of renderer and prior")
    parser.add_argument("--out", type=Path, default=RESULTS / "truth.json")
    args = parser.parse_args()

    missing = [n for n in args.only if not (args.people / f"{n:02}.json").exists()]
    if missing:
        in_own_process(draw_people, args.assets, args.device, args.people, missing)
    texts = {n: json.loads((args.people / f"{n:02}.json").read_text())["text"] for n in args.only}
    orders = [Order(f"{n:02}", text, args.people / f"{n:02}.png") for n, text in texts.items()]
    versions = {"avatar": (args.runs, ROOT)}
    if args.baseline:
        versions["baseline"] = (args.baseline, args.checkout)
    for runs, checkout in versions.values():
        make(orders, runs, checkout, args.jobs)

    from measures import body_psnr

    from specularip.files import atomic_path, write_json, write_png

    samples = {}
    if args.samples:
        samples = mean_samples(args.prior, args.device, args.people, args.only, args.samples)
    found: dict[str, Any] = {"machine": machine(), "people": texts, "versions": {}}
    measured: dict[str, dict[int, dict[str, Any]]] = {version: {} for version in versions}
    rows: list[Tensor] = []
    for number in args.only:
        truth = read_truth(args.people, number)
        rows.append(row(truth.whole, truth.head[..., :3]))
        for version, (runs, checkout) in versions.items():
            folder = runs / f"{number:02}"
            if not is_finished(folder):
                rows.append(rows[-1] * 0 + 153)
                continue
            person, strip = compare(truth, folder, checkout)
            rows.append(strip)
            whole = person.pop("whole")
            if number in samples:
                sides, mean = list(SAMPLED_SIDES), samples[number]
                true, true_alpha = halved(truth.whole[sides]), halved(truth.alpha[sides])
                person["psnr_to_samples"] = body_psnr(halved(whole[sides]), mean, true_alpha)
                person["psnr_of_samples"] = body_psnr(true, mean, true_alpha)
            measured[version][number] = {**person, "cost": cost_of(runs, f"{number:02}")}
            print(
                f"{number:02} {version}: IoU {person['iou_512']:.3f}, PSNR {person['psnr_512']:.1f} dB",
                flush=True,
            )
    if not measured["avatar"]:
        raise SystemExit(f"no finished run in {args.runs}: see the .log files there")
    for version, people in measured.items():
        if people:
            found["versions"][version] = {"summary": summary(people), "people": people}
    write_json(args.out, found)
    with atomic_path(args.out.with_suffix(".md")) as temporary:
        temporary.write_text(markdown(found), encoding="utf-8")
    print("\n" + markdown(found))
    print(write_png(args.people.parent / "sheet.png", sheet(rows, 1 + len(versions))))
    figures = found["versions"]["avatar"]["summary"]
    sys.exit(0 if all(reached(name, figures[name]) for name in GOALS) else 1)


if __name__ == "__main__":
    main()
