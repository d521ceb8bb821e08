"""Splat files as other programs write them: each shows the same as a plain 3DGS file."""

from __future__ import annotations

import math
import struct
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from input_rows import (
    ROOT,
    Row,
    Unexpected,
    shows_something,
    specularip,
)
from made_captures import (
    SIZE,
)

from specularip.avatar import Avatar, load
from specularip.cameras import Cameras
from specularip.metrics import psnr

sys.path.insert(0, str(ROOT / "tests"))
from splat_files import columns_of, element, table
from splat_files import write as write_ply

COUNT = 300
FACES = (
    "element face 2\nproperty list uchar int vertex_indices\n",
    struct.pack("<B3iB4i", 3, 0, 1, 2, 4, *range(4)),
)


@cache
def plain(degree: int) -> dict[str, np.ndarray]:
    return columns_of(COUNT, 0, degree)


def looks(avatar: Avatar) -> torch.Tensor:
    """Four views [4,S,S,4] from fixed cameras, with alpha."""
    cameras = Cameras.orbit([0.0, 90.0, 180.0, 270.0], 10.0, 3.5, 40.0, SIZE, SIZE)
    with torch.no_grad():
        frame = avatar.prepare().render(cameras, 0.0)
    return torch.cat([frame.image, frame.alpha], -1)


def like(
    given: str,
    write: Callable[[Path], Path],
    columns: Mapping[str, np.ndarray],
    *said: str,
    least: float = 50.0,
) -> Row:
    """A file that shows the same as a plain 3DGS file of `columns`. said: words of warnings; none may come
    otherwise."""

    def run(folder: Path) -> str:
        path = write(folder)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            avatar = load(path)
        notes = [str(one.message) for one in caught]
        truth = load(write_ply(folder / "plain.ply", columns))
        agreement = min(99.0, float(psnr(looks(avatar), looks(truth)).min()))
        got = f"{len(avatar.gaussians)} Gaussians, {agreement:.0f} dB"
        missing = [words for words in said if not any(words in note for note in notes)]
        if agreement < least or missing or (notes and not said):
            raise Unexpected(f"{got}; not said: {', '.join(missing) or 'nothing'}; said: {notes}")
        return got + (f"; said: {', '.join(said)}" if said else "")

    expected = "as a plain file" + (", said" if said else "")
    return Row("splat files", given, expected, run)


def changed(columns: Mapping[str, np.ndarray], **values: tuple[int, float]) -> dict[str, np.ndarray]:
    """Columns with single entries set: (row, value) by name."""
    found = {name: column.copy() for name, column in columns.items()}
    for name, (row, value) in values.items():
        found[name][row] = value
    return found


def without(columns: Mapping[str, np.ndarray], *rows: int) -> dict[str, np.ndarray]:
    return {name: np.delete(column, rows) for name, column in columns.items()}


