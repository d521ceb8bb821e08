"""Garments drawn by program: triangle meshes that fit any body of the package, from a `Piece`.

`build` makes one garment on one unposed body. A garment is a set of sheets (`garment_shapes`): shells with
sleeves, necklines and hems, skirts that hang, shoes and hats around hulls, and small parts (collars, buttons,
soles) that may have a colour of their own. All its choices come from `piece.cut`, so a piece always gives the
same garment.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
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

from specularip.body.regions import FOOT, HEAD, HIPS, LOWER_LEG, TORSO, UPPER_LEG

if TYPE_CHECKING:
    from people import Piece

RGB = tuple[float, float, float]


@dataclass
class BodyFrame:
    """One unposed person in A-pose: vertices, normals [12488,3], metres, z up, facing -y; faces [24864,3];
    regions [12488], codes of body.regions; joints [J,3]."""

    vertices: Tensor
    normals: Tensor
    faces: Tensor
    regions: Tensor
    joints: Tensor
    joint_names: tuple[str, ...]
    height: float

    @cached_property
    def figure(self) -> Figure:
        """The same as arrays."""
        joints = dict(zip(self.joint_names, self.joints.cpu().numpy()))
        size = np.ptp(template().vertices[:, 2])
        return Figure(
            self.vertices.cpu().numpy(), self.normals.cpu().numpy(), joints, float(self.height / size)
        )


@dataclass
class DrawnMesh:
    """A part of a garment: vertices [n,3], faces [m,3], uv [m,3,2] in metres, tangents [n,3] (threads,
    downwards or along the limb).

    Vertex i moves with the package's vertices anchors[i] and other_anchors[i], by shares 1 - other_share[i]
    and other_share[i]; anchors alone is a coarse answer. hidden [12488]: body vertices that this part surely
    covers. material_override and rgb_override: of parts that differ from the piece (buttons, soles, buckles,
    zips). falls: it hangs around the trunk or both legs."""

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
    falls: bool = False


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
    parts = DRAWN[piece.garment](_Tailor(piece, body.figure))

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
            falls=part.sheet.falls,
        )
        for part in parts
    ]


# --- Outlines: fields on a canvas, negative where there is cloth -----------------------------------------


def neckline(s: Canvas, half: float, front: float, back: float, power: float = 2.0) -> Array:
    """An opening around the neck: `half` its half width on the shoulders, `front` and `back` its depths in
    metres. power 1 is a V, 2 round, 5 square."""
    depth = back + (front - back) * smoothstep(-s.place[:, 1], -0.04, 0.06)
    drop = np.maximum(0.60 - s.place[:, 2], 0)
    ring = ((s.x / half) ** power + (drop / depth) ** power) ** (1 / power)
    return 1 - ring


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


def both(*outlines: Array | list[Array]) -> list[Array]:
    """Cloth where all the fields have it."""
    return [f for outline in outlines for f in (outline if isinstance(outline, list) else [outline])]


def band(values: Array, low: float | Array, high: float | Array) -> list[Array]:
    """Cloth where low < values < high."""
    return [low - values, values - high]


def on(s: Canvas, kind: int) -> Array:
    """Cloth on one kind of limb."""
    return np.where(s.kind == kind, -1.0, 1.0)


def _on_front(s: Canvas) -> Array:
    """Cloth on the front of the trunk."""
    return np.where(s.kind == TRUNK, s.place[:, 1] + 0.02, 1.0)


# --- Cloth that falls ------------------------------------------------------------------------------------


@dataclass
class _Fall:
    """How cloth falls around the trunk and both legs: levels [L] from the top down, centres [L,2], radii
    [L,K]."""

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
    figure: Figure,
    top: float,
    end: float,
    ease: float,
    flare: float = 0.0,
    taper: float = 0.3,
    rows: int = 30,
) -> _Fall:
    """Cloth from the height `top` down to `end`, `ease` off the body. Each level is at least as wide as the
    one above, less `taper` metres per metre; below the hips it opens by `flare` metres per metre."""
    _, regions = package_mesh()
    model = template().vertices
    trunk = np.isin(regions, (TORSO, HIPS, UPPER_LEG, LOWER_LEG, FOOT))
    trunk &= (model[:, 2] < 0.46) & ((regions != TORSO) | (np.abs(model[:, 0]) < 0.165))
    levels = np.linspace(top, end, rows).astype(np.float32)
    step = (top - end) / (rows - 1)
    centres, radii = slice_hulls(figure.vertices[trunk], levels, max(0.024 * figure.scale, 0.6 * step))
    body = radii.copy()
    radii = smooth_ring(radii, 2)
    hip = figure.joint("upperleg01")[2]
    for k in range(1, rows):
        widen = flare * step * float(smoothstep(hip + 0.06 - levels[k], 0.0, 0.12))
        radii[k] = np.maximum(radii[k], radii[k - 1] - taper * step) + widen
        radii[k:] = np.maximum(radii[k:], radii[k] - taper * np.arange(rows - k)[:, None] * step)
    for k in range(rows - 2, -1, -1):
        radii[k] = np.maximum(radii[k], radii[k + 1] - (flare + 0.40) * step)
    radii = np.maximum(smooth_levels(radii, 2), body)
    return _Fall(levels, centres, radii + ease * figure.scale)


def _skirt(
    tailor: _Tailor,
    fall: _Fall,
    depth: float,
    opening: float = 0.0,
) -> Sheet:
    """A lined skirt: folds of `depth` 0..1, open in front by `opening` turns on both sides."""
    top, end = fall.levels[0], fall.levels[-1]
    rng, scale = tailor.rng, tailor.scale
    radii = finer_ring(fall.radii, 3)
    count = radii.shape[1]
    angle = np.arange(count) * 2 * np.pi / count
    drop = (fall.levels[0] - fall.levels)[:, None] / scale
    waves = int(7 + tailor("folds") * 8 + 4 * tailor("flare"))
    wander = 0.9 * np.sin(angle + rng.uniform(0, 6.3)) + 0.5 * np.sin(2 * angle + rng.uniform(0, 6.3))
    uneven = 0.7 + 0.3 * np.sin(3 * angle + rng.uniform(0, 6.3)) * np.sin(2 * angle + rng.uniform(0, 6.3))
    fold = (0.5 + 0.5 * np.cos(waves * angle + 1.6 * wander + 0.5 * drop)) ** 1.3
    size = radii.mean(1, keepdims=True) * 2 * np.pi / waves * 0.30
    reach = smoothstep(drop, 0.02, 0.55) * depth + 0.10 * smoothstep(drop, 0.03, 0.10) * depth
    radii = radii + size * reach * fold * uneven
    points = stack(fall.levels, fall.centres, radii)
    # The hem is lower where a fold stands out less: cloth has one length.
    points[-1, :, 2] += 0.006 * scale * depth * fold[-1]
    lining = stack(fall.levels, fall.centres, fall.radii - 0.005 * scale)[::-1]
    turned = stack(fall.levels[-1:], fall.centres[-1:], finer_ring(fall.radii[-1:] - 0.005 * scale, 3))
    inner = np.concatenate([points[-1:], turned])
    outer = _tucked(points, fall.centres, 0.02 * scale)
    if opening:
        column = angle / (2 * np.pi)
        keep = np.flatnonzero((column > opening) & (column < 1 - opening))
        edge = np.concatenate([outer[:, keep[:1]], outer[:, keep], outer[:, keep[-1:]]], 1)
        for k, near in ((0, 1), (-1, -2)):
            edge[:, k, :2] -= unit(edge[:, near, :2] - fall.centres) * 0.012 * scale
        outer, inner = edge, inner[:, keep]
        column = np.arange(lining.shape[1]) / lining.shape[1]
        lining = lining[:, (column > opening) & (column < 1 - opening)]
    sheets = [
        grid(rows, *side_anchors(tailor.figure, rows), closed=not opening) for rows in (outer, inner, lining)
    ]
    sheet = replace(join(sheets), falls=True)
    _, regions = package_mesh()
    limbs = np.isin(regions, (HIPS, UPPER_LEG, LOWER_LEG, FOOT))
    z = tailor.figure.vertices[:, 2]
    if not opening:
        sheet.hidden[limbs & (z < top - 0.02 * scale) & (z > end + 0.13 * scale)] = True
    return sheet


def _emerging(t: _Tailor, fall: _Fall, start: float) -> _Fall:
    """The part of a fall below `start`; it begins just inside the cloth above and comes out of it, so that
    the seam is level."""
    own = fall.levels <= start
    drop = (start - fall.levels[own]) / t.scale
    out = (-0.005 + 0.013 * smoothstep(drop, 0.0, 0.07))[:, None] * t.scale
    return _Fall(fall.levels[own], fall.centres[own], fall.radii[own] + out)


def _tucked(points: Array, centres: Array, depth: float) -> Array:
    """Rows [L,K,3] whose first goes `depth` inwards."""
    points = points.copy()
    points[0, :, :2] -= unit(points[0, :, :2] - centres[0]) * depth
    return points


def _hoop(t: _Tailor, fall: _Fall, high: float, low: float, lift: float) -> Sheet:
    """A belt between two heights, `lift` metres off the fall."""
    levels = np.array([high, high, (high + low) / 2, low, low], np.float32)
    row = np.interp(levels, fall.levels[::-1], np.arange(len(fall.levels))[::-1])
    r, u = row.astype(int), (row % 1)[:, None]
    r1 = np.minimum(r + 1, len(fall.levels) - 1)
    centres = fall.centres[r] * (1 - u) + fall.centres[r1] * u
    radii = fall.radii[r] * (1 - u) + fall.radii[r1] * u
    radii = radii + np.array([-0.014, lift, lift * 1.15, lift, -0.014])[:, None] * t.scale
    points = stack(levels, centres, finer_ring(radii, 2))
    return replace(grid(points, *side_anchors(t.figure, points)), falls=True)


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


# --- Tops ------------------------------------------------------------------------------------------------


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


def _falling_from_chest(
    tailor: _Tailor, s: Canvas, share: float, flare: float = 0.0
) -> Callable[[Array], Array]:
    """Lets the trunk of a loose top hang straight from the chest."""
    figure = tailor.figure
    fall = _fall(
        figure, _torso_height(figure, 0.86), _torso_height(figure, -0.22), 0.008, flare, 0.12, rows=22
    )
    torso = s.coarse(s.torso)
    weight = np.where(s.coarse(s.kind) == TRUNK, (0.6 + 0.4 * share) * smoothstep(-torso, -0.86, -0.70), 0)
    return lambda points: fall.push(points, weight)


def _top_folds(tailor: _Tailor, s: Canvas, size: float, wave: float = 0.075) -> Array:
    """Wrinkles of a top: elbows, waist and hem more than the chest."""
    arm = np.where(s.kind == ARM, 0.25 + bump(s.arm, 1.0, 0.3) + 0.5 * bump(s.arm, 1.9, 0.3), 0)
    arm *= smoothstep(s.arm, 0.15, 0.4)
    trunk = np.where(s.kind == TRUNK, 0.12 + 0.9 * bump(s.torso, 0.25, 0.28), 0) * smoothstep(
        -s.torso, -0.95, -0.6
    )
    return wrinkles(s, tailor.rng, wave, size * (0.4 + 0.9 * tailor("folds")) * (arm + trunk))


@dataclass
class _Top:
    """A draped top: its cloth and outline, to which parts are added."""

    cloth: Drape
    outline: list[Array]
    parts: list[_Part]

    def add(
        self, name: str, fields: list[Array], lift: float, rgb: RGB | None = None, material: str | None = None
    ) -> None:
        """A second layer on the cloth where all fields are negative, `lift` metres above it."""
        self.parts.append(_Part(cut(self.cloth.layer(lift), fields, hides=False), name, rgb, material))


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
    legs: tuple[float, float, float] | None = None,
    hang: Callable[[Array], Array] | None = None,
) -> _Top:
    """A shell of trunk and arms: `offset` off the skin, sleeves to `arm`, hem at `low`; `loose` 0..1 lets it
    fall from the chest; `relief` adds to its height; `extra` limits it further. With legs (level of the hem,
    radii at knee and hem) it has trouser legs in place of a hem. `hang` replaces the fall from the chest."""
    s = canvas("whole" if legs else "upper")
    height = offset + _top_folds(tailor, s, folds, wave) + (relief(s) if relief else 0)
    tubes = (_sleeve_tube(*tube),) if tube else ()
    if legs:
        height = height + _leg_folds(tailor, s, folds)
        tubes = (*tubes, _leg_tube(*legs[1:]))
    hang = hang or (_falling_from_chest(tailor, s, loose) if loose else None)
    base = drape(s, tailor.figure, offset, tension, tubes, hang)
    cloth = base.lifted(height - offset)
    field = both(neck(s), sleeve(s, arm), leg(s, legs[0]) if legs else hem(s, low))
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
        return -0.007 * (at_hem + at_cuff)

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
    if not turtle:
        edge = neckline(s, 0.075, 0.06, 0.03)
        top.add("sweater", both(edge - 0.03, -edge - 0.30), 0.003)
    return top.parts


def _bodice(t: _Tailor, name: str, level: float, fall: _Fall, formal: bool) -> _Top:
    """The upper part of a dress, down to its waist at `level`, where it meets the fall of the skirt; with one
    of many necklines, straps and sleeves."""
    s = canvas("upper")
    at_waist = np.where(s.kind == TRUNK, smoothstep(-s.torso, -level - 0.10, -level - 0.02), 0)
    weight = s.coarse(at_waist)
    length, kind, variant = t("sleeve"), t("neck"), t("variant")
    arm = 0.1 if length < 0.36 else 0.45 if length < 0.56 else 1.2 if length < 0.66 else 1.95
    strapless = formal and kind > 0.72 and length < 0.36
    if strapless:
        line = lambda s: s.torso - 0.80 - 0.05 * smoothstep(s.x, 0.02, 0.09)  # noqa: E731
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
        arm=arm,
        low=level - 0.13,
        loose=0.0,
        hang=lambda points: fall.push(points, weight),
        tube=(0.05, 0.036 + 0.03 * t("flare")) if arm > 0.4 else None,
        folds=0.004,
        wave=0.06,
        tension=12,
    )
    if strapless and variant < 0.6:
        s = top.cloth.canvas
        top.add(name, both(band(s.x, 0.088, 0.10), 0.76 - s.torso), -0.002)
    return top


def _dress(t: _Tailor, name: str, end: float, formal: bool) -> list[_Part]:
    """A bodice and a skirt that begins inside its hem, at a waist somewhere between ribs and hips."""
    level = t.between("loose", 0.30, 0.48)
    figure = t.figure
    top = _torso_height(figure, level)
    flare = 0.08 + 0.45 * t("flare") ** 1.5 if end < 1.8 else 0.14 + 0.28 * t("flare") ** 1.5
    fall = _fall(figure, top + 0.05 * t.scale, _leg_height(figure, end), 0.010, flare, 0.25, rows=32)
    bodice = _bodice(t, name, level, fall, formal)
    if t("variant") > 0.55:
        s = bodice.cloth.canvas
        sash = both(on(s, TRUNK), band(s.torso, level - 0.01, level + 0.06 + 0.05 * t("length")))
        bodice.add("sash", sash, 0.006, t.shade(0.55))
    fall = _emerging(t, fall, top)
    skirt = _skirt(t, fall, 0.25 + 0.75 * t("folds"))
    return [*bodice.parts, _Part(skirt, name)]


def _plain_skirt(t: _Tailor, name: str, end: float) -> list[_Part]:
    """A skirt with a waistband."""
    figure = t.figure
    level = t.between("loose", 0.24, 0.38)
    flare = 0.05 + (0.50 if end < 1.5 else 0.32) * t("flare") ** 1.4
    depth = 0.15 + 0.85 * t("folds") if t("variant") > 0.25 else 0.05
    fall = _fall(figure, _torso_height(figure, level), _leg_height(figure, end), 0.011, flare, 0.25)
    high = fall.levels[0] + 0.005 * t.scale
    waistband = _hoop(t, fall, high, high - 0.035 * t.scale, 0.0015)
    return [_Part(_skirt(t, fall, depth), name), _Part(waistband, name, t.shade(0.88))]


def _coat(t: _Tailor, name: str, shiny: bool = False) -> list[_Part]:
    """A long coat: falls from the chest, collar with lapels or a stand, buttons, open or closed."""
    figure = t.figure
    opening = t.between("variant", 0.03, 0.075) if t("variant") > 0.6 else 0.0

    start, end = _torso_height(figure, 0.36), _leg_height(figure, t.between("length", 0.55, 1.45))
    fall = _fall(figure, _torso_height(figure, 0.86), end, 0.026, 0.06 + 0.16 * t("flare"), 0.12, rows=42)
    s = canvas("upper")
    weight = s.coarse(np.where(s.kind == TRUNK, smoothstep(-s.torso, -0.86, -0.66), 0))

    def front(s: Canvas) -> Array:
        gap = opening * 0.62 * (0.9 + 0.3 * smoothstep(s.torso, 0.4, 1.1))
        return np.where((s.kind == TRUNK) & (s.place[:, 1] < 0), gap - s.x, -1.0)

    top = _top(
        t,
        name,
        offset=0.026,
        neck=lambda s: neckline(s, 0.085, 0.10, 0.02, 1.3),
        arm=2.05,
        low=0.24,
        loose=1.0,
        tube=(0.070, 0.062),
        folds=0.006 if shiny else 0.009,
        wave=0.10,
        hang=lambda points: fall.push(points, weight),
        tension=8,
        extra=front if opening else None,
    )
    s = top.cloth.canvas
    _collar(t, top, wide=0.075, front=0.16, lift=0.016, opening=opening * 0.62)
    fall = _emerging(t, fall, start)
    top.parts.append(_Part(_skirt(t, fall, 0.25 + 0.45 * t("folds"), opening), name))
    if not opening:
        placket = both(
            band(s.place[:, 0], -0.026, 0.006),
            _on_front(s),
            hem(s, 0.30),
            neckline(s, 0.085, 0.10, 0.02, 1.3),
        )
        top.add(name, placket, 0.004)
        _buttons(t, top, [0.84, 0.66, 0.47], 0.012)
        if t("neck") > 0.5:
            top.add("belt", both(on(s, TRUNK), band(s.torso, 0.35, 0.45)), 0.008, t.shade(0.7))
    return top.parts


def _collar(t: _Tailor, top: _Top, wide: float, front: float, lift: float, opening: float = 0.0) -> None:
    """A collar that lies on the shoulders and runs to a V in front, with a stand around the neck."""
    s = top.cloth.canvas
    inner = neckline(s, 0.070, front - 0.01, 0.012, 1.3)
    outer = neckline(s, 0.070 + wide, front + 0.045, 0.012 + wide, 1.5)
    slit = _beside(s, 0.006 + opening)
    top.add("collar", both(inner, -outer, slit), lift)


def _beside(s: Canvas, gap: float) -> Array:
    """No cloth closer than `gap` to the middle of the front."""
    return np.where(s.place[:, 1] < -0.02, gap - s.x, -1.0)


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


# --- Trousers --------------------------------------------------------------------------------------------


def _leg_folds(t: _Tailor, s: Canvas, size: float) -> Array:
    at = 0.2 + 0.9 * bump(s.leg, 1.02, 0.22) + 0.9 * bump(s.leg, 2.0, 0.25) + 0.5 * bump(s.leg, 0.15, 0.2)
    legs = np.where(s.kind == LEG, at * smoothstep(s.leg, 0.05, 0.3), 0.15 * smoothstep(-s.torso, -0.2, 0.1))
    return wrinkles(s, t.rng, 0.075, size * (0.4 + 0.8 * t("folds")) * legs)


def _leggings(t: _Tailor) -> list[_Part]:
    s = canvas("lower")
    cloth = drape(s, t.figure, 0.004, 2)
    return [_Part(cut(cloth, both(waist(s, 0.36), leg(s, t.between("length", 1.75, 2.02)))), "leggings")]


# --- Shoes -----------------------------------------------------------------------------------------------


def _foot_points(figure: Figure, side: str) -> Ints:
    _, regions = package_mesh()
    on_side = (template().vertices[:, 0] > 0) == (side == "L")
    return np.flatnonzero(np.isin(regions, (FOOT, LOWER_LEG)) & on_side)


@dataclass
class _Foot:
    """The outline of a shoe: the upper as rows of points [L,K,3] from the top down, and the middle of the
    floor."""

    index: Ints
    rows: Array
    centres: Array
    floor: float


def _foot(t: _Tailor, side: str, top: float, ease: float, wide: float = 0.0) -> _Foot:
    """The hull of a foot and its leg, from the floor to `top` metres above it, `ease` off the skin; a shaft
    gets `wide` more."""
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
    radii = np.maximum(radii, hull + 0.001 * scale) + scale * (
        ease + wide * smoothstep(levels, 0.10, 0.2)[:, None]
    )
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
    top = 0.13 + 0.30 * t("length")
    for side in "LR":
        foot = _foot(t, side, top, 0.007, 0.004 + 0.006 * t("loose"))
        rows = foot.rows
        rim = rows[:1].copy()
        rim[..., :2] -= unit(rim[..., :2] - foot.centres[:1, None]) * 0.012 * t.scale
        rim[..., 2] -= 0.01 * t.scale
        wave = (
            0.004
            * t.scale
            * np.sin(rows[..., 2] / t.scale * 110 + 2 * t("phase") + 3 * rows[..., 0] / t.scale)
        )
        soft = bump((rows[..., 2] - foot.floor) / t.scale, 0.12, 0.05)
        rows = (
            rows
            + unit(rows - np.concatenate([foot.centres, rows[:, 0, 2:]], 1)[:, None])
            * (wave * soft)[..., None]
        )
        rows = np.concatenate([rim, rows]).astype(np.float32)
        uppers.append(grid(rows, *same_anchors(t.figure, rows, foot.index)))
        z = t.figure.vertices[foot.index, 2]
        uppers[-1].hidden[foot.index[z < foot.floor + (top - 0.03) * t.scale]] = True
        soles.append(_sole(t, foot, 0.016 + 0.012 * t("variant")))
    return [_Part(join(uppers), "boots"), _Part(join(soles), "sole", SOLE_DARK, "leather")]


def _shoe_pair(t: _Tailor, top: float, ease: float) -> tuple[list[_Foot], list[Sheet]]:
    """Both feet and their uppers, whose upper ends go back to the skin."""
    feet = [_foot(t, side, top, ease) for side in "LR"]
    uppers = []
    for foot in feet:
        rows = np.concatenate([_tucked(foot.rows[:1], foot.centres, 0.010 * t.scale), foot.rows])
        uppers.append(grid(rows, *same_anchors(t.figure, rows, foot.index)))
    return feet, uppers


def _foot_place(t: _Tailor, foot: _Foot, points: Array) -> tuple[Array, Array, Array]:
    """Of points [n,3]: 0 at the heel to 1 at the toes, metres to the outside, metres above the floor."""
    ring = foot.rows[-1]
    side = "L" if foot.rows[..., 0].mean() > 0 else "R"
    ankle = t.figure.joints[f"foot.{side}"][:2]
    tip = ring[np.linalg.norm(ring[:, :2] - ankle, axis=1).argmax(), :2]
    ahead = unit(tip - ankle)
    span = ring[:, :2] @ ahead
    flat = points[:, :2] - ankle
    across = flat @ np.array([-ahead[1], ahead[0]]) * (-1 if side == "L" else 1) / t.scale
    return (points[:, :2] @ ahead - span.min()) / np.ptp(span), across, (points[:, 2] - foot.floor) / t.scale


def _hide_feet(t: _Tailor, sheet: Sheet, foot: _Foot, above: float = 0.0, below: float = 0.05) -> None:
    """The body's foot between two heights is covered."""
    height = (t.figure.vertices[foot.index, 2] - foot.floor) / t.scale
    sheet.hidden[foot.index[(height < below) & (height >= above)]] = True


