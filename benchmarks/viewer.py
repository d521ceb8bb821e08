"""The browser's viewer against our own renderer: pictures, bytes and times, in headless Chromium.

    python benchmarks/viewer.py AVATAR [--baked FILE] [--size 512] [--rounds 15] [--sheet PNG] [--out JSON]

AVATAR is a run folder or its avatar.safetensors. It is baked to ASGs, which takes minutes, or read from
--baked if that file is there, else written to it. The avatar becomes one .html, which is opened from disk and
drawn by the page's own renderer, from four cameras around the body and close to the head; WebGL2 runs in
software.

Pictures: PSNR in dB of the bytes that the page reads back (readPixels) against the bytes of our CPU renderer,
for the same bake before it is packed, and for the head; and of the difference between highlights on and off.
--sheet: the page's pictures, ours, and sixteen times their difference.
Choices: bytes a Gaussian and the lowest PSNR of our own renderer with one part of the avatar quantised as the
pack does, and coarser and finer.
Times: milliseconds, the least of rounds in which colours of all kinds alternate, because other work on the
machine only adds. A frame is drawn from a new camera each time and waited for. "first frame" is from opening
the .html of an avatar twice the size, with each Gaussian split in two, until its first picture can be read.
"""

from __future__ import annotations

import argparse
import base64
import math
import sys
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from browser import Browser

from specularip.avatar import Avatar, load
from specularip.baking.preview import preview_harmonics
from specularip.cameras import Cameras
from specularip.colors import Asgs
from specularip.files import to_uint8, write_json, write_png
from specularip.metrics import psnr
from specularip.viewer import pack as packing
from specularip.viewer.html import write_html
from specularip.viewer.pack import Columns, morton_order, pack

BLACK = [0, 0, 0]
CAMERAS = """
front       20    5   full
back       160   15   full
head        10    0   head
head, side -60   15   head
"""
"""Name, azimuth and elevation in degrees, framing: the whole body, or the head from 0.45 m."""
FIRST_PICTURE = """
new MutationObserver(() => {
  if (globalThis.firstPicture || document.documentElement.dataset.ready === undefined) return;
  specularip.page.renderer.readPixels();  // waits
  globalThis.firstPicture = performance.now();
}).observe(document, {attributes: true, subtree: true});
"""
DRAW = """
(view, settings) => {
  const {renderer} = specularip.page;
  renderer.setPose(null);
  renderer.draw(view, settings);
  const pixels = renderer.readPixels();
  return btoa(Array.from(pixels, byte => String.fromCharCode(byte)).join(''));
}
"""
TIMES = """
async (packs, size, rounds) => {
  const stages = [];
  for (const text of packs) {
    const avatar = await specularip.unpack(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)));
    const renderer = new specularip.Renderer(document.createElement('canvas'));
    renderer.setAvatar(avatar);
    stages.push({renderer, frame: Infinity, sort: Infinity});
  }
  const camera = new specularip.OrbitCamera({distance: 2.4, fovY: 40});
  const settings = {background: [0, 0, 0]}, pixel = new Uint8Array(4);
  for (let round = -2; round < rounds; ++round) {
    camera.orbit(11, 0);
    const view = camera.view(size, size);
    for (const stage of stages) {
      const {renderer: {gl}, renderer} = stage, start = performance.now();
      renderer.draw(view, settings);
      gl.bindFramebuffer(gl.FRAMEBUFFER, null);
      gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, pixel);  // waits
      if (round >= 0) stage.frame = Math.min(stage.frame, performance.now() - start);
      const before = performance.now();
      renderer._sort(view);
      if (round >= 0) stage.sort = Math.min(stage.sort, performance.now() - before);
    }
  }
  return stages.map(({frame, sort}) => ({frame, sort}));
}
"""


class Shot(NamedTuple):
    name: str
    camera: Cameras


