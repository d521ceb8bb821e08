"""docs/gallery.md, docs/gallery.png and docs/gallery/*.png, from the runs of benchmarks/generate.py.

    python benchmarks/gallery.py [--runs out/bench]

Eight avatars, each from the front, three-quarter, from the back, and the head.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
from generate import CASES, ROOT, Case

from specularip.avatar import Avatar, load
from specularip.cameras import FULL, HEAD, Cameras, Framing
from specularip.files import to_uint8, write_png

DOCS = ROOT / "docs"
SIZE = 384
VIEWS: tuple[tuple[str, Framing, float], ...] = (
    ("front", FULL, 0.0), ("three-quarter", FULL, 40.0), ("back", FULL, 180.0), ("head", HEAD, 15.0),
)  # fmt: skip
SHOWN = (
    "red-dress", "leather-jacket", "dark-face", "green-t-shirt", "ski-suit", "blue-t-shirt", "yellow-dress",
    "blue-dress", "white-dress", "red-cotton-dress", "white-t-shirt", "green-dress", "red-t-shirt",
    "yellow-t-shirt",
)  # fmt: skip
"""In order of preference; the first COUNT finished ones are shown."""
COUNT = 8
FACES = {
    "portrait": "the shipped portrait",
    "dark": "the shipped portrait, toned darker",
    "man": "drawn by the training tools",
}


def views(avatar: Avatar) -> np.ndarray:
    """The avatar in VIEWS side by side, uint8 [SIZE, 4 SIZE, 3]."""
    height = float(avatar.provenance["height"])
    frames = []
    for _, framing, azimuth in VIEWS:
        target = (0.0, 0.0, framing.target_z * height)
        distance = framing.distance * height
        camera = Cameras.orbit(azimuth, 6.0, distance, framing.fov_y_deg, SIZE, SIZE, target)
        frames.append(to_uint8(avatar.render(camera).image[0]))
    return np.concatenate(frames, 1)


def sheet(strips: list[np.ndarray]) -> np.ndarray:
    """All strips at half size, two in a row."""
    small = [s.reshape(SIZE // 2, 2, s.shape[1] // 2, 2, 3).mean((1, 3)) for s in strips]
    if len(small) % 2:
        small.append(np.full_like(small[0], 153.0))  # the grey behind the avatars
    rows = [np.concatenate(small[i : i + 2], 1) for i in range(0, len(small), 2)]
    return (np.concatenate(rows) + 0.5).astype(np.uint8)


def caption(case: Case, avatar: Avatar, runs: Path) -> str:
    cost = runs / f"{case.name}.json"
    spent = json.loads(cost.read_text()) if cost.exists() else {}
    parts = [f"face: {FACES[case.photo]}", f"{len(avatar.gaussians):,} Gaussians"]
    if spent and spent["jobs"] == 1 and not spent["resumed"]:
        parts.append(f"{spent['seconds']:.0f} s")
    return f"**{case.text}**\n({', '.join(parts)})"


def main() -> None:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--runs", type=Path, default=ROOT / "out" / "bench")
    runs: Path = parser.parse_args().runs
    by_name = {case.name: case for case in CASES}
    finished = [by_name[name] for name in SHOWN if (runs / name / "report.json").exists()][:COUNT]
    if not finished:
        raise SystemExit(f"no finished run in {runs}: run benchmarks/generate.py first")
    if len(finished) < COUNT:
        print(f"only {len(finished)} of {COUNT} runs are finished in {runs}", file=sys.stderr)
    strips, rows = [], []
    for case in finished:
        avatar = load(runs / case.name)
        strips.append(views(avatar))
        path = write_png(DOCS / "gallery" / f"{case.name}.png", strips[-1])
        looks = ", ".join(name for name, _, _ in VIEWS)
        rows.append(f"{caption(case, avatar, runs)}\n\n![{case.text}: {looks}](gallery/{path.name})\n")
        print(path)
    write_png(DOCS / "gallery.png", sheet(strips))
    for old in (DOCS / "gallery").glob("*.png"):
        if old.stem not in {case.name for case in finished}:
            old.unlink()
    text = [
        "# Gallery",
        "",
        f"{len(finished)} avatars of the compact preset, generated on a CPU by `benchmarks/generate.py` and",
        "rendered by `benchmarks/gallery.py`. Seed 0 throughout, nothing retouched. Each row: front,",
        "three-quarter, back, head.",
        "",
        "![All of them on one sheet](gallery.png)",
        "",
        "\n".join(rows),
    ]
    (DOCS / "gallery.md").write_text("\n".join(text), encoding="utf-8")


if __name__ == "__main__":
    main()
