"""Garments drawn by program: triangle meshes that fit any body of the package, from a `Piece`.

`build` makes one garment on one unposed body. A garment is a set of sheets (`garment_shapes`): shells with sleeves,
necklines and hems, skirts that hang, shoes and hats around hulls, and small parts (collars, buttons, soles) that
may have a colour of their own. All its choices come from `piece.cut`, so a piece always gives the same garment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from garment_shapes import (
    ARM,
    LEG,
    TRUNK,
    Array,
    Canvas,
    Drape,
    Figure,
    Ints,
    Sheet,
    bump,
    canvas,
    compass,
    cut,
    cut_sheet,
    drape,
    face_normals,
    finer_ring,
    grid,
    join,
    ordered_ring,
    package_mesh,
    same_anchors,
    side_anchors,
    slice_hulls,
    smooth_levels,
    smooth_ring,
    smoothstep,
    stack,
    template,
    unit,
    wrinkles,
)
from torch import Tensor

from specularip.body.regions import FOOT, HEAD, HIPS, LOWER_LEG, NECK, TORSO, UPPER_LEG

if TYPE_CHECKING:
    from people import Piece

RGB = tuple[float, float, float]


@dataclass
class BodyFrame:
    """One unposed person in A-pose: vertices, normals [12488,3], metres, z up, facing -y; faces [24864,3]; regions
    [12488], codes of body.regions; joints [J,3]."""

    vertices: Tensor
    normals: Tensor
    faces: Tensor
    regions: Tensor
    joints: Tensor
    joint_names: tuple[str, ...]
    height: float


@dataclass
class DrawnMesh:
    """A part of a garment: vertices [n,3], faces [m,3], uv [m,3,2] in metres, tangents [n,3] (threads, downwards or
    along the limb).

    Vertex i moves with the package's vertices anchors[i] and other_anchors[i], by shares 1 - other_share[i] and
    other_share[i]; anchors alone is a coarse answer. hidden [12488]: body vertices that this part surely covers.
    material_override and rgb_override: of parts that differ from the piece (buttons, soles, buckles, zips)."""

    vertices: Tensor
    faces: Tensor
    uv: Tensor
    tangents: Tensor
    anchors: Tensor
    other_anchors: Tensor
    other_share: Tensor
    hidden: Tensor
    name: str
    material_override: str | None = None
    rgb_override: RGB | None = None


@dataclass
class _Part:
    """A sheet with its name and what overrides the piece's cloth."""

    sheet: Sheet
    name: str
    rgb: RGB | None = None
    material: str | None = None


class _Tailor:
    """One piece on one figure: its random choices and what is needed to draw it."""

    def __init__(self, piece: Piece, figure: Figure) -> None:
        self.figure = figure
        self.scale = figure.scale
        self.rgb = piece.rgb
        self.cut = piece.cut
        self.rng = np.random.default_rng(int(piece.cut.get("phase", 0.5) * 2**31))

    def __call__(self, name: str) -> float:
        """A choice of the cut, 0..1."""
        return self.cut.get(name, 0.5)

    def between(self, name: str, low: float, high: float) -> float:
        return low + (high - low) * self(name)

    def shade(self, factor: float) -> RGB:
        """The piece's colour, darker."""
        r, g, b = (min(c * factor, 0.98) for c in self.rgb)
        return r, g, b

    @property
    def contrast(self) -> RGB:
        """A colour for buttons and the like, that shows on the cloth."""
        return (0.10, 0.10, 0.11) if sum(self.rgb) > 0.75 else (0.72, 0.72, 0.70)


METAL: RGB = (0.78, 0.77, 0.74)
SOLE_DARK: RGB = (0.09, 0.08, 0.08)
SOLE_WHITE: RGB = (0.92, 0.92, 0.90)