def _raised(sheet: Sheet, height: float) -> Sheet:
    """A sheet moved outwards."""
    normals = face_normals(sheet.vertices, sheet.faces)
    return replace(sheet, vertices=sheet.vertices + normals * np.float32(height))


def _shoes(t: _Tailor) -> list[_Part]:
    """Low shoes with a tongue, dark soles and a small heel."""
    feet, uppers = _shoe_pair(t, 0.075 + 0.015 * t("length"), 0.005)
    parts, tongues = [], []
    for foot, upper in zip(feet, uppers):
        _hide_feet(t, upper, foot, below=0.062)
        along, across, _ = _foot_place(t, foot, upper.vertices)
        tongues.append(
            cut_sheet(
                _raised(upper, 0.003 * t.scale), both(band(along, 0.40, 0.70), np.abs(across) - 0.016), 0.004
            )
        )
    parts.append(_Part(join(uppers), "shoes"))
    parts.append(_Part(join(tongues), "shoes", t.shade(0.75)))
    parts.append(_Part(join([_sole(t, f, 0.012) for f in feet]), "sole", SOLE_DARK, "leather"))
    return parts


def _sneakers(t: _Tailor) -> list[_Part]:
    """Low or high sneakers: a thick white sole, laces, a toe cap now and then."""
    feet, uppers = _shoe_pair(t, 0.08 + 0.05 * (t("length") > 0.6), 0.008)
    laces = []
    for foot, upper in zip(feet, uppers):
        _hide_feet(t, upper, foot, below=0.068)
        along, across, height = _foot_place(t, foot, upper.vertices)
        lifted = _raised(upper, 0.004 * t.scale)
        for a in (0.46, 0.53, 0.60, 0.67):
            laces.append(cut_sheet(lifted, both(band(along, a, a + 0.028), np.abs(across) - 0.020), 0.005))
        if t("variant") > 0.5:
            laces.append(cut_sheet(_raised(upper, 0.002 * t.scale), both(0.84 - along, height - 0.05), 0.003))
    return [
        _Part(join(uppers), "sneakers"),
        _Part(join(laces), "laces", SOLE_WHITE if sum(t.rgb) < 2.2 else (0.25, 0.25, 0.27), "cotton"),
        _Part(join([_sole(t, f, 0.018, 0.005) for f in feet]), "sole", SOLE_WHITE, "cotton"),
    ]