def shots_of(avatar: Avatar, size: int) -> list[Shot]:
    """CAMERAS. The head is where the Gaussians' highest 12 % of the height are."""
    means = avatar.gaussians.means
    low, high = means.amin(0), means.amax(0)
    head = means[means[:, 2] > high[2] - 0.12 * (high[2] - low[2])].mean(0)
    shots = []
    for line in CAMERAS.strip().splitlines():
        name, rest = line[:10].strip(), line[10:].split()
        azimuth, elevation = float(rest[0]), float(rest[1])
        target, distance = (head, 0.45) if rest[2] == "head" else ((low + high) / 2, 2.4)
        shots.append(Shot(name, Cameras.orbit(azimuth, elevation, distance, 40, size, size, target)))
    return shots


def baked_avatar(avatar: Avatar, path: Path | None) -> Avatar:
    if path is not None and path.exists():
        return load(path)
    baked = avatar.baked("asg")
    if path is not None:
        baked.save(path)
    return baked


def packed(avatar: Avatar) -> bytes:
    assert avatar.head is None
    return pack(avatar.gaussians, avatar.colors, antialiased=avatar.antialiased)


def doubled(avatar: Avatar) -> Avatar:
    """Each Gaussian twice, half as opaque, a millimetre apart: as many to sort, about the same picture."""
    every = torch.arange(len(avatar.gaussians)).repeat(2)
    cloud = avatar.gaussians.select(every)
    generator = torch.Generator().manual_seed(0)
    cloud.means += 5e-4 * torch.randn(cloud.means.shape, generator=generator)
    cloud.opacity_logits = (1 - (1 - cloud.opacities).sqrt()).logit()
    colors = avatar.colors
    assert isinstance(colors, Asgs)
    return replace(avatar, gaussians=cloud, colors=Asgs(*(part[every] for part in vars(colors).values())))


def picture(browser: Browser, camera: Cameras, **settings: Any) -> Tensor:
    """[1,H,W,3] in 0..1, as the page's renderer draws it."""
    K = camera.Ks[0].tolist()
    view = {
        **{"viewmat": camera.viewmats[0].flatten().tolist(), "width": camera.width, "height": camera.height},
        **{"fx": K[0][0], "fy": K[1][1], "cx": K[0][2], "cy": K[1][2]},
    }
    data = base64.b64decode(browser.evaluate(DRAW, view, {"background": BLACK, **settings}))
    pixels = np.frombuffer(data, np.uint8).reshape(1, camera.height, camera.width, 4)[..., :3]
    return torch.from_numpy(pixels / 255).float()


def as_bytes(image: Tensor) -> Tensor:
    return torch.from_numpy(to_uint8(image[0]) / 255).float()[None]


def compare(
    browser: Browser, shots: list[Shot], avatar: Avatar, baked: Avatar, sheet: Path | None
) -> list[dict[str, Any]]:
    full, explicit, plain = avatar.prepare(), baked.prepare(), replace(baked, colors=None).prepare()
    rows, pictures = [], []
    for shot in shots:
        ours, diffuse = (as_bytes(one.image(shot.camera, 0.0)) for one in (explicit, plain))
        on, off = picture(browser, shot.camera), picture(browser, shot.camera, specular=0)
        rows.append(
            {
                "camera": shot.name,
                "same bake": float(psnr(on, ours)),
                "full head": float(psnr(on, as_bytes(full.image(shot.camera, 0.0)))),
                "highlights on - off": float(psnr(on - off, ours - diffuse)),
            }
        )
        pictures.append(torch.cat([on, ours, (0.5 + 16 * (on - ours)).clamp(0, 1)], 2)[0])
    if sheet is not None:
        write_png(sheet, torch.cat(pictures))
    return rows


