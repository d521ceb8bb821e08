"""The packed avatar that the browser's viewer reads: quantised columns, gzipped. docs/viewer.md describes the
format and what each choice costs; viewer/src/pack.js reads it.

Gaussians are written along a Morton curve and column by column, low bytes apart from high bytes, so that
neighbouring bytes are alike and gzip finds them.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import Asgs, Colors, HarmonicColors, SphericalBetas
from specularip.errors import DamagedFile, UserError, first_line
from specularip.files import json_value
from specularip.gaussians import Binding, Expressions, Gaussians, morton_order
from specularip.json_reading import parse_object
from specularip.motion.clip import Clip
from specularip.specular import shading_normals

MAGIC = b"SIPV"
VERSION = 1
GROWTH, SMALL = 8, 1 << 23
"""More than GROWTH times the bytes of a packed avatar and SMALL more are not unpacked: real ones grow
threefold, and each byte becomes up to 24 as numbers."""
LOBES = 4
"""ASGs of a Gaussian."""
MEANS_BITS, USUAL_REACH = 20, 16
"""Bits of positions, where all lie within so many times the size of where most are."""
WARPS: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "linear": (lambda value: value, lambda warped: warped),
    "root": (lambda value: np.sign(value) * np.sqrt(np.abs(value)), lambda warped: warped * np.abs(warped)),
    "log": (np.log, np.exp),
}
"""What numbers are turned to before they are quantised in equal steps, and back. "root" keeps its sign and is
finer near 0, for numbers that are mostly small."""


@dataclass(frozen=True)
class Columns:
    """N rows of C numbers, each column in equal steps of its own: number = unwarp(low + step · q), step =
    (high − low) / (2^bits − 1), q whole. quantised [N,C] uint32; low and high [C]."""

    quantised: np.ndarray
    bits: int
    warp: str
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(values: Tensor | np.ndarray, bits: int, warp: str = "linear") -> Columns:
        """values [N,...]; all further dimensions become columns."""
        rows = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values, np.float64)
        warped = WARPS[warp][0](rows.reshape(len(rows), math.prod(rows.shape[1:])))
        if not np.isfinite(warped).all():
            raise UserError("the avatar has numbers that are not finite: it cannot be shown")
        empty = np.zeros(warped.shape[1])
        low, high = (warped.min(0), warped.max(0)) if len(rows) else (empty, empty)
        steps = (warped - low) / np.maximum(high - low, 1e-12) * (2**bits - 1)
        return Columns(np.rint(steps).astype(np.uint32), bits, warp, low, high)

    @staticmethod
    def whole(values: Tensor | np.ndarray, bits: int) -> Columns:
        """Whole numbers in 0..2^bits − 1, exactly."""
        rows = np.asarray(values.detach().cpu() if isinstance(values, Tensor) else values)
        rows = rows.reshape(len(rows), math.prod(rows.shape[1:]))
        if rows.size and (rows.min() < 0 or rows.max() >= 2**bits):
            raise UserError(f"the avatar has an index above {2**bits - 1}: it cannot be shown")
        width = rows.shape[1]
        return Columns(rows.astype(np.uint32), bits, "linear", np.zeros(width), np.full(width, 2**bits - 1))

    @property
    def values(self) -> np.ndarray:
        """[N,C] float64, as a reader gets them."""
        step = (self.high - self.low) / (2**self.bits - 1)
        return WARPS[self.warp][1](self.low + step * self.quantised)

    def described(self) -> dict[str, Any]:
        rows, columns = self.quantised.shape
        return {
            **{"rows": rows, "columns": columns, "bits": self.bits, "warp": self.warp},
            **{"low": self.low.tolist(), "high": self.high.tolist()},
        }

    def planes(self) -> bytes:
        """Column by column, and of each the lowest bytes of all rows first."""
        count = (self.bits + 7) // 8
        shifts = 8 * np.arange(count, dtype=np.uint32)[None, :, None]
        return ((self.quantised.T[:, None] >> shifts) & 255).astype(np.uint8).tobytes()


def pack(
    gaussians: Gaussians,
    colors: Colors | None,
    *,
    binding: Binding | None = None,
    expressions: Expressions | None = None,
    clips: Sequence[Clip] = (),
    antialiased: bool = False,
    meta: Mapping[str, Any] | None = None,
) -> bytes:
    """The avatar as the viewer reads it, about 80 bytes a Gaussian with ASGs. Deterministic.

    colors None: the diffuse colours. binding, expressions and clips as in `Avatar` and `motion.clip`; of a
    clip, only joints and expressions that the avatar has are kept. meta: JSON that the page may show.

    Raises UserError for numbers that are not finite, and for another number of ASGs than LOBES.
    """
    order = morton_order(gaussians.means)
    columns = _gaussian_columns(gaussians.select(order))
    if isinstance(colors, Asgs):
        if colors.lights.shape[1] != LOBES:
            raise UserError(
                f"the viewer draws {LOBES} lobes a Gaussian, and this avatar has others: bake it again"
            )
        kind = "asg"
        columns |= _asg_columns(colors, order)
    else:
        columns["normals"] = _directions(shading_normals(gaussians)[order], 12)
        kind = "diffuse"
    if isinstance(colors, HarmonicColors):
        kind = "sh3"
        columns["coefficients"] = Columns.of(colors.coefficients[order], 10)
    elif isinstance(colors, SphericalBetas):
        kind = "betas"
        columns |= _beta_columns(colors, order)
    header: dict[str, Any] = {"kind": kind, "count": len(gaussians), "antialiased": antialiased}
    header["meta"] = json_value(meta or {})
    if expressions is not None:
        header["expressions"] = list(expressions.names)
        columns |= _expression_columns(expressions, order)
    if binding is not None:
        header["binding"] = {"names": list(binding.joint_names), "parents": list(binding.joint_parents)}
        columns |= _binding_columns(gaussians, binding, order)
        names: Sequence[str] = () if expressions is None else expressions.names
        header["clips"] = [{"name": clip.name, "fps": clip.fps, "loops": clip.loops} for clip in clips]
        for number, clip in enumerate(clips):
            columns |= _clip_columns(f"clips.{number}", clip, binding, names)
    header["sections"] = {name: section.described() for name, section in columns.items()}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    body = b"".join(section.planes() for section in columns.values())
    start = MAGIC + VERSION.to_bytes(4, "little") + len(text).to_bytes(4, "little")
    return gzip.compress(start + text + body, 6, mtime=0)


def unpack(data: bytes) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header, and the sections' numbers by name, [rows,columns] float64: what viewer/src/pack.js gets
    before it puts directions and quaternions together. Raises UserError for damaged data."""
    reader = zlib.decompressobj(31)
    try:
        raw = reader.decompress(data, SMALL + GROWTH * len(data))
    except zlib.error as error:
        raise UserError(f"the packed avatar is damaged: {first_line(error)}") from None
    if not reader.eof or raw[:4] != MAGIC or int.from_bytes(raw[4:8], "little") != VERSION:
        raise UserError("this is not a packed avatar of this version")
    end = 12 + int.from_bytes(raw[8:12], "little")
    try:
        header = parse_object(raw[12:end])
        sections = {}
        for name, about in _objects(header.get("sections")).items():
            columns = _stored_columns(raw, end, about)
            rows, width = columns.quantised.shape
            end += rows * width * ((columns.bits + 7) // 8)
            with np.errstate(all="ignore"):  # limits that no float holds once they are unwarped
                sections[name] = columns.values
    except DamagedFile as error:
        raise UserError(f"the packed avatar is damaged: {error}") from None
    return header, sections


def _objects(found: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(found, dict) or not all(isinstance(one, dict) for one in found.values()):
        raise DamagedFile("it has no sections")
    return found


def _stored_columns(raw: bytes, start: int, about: Mapping[str, Any]) -> Columns:
    """The columns that `Columns.planes` has written, with what `Columns.described` says of them."""
    sizes = [about.get(name) for name in ("rows", "columns", "bits")]
    rows, width, bits = (size if type(size) is int and size >= 0 else -1 for size in sizes)
    if min(rows, width) < 0 or not 1 <= bits <= 32:
        raise DamagedFile("a section has no valid size")
    planes = (bits + 7) // 8
    if max(rows, width, rows * width * planes) > len(raw) - start:
        raise DamagedFile("a section is cut short")
    limits = []
    for name in ("low", "high"):
        values = about.get(name)
        if not isinstance(values, list) or len(values) != width or not all(map(_is_number, values)):
            raise DamagedFile(f"a section has no valid {name}")
        limits.append(np.array(values, np.float64))
    warp = about.get("warp")
    if not isinstance(warp, str) or warp not in WARPS:
        raise DamagedFile("a section is stored in a way that is not known")
    block = np.frombuffer(raw, np.uint8, rows * width * planes, start).reshape(width, planes, rows)
    quantised = np.zeros((rows, width), np.uint32)
    for plane in range(planes):
        quantised |= block[:, plane].T.astype(np.uint32) << np.uint32(8 * plane)
    return Columns(quantised, bits, warp, *limits)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _gaussian_columns(gaussians: Gaussians) -> dict[str, Columns]:
    return {
        "means": Columns.of(gaussians.means, _bits_of_means(gaussians.means)),
        **_rotations("quats", gaussians.quats, 10),
        "log_scales": Columns.of(gaussians.log_scales, 10),
        "opacities": Columns.of(gaussians.opacities, 8),
        "diffuse": Columns.of(gaussians.diffuse, 8),
    }


def _bits_of_means(means: Tensor) -> int:
    """20, and more where a few stray Gaussians lie so far out that the subject would get few of the steps."""
    points = means.detach().cpu().numpy()
    if not len(points) or not np.isfinite(points).all():  # `Columns.of` says so
        return MEANS_BITS
    low, first, last, high = np.quantile(points, [0, 0.05, 0.95, 1], axis=0)
    within = max(float((last - first).max()), 1e-6)
    beyond = float((high - low).max()) / (USUAL_REACH * within)
    return min(32, MEANS_BITS + math.ceil(math.log2(max(beyond, 1))))


def _asg_columns(colors: Asgs, order: Tensor) -> dict[str, Columns]:
    return {
        **_rotations("asg.quats", colors.quats[order], 10),
        "asg.smooth": Columns.of(colors.smooth[order], 10),
        "asg.lights": _directions(colors.lights[order], 12),
        "asg.widths": Columns.of(colors.shapes[order][..., [0, 2]], 8, "log"),
        "asg.skews": Columns.of(colors.shapes[order][..., 1], 8, "root"),
        "asg.amplitudes": Columns.of(colors.amplitudes[order], 9, "root"),
    }


def _beta_columns(colors: SphericalBetas, order: Tensor) -> dict[str, Columns]:
    coefficients = colors.coefficients[order]
    return {
        "coefficients": Columns.of(F.pad(coefficients, (0, 0, 0, 16 - coefficients.shape[1])), 10),
        "betas.directions": _directions(colors.directions[order], 12),
        "betas.exponents": Columns.of(4 * colors.lobes[order][..., 5].exp(), 10, "log"),
        "betas.amplitudes": Columns.of(colors.amplitudes[order], 10, "root"),
    }


def _binding_columns(gaussians: Gaussians, binding: Binding, order: Tensor) -> dict[str, Columns]:
    weights = gaussians.bind_weights[order]
    stance = {} if binding.stance is None else {"stance": Columns.of(F.normalize(binding.stance, dim=-1), 24)}
    return {
        **stance,
        "joints": Columns.of(binding.joints, 24),
        "bind_joints": Columns.whole(gaussians.bind_joints[order], 16),
        "bind_weights": Columns.of(weights / weights.sum(1, keepdim=True).clamp_min(1e-6), 12),
    }


def _expression_columns(expressions: Expressions, order: Tensor) -> dict[str, Columns]:
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    index, sorting = place[expressions.index.to(order.device)].sort()
    offsets = expressions.offsets[:, sorting].transpose(0, 1)  # [n,E,3]
    return {"expressions.index": Columns.whole(index, 32), "expressions.offsets": Columns.of(offsets, 12)}


def _clip_columns(name: str, clip: Clip, binding: Binding, expressions: Sequence[str]) -> dict[str, Columns]:
    """Of every joint of the binding and every expression of the avatar, still where the clip has none."""
    rotations = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(len(clip.rotations), len(binding.joint_names), 1)
    known = {joint: column for column, joint in enumerate(clip.joint_names)}
    for column, joint in enumerate(binding.joint_names):
        if joint in known:
            rotations[:, column] = F.normalize(clip.rotations[:, known[joint]].cpu().float(), dim=-1)
    columns = {
        f"{name}.rotations": Columns.of(rotations, 16),
        f"{name}.translation": Columns.of(clip.translation, 16),
    }
    if clip.expressions is not None and set(clip.expression_names) & set(expressions):
        tracks = torch.zeros(len(rotations), len(expressions))
        for track, expression in enumerate(clip.expression_names):
            if expression in expressions:
                tracks[:, list(expressions).index(expression)] = clip.expressions[:, track].cpu().float()
        columns[f"{name}.expressions"] = Columns.of(tracks, 8)
    return columns


def _rotations(name: str, quats: Tensor, bits: int) -> dict[str, Columns]:
    """Quaternions [N,4] as which of their four numbers is largest, made positive, and the other three in
    order: these lie in ±√½, and the largest follows from them."""
    unit = F.normalize(quats.detach().double(), dim=-1).cpu().numpy()
    largest = np.abs(unit).argmax(1)
    rows = np.arange(len(unit))
    unit = unit * np.where(unit[rows, largest] < 0, -1.0, 1.0)[:, None]
    others = np.arange(3) + (np.arange(3) >= largest[:, None])
    return {
        f"{name}.rest": Columns.of(unit[rows[:, None], others], bits),
        f"{name}.largest": Columns.whole(largest, 2),
    }


def _directions(vectors: Tensor, bits: int) -> Columns:
    """Unit vectors [N,...,3], octahedral (Meyer et al. 2010): projected to |x| + |y| + |z| = 1, the lower
    half folded over the upper one; x and y in −1..1 remain."""
    rows = vectors.detach().double().cpu().numpy()
    flat = rows[..., :2] / np.abs(rows).sum(-1, keepdims=True)
    folded = np.where(flat < 0, -1.0, 1.0) * (1 - np.abs(flat[..., ::-1]))
    return Columns.of(np.where(rows[..., 2:] < 0, folded, flat), bits)