def _block(t: _Tailor, foot: _Foot, thick: float, start: float, stop: float, narrow: float) -> Sheet:
    """A block below the part of a foot between two places along it, its lower end scaled by `narrow`."""
    ring = foot.rows[-1].copy()
    along = _foot_place(t, foot, ring)[0]
    way = ring[along.argmax()] - ring[along.argmin()]
    length = float(np.linalg.norm(way[:2]))
    ahead = unit(way * np.array([1, 1, 0], np.float32))
    side = np.array([-ahead[1], ahead[0], 0], np.float32)
    across = ring @ side
    own = across[(along > start - 0.02) & (along < stop + 0.02)]
    ring += ahead * ((np.clip(along, start, stop) - along) * length)[:, None]
    ring += side * (np.clip(across, own.min(), own.max()) - across)[:, None]
    low = ring.mean(0) + (ring - ring.mean(0)) * narrow
    rows = np.stack([ring, ring, low, low])
    rows[:, :, 2] = foot.floor + np.array([0.004, 0.0, -thick, -thick])[:, None] * t.scale
    return grid(rows, *same_anchors(t.figure, rows, foot.index), caps="bottom")


def _high_heels(t: _Tailor) -> list[_Part]:
    """Pumps on a platform and a heel. The feet of the body are flat, so the heel is as high as the
    platform."""
    feet, uppers = _shoe_pair(t, 0.085, 0.0035)
    shells, soles = [], []
    for foot, upper in zip(feet, uppers):
        along, _, height = _foot_place(t, foot, upper.vertices)
        mouth = np.interp(along, [0, 0.12, 0.45, 0.66, 0.78], [0.062, 0.052, 0.030, 0.030, 0.12])
        shell = cut_sheet(upper, [height - mouth], 0.004 * t.scale)
        _hide_feet(t, shell, foot, below=0.012)
        toes = _foot_place(t, foot, t.figure.vertices[foot.index])
        shell.hidden[foot.index[(toes[0] > 0.84) & (toes[2] < 0.07)]] = True
        shells.append(shell)
        plate = _sole(t, foot, 0.006, 0.001)
        soles.append(plate)
        soles += [
            _block(t, foot, 0.035 + 0.03 * t("length"), *span)
            for span in ((-1.0, 0.22, 0.6), (0.52, 2.0, 1.0))
        ]
    return [_Part(join(shells), "high heels"), _Part(join(soles), "high heels", t.shade(0.8))]


