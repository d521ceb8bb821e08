"""How viewers of other people show our files: pictures beside our own, and how many dB they differ.

    python benchmarks/third_party.py AVATAR [--out out/third_party] [--sheet docs/third-party.png]

Exports the avatar (a run folder, or any file that `sip.load` reads) to every format, opens each file in each
viewer that reads the format, from the same camera, in headless Chromium, and puts the pictures on a sheet:
look at it. All show harmonics of degree 3, as our own picture does. The .glb also has skeleton, highlights
and a motion where the avatar has them. Needs npm, and Chromium.

The viewers' pages are in third_party/, with the versions of the packages that they are made from.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

import specularip as sip
from specularip.baking.bake import harmonics_of
from specularip.cameras import Cameras
from specularip.colors import Asgs
from specularip.files import to_uint8
from specularip.metrics import psnr
from specularip.motion.clips import built_in

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from browser import Browser  # noqa: E402

PAGES = ROOT / "benchmarks" / "third_party"
READS = {
    "spark": (".ply", ".spz", ".sog"),
    "three": (".ply", ".spz", ".glb"),
    "babylon": (".ply", ".spz", ".glb"),
    "playcanvas": (".ply", ".sog", ".glb"),
}
"""The viewers, and the formats that each of them reads."""
Z_UP = (".ply", ".sog")
"""Formats with our world's axes, which the page turns; .spz and .glb are y-up."""
SIZE, FOV_DEG, GREY = 512, 30.0, 153


@dataclass(frozen=True)
class View:
    """A camera: azimuth and elevation in degrees, distance and target in metres."""

    azimuth_deg: float
    elevation_deg: float
    distance: float
    target: tuple[float, float, float]

    def cameras(self) -> Cameras:
        return Cameras.orbit(
            self.azimuth_deg, self.elevation_deg, self.distance, FOV_DEG, SIZE, SIZE, self.target
        )


VIEWS = (View(-35.0, 8.0, 3.9, (0.0, 0.0, 0.0)), View(20.0, 5.0, 1.1, (0.0, 0.0, 0.68)))


def build(folder: Path) -> Path:
    """The viewers' pages, built into `folder` with the packages of the lock file. Raises OSError without npm,
    subprocess.CalledProcessError where npm cannot install."""
    npm = shutil.which("npm")
    if npm is None:
        raise FileNotFoundError("npm is not installed")
    if not (PAGES / "node_modules").is_dir():
        install = [npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts", "--prefer-offline"]
        subprocess.run(install, cwd=PAGES, check=True, capture_output=True, text=True, timeout=600)
    subprocess.run(["node", "build.js", folder], cwd=PAGES, check=True, capture_output=True, timeout=300)
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a server of `folder` on loopback."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def shown(browser: Browser, address: str, viewer: str, name: str, view: View) -> torch.Tensor:
    """The picture [H,W,3] that a viewer shows of the file `name`, which `address` serves beside the pages."""
    x, y, z = view.cameras().positions[0].tolist()
    tx, ty, tz = view.target
    browser.goto(f"{address}/{viewer}.html")
    browser.wait_for("window.show !== undefined")
    browser.evaluate(
        "(options) => window.show(options)",
        {
            "url": f"{address}/{name}",
            "zUp": Path(name).suffix in Z_UP,
            "size": SIZE,
            "position": [x, z, -y],
            "target": [tx, tz, -ty],
            "fovDeg": FOV_DEG,
            "background": [GREY] * 3,
        },
    )
    picture = Image.open(io.BytesIO(browser.screenshot())).convert("RGB")
    return torch.from_numpy(np.asarray(picture).astype(np.float32) / 255)[:SIZE, :SIZE]


def sheet(pictures: Sequence[tuple[str, torch.Tensor]]) -> Image.Image:
    """Captions and pictures, at half their size, seven in a row."""
    side, caption_height, columns = SIZE // 2, 20, 7
    rows = -(-len(pictures) // columns)
    page = Image.new("RGB", (side * columns, (side + caption_height) * rows), "white")
    draw = ImageDraw.Draw(page)
    for number, (caption, picture) in enumerate(pictures):
        x, y = side * (number % columns), (side + caption_height) * (number // columns)
        image = Image.fromarray(to_uint8(picture)).resize((side, side), Image.Resampling.LANCZOS)
        page.paste(image, (x, y + caption_height))
        draw.text((x + 4, y + 3), caption, fill="black", font_size=13)
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--out", type=Path, default=Path("out/third_party"))
    parser.add_argument("--sheet", type=Path, default=None)
    parser.add_argument("--viewers", nargs="*", choices=READS, default=list(READS))
    arguments = parser.parse_args()
    folder = build(arguments.out)
    avatar = sip.load(arguments.avatar)
    if avatar.head is not None:
        avatar = avatar.baked("asg")
    colors = harmonics_of(avatar.colors) if isinstance(avatar.colors, Asgs) else avatar.colors
    clips = [] if avatar.binding is None else [built_in("walk", avatar.binding)]
    names = {}
    for suffix in sorted({suffix for viewer in arguments.viewers for suffix in READS[viewer]}):
        moving = clips if suffix == ".glb" else []
        names[suffix] = avatar.export(folder / f"avatar{suffix}", clips=moving).name
    avatar = replace(avatar, colors=colors)
    pictures, figures = [], []
    with served(folder) as address, Browser(SIZE, SIZE, timeout=300) as browser:
        for view in VIEWS:
            ours = avatar.render(view.cameras(), GREY / 255).image[0]
            pictures.append(("SpecularIP, CPU", ours))
            for viewer in arguments.viewers:
                for suffix in READS[viewer]:
                    picture = shown(browser, address, viewer, names[suffix], view)
                    db = round(float(psnr(picture[None], ours[None])), 1)
                    from_deg = view.azimuth_deg
                    figures.append({"viewer": viewer, "format": suffix, "azimuth": from_deg, "psnr": db})
                    print(f"{viewer} {suffix} from {from_deg:g} degrees: {db} dB", flush=True)
                    pictures.append((f"{viewer} {suffix}  {db} dB", picture))
    (folder / "third_party.json").write_text(json.dumps(figures, indent=1) + "\n")
    sheet(pictures).save(folder / "sheet.png" if arguments.sheet is None else arguments.sheet, optimize=True)


if __name__ == "__main__":
    main()