def supersplat(path: Path) -> Path:
    """SuperSplat's compressed PLY of the plain file of degree 0."""
    columns, chunks = plain(0), -(-COUNT // 256)
    chunk = np.arange(COUNT) // 256
    limits: dict[str, np.ndarray] = {}

    def parts(names: Sequence[str], stored: Sequence[str], values: np.ndarray) -> np.ndarray:
        for name, column in zip(stored, values):
            for side, pick in (("min", np.min), ("max", np.max)):
                limits[f"{side}_{name}"] = np.array([pick(column[chunk == k]) for k in range(chunks)])
        low, high = (
            np.stack([limits[f"{side}_{name}"] for name in stored])[:, chunk] for side in ("min", "max")
        )
        return (values - low) / (high - low)

    def packed(values: np.ndarray, bits: Sequence[int]) -> np.ndarray:
        word = np.zeros(COUNT, np.uint32)
        for value, width in zip(values, bits):
            word = word << np.uint32(width) | np.rint(value * (2**width - 1)).astype(np.uint32)
        return word

    position = parts("xyz", "xyz", np.stack([columns[name] for name in "xyz"]))
    names = [f"scale_{k}" for k in range(3)]
    scale = parts(names, [f"scale_{axis}" for axis in "xyz"], np.stack([columns[name] for name in names]))
    color = 0.5 + 0.28209479 * np.stack([columns[f"f_dc_{k}"] for k in range(3)])
    color = parts("rgb", "rgb", color)
    opacity = 1 / (1 + np.exp(-columns["opacity"]))
    quats = np.stack([columns[f"rot_{k}"] for k in range(4)], -1)
    quats /= np.linalg.norm(quats, axis=-1, keepdims=True)
    largest = np.abs(quats).argmax(1)
    quats *= np.sign(quats[np.arange(COUNT), largest])[:, None]
    others = np.stack([np.delete(quat, k) for quat, k in zip(quats, largest)]).T
    vertices = {
        "packed_position": packed(position, (11, 10, 11)),
        "packed_rotation": largest.astype(np.uint32) << np.uint32(30)
        | packed(others / 2**0.5 + 0.5, (10,) * 3),
        "packed_scale": packed(scale, (11, 10, 11)),
        "packed_color": packed([*color, opacity], (8,) * 4),
    }
    rows = table(limits)
    return write_ply(path, vertices, before=(element("chunk", rows), rows.tobytes()))


def splats() -> list[Row]:
    base, rich = plain(0), plain(3)
    reverse = dict(reversed(list(rich.items())))
    scalar = {name if name in "xyz" else f"scalar_{name}": column for name, column in rich.items()}
    flat_logs = changed(base, scale_2=(7, -np.inf))
    flat_disc = changed(base, scale_2=(7, -20.0))
    two = {name: column for name, column in base.items() if name != "scale_2"}
    thin = {**base, "scale_2": np.full(COUNT, -11.0)}
    fourth = plain(4)
    third = {name: column for name, column in fourth.items() if not name.startswith("f_rest")}
    for channel in range(3):
        third |= {f"f_rest_{15 * channel + k}": fourth[f"f_rest_{24 * channel + k}"] for k in range(15)}
    no_turn = changed(base, **{f"rot_{k}": (5, 0.0) for k in range(4)})
    left = "Gaussians left out"

    def written(
        columns: Mapping[str, np.ndarray], name: str = "a.ply", **options: Any
    ) -> Callable[[Path], Path]:
        return lambda folder: write_ply(folder / name, columns, **options)

    def shown(given: str, columns: Mapping[str, np.ndarray], *options: str) -> Row:
        return Row("splat files", given, "a picture",
                   lambda d: shows_something(write_ply(d / "a.ply", columns), d, *options))  # fmt: skip

    def nothing(folder: Path) -> str:
        path = write_ply(folder / "a.ply", {**base, "opacity": np.full(COUNT, -np.inf)})
        result = specularip("render", path, "--out", folder / "a.png", "--size", "64")
        if "transparent" not in result.err:
            raise Unexpected(f"exit code {result.code}: {result.err.strip()}")
        return f"exit code {result.code}, said: transparent"

    return [
        like("a NaN position", written(changed(base, x=(3, np.nan))), without(base, 3),
             f"1 of {COUNT} {left}"),
        like("a NaN colour, an infinite position", written(changed(base, f_dc_1=(3, np.nan), z=(9, np.inf))),
             without(base, 3, 9), f"2 of {COUNT} {left}"),
        like("a rotation of length 0", written(no_turn), without(base, 5), f"1 of {COUNT} {left}"),
        like("opacity +inf", written(changed(base, opacity=(7, np.inf))), changed(base, opacity=(7, 16.0))),
        like("opacity -inf", written(changed(base, opacity=(7, -np.inf))), without(base, 7)),
        like("scale -inf", written(flat_logs), flat_disc, least=40),
        like("ASCII", written(rich, order=""), rich),
        like("big-endian", written(rich, order=">"), rich),
        like("ASCII with CRLF", written(rich, order="", newline="\r\n"), rich),
        like(".PLY", written(rich, "A.PLY"), rich),
        *(like(f"degree {degree}", written(plain(degree)), plain(degree)) for degree in (0, 1, 2, 3)),
        like("degree 4", written(fourth), third, "above degree 3"),
        like("properties in another order", written(reverse), rich),
        like("elements before vertex", written(rich, before=FACES), rich),
        like("scalar_ prefixes", written(scalar), rich),
        like("float64", written(rich, kind="f8"), rich),
        like("2DGS", written(two), thin, least=40),
        like("SuperSplat's compressed PLY", lambda d: supersplat(d / "a.compressed.ply"), base, least=30),
        shown("one Gaussian", {name: column[:1] for name, column in base.items()}),
        shown("all in one plane", {**base, "z": np.zeros(COUNT)}),
        shown("all in one place", {**base, **{axis: np.zeros(COUNT) for axis in "xyz"}}),
        shown("3.6 m from the origin", {**base, "x": base["x"] + 3.0, "z": base["z"] + 2.0}),
        shown("1 km from the origin, in millimetres", {
            **base, "x": 1000 * base["x"] + 1e6, "y": 1000 * base["y"], "z": 1000 * base["z"],
            **{f"scale_{k}": base[f"scale_{k}"] + math.log(1000) for k in range(3)},
        }),
        Row("splat files", "all transparent", "said", nothing),
    ]  # fmt: skip