def _sandals(t: _Tailor) -> list[_Part]:
    """A sole, straps over the toes, the instep and around the ankle."""
    feet, uppers = _shoe_pair(t, 0.105, 0.004)
    straps = []
    for foot, upper in zip(feet, uppers):
        along, _, height = _foot_place(t, foot, upper.vertices)
        slanted = along - 0.8 * (height - 0.03)
        front = band(slanted, 0.64, 0.72 + 0.06 * t("variant"))
        for outline in (front, band(slanted, 0.46, 0.51), band(height, 0.080, 0.096)):
            straps.append(cut_sheet(upper, outline, 0.004 * t.scale))
    soles = [_sole(t, foot, 0.012 + 0.025 * t("length") ** 2, 0.006) for foot in feet]
    return [_Part(join(straps), "sandals"), _Part(join(soles), "sole", t.shade(0.55), "leather")]


# --- More tops -------------------------------------------------------------------------------------------


def _t_shirt(t: _Tailor) -> list[_Part]:
    line = _round_neck(t, 0.6)
    top = _top(
        t,
        "t-shirt",
        offset=0.009,
        neck=line,
        arm=t.between("sleeve", 0.45, 0.8),
        low=t.between("length", 0.04, -0.12),
        loose=t.between("loose", 0.2, 0.9),
        tube=(0.053 + 0.012 * t("loose"), 0.05),
        folds=0.009,
    )
    s = top.cloth.canvas
    top.add("t-shirt", both(line(s) - 0.03, -line(s) - 0.20), 0.002)
    return top.parts


def _tank_top(t: _Tailor) -> list[_Part]:
    """Broad or narrow straps."""
    half = t.between("variant", 0.085, 0.105)
    line = lambda s: neckline(s, half, t.between("neck", 0.10, 0.16), 0.07, 2.2)  # noqa: E731
    top = _top(
        t,
        "tank top",
        offset=0.007,
        neck=line,
        arm=0.0,
        low=t.between("length", 0.08, -0.10),
        loose=t.between("loose", 0.0, 0.6),
        folds=0.006,
        tension=8,
        extra=lambda s: s.x + 0.10 * (s.place[:, 2] - 0.5) - (0.150 - 0.012 * t("sleeve")),
    )
    return top.parts


def _small_collar(t: _Tailor, top: _Top, front: float = 0.065) -> None:
    """A turned-down shirt collar with a stand, open in front to `front` metres below the neck."""
    s = top.cloth.canvas
    top.add(
        "collar", both(collar_line(s, 0.030), -neckline(s, 0.074, 0.068, 0.015), _beside(s, 0.010)), 0.001
    )
    _collar(t, top, wide=0.034, front=front, lift=0.010)


def _polo(t: _Tailor) -> list[_Part]:
    """Short sleeves with a ribbed edge, a collar, a short placket with buttons."""
    arm = t.between("sleeve", 0.5, 0.75)
    line = lambda s: neckline(s, 0.074, 0.055, 0.02)  # noqa: E731
    top = _top(
        t,
        "polo shirt",
        offset=0.010,
        neck=line,
        arm=arm,
        low=t.between("length", 0.02, -0.12),
        loose=t.between("loose", 0.3, 0.8),
        tube=(0.060, 0.05),
        folds=0.008,
    )
    s = top.cloth.canvas
    _small_collar(t, top)
    cuff = both(on(s, ARM), band(s.arm, arm - 0.09, arm + 0.01))
    top.add("polo shirt", cuff, 0.002, t.shade(0.8))
    top.add("polo shirt", both(s.x - 0.015, _on_front(s), band(s.torso, 0.74, 1.08), line(s)), 0.003)
    _buttons(t, top, [0.96, 0.87, 0.78], 0.006)
    return top.parts