def choices(avatar: Avatar, shots: list[Shot]) -> list[dict[str, Any]]:
    """What one quantised part costs, in the order of the file: the pack's choice is marked."""
    cloud, colors, order = avatar.gaussians, avatar.colors, morton_order(avatar.gaussians.means)
    assert isinstance(colors, Asgs)
    prepared = avatar.prepare()
    exact = [prepared.image(shot.camera, 0.0) for shot in shots]

    def turned(quats: Tensor, bits: int) -> tuple[list[Columns], Tensor]:
        parts = packing._rotations("q", quats, bits)
        rest, largest = parts["q.rest"].values, parts["q.largest"].quantised[:, 0].astype(np.int64)
        found = np.empty((len(rest), 4))
        others = np.arange(3) + (np.arange(3) >= largest[:, None])
        found[np.arange(len(rest))[:, None], others] = rest
        found[np.arange(len(rest)), largest] = np.sqrt(np.maximum(0, 1 - (rest**2).sum(1)))
        return list(parts.values()), torch.from_numpy(found).float()

    def flat(values: Tensor, bits: int, warp: str = "linear") -> tuple[list[Columns], Tensor]:
        columns = Columns.of(values, bits, warp)
        return [columns], torch.from_numpy(columns.values).float().reshape(values.shape)

    def folded(vectors: Tensor, bits: int) -> tuple[list[Columns], Tensor]:
        columns = packing._directions(vectors, bits)
        pairs = torch.from_numpy(columns.values).float().unflatten(1, (-1, 2))
        z = 1 - pairs.abs().sum(-1, keepdim=True)
        fold = (-z).clamp_min(0)
        found = torch.cat([pairs + torch.where(pairs < 0, fold, -fold), z], -1)
        return [columns], torch.nn.functional.normalize(found, dim=-1)

    def moved(name: str) -> Callable[[Tensor], Avatar]:
        return lambda values: replace(avatar, gaussians=replace(cloud, **{name: values}))

    def shaded(name: str) -> Callable[[Tensor], Avatar]:
        return lambda values: replace(avatar, colors=replace(colors, **{name: values}))

    def shaped(widths: Tensor) -> Avatar:
        shapes = torch.stack([widths[..., 0], colors.shapes[..., 1], widths[..., 1]], -1)
        return replace(avatar, colors=replace(colors, shapes=shapes))

    tries: list[tuple[str, tuple[list[Columns], Tensor], Callable[[Tensor], Avatar], bool]] = []
    for bits in (16, 20):
        tries.append((f"positions, {bits} bits", flat(cloud.means, bits), moved("means"), bits == 20))
    for bits in (8, 10, 12):
        tries.append((f"rotations, 3 of {bits}", turned(cloud.quats, bits), moved("quats"), bits == 10))
    for bits in (8, 10, 12):
        tries.append((f"log scales, {bits}", flat(cloud.log_scales, bits), moved("log_scales"), bits == 10))
    for bits in (8, 10, 12):
        tries.append((f"frames, 3 of {bits}", turned(colors.quats, bits), shaded("quats"), bits == 10))
    for bits, warp in ((8, "linear"), (8, "root"), (10, "linear"), (10, "root")):
        chosen = (bits, warp) == (10, "linear")
        tries.append((f"smooth, {bits} {warp}", flat(colors.smooth, bits, warp), shaded("smooth"), chosen))
    for bits in (8, 10, 12):
        tries.append((f"lights, 2 of {bits}", folded(colors.lights, bits), shaded("lights"), bits == 12))
    for bits in (8, 10):
        widths = colors.shapes[..., [0, 2]]
        tries.append((f"widths, {bits} log", flat(widths, bits, "log"), shaped, bits == 8))
    for bits, warp in ((8, "linear"), (8, "root"), (9, "root"), (10, "root")):
        found = flat(colors.amplitudes, bits, warp)
        tries.append((f"amplitudes, {bits} {warp}", found, shaded("amplitudes"), bits == 9))
    rows = []
    for name, (columns, values), changed, chosen in tries:
        planes = b"".join(replace(one, quantised=one.quantised[order]).planes() for one in columns)
        drawn = changed(values).prepare()
        lowest = min(float(psnr(drawn.image(shot.camera, 0.0), one)) for shot, one in zip(shots, exact))
        size = len(zlib.compress(planes, 6)) / len(cloud)
        rows.append({"part": name, "bytes": size, "lowest dB": lowest, "chosen": chosen})
    return rows


