"""PLY files of 3D Gaussians as various programs write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

NAMES = {"<": "binary_little_endian", ">": "binary_big_endian", "": "ascii"}
KINDS = {"f4": "float", "f8": "double", "u1": "uchar", "u2": "ushort", "i4": "int", "u4": "uint"}


def columns_of(count: int, seed: int, degree: int = 0) -> dict[str, np.ndarray]:
    """The columns of a 3DGS file: Gaussians in a column as high as a person, by name, float64 [N]."""
    rng = np.random.default_rng(seed)
    columns = dict(zip("xyz", rng.normal(size=(3, count)) * [[0.15], [0.15], [0.4]]))
    columns |= {f"f_dc_{k}": rng.normal(size=count) for k in range(3)}
    columns |= {f"f_rest_{k}": 0.1 * rng.normal(size=count) for k in range(3 * (degree + 1) ** 2 - 3)}
    columns["opacity"] = rng.uniform(1, 5, count)
    columns |= {f"scale_{k}": rng.uniform(-4.5, -3.5, count) for k in range(3)}
    columns |= {f"rot_{k}": rng.normal(size=count) for k in range(4)}
    return {name: column.astype(np.float32).astype(np.float64) for name, column in columns.items()}


def table(columns: Mapping[str, np.ndarray], order: str = "<", kind: str = "f4") -> np.ndarray:
    """Records of these columns. Those that are not float64 keep their type."""
    types = {name: kind if c.dtype == np.float64 else c.dtype.str[1:] for name, c in columns.items()}
    rows = np.empty(
        len(next(iter(columns.values()))), [(name, (order or "=") + t) for name, t in types.items()]
    )
    for name, column in columns.items():
        rows[name] = column
    return rows


def element(name: str, rows: np.ndarray) -> str:
    """Its lines in the header."""
    lines = [f"element {name} {len(rows)}"]
    lines += [f"property {KINDS[rows.dtype[one].str[1:]]} {one}" for one in rows.dtype.names]
    return "\n".join(lines) + "\n"


def body(rows: np.ndarray, order: str) -> bytes:
    if order:
        return rows.tobytes()
    return "".join(" ".join(str(value) for value in row) + "\n" for row in rows.tolist()).encode()


def write(
    path: Path,
    columns: Mapping[str, np.ndarray],
    order: str = "<",
    kind: str = "f4",
    newline: str = "\n",
    before: tuple[str, bytes] = ("", b""),
    after: tuple[str, bytes] = ("", b""),
) -> Path:
    """A PLY with the columns as vertices. order: "<", ">" or "", for text. before, after: other elements, as
    lines of the header, and what the file holds of them."""
    rows = table(columns, order, kind)
    header = f"ply\nformat {NAMES[order]} 1.0\ncomment end_header is below\nobj_info by a test\n{before[0]}"
    header += element("vertex", rows) + after[0] + "end_header\n"
    content = before[1] + body(rows, order) + after[1]
    if newline != "\n" and not order:
        content = content.replace(b"\n", newline.encode())
    path.write_bytes(header.replace("\n", newline).encode() + content)
    return path