def _shirt(t: _Tailor, name: str) -> list[_Part]:
    """Collar, placket with buttons, cuffs; a blouse is wider in the sleeves and often has an open neck."""
    blouse = name == "blouse"
    opened = 0.05 + (0.09 * t("neck") if blouse or t("neck") > 0.6 else 0.0)
    line = lambda s: neckline(s, 0.074, opened + 0.01, 0.02, 1.3)  # noqa: E731
    arm = 1.97 if t("sleeve") > 0.25 else 0.7
    top = _top(
        t,
        name,
        offset=0.011,
        neck=line,
        arm=arm,
        low=t.between("length", 0.05, -0.12),
        loose=t.between("loose", 0.3, 0.9),
        folds=0.011,
        tube=(0.058, 0.065 if blouse else 0.046) if arm > 1 else (0.06, 0.05),
        relief=lambda s: (
            -0.012 * np.where(s.kind == ARM, smoothstep(s.arm, 1.76, 1.82), 0) if blouse else 0 * s.arm
        ),
    )
    s = top.cloth.canvas
    if t("variant") < 0.7 or not blouse:
        _small_collar(t, top, opened + 0.01)
    top.add(name, both(on(s, ARM), band(s.arm, arm - 0.17, arm + 0.01)), 0.002)
    low = t.between("length", 0.05, -0.12)
    placket = both(s.x - 0.013, _on_front(s), hem(s, low + 0.004), line(s))
    top.add(name, placket, 0.003)
    _buttons(t, top, [0.90, 0.72, 0.54, 0.36, 0.18], 0.005)
    return top.parts


def _tube_around_neck(
    t: _Tailor, ring: Array, wide: Array, high: Array, shift: Array, rise: Array, rows: int = 10
) -> Sheet:
    """A torus along a ring [K,3] around the neck; half axes wide and high [K], moved out by `shift`, up by
    `rise`, all metres."""
    centre = ring[:, :2].mean(0)
    out = unit(ring[:, :2] - centre)
    angle = np.pi / 2 - 2 * np.pi * np.arange(rows + 1)[:, None] / rows
    reach = (shift + wide * np.cos(angle)) * t.scale
    height = (rise + high * np.sin(angle)) * t.scale
    points = np.concatenate([ring[:, :2] + out * reach[..., None], (ring[:, 2] + height)[..., None]], -1)
    points = points.astype(np.float32)
    return grid(points, *same_anchors(t.figure, points, canvas("upper").index))


def _hoodie(t: _Tailor) -> list[_Part]:
    """A sweatshirt with a hood on the back, a pocket, drawstrings; a zip now and then."""
    low = t.between("length", 0.06, -0.10)
    line = lambda s: neckline(s, 0.082, 0.075, 0.03)  # noqa: E731

    def rib(s: Canvas) -> Array:
        at_hem = np.where(s.kind == TRUNK, smoothstep(-s.torso, -low - 0.13, -low - 0.09), 0)
        return -0.007 * (at_hem + np.where(s.kind == ARM, smoothstep(s.arm, 1.78, 1.83), 0))

    top = _top(
        t,
        "hoodie",
        offset=0.021,
        neck=line,
        arm=1.98,
        low=low,
        loose=t.between("loose", 0.6, 1.0),
        tube=(0.066, 0.050),
        folds=0.014,
        wave=0.095,
        relief=rib,
        tension=6,
    )
    s = top.cloth.canvas
    ring = ordered_ring(s, line(s), 40)(top.cloth.points)
    back = smoothstep(-np.cos(np.arange(40) * 2 * np.pi / 40), -0.7, 0.7)
    crease = 0.002 * np.sin(np.arange(40) * 2 * np.pi / 40 * 7 + 6 * t("phase"))
    wide, high = 0.015 + 0.032 * back + crease, 0.018 + 0.026 * back + crease
    hood = _tube_around_neck(t, ring, wide, high, 0.004 + 0.026 * back, 0.004 - 0.006 * back, 12)
    top.parts.append(_Part(hood, "hood"))
    slope = 0.13 - 0.20 * np.maximum(s.torso - 0.16, 0) - s.x * 0
    pocket = both(s.x - np.minimum(slope, 0.12), _on_front(s), band(s.torso, low + 0.12, 0.36))
    top.add("hoodie", pocket, 0.007)
    for side in (-1, 1):
        string = both(band(s.place[:, 0] * side, 0.030, 0.037), _on_front(s), band(s.torso, 0.72, 0.99))
        top.add("drawstring", string, 0.006, SOLE_WHITE if sum(t.rgb) < 2.2 else (0.3, 0.3, 0.32), "cotton")
    if t("variant") > 0.6:
        _zip(t, top, low)
    return top.parts


def _zip(t: _Tailor, top: _Top, low: float, high: float = 1.1) -> None:
    s = top.cloth.canvas
    top.add(
        "zip",
        both(s.x - 0.006, _on_front(s), band(s.torso, low + 0.005, high), top.outline),
        0.004,
        METAL,
        "metallic",
    )


def _jacket(t: _Tailor, name: str) -> list[_Part]:
    """A short jacket with a zip and a collar, open or closed; of leather with lapels and a belt."""
    leather = name == "leather jacket"
    low = t.between("length", 0.12, -0.10)
    opened = t("variant") > 0.5
    gap = t.between("loose", 0.02, 0.06)
    line = lambda s: neckline(s, 0.080, 0.075, 0.02, 1.5)  # noqa: E731

    def front(s: Canvas) -> Array:
        return np.where((s.kind == TRUNK) & (s.place[:, 1] < 0), gap - s.x, -1.0)

    def rib(s: Canvas) -> Array:
        at_hem = np.where(s.kind == TRUNK, smoothstep(-s.torso, -low - 0.11, -low - 0.08), 0)
        at_cuff = np.where(s.kind == ARM, smoothstep(s.arm, 1.80, 1.84), 0)
        return -(0.003 if leather else 0.008) * (at_hem + at_cuff)

    top = _top(
        t,
        name,
        offset=0.019 if leather else 0.022,
        neck=line,
        arm=2.0,
        low=low,
        loose=t.between("loose", 0.5, 1.0),
        tube=(0.064, 0.05),
        folds=0.012,
        wave=0.085,
        relief=rib,
        tension=7,
        extra=front if opened else None,
    )
    s = top.cloth.canvas
    if leather:
        _collar(t, top, wide=0.055, front=0.15, lift=0.014, opening=gap if opened else 0.0)
        lapel = both(
            band(s.x, gap if opened else 0.005, 0.075),
            _on_front(s),
            band(s.torso + 1.2 * s.x, 0.80, 1.02),
            line(s),
        )
        top.add(name, lapel, 0.010)
    else:
        top.add(
            "collar",
            both(collar_line(s, 0.045), -neckline(s, 0.082, 0.09, 0.02), front(s) if opened else -s.x),
            0.004,
        )
    if opened:
        for side in (-1, 1):
            edge = both(
                band(s.place[:, 0] * side, gap, gap + 0.008), _on_front(s), band(s.torso, low, 0.95), line(s)
            )
            top.add("zip", edge, 0.003, METAL, "metallic")
    else:
        _zip(t, top, low)
    for side in (-1, 1):
        u = s.place[:, 0] * side
        slit = both(
            band(u - 0.12 * (0.3 - s.torso), 0.085, 0.094),
            _on_front(s),
            band(s.torso, low + 0.14, low + 0.36),
        )
        top.add("pocket", slit, 0.003, t.shade(0.5))
    return top.parts


def _lapels(t: _Tailor, top: _Top, half: float, depth: float, wide: float) -> None:
    """Lapels along a V neck, and the collar behind them."""
    s = top.cloth.canvas
    inner = neckline(s, half, depth, 0.015, 1.15)
    outer = neckline(s, half + wide, depth + 0.03, 0.015 + wide, 1.35)
    top.add("lapel", both(inner, -outer, np.where(s.place[:, 1] < 0, 0.003 - s.x, -1.0)), 0.007)