def first_frame(path: Path, window: tuple[int, int], tries: int) -> float:
    """Milliseconds, the least of `tries` browsers."""
    times = []
    for _ in range(tries):
        with Browser(*window) as browser:
            browser.command("Page.addScriptToEvaluateOnNewDocument", source=FIRST_PICTURE)
            browser.goto(path)
            browser.wait_for("globalThis.firstPicture")
            times.append(float(browser.evaluate("globalThis.firstPicture")))
    return min(times)


def main() -> None:
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("avatar", type=Path)
    parser.add_argument("--baked", type=Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sheet", type=Path)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()

    avatar = load(arguments.avatar)
    assert avatar.head is not None, "give an avatar with a head"
    baked = baked_avatar(avatar, arguments.baked)
    twice = doubled(baked)
    shots = shots_of(baked, arguments.size)
    found: dict[str, Any] = {"gaussians": len(baked.gaussians)}
    with tempfile.TemporaryDirectory() as folder:
        single = write_html(Path(folder) / "avatar.html", packed(baked), "Benchmark")
        double = write_html(Path(folder) / "twice.html", packed(twice), "Benchmark")
        for name, path in (("", single), (", twice the Gaussians", double)):
            found[f".html in MB{name}"] = path.stat().st_size / 1e6
        with Browser(900, 700) as browser:
            browser.goto(single)
            browser.wait_for("document.documentElement.dataset.ready !== undefined")
            found["pictures"] = compare(browser, shots, avatar, baked, arguments.sheet)
            kinds = {
                "diffuse": replace(baked, colors=None),
                "asg": baked,
                "sh3": replace(baked, colors=preview_harmonics(avatar.gaussians, avatar.head)),
            }
            packs = [base64.b64encode(packed(one)).decode() for one in kinds.values()]
            times = browser.evaluate(TIMES, packs, arguments.size, arguments.rounds)
            found["frame in ms"] = {kind: one["frame"] for kind, one in zip(kinds, times)}
            packs = [base64.b64encode(packed(twice)).decode()]
            found["sort in ms, twice"] = browser.evaluate(TIMES, packs, 64, arguments.rounds)[0]["sort"]
            assert not browser.outside_requests(), browser.outside_requests()
            assert not browser.errors, browser.errors
        found["first frame in ms, twice"] = first_frame(double, (800, 600), 3)
    found["choices"] = choices(baked, shots)
    show(found)
    if arguments.out:
        write_json(arguments.out, found)


def show(found: dict[str, Any]) -> None:
    for table in ("pictures", "choices"):
        rows = found[table]
        print("\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
        for row in rows:
            cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row.values())
            print("| " + " | ".join(cells) + " |")
    print()
    frames = found["frame in ms"]
    for name, value in found.items():
        if not isinstance(value, list | dict):
            print(f"{name}: {value:.2f}" if isinstance(value, float) else f"{name}: {value}")
    print("frame in ms: " + ", ".join(f"{kind} {value:.0f}" for kind, value in frames.items()))
    asg, diffuse, sh3 = frames["asg"], frames["diffuse"], frames["sh3"]
    print(f"asg / diffuse: {asg / diffuse:.3f}; asg / sh3: {asg / sh3:.3f}")
    lowest = min(row["same bake"] for row in found["pictures"])
    print("lowest PSNR against the same bake: " + ("exact" if math.isinf(lowest) else f"{lowest:.2f} dB"))


if __name__ == "__main__":
    main()