def build(piece: Piece, body: BodyFrame) -> list[DrawnMesh]:
    """The parts of a garment on a body; the same every time for the same piece and body."""
    device = body.vertices.device
    joints = dict(zip(body.joint_names, body.joints.cpu().numpy()))
    low, high = template().vertices[:, 2].min(), template().vertices[:, 2].max()
    figure = Figure(
        body.vertices.cpu().numpy(), body.normals.cpu().numpy(), joints, float(body.height / (high - low))
    )
    parts = DRAWN[piece.garment](_Tailor(piece, figure))

    def tensor(values: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.as_tensor(np.ascontiguousarray(values), dtype=dtype, device=device)

    return [
        DrawnMesh(
            vertices=tensor(part.sheet.vertices),
            faces=tensor(part.sheet.faces, torch.int64),
            uv=tensor(part.sheet.face_uv()),
            tangents=tensor(part.sheet.threads),
            anchors=tensor(part.sheet.anchors[:, 0], torch.int64),
            other_anchors=tensor(part.sheet.anchors[:, 1], torch.int64),
            other_share=tensor(part.sheet.share),
            hidden=tensor(part.sheet.hidden, torch.bool),
            name=part.name,
            material_override=part.material,
            rgb_override=part.rgb,
        )
        for part in parts
    ]


# --- Outlines: fields on a canvas, negative where there is cloth -------------------------------------------------


def neckline(s: Canvas, half: float, front: float, back: float, power: float = 2.0) -> Array:
    """An opening around the neck: `half` its half width on the shoulders, `front` and `back` its depths in metres.
    power 1 is a V, 2 round, 5 square."""
    depth = back + (front - back) * smoothstep(-s.place[:, 1], -0.04, 0.06)
    drop = np.maximum(0.60 - s.place[:, 2], 0)
    ring = ((s.x / half) ** power + (drop / depth) ** power) ** (1 / power)
    return np.where(s.kind == TRUNK, 1 - ring, -1.0)


def collar_line(s: Canvas, height: float) -> Array:
    """Cloth up the neck to `height` metres above its base."""
    return s.place[:, 2] + 0.35 * s.place[:, 1] - (0.585 + height)


def sleeve(s: Canvas, level: float) -> Array:
    """Cloth down the arm to `level` (1 the elbow, 2 the wrist); below 0.2 none, with an armhole."""
    if level < 0.2:
        edge = 0.155 - 0.05 * (0.2 - level)
        return np.where(s.kind == LEG, -1, s.x + 0.10 * (s.place[:, 2] - 0.5) - edge)
    return np.where(s.kind == ARM, s.arm - level, -1.0)


def hem(s: Canvas, level: float) -> Array:
    """Cloth of the trunk down to `level` (0 the hip joints, 1 the shoulder joints)."""
    return np.where(s.kind == ARM, -1.0, level - s.torso)


def waist(s: Canvas, level: float) -> Array:
    """Cloth from `level` of the trunk downwards."""
    return np.where(s.kind == TRUNK, s.torso - level, -1.0)


def leg(s: Canvas, level: float) -> Array:
    """Cloth down the leg to `level` (1 the knee, 2 the ankle)."""
    return np.where(s.kind == LEG, s.leg - level, -1.0)


def both(*fields: Array) -> Array:
    """Cloth where all fields have it."""
    return np.maximum.reduce(fields)


def band(values: Array, low: float, high: float) -> Array:
    """Cloth where low < values < high."""
    return np.maximum(low - values, values - high)


def _on_front(s: Canvas) -> Array:
    """Cloth on the front of the trunk."""
    return np.where(s.kind == TRUNK, s.place[:, 1] + 0.02, 1.0)


# --- Cloth that falls --------------------------------------------------------------------------------------------


@dataclass
class _Fall:
    """How cloth falls around the trunk and both legs: levels [L] from the top down, centres [L,2], radii [L,K]."""

    levels: Array
    centres: Array
    radii: Array

    def push(self, points: Array, share: Array) -> Array:
        """Points [c,3] moved outwards towards the fall, by `share` [c]."""
        row = np.interp(points[:, 2], self.levels[::-1], np.arange(len(self.levels))[::-1])
        r0 = np.minimum(row.astype(int), len(self.levels) - 2)
        t = row - r0
        centre = self.centres[r0] * (1 - t)[:, None] + self.centres[r0 + 1] * t[:, None]
        flat = points[:, :2] - centre
        column = np.arctan2(flat[:, 0], -flat[:, 1]) / (2 * np.pi) % 1 * self.radii.shape[1]
        c0 = column.astype(int) % self.radii.shape[1]
        c1, u = (c0 + 1) % self.radii.shape[1], column - np.floor(column)
        at = [self.radii[r, c0] * (1 - u) + self.radii[r, c1] * u for r in (r0, r0 + 1)]
        wanted = at[0] * (1 - t) + at[1] * t
        size = np.maximum(np.linalg.norm(flat, axis=1), 1e-4)
        out = points.copy()
        out[:, :2] += flat * (np.maximum(wanted / size - 1, 0) * share)[:, None]
        return out


def _fall(
    figure: Figure, top: float, end: float, ease: float, flare: float = 0.0, taper: float = 0.3, rows: int = 30
) -> _Fall:
    """Cloth from the height `top` down to `end`, `ease` off the body. Each level is at least as wide as the one
    above, less `taper` metres per metre; below the hips it opens by `flare` metres per metre."""
    _, regions = package_mesh()
    model = template().vertices
    trunk = np.isin(regions, (TORSO, HIPS, UPPER_LEG, LOWER_LEG))
    trunk &= (model[:, 2] < 0.46) & ((regions != TORSO) | (np.abs(model[:, 0]) < 0.165))
    levels = np.linspace(top, end, rows).astype(np.float32)
    step = (top - end) / (rows - 1)
    centres, radii = slice_hulls(figure.vertices[trunk], levels, max(0.024 * figure.scale, 0.6 * step))
    body = radii.copy()
    radii = smooth_ring(radii, 2)
    hip = figure.joint("upperleg01")[2]
    for k in range(1, rows):
        widen = flare * step * float(smoothstep(np.float32(hip + 0.06 - levels[k]), 0.0, 0.12))
        radii[k] = np.maximum(radii[k], radii[k - 1] - taper * step) + widen
        radii[k:] = np.maximum(radii[k:], radii[k] - taper * np.arange(rows - k)[:, None] * step)
    radii = np.maximum(smooth_levels(radii, 2), body)
    return _Fall(levels, centres, radii + ease * figure.scale)


def _skirt(
    tailor: _Tailor,
    top: float,
    end: float,
    ease: float,
    flare: float,
    depth: float,
    opening: float = 0.0,
    fall: _Fall | None = None,
    taper: float = 0.25,
) -> Sheet:
    """A skirt from height `top` down to `end`: folds of `depth` 0..1, open in front by `opening` turns."""
    fall = fall or _fall(tailor.figure, top, end, ease, flare, taper)
    rng, scale = tailor.rng, tailor.scale
    radii = finer_ring(fall.radii, 3)
    count = radii.shape[1]
    angle = np.arange(count) * 2 * np.pi / count
    drop = (fall.levels[0] - fall.levels)[:, None] / scale
    waves = int(7 + tailor("folds") * 8 + flare * 8)
    wander = 0.9 * np.sin(angle + rng.uniform(0, 6.3)) + 0.5 * np.sin(2 * angle + rng.uniform(0, 6.3))
    uneven = 0.7 + 0.3 * np.sin(3 * angle + rng.uniform(0, 6.3)) * np.sin(2 * angle + rng.uniform(0, 6.3))
    fold = (0.5 + 0.5 * np.cos(waves * angle + 1.6 * wander + 0.5 * drop)) ** 1.3
    size = radii.mean(1, keepdims=True) * 2 * np.pi / waves * 0.30
    reach = smoothstep(drop, 0.02, 0.55) * depth + 0.10 * smoothstep(drop, 0.0, 0.04) * depth
    radii = radii + size * reach * fold * uneven
    points = stack(fall.levels, fall.centres, radii)
    # The hem is lower where a fold stands out less: cloth has one length.
    points[-1, :, 2] += 0.006 * scale * depth * fold[-1]
    shape = unit(points[..., :2] - fall.centres[:, None])
    inner = points[[-1, -1, -7, -16, 1]].copy()
    inner[1:, :, :2] -= shape[[-1, -7, -16, 1]] * (0.012 * scale + 0.5 * (size * reach * fold * uneven)[[-1, -7, -16, 1]][..., None])
    first = points[:1].copy()
    first[..., :2] -= shape[:1] * 0.03 * scale
    outer = np.concatenate([first, points])
    if opening:
        column = angle / (2 * np.pi)
        keep = np.flatnonzero((column > opening) & (column < 1 - opening))
        edge = np.concatenate([outer[:, keep[:1]], outer[:, keep], outer[:, keep[-1:]]], 1)
        for k, near in ((0, 1), (-1, -2)):
            edge[:, k, :2] -= unit(edge[:, near, :2] - np.r_[fall.centres[:1], fall.centres]) * 0.012 * scale
        outer, inner = edge, inner[:, keep]
    sheets = [
        grid(rows, *side_anchors(tailor.figure, rows), closed=not opening) for rows in (outer, inner)
    ]
    sheet = join(sheets)
    _, regions = package_mesh()
    limbs = np.isin(regions, (HIPS, UPPER_LEG, LOWER_LEG, FOOT))
    z = tailor.figure.vertices[:, 2]
    if not opening:
        sheet.hidden[limbs & (z < top - 0.02 * scale) & (z > end + 0.13 * scale)] = True
    return sheet


def _leg_height(figure: Figure, level: float) -> float:
    """The height of a level of the leg: 0 hip, 1 knee, 2 ankle, 2.2 about the floor."""
    heights = [figure.joint(name)[2] for name in ("upperleg02", "lowerleg01", "foot")]
    floor = figure.vertices[:, 2].min()
    return float(np.interp(level, [0, 1, 2, 2.2], [*heights, floor]))


def _torso_height(figure: Figure, level: float) -> float:
    """The height of a level of the trunk, as of the vertices that have it on the template."""
    s = canvas("upper")
    near = (np.abs(s.coarse(s.torso) - level) < 0.05) & (s.coarse(s.kind) == TRUNK)
    return float(figure.vertices[s.index[near], 2].mean())


# --- Tops --------------------------------------------------------------------------------------------------------


def _sleeve_tube(at_elbow: float, at_wrist: float) -> tuple[int, Callable[[Array], Array]]:
    """A sleeve at least this wide, metres."""

    def radius(along: Array) -> Array:
        return np.interp(along, [0.3, 0.5, 1.0, 2.0], [0.0, at_elbow, at_elbow, at_wrist])

    return ARM, radius


def _leg_tube(at_knee: float, at_hem: float, top: float = 0.35) -> tuple[int, Callable[[Array], Array]]:
    """A trouser leg at least this wide, metres."""

    def radius(along: Array) -> Array:
        return np.interp(along, [top, top + 0.3, 1.0, 2.0], [0.0, at_knee, at_knee, at_hem])

    return LEG, radius


def _falling_from_chest(tailor: _Tailor, s: Canvas, share: float, flare: float = 0.0) -> Callable[[Array], Array]:
    """Lets the trunk of a loose top hang straight from the chest."""
    figure = tailor.figure
    fall = _fall(figure, _torso_height(figure, 0.80), _torso_height(figure, -0.22), 0.008, flare, 0.12, rows=20)
    torso = s.coarse(s.torso)
    weight = np.where(s.coarse(s.kind) == TRUNK, share * smoothstep(-torso, -0.80, -0.55), 0)
    return lambda points: fall.push(points, weight)


def _top_folds(tailor: _Tailor, s: Canvas, size: float, wave: float = 0.075) -> Array:
    """Wrinkles of a top: elbows, waist and hem more than the chest."""
    arm = np.where(s.kind == ARM, 0.25 + bump(s.arm, 1.0, 0.3) + 0.5 * bump(s.arm, 1.9, 0.3), 0)
    arm *= smoothstep(s.arm, 0.15, 0.4)
    trunk = np.where(s.kind == TRUNK, 0.12 + 0.9 * bump(s.torso, 0.25, 0.28), 0) * smoothstep(-s.torso, -0.95, -0.6)
    return wrinkles(s, tailor.rng, wave, size * (0.4 + 0.9 * tailor("folds")) * (arm + trunk))


@dataclass
class _Top:
    """A draped top: its cloth and outline, to which parts are added."""

    cloth: Drape
    field: Array
    parts: list[_Part]

    def add(self, name: str, field: Array, lift: float, rgb: RGB | None = None, material: str | None = None) -> None:
        """A second layer on the cloth where `field` is negative, `lift` metres above it."""
        self.parts.append(_Part(cut(self.cloth.lifted(lift), field, hides=False), name, rgb, material))


def _top(
    tailor: _Tailor,
    name: str,
    *,
    offset: float,
    neck: Callable[[Canvas], Array],
    arm: float,
    low: float,
    loose: float,
    tube: tuple[float, float] | None = None,
    folds: float = 0.008,
    wave: float = 0.075,
    relief: Callable[[Canvas], Array] | None = None,
    tension: int = 4,
    extra: Callable[[Canvas], Array] | None = None,
) -> _Top:
    """A shell of trunk and arms: `offset` off the skin, sleeves to `arm`, hem at `low`; `loose` 0..1 lets it fall
    from the chest; `relief` adds to its height; `extra` limits it further."""
    s = canvas("upper")
    height = offset + (_top_folds(tailor, s, folds, wave) if folds else 0) + (relief(s) if relief else 0)
    tubes = (_sleeve_tube(*tube),) if tube else ()
    hang = _falling_from_chest(tailor, s, loose) if loose else None
    base = drape(s, tailor.figure, np.float32(offset), tension, tubes, hang)
    cloth = base.lifted(height - offset)
    field = both(neck(s), sleeve(s, arm), hem(s, low))
    if extra:
        field = both(field, extra(s))
    return _Top(cloth, field, [_Part(cut(cloth, field), name)])


def _round_neck(tailor: _Tailor, deep: float = 1.0) -> Callable[[Canvas], Array]:
    """A crew, V or scoop neck."""
    kind, size = tailor("neck"), tailor("variant")
    if kind < 0.5:
        return lambda s: neckline(s, 0.078 + 0.012 * size, 0.065 + 0.03 * deep * size, 0.03)
    if kind < 0.75:
        return lambda s: neckline(s, 0.082, 0.12 + 0.05 * deep * size, 0.03, 1.15)
    return lambda s: neckline(s, 0.10, 0.10 + 0.03 * deep * size, 0.04, 2.2)


def _sweater(t: _Tailor) -> list[_Part]:
    """Ribbed hem, cuffs and neck; a turtleneck now and then."""
    low = t.between("length", 0.10, -0.08)

    def rib(s: Canvas) -> Array:
        at_hem = np.where(s.kind == TRUNK, smoothstep(-s.torso, -low - 0.13, -low - 0.09), 0)
        at_cuff = np.where(s.kind == ARM, smoothstep(s.arm, 1.74, 1.80), 0)
        return -0.010 * (at_hem + at_cuff)

    turtle = t("neck") > 0.7
    top = _top(
        t,
        "sweater",
        offset=0.019,
        neck=(lambda s: collar_line(s, 0.055)) if turtle else (lambda s: neckline(s, 0.075, 0.06, 0.03)),
        arm=1.98,
        low=low,
        loose=t.between("loose", 0.5, 1.0),
        tube=(0.062, 0.044),
        folds=0.013,
        wave=0.09,
        relief=rib,
    )
    s = top.cloth.canvas
    if turtle:
        top.add("sweater", both(collar_line(s, 0.05), -collar_line(s, 0.0)), 0.006)
    else:
        edge = neckline(s, 0.075, 0.06, 0.03)
        top.add("sweater", both(edge, -edge - 0.30), 0.003)
    return top.parts


def _bodice(t: _Tailor, name: str, low: float, formal: bool) -> list[_Part]:
    """The upper part of a dress, with one of many necklines, straps and sleeves."""
    length, kind, variant = t("sleeve"), t("neck"), t("variant")
    arm = 0.1 if length < 0.36 else 0.45 if length < 0.56 else 1.2 if length < 0.66 else 1.95
    strapless = formal and kind > 0.72 and length < 0.36
    if strapless:
        line = lambda s: np.where(s.kind == TRUNK, s.torso - 0.80 - 0.05 * smoothstep(s.x, 0.02, 0.09), 1.0)  # noqa: E731
    elif kind < 0.3:
        line = lambda s: neckline(s, 0.085, 0.075 + 0.04 * variant, 0.04)  # noqa: E731
    elif kind < 0.5:
        line = lambda s: neckline(s, 0.10, 0.15 + 0.06 * variant, 0.06, 1.15)  # noqa: E731
    elif kind < 0.72:
        line = lambda s: neckline(s, 0.105, 0.11 + 0.04 * variant, 0.07, 3.5)  # noqa: E731
    elif kind < 0.86:
        line = lambda s: neckline(s, 0.125, 0.065, 0.045, 2.5)  # noqa: E731
    else:
        line = lambda s: collar_line(s, 0.03)  # noqa: E731
    top = _top(
        t,
        name,
        offset=0.008,
        neck=line,
        arm=2.0 if strapless else arm,
        low=low,
        loose=0.0,
        tube=(0.05, 0.036 + 0.03 * t("flare")) if arm > 0.4 else None,
        folds=0.006,
        wave=0.06,
        tension=5,
    )
    if strapless and variant < 0.6:
        s = top.cloth.canvas
        above = np.where(s.kind == LEG, 1.0, 0.78 - s.torso)
        top.add(name, both(band(s.x, 0.088, 0.10), above, np.where(s.kind == ARM, 1.0, -1.0)), -0.002)
    return top.parts


def _dress(t: _Tailor, name: str, end: float, formal: bool) -> list[_Part]:
    """A bodice and a skirt that begins inside its hem, at a waist somewhere between ribs and hips."""
    level = t.between("loose", 0.30, 0.48)
    parts = _bodice(t, name, level - 0.07, formal)
    figure = t.figure
    top = _torso_height(figure, level)
    flare = 0.04 + 0.55 * t("flare") ** 1.5
    if end > 1.8:
        flare *= 0.75
    skirt = _skirt(t, top, _leg_height(figure, end), 0.012, flare, 0.25 + 0.75 * t("folds"))
    parts.append(_Part(skirt, name))
    if t("variant") > 0.55:
        s = canvas("upper")
        cloth = drape(s, figure, 0.018, 6)
        sash = both(band(s.torso, level - 0.05, level + 0.04), np.where(s.kind == TRUNK, -1.0, 1.0))
        parts.append(_Part(cut(cloth, sash, hides=False), "sash", t.shade(0.55)))
    return parts


def _plain_skirt(t: _Tailor, name: str, end: float) -> list[_Part]:
    """A skirt with a waistband."""
    figure = t.figure
    level = t.between("loose", 0.24, 0.38)
    flare = 0.02 + 0.60 * t("flare") ** 1.4
    depth = 0.15 + 0.85 * t("folds") if t("variant") > 0.25 else 0.05
    skirt = _skirt(t, _torso_height(figure, level), _leg_height(figure, end), 0.010, flare, depth)
    s = canvas("lower")
    cloth = drape(s, figure, 0.014, 6)
    waistband = both(band(s.torso, level - 0.05, level + 0.035), np.where(s.kind == TRUNK, -1.0, 1.0))
    return [_Part(skirt, name), _Part(cut(cloth, waistband, hides=True), name, t.shade(0.88))]


def _coat(t: _Tailor, name: str, shiny: bool = False) -> list[_Part]:
    """A long coat: falls from the chest, collar with lapels or a stand, buttons, open or closed."""
    figure = t.figure
    opening = t.between("variant", 0.03, 0.075) if t("variant") > 0.6 else 0.0
    loose = t.between("loose", 0.5, 1.0)

    def front(s: Canvas) -> Array:
        gap = opening * 0.62 * (0.9 + 0.3 * smoothstep(s.torso, 0.4, 1.1))
        return np.where((s.kind == TRUNK) & (s.place[:, 1] < 0), gap - s.x, -1.0)

    top = _top(
        t,
        name,
        offset=0.026,
        neck=lambda s: neckline(s, 0.085, 0.10, 0.02, 1.3),
        arm=2.05,
        low=0.12,
        loose=loose,
        tube=(0.070, 0.062),
        folds=0.009 if shiny else 0.012,
        wave=0.10,
        tension=8,
        extra=front if opening else None,
    )
    s = top.cloth.canvas
    _collar(t, top, wide=0.075, front=0.16, lift=0.010, opening=opening * 0.62)
    start, end = _torso_height(figure, 0.26), _leg_height(figure, t.between("length", 0.55, 1.45))
    fall = _fall(figure, _torso_height(figure, 0.80), end, 0.026, 0.06 + 0.16 * t("flare"), 0.12, rows=40)
    own = fall.levels <= start
    fall = _Fall(fall.levels[own], fall.centres[own], fall.radii[own])
    tails = _skirt(t, start, end, 0.0, 0.0, 0.25 + 0.45 * t("folds"), opening, fall)
    top.parts.append(_Part(tails, name))
    if not opening:
        placket = both(band(s.place[:, 0], -0.026, 0.006), _on_front(s), hem(s, 0.12), neckline(s, 0.085, 0.10, 0.02, 1.3))
        top.add(name, placket, 0.004)
        _buttons(t, top, [0.85, 0.66, 0.47, 0.28], 0.012)
    if t("neck") > 0.5:
        belt = both(band(s.torso, 0.31, 0.40), np.where(s.kind == TRUNK, -1.0, 1.0), front(s) if opening else -s.x)
        top.add("belt", belt, 0.010, t.shade(0.8))
    return top.parts


def _collar(t: _Tailor, top: _Top, wide: float, front: float, lift: float, opening: float = 0.0) -> None:
    """A collar that lies on the shoulders and runs to a V in front, with a stand around the neck."""
    s = top.cloth.canvas
    inner = neckline(s, 0.070, front - 0.03, 0.012, 1.3)
    outer = neckline(s, 0.070 + wide, front + 0.045, 0.012 + wide, 1.5)
    slit = 0.012 + opening - s.x + 0.10 * smoothstep(-s.place[:, 1], 0.2, 0.3)
    ahead = np.where(s.place[:, 1] < -0.03, slit, -1.0)
    top.add("collar", both(inner, -outer, ahead, np.where(s.kind == TRUNK, -1.0, 1.0)), lift)


def _buttons(t: _Tailor, top: _Top, levels: list[float], size: float, across: float = 0.0) -> None:
    """Round buttons on the front, at levels of the trunk."""
    s, cloth = top.cloth.canvas, top.cloth
    centres, ways = [], []
    ahead = np.flatnonzero((s.kind == TRUNK) & (s.place[:, 1] < -0.02) & (s.front > 0.5))
    for level in levels:
        k = ahead[(np.abs(s.torso[ahead] - level) * 0.47 + np.abs(s.place[ahead, 0] - across)).argmin()]
        point = cloth.points[k].copy()
        point[0] = across * t.scale if across else cloth.points[k][0] * 0.2
        centres.append(point)
        ways.append(cloth.normals[k])
    discs = [_disc(t, c, w, size, 0.006) for c, w in zip(centres, ways)]
    top.parts.append(_Part(join(discs), "button", t.contrast))


def _disc(t: _Tailor, centre: Array, way: Array, radius: float, thick: float, count: int = 10) -> Sheet:
    """A small flat cylinder whose top faces `way`."""
    right = unit(np.cross(np.array([0, 0, 1.0]), way))
    up = np.cross(way, right)
    ring = compass(count)[:, :1] * right + -compass(count)[:, 1:] * up
    rows = np.stack([ring * radius + way * thick, ring * radius - way * 0.004], 0) * t.scale + centre
    rows = rows[:, ::-1].astype(np.float32)
    anchors, share = same_anchors(t.figure, rows, canvas("upper").index)
    return grid(rows, anchors, share, caps="top")


# --- Trousers ----------------------------------------------------------------------------------------------------


def _leg_folds(t: _Tailor, s: Canvas, size: float) -> Array:
    at = 0.2 + 0.9 * bump(s.leg, 1.02, 0.22) + 0.9 * bump(s.leg, 2.0, 0.25) + 0.5 * bump(s.leg, 0.15, 0.2)
    legs = np.where(s.kind == LEG, at * smoothstep(s.leg, 0.05, 0.3), 0.15 * smoothstep(-s.torso, -0.2, 0.1))
    return wrinkles(s, t.rng, 0.075, size * (0.4 + 0.8 * t("folds")) * legs)


def _leggings(t: _Tailor) -> list[_Part]:
    s = canvas("lower")
    cloth = drape(s, t.figure, 0.004, 2)
    return [_Part(cut(cloth, both(waist(s, 0.36), leg(s, t.between("length", 1.75, 2.02)))), "leggings")]


# --- Shoes -------------------------------------------------------------------------------------------------------


def _foot_points(figure: Figure, side: str) -> Ints:
    _, regions = package_mesh()
    on_side = (template().vertices[:, 0] > 0) == (side == "L")
    return np.flatnonzero(np.isin(regions, (FOOT, LOWER_LEG)) & on_side)


@dataclass
class _Foot:
    """The outline of a shoe: the upper as rows of points [L,K,3] from the top down, and the middle of the floor."""

    index: Ints
    rows: Array
    centres: Array
    floor: float


def _foot(t: _Tailor, side: str, top: float, ease: float, wide: float = 0.0) -> _Foot:
    """The hull of a foot and its leg, from the floor to `top` metres above it, `ease` off the skin; a shaft gets
    `wide` more."""
    scale, figure = t.scale, t.figure
    index = _foot_points(figure, side)
    points = figure.vertices[index]
    floor = float(points[:, 2].min())
    foot_levels = np.arange(0.001, min(top, 0.135), 0.0085)
    shaft = np.linspace(0.135, top, max(int((top - 0.135) / 0.022), 2))[1:] if top > 0.15 else np.zeros(0)
    levels = np.concatenate([foot_levels, shaft])[::-1]
    bands = np.where(levels > 0.12, 0.02, 0.009)
    centres, radii = slice_hulls(points, (floor + levels * scale).astype(np.float32), bands * scale, 40)
    hull = radii
    radii = smooth_levels(smooth_ring(radii, 2), 2)
    radii = np.maximum(radii, hull + 0.001 * scale) + scale * (ease + wide * smoothstep(levels, 0.10, 0.2)[:, None])
    return _Foot(index, stack((floor + levels * scale).astype(np.float32), centres, radii), centres, floor)


def _sole(t: _Tailor, foot: _Foot, thick: float, edge: float = 0.003) -> Sheet:
    """A plate below the upper."""
    scale = t.scale
    ring = foot.rows[-1]
    out = unit(ring[:, :2] - foot.centres[-1]) * edge * scale
    rows = np.stack([ring, ring, ring, ring])
    rows[:, :, :2] += np.array([0, 1, 1, 0.5])[:, None, None] * out
    rows[:, :, 2] = foot.floor + np.array([0.010, 0.008, -thick, -thick])[:, None] * scale
    return grid(rows, *same_anchors(t.figure, rows, foot.index), caps="bottom")


def _boots(t: _Tailor) -> list[_Part]:
    """From ankle boots to knee-high ones, with soles."""
    uppers, soles = [], []
    top = 0.13 + 0.30 * t("length") ** 1.5
    for side in "LR":
        foot = _foot(t, side, top, 0.007, 0.004 + 0.006 * t("loose"))
        rows = foot.rows
        rim = rows[:1].copy()
        rim[..., :2] -= unit(rim[..., :2] - foot.centres[:1, None]) * 0.012 * t.scale
        rim[..., 2] -= 0.01 * t.scale
        wave = 0.004 * t.scale * np.sin(rows[..., 2] / t.scale * 110 + 2 * t("phase") + 3 * rows[..., 0] / t.scale)
        soft = bump((rows[..., 2] - foot.floor) / t.scale, 0.12, 0.05)
        rows = rows + unit(rows - np.concatenate([foot.centres, rows[:, 0, 2:]], 1)[:, None]) * (wave * soft)[..., None]
        rows = np.concatenate([rim, rows]).astype(np.float32)
        uppers.append(grid(rows, *same_anchors(t.figure, rows, foot.index)))
        z = t.figure.vertices[foot.index, 2]
        uppers[-1].hidden[foot.index[z < foot.floor + (top - 0.03) * t.scale]] = True
        soles.append(_sole(t, foot, 0.016 + 0.012 * t("variant")))
    return [_Part(join(uppers), "boots"), _Part(join(soles), "sole", SOLE_DARK, "leather")]


DRAWN: dict[str, Callable[[_Tailor], list[_Part]]] = {
    "dress": lambda t: _dress(t, "dress", t.between("length", 0.75, 1.25), False),
    "mini dress": lambda t: _dress(t, "mini dress", t.between("length", 0.35, 0.6), False),
    "gown": lambda t: _dress(t, "gown", t.between("length", 2.02, 2.19), True),
    "skirt": lambda t: _plain_skirt(t, "skirt", t.between("length", 0.8, 1.2)),
    "mini skirt": lambda t: _plain_skirt(t, "mini skirt", t.between("length", 0.38, 0.55)),
    "long skirt": lambda t: _plain_skirt(t, "long skirt", t.between("length", 1.7, 2.15)),
    "coat": lambda t: _coat(t, "coat"),
    "raincoat": lambda t: _coat(t, "raincoat", shiny=True),
    "sweater": _sweater,
    "leggings": _leggings,
    "boots": _boots,
}
"""The garments that `build` can draw."""