def _blazer(t: _Tailor, name: str) -> list[_Part]:
    """A V to the chest, lapels, one or two buttons, pockets."""
    depth = t.between("neck", 0.22, 0.34)
    low = t.between("length", -0.04, -0.14)
    line = lambda s: neckline(s, 0.074, depth, 0.015, 1.15)  # noqa: E731

    def front(s: Canvas) -> Array:
        """The quarters part below the last button."""
        spread = 0.5 * np.maximum(0.12 - s.torso, 0) ** 1.5
        return np.where((s.kind == TRUNK) & (s.place[:, 1] < 0), spread - s.x - 0.002, -1.0)

    top = _top(
        t,
        name,
        offset=0.024 if name == "suit" else 0.019,
        neck=line,
        arm=1.93,
        low=low,
        loose=t.between("loose", 0.2, 0.6),
        tube=(0.058, 0.048),
        folds=0.007,
        wave=0.09,
        tension=10,
        extra=front,
    )
    s = top.cloth.canvas
    _lapels(t, top, 0.074, depth, 0.050)
    stop = 1.19 - depth / 0.467
    _buttons(t, top, [stop - 0.04, stop - 0.20], 0.010, 0.006)
    for side in (-1, 1):
        flap = both(
            band(s.place[:, 0] * side, 0.06, 0.14), _on_front(s), band(s.torso, low + 0.20, low + 0.26)
        )
        top.add("pocket", flap, 0.006, t.shade(0.85))
    return top.parts


def _suit(t: _Tailor) -> list[_Part]:
    """Blazer, trousers, a white shirt and a tie."""
    line = lambda s: neckline(s, 0.073, 0.05, 0.018, 1.4)  # noqa: E731
    shirt = _top(
        t,
        "shirt",
        offset=0.006,
        neck=line,
        arm=1.99,
        low=0.2,
        loose=0.0,
        folds=0.0,
        tube=(0.045, 0.036),
        tension=8,
    )
    _small_collar(t, shirt)
    s = shirt.cloth.canvas
    for part in shirt.parts:
        part.rgb, part.material = SOLE_WHITE, "cotton"
    if t("variant") > 0.4:
        tie = both(
            s.x - 0.014 - 0.05 * np.maximum(0.98 - s.torso, 0), _on_front(s), band(s.torso, 0.25, 1.07)
        )
        dark = ((0.45, 0.05, 0.08), (0.07, 0.09, 0.25), (0.06, 0.06, 0.06))[int(t("sleeve") * 2.99)]
        shirt.add("tie", tie, 0.004, dark, "satin")
        knot = both(s.x - 0.016, _on_front(s), band(s.torso, 1.00, 1.07))
        shirt.add("tie", knot, 0.012, dark, "satin")
    return [*_trousers(t, "suit", high=0.12), *shirt.parts, *_blazer(t, "suit")]


def _vest(t: _Tailor) -> list[_Part]:
    """A waistcoat with buttons, or a quilted one with a zip."""
    quilted = t("variant") > 0.6
    low = t.between("length", 0.10, -0.06)
    line = (lambda s: collar_line(s, 0.03)) if quilted else (lambda s: neckline(s, 0.085, 0.26, 0.02, 1.15))
    top = _top(
        t,
        "vest",
        offset=0.020 if quilted else 0.014,
        neck=line,
        arm=0.1,
        low=low,
        loose=0.8 if quilted else 0.2,
        folds=0.004,
        tension=8,
        relief=(lambda s: _quilt(s, 0.008)) if quilted else None,
    )
    if quilted:
        _zip(t, top, low)
    else:
        s = top.cloth.canvas
        top.add(
            "vest", both(band(s.place[:, 0], -0.003, 0.022), _on_front(s), hem(s, low + 0.01), line(s)), 0.003
        )
        _buttons(t, top, [0.58, 0.46, 0.34, 0.22], 0.007)
    return top.parts


def _quilt(s: Canvas, depth: float) -> Array:
    """Bulges between seams around the limbs, 7 cm apart."""
    return depth * (np.sqrt(np.abs(np.sin(np.pi * s.length / 0.07))) - 0.5)


def _ski_suit(t: _Tailor) -> list[_Part]:
    """Bulky, quilted, in one piece, with a high collar, a zip and stripes."""
    top = _top(
        t,
        "ski suit",
        offset=0.030,
        neck=lambda s: collar_line(s, 0.055),
        arm=1.99,
        low=0.0,
        loose=t.between("loose", 0.4, 0.8),
        tube=(0.072, 0.058),
        folds=0.008,
        wave=0.11,
        tension=10,
        relief=lambda s: _quilt(s, 0.006 + 0.006 * t("folds")),
        legs=(2.06, 0.098, 0.088),
    )
    s = top.cloth.canvas
    _zip(t, top, 0.0, 1.25)
    accent = (0.10, 0.10, 0.11) if sum(t.rgb) > 1.2 else (0.85, 0.85, 0.84)
    if t("variant") > 0.35:
        top.add("stripe", both(on(s, ARM), band(s.arm, 0.55, 0.75)), 0.002, accent)
        top.add("stripe", both(on(s, TRUNK), band(s.torso, 0.86, 0.93)), 0.002, accent)
    top.add("cuff", both(on(s, ARM), band(s.arm, 1.90, 2.0)), 0.001, accent)
    return top.parts


def _jumpsuit(t: _Tailor) -> list[_Part]:
    """Trousers and top in one, with a belt or a seam at the waist."""
    short = t("sleeve")
    arm = 0.1 if short < 0.3 else 0.6 if short < 0.6 else 1.95
    top = _top(
        t,
        "jumpsuit",
        offset=0.012,
        neck=_round_neck(t, 1.0),
        arm=arm,
        low=0.0,
        loose=0.0,
        tube=(0.058, 0.046) if arm > 0.3 else None,
        folds=0.010,
        tension=8,
        legs=(t.between("length", 1.8, 2.08), 0.075 + 0.02 * t("loose"), 0.055 + 0.05 * t("flare")),
    )
    if t("variant") > 0.4:
        figure = t.figure
        high = _torso_height(figure, 0.40)
        fall = _fall(figure, high + 0.03 * t.scale, high - 0.10 * t.scale, 0.018, rows=8)
        top.parts.append(_Part(_hoop(t, fall, high, high - 0.04 * t.scale, 0.004), "belt", t.shade(0.6)))
    else:
        _zip(t, top, 0.1)
    return top.parts


# --- More trousers ---------------------------------------------------------------------------------------


def _trousers(t: _Tailor, name: str, end: float | None = None, high: float = 0.30) -> list[_Part]:
    """Narrow to wide legs, a waistband; jeans also have pockets and a button."""
    s = canvas("lower")
    wide = t("loose")
    end = end or 1.99 + 0.06 * t("length")
    at_hem = (0.048 if wide < 0.25 else 0.058 if wide < 0.75 else 0.085) + 0.05 * t("flare") ** 3
    offset = 0.009 if name != "jeans" else 0.008
    base = drape(s, t.figure, offset, 5, (_leg_tube(0.066 + 0.016 * wide, at_hem),))
    crease = np.zeros_like(s.leg)
    if name in ("trousers", "suit"):
        at_front = np.minimum(s.turn, 1 - s.turn)
        crease = 0.006 * np.where(
            s.kind == LEG, np.maximum(1 - at_front / 0.05, 0) * smoothstep(s.leg, 0.1, 0.5), 0
        )
    cloth = base.lifted(_leg_folds(t, s, 0.013 if name == "jeans" else 0.009) + crease)
    field = both(waist(s, high), leg(s, end))
    top = _Top(cloth, field, [_Part(cut(cloth, field), name)])
    if name == "suit":
        return top.parts
    top.add(name, both(band(s.torso, high - 0.08, high + 0.005), on(s, TRUNK)), 0.002, t.shade(0.88))
    if name == "jeans":
        behind = np.where(s.place[:, 1] > 0.02, -1.0, 1.0)
        for side in (-1, 1):
            patch = both(band(s.place[:, 0] * side, 0.035, 0.125), behind, band(s.torso, -0.14, 0.06))
            top.add(name, patch, 0.003, t.shade(0.92))
    if name in ("jeans", "shorts") or t("variant") > 0.6:
        fly = both(band(s.place[:, 0], -0.002, 0.022), _on_front(s), band(s.torso, -0.05, high - 0.08))
        top.add(name, fly, 0.0025)
    _buttons(t, top, [high - 0.04], 0.007)
    return top.parts


def _shorts(t: _Tailor) -> list[_Part]:
    """From short shorts to the knee."""
    s = canvas("lower")
    end = t.between("length", 0.30, 1.0)
    base = drape(s, t.figure, 0.010, 5, (_leg_tube(0.10 + 0.02 * t("loose"), 0.10, 0.05),))
    cloth = base.lifted(_leg_folds(t, s, 0.010))
    field = both(waist(s, 0.28), leg(s, end))
    top = _Top(cloth, field, [_Part(cut(cloth, field), "shorts")])
    top.add("shorts", both(band(s.torso, 0.20, 0.28), on(s, TRUNK)), 0.002, t.shade(0.88))
    top.add("shorts", both(on(s, LEG), band(s.leg, end - 0.07, end + 0.01)), 0.002)
    return top.parts


def _dungarees(t: _Tailor) -> list[_Part]:
    """Trousers with a bib and straps, over a top."""
    parts = _trousers(t, "jeans", high=0.40)
    s = canvas("upper")
    cloth = drape(s, t.figure, 0.020, 8)
    # The bib narrows upwards; the straps go over the shoulders and cross to the waist behind.
    bib = both(s.x - (0.105 - 0.03 * smoothstep(s.torso, 0.4, 0.8)), _on_front(s), band(s.torso, 0.30, 0.80))
    behind = smoothstep(s.place[:, 1], -0.03, 0.06)
    line = 0.078 - 0.055 * behind * smoothstep(-s.torso, -1.1, -0.45)
    strap = both(
        band(s.x, line - 0.015, line + 0.015), 0.36 - s.torso, np.where(behind < 0.2, 0.77 - s.torso, -1.0)
    )
    top = _Top(cloth, bib, parts)
    top.add("dungarees", bib, 0.0)
    top.add("dungarees", strap, 0.003)
    pocket = both(s.x - 0.05, _on_front(s), band(s.torso, 0.52, 0.70))
    top.add("dungarees", pocket, 0.004, t.shade(0.9))
    for part in top.parts:
        part.name = "dungarees"
    for side in (-1, 1):
        _buttons(t, top, [0.77], 0.010, 0.075 * side)
    return top.parts


# --- Accessories -----------------------------------------------------------------------------------------


def _gloves(t: _Tailor, name: str, start: float) -> list[_Part]:
    """From the fingers to a level of the arm."""
    s = canvas("hands")
    folds = wrinkles(s, t.rng, 0.05, 0.003 * np.where(s.arm < 1.95, 1.0, 0.0) * (start < 1.5))
    cloth = drape(s, t.figure, 0.002, 1).lifted(folds)
    top = _Top(cloth, [start - s.arm], [_Part(cut(cloth, [start - s.arm]), name)])
    top.add(name, band(s.arm, start - 0.01, start + 0.06), 0.002)
    return top.parts


def _belt(t: _Tailor) -> list[_Part]:
    """A belt over whatever is below it, with a buckle."""
    figure = t.figure
    high = _torso_height(figure, 0.28)
    fall = _fall(figure, high + 0.04 * t.scale, high - 0.12 * t.scale, 0.017, rows=8)
    wide = t.between("length", 0.025, 0.05)
    belt = _hoop(t, fall, high, high - wide * t.scale, 0.003)
    front = belt.vertices[np.abs(belt.vertices[:, 0]).argsort()[:40]]
    front = front[front[:, 1].argmin()]
    centre = np.array([0, front[1], high - wide * t.scale / 2], np.float32)
    half = wide * 0.62 * np.array([[-1.0, 1], [1, 1], [1, -1], [-1, -1]]) * t.scale
    ring = np.stack([half[:, 0], np.zeros(4), half[:, 1]], 1)
    ahead = np.array([0, -0.007 * t.scale, 0])
    rows = (
        centre + np.stack([ring * 0.55 + ahead * 0.6, ring * 0.6 + ahead, ring + ahead, ring * 1.0 - ahead])
    )[:, ::-1]
    rows = rows[..., ::1].astype(np.float32)
    anchors, share = same_anchors(figure, rows, canvas("upper").index)
    return [_Part(belt, "belt"), _Part(grid(rows[:, ::-1], anchors, share), "buckle", METAL, "metallic")]


def _necklace(t: _Tailor) -> list[_Part]:
    """A chain or pearls, with a pendant now and then."""
    s = canvas("upper")
    cloth = drape(s, t.figure, 0.006, 3)
    line = neckline(s, 0.072, t.between("length", 0.055, 0.16), 0.012, 1.6)
    count = 96
    ring = smooth_ring(ordered_ring(s, line, count)(cloth.points).T, 12).T
    size = t.between("loose", 0.002, 0.006)
    bead = size * (0.75 + 0.25 * np.cos(np.arange(count) * 2 * np.pi / count * 48)) if size > 0.0035 else size
    bead = np.broadcast_to(bead, count)
    zero = np.zeros(count)
    parts = [_Part(_tube_around_neck(t, ring, bead, bead, zero, zero, 6), "necklace")]
    if t("variant") > 0.5:
        low = ring[0]
        pendant = _disc(
            t, low - np.array([0, 0.004, 0.012]) * t.scale, unit(np.array([0, -1, 0.25])), 0.011, 0.005
        )
        parts.append(_Part(pendant, "necklace"))
    return parts


def _scarf(t: _Tailor) -> list[_Part]:
    """Two turns around the neck; an end hangs in front."""
    s = canvas("upper")
    cloth = drape(s, t.figure, 0.030, 6)
    parts = []
    phi = np.arange(64) * 2 * np.pi / 64
    for k, (half, rise) in enumerate(((0.082, 0.012), (0.072, 0.034))):
        ring = ordered_ring(s, neckline(s, half, 0.075 - 0.015 * k, 0.02), 64)(cloth.points)
        wave = 0.004 * np.sin(7 * phi + 9 * t("phase") + k) + 0.003 * np.sin(11 * phi + 5 * k)
        wide, high = 0.026 + wave, 0.024 + wave[::-1] + 0.006 * np.cos(phi + k)
        tube = _tube_around_neck(
            t, ring, wide, high, -0.004 * np.ones(64), rise + 0.006 * np.sin(2 * phi + k), 16
        )
        parts.append(_Part(tube, "scarf"))
    folds = 0.006 * np.sin(s.place[:, 0] * 2 * np.pi / 0.035 + 3 * np.sin(s.length * 7))
    top = _Top(cloth.lifted(folds), [s.x], parts)
    side = 1 if t("variant") > 0.5 else -1
    end = t.between("length", 0.25, 0.65)
    place = s.place[:, 0] * side
    for low, shift in ((end, 0.0), (end + 0.12, -0.055)):
        hanging = both(band(place - shift, 0.015, 0.085), _on_front(s), band(s.torso, low, 1.06))
        top.add("scarf", hanging, 0.004 if shift else 0.010)
    return top.parts


@dataclass
class _Crown:
    """The hull of the skull above the brow: rows [L,K,3] from the crown down, and the scalp's vertices."""

    rows: Array
    centres: Array
    scalp: Ints


def _crown(t: _Tailor, ease: float, low: float, tall: float = 0.0) -> _Crown:
    """`ease` metres off the skull, down to `low` metres above the eyes (lower behind), `tall` metres
    taller."""
    figure, scale = t.figure, t.scale
    _, regions = package_mesh()
    model = template().vertices
    eye, top = 0.754, model[:, 2].max()
    head = np.flatnonzero((regions == HEAD) & (model[:, 2] > eye - 0.05) & (np.abs(model[:, 0]) < 0.081))
    points = figure.vertices[head].copy()
    tilt = 0.30
    middle = (points[:, 1].min() + points[:, 1].max()) / 2
    points[:, 2] += tilt * (points[:, 1] - middle)
    # The size of the head does not follow that of the body (children).
    crown = points[:, 2].max()
    near_eyes = np.abs(model[head, 2] - eye) < 0.006
    size = (figure.vertices[head, 2].max() - figure.vertices[head[near_eyes], 2].mean()) / (top - eye)
    brow = crown - (top - eye - low + 0.005) * size
    u = np.linspace(0, 1, 18)
    levels = (
        crown - 0.006 * size - (crown - brow - 0.006 * size) * (1 - np.cos(u * np.pi / 2)) ** 0.8
    ).astype(np.float32)
    centres, radii = slice_hulls(points, levels, 0.009 * size, 48)
    radii = smooth_levels(smooth_ring(radii, 2), 1)
    radii = np.maximum.accumulate(radii, 0) + ease * scale
    grown = levels + (ease + tall * (1 - u) ** 0.5) * scale * (1 - u) ** 0.6
    # A dome over the first slice.
    dome = np.array([0.10, 0.40, 0.68, 0.88], np.float32)
    radii = np.concatenate([radii[:1] * dome[:, None], radii])
    grown = np.concatenate([grown[0] + 0.16 * radii[4].mean() * (np.sqrt(1 - dome**2)), grown])
    centres = np.concatenate([centres[:1].repeat(4, 0), centres])
    rows = stack(grown.astype(np.float32), centres, radii)
    rows[..., 2] -= tilt * (rows[..., 1] - middle)
    covered = head[points[:, 2] > brow + 0.012 * size]
    return _Crown(rows, centres, covered)


def _head_sheet(t: _Tailor, rows: Array, crown: _Crown, **options: object) -> Sheet:
    rows = rows.astype(np.float32)
    anchors, share = same_anchors(t.figure, rows, crown.scalp)
    sheet = grid(rows, anchors, share, **options)  # type: ignore[arg-type]
    sheet.hidden[crown.scalp] = True
    return sheet


def _flat_out(points: Array) -> Array:
    """Horizontal unit vectors [K,3] away from the middle of a ring [K,3]."""
    away = points - points.mean(0)
    away[:, 2] = 0
    return unit(away)


def _beanie(t: _Tailor) -> list[_Part]:
    """A ribbed knit cap with a turned-up band; a bobble now and then."""
    crown = _crown(t, 0.013, 0.025, 0.02 + 0.04 * t("loose") ** 2)
    phi = np.arange(48) * 2 * np.pi / 48
    rib = 0.0012 * np.cos(16 * phi)[:, None] * t.scale
    rows = crown.rows.copy()
    for row in rows[3:]:
        row += _flat_out(row) * rib
    hem = rows[-1] - _flat_out(rows[-1]) * 0.010 * t.scale
    parts = [_Part(_head_sheet(t, np.concatenate([rows, hem[None]]), crown, caps="top"), "beanie")]
    out = _flat_out(rows[-1])
    up = np.array([0, 0, 1.0])
    steps = ((0.045, -0.006), (0.046, 0.004), (0.022, 0.0065), (0.0, 0.004), (-0.004, -0.003))
    cuff = np.stack([rows[-1] + (out * o + up * u) * t.scale + 1.5 * rib * out * (o > 0) for u, o in steps])
    parts.append(_Part(_head_sheet(t, cuff, crown), "beanie", t.shade(0.88)))
    if t("variant") > 0.65:
        centre = rows[0].mean(0) + np.array([0, 0, 0.02]) * t.scale
        lat = np.linspace(0.15, np.pi - 0.1, 8)[:, None, None]
        ways = compass(48)[None]
        ball = np.concatenate([np.sin(lat) * ways, np.broadcast_to(np.cos(lat), (8, 48, 1))], -1)
        ball = centre + ball * t.scale * (0.028 + 0.003 * np.sin(9 * phi)[None, :, None])
        parts.append(_Part(_head_sheet(t, ball, crown, caps="top"), "bobble", SOLE_WHITE, "wool"))
    return parts


def _cap(t: _Tailor) -> list[_Part]:
    """A baseball cap."""
    crown = _crown(t, 0.013, 0.032, 0.012)
    rows = crown.rows
    hem = rows[-1] - _flat_out(rows[-1]) * 0.010 * t.scale
    parts = [_Part(_head_sheet(t, np.concatenate([rows, hem[None]]), crown, caps="top"), "cap")]
    ring = rows[-1]
    reach = np.arange(-8, 9)
    base = ring[reach % 48] - _flat_out(ring)[reach % 48] * 0.006 * t.scale
    across = np.cos(reach / 8 * np.pi / 2)
    ahead = np.stack([0 * across, -0.078 * across**0.7, -0.018 * across**0.7 - 0.006 * across], 1) * t.scale
    droop = np.stack([0 * across, 0 * across, -0.014 * (reach / 8) ** 2], 1) * t.scale
    thick = np.array([0, 0, 0.004]) * t.scale
    top_side = [base + thick + f * ahead + f * droop for f in (0.0, 0.35, 0.7, 1.0)]
    low_side = [base - thick + f * ahead + f * droop for f in (1.0, 0.5, 0.0)]
    visor = np.stack([*top_side, *low_side])
    parts.append(
        _Part(
            _head_sheet(t, visor, crown, closed=False), "visor", t.shade(0.8) if t("variant") > 0.5 else None
        )
    )
    return parts


def _hat(t: _Tailor) -> list[_Part]:
    """A hat with a brim and a band."""
    crown = _crown(t, 0.013, 0.030, 0.05)
    rows = crown.rows.copy()
    pinch = (
        bump(rows[..., 0] / t.scale, 0, 0.025)
        * smoothstep(-np.linspace(0, 1, len(rows)), -0.5, -0.1)[:, None]
    )
    rows[..., 2] -= 0.02 * t.scale * pinch
    ring, out = rows[-1], _flat_out(rows[-1])
    wide = t.between("flare", 0.045, 0.075) * t.scale
    curl = np.abs(out[:, :1]) ** 2 * np.array([0, 0, 0.014]) * t.scale
    thick = np.array([0, 0, 0.004]) * t.scale
    brim = [
        ring - out * 0.004,
        ring + out * wide * 0.5 + curl * 0.3 + thick,
        ring + out * wide + curl + thick,
    ]
    brim += [ring + out * wide + curl - thick, ring - thick - out * 0.012 * t.scale]
    band_rows = np.stack([rows[k] + out * 0.003 * t.scale for k in (-4, -3, -2, -1)])
    return [
        _Part(_head_sheet(t, rows, crown, caps="top"), "hat"),
        _Part(_head_sheet(t, np.stack(brim), crown), "hat"),
        _Part(_head_sheet(t, band_rows, crown), "band", t.shade(0.4)),
    ]


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
    "t-shirt": _t_shirt,
    "tank top": _tank_top,
    "polo shirt": _polo,
    "shirt": lambda t: _shirt(t, "shirt"),
    "blouse": lambda t: _shirt(t, "blouse"),
    "hoodie": _hoodie,
    "jacket": lambda t: _jacket(t, "jacket"),
    "leather jacket": lambda t: _jacket(t, "leather jacket"),
    "blazer": lambda t: _blazer(t, "blazer"),
    "suit": _suit,
    "vest": _vest,
    "ski suit": _ski_suit,
    "jumpsuit": _jumpsuit,
    "dungarees": _dungarees,
    "trousers": lambda t: _trousers(t, "trousers"),
    "jeans": lambda t: _trousers(t, "jeans"),
    "shorts": _shorts,
    "leggings": _leggings,
    "gloves": lambda t: _gloves(t, "gloves", 1.86),
    "long gloves": lambda t: _gloves(t, "long gloves", t.between("length", 0.6, 1.1)),
    "belt": _belt,
    "necklace": _necklace,
    "scarf": _scarf,
    "cap": _cap,
    "beanie": _beanie,
    "hat": _hat,
    "boots": _boots,
    "shoes": _shoes,
    "sneakers": _sneakers,
    "high heels": _high_heels,
    "sandals": _sandals,
}
"""The garments that `build` can draw."""
