"""Cloth that fits any body: shells of its surface, stacks of its horizontal hulls, tubes along curves.

A `Canvas` is a part of the package's body, subdivided once. Its coordinates (how far down the arm, the leg,
the trunk) are those of the template, so a garment's outline is a level set of them that fits every body.
`drape` lifts a canvas off the skin, `cut` keeps the side of a level set where it is negative, with clean hems
that go back to the skin. Cloth that hangs free (skirts) or that bridges much (shoes, hats) follows the convex
hulls of slices of the body instead: `slice_hulls`, `grid`.

Lengths are metres on the template (1.73 m); every function scales them with the height of the body it is
given.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import TypeVar

import numpy as np
from mesh_kernels import unit_normals, unwrapped_uv
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree

from specularip.body.anny import AnnyModel
from specularip.body.phenotype import Phenotype
from specularip.body.regions import (
    FOOT,
    HAND,
    HEAD,
    HIPS,
    LOWER_ARM,
    LOWER_LEG,
    NECK,
    TORSO,
    UPPER_ARM,
    UPPER_LEG,
)

Array = NDArray[np.floating]
Ints = NDArray[np.int64]
Mask = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)

TRUNK, ARM, LEG = 0, 1, 2
"""The kinds of limb whose coordinates a vertex uses; head and neck count as trunk."""
_TRUNK_AXIS = np.array([0, -0.035, 0], np.float32)
"""The middle of the trunk on the template."""
_GIRTH = np.array([0.90, 0.30, 0.45], np.float32)
"""Girths of trunk, arm and leg in metres, only for texture coordinates."""


@dataclass(frozen=True)
class Figure:
    """One unposed body as numpy arrays: vertices, normals [12488,3]; joints by name; scale to the
    template."""

    vertices: Array
    normals: Array
    joints: dict[str, Array]
    scale: float

    @cached_property
    def _trees(self) -> dict[int, tuple[Ints, cKDTree]]:
        return {}

    def tree(self, candidates: Ints) -> cKDTree:
        """Finds the nearest of some vertices, given as the same array every time."""
        if id(candidates) not in self._trees:
            self._trees[id(candidates)] = candidates, cKDTree(self.vertices[candidates])
        return self._trees[id(candidates)][1]

    def joint(self, name: str) -> Array:
        """A joint of the trunk, or the middle of a left and a right joint."""
        if name in self.joints:
            return self.joints[name]
        return (self.joints[f"{name}.L"] + self.joints[f"{name}.R"]) / 2


@cache
def template() -> Figure:
    """The default adult, on whose proportions all cuts are defined."""
    body = AnnyModel.load("cpu").body(Phenotype())
    joints = {name: joint for name, joint in zip(body.joint_names, body.joints.numpy())}
    return Figure(body.vertices.numpy(), body.vertex_normals.numpy(), joints, 1.0)


@cache
def package_mesh() -> tuple[Ints, Ints]:
    """Faces [24864,3] and regions [12488] of the package's body."""
    model = AnnyModel.load("cpu")
    return model.faces.numpy(), model.regions.numpy()


@dataclass(frozen=True)
class Sheet:
    """A piece of cloth: vertices, outward normals and threads (downwards) [n,3]; faces [m,3]; uv [n,2],
    metres, and the girth [n] after which u starts anew. Vertex i moves with the body's vertices anchors[i] =
    (a, b), by shares 1 - share[i] and share[i]. hidden [12488]: the body's vertices that the sheet surely
    covers. falls: it hangs around the trunk or both legs (a skirt, a belt), not along the skin."""

    vertices: Array
    threads: Array
    faces: Ints
    uv: Array
    girth: Array
    anchors: Ints
    share: Array
    hidden: Mask
    falls: bool = False

    def face_uv(self) -> Array:
        """Texture coordinates of the corners of the faces, [m,3,2], without jumps at the seam."""
        return unwrapped_uv(self.uv.astype(np.float32), self.girth.astype(np.float32), self.faces)


def join(sheets: list[Sheet]) -> Sheet:
    """Several sheets as one."""
    starts = np.cumsum([0, *(len(s.vertices) for s in sheets)])[:-1]
    stacked = {
        name: np.concatenate([getattr(s, name) for s in sheets])
        for name in ("vertices", "threads", "uv", "girth", "anchors", "share")
    }
    faces = np.concatenate([s.faces + start for s, start in zip(sheets, starts)])
    hidden = np.logical_or.reduce([s.hidden for s in sheets])
    return Sheet(**stacked, faces=faces, hidden=hidden, falls=any(s.falls for s in sheets))


def unit(x: Array) -> Array:
    """Vectors [...,3] of length 1."""
    return x / np.sqrt(np.maximum(np.einsum("...k,...k->...", x, x), 1e-18))[..., None]


def dot(a: Array, b: Array) -> Array:
    """Products [n] of vectors [n,3]."""
    return np.einsum("nk,nk->n", a, b)


def smoothstep(x: Array | float, low: float, high: float) -> Array:
    """0 at low, 1 at high, smooth between."""
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def bump(x: Array, centre: float, width: float) -> Array:
    """A bell of height 1."""
    return np.exp(-(((x - centre) / width) ** 2))


# --- Canvases -----------------------------------------------------------------------------------------


def _along(points: Array, chain: list[Array]) -> Array:
    """0 at the first of three joints, 1 at the second, 2 at the third, going on beyond both ends."""
    a, b, c = chain
    first = (points - a) @ (b - a) / ((b - a) @ (b - a))
    second = (points - b) @ (c - b) / ((c - b) @ (c - b))
    return np.where(first < 1, first, 1 + np.maximum(second, 0)).astype(np.float32)


def limb_chain(figure: Figure, kind: int, side: str) -> list[Array]:
    """Shoulder, elbow, wrist or hip, knee, ankle."""
    names = ("upperarm01", "lowerarm01", "wrist") if kind == ARM else ("upperleg02", "lowerleg01", "foot")
    return [figure.joints[f"{name}.{side}"] for name in names]


def _limb_axis(figure: Figure, kind: int, side: str, along: Array) -> tuple[Array, Array]:
    """Points of the bones at `along`, and the bones' directions."""
    a, b, c = limb_chain(figure, kind, side)
    t = along[:, None]
    point = np.where(t < 1, a + (b - a) * t, b + (c - b) * (t - 1))
    return point.astype(np.float32), np.where(t < 1, unit(b - a), unit(c - b)).astype(np.float32)


@dataclass(frozen=True)
class Canvas:
    """A part of the body: c of its vertices, and n fine ones (the same c, then midpoints of the edges).

    index [c]; average [c,c] means of neighbours; loop, middle [n,c] refine by Loop's rule and linearly; faces
    [m,3] of the fine mesh; anchors [n,2]; kind [n] of limb. The coordinates, all [n] on
    the template: arm, leg (0 shoulder or hip, 1 elbow or knee, 2 wrist or ankle; 0 elsewhere), torso (0 hip
    joints, 1 shoulder joints), place [n,3]; turn, 0..1 around the limb, from its front; length, metres down
    the limb."""

    index: Ints
    average: sparse.csr_matrix
    loop: sparse.csr_matrix
    middle: sparse.csr_matrix
    faces: Ints
    anchors: Ints
    kind: Ints
    arm: Array
    leg: Array
    torso: Array
    place: Array
    normal: Array
    turn: Array
    length: Array

    @cached_property
    def edges(self) -> Ints:
        """Pairs of fine vertices [e,2]."""
        pairs = np.sort(np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]]]), 1)
        return np.unique(pairs, axis=0)

    @cached_property
    def left(self) -> Mask:
        return self.place[:, 0] > 0

    @cached_property
    def overhang(self) -> Array:
        """1 on the front of the chest, 0 elsewhere [c]."""
        chest = bump(self.torso, 0.66, 0.17) * self.front * smoothstep(-self.x, -0.17, -0.13)
        return self.coarse(np.where(self.kind == TRUNK, chest, 0)).astype(np.float32)

    @cached_property
    def x(self) -> Array:
        """Distance from the middle plane."""
        return np.abs(self.place[:, 0])

    @cached_property
    def front(self) -> Array:
        """1 on the front of the trunk, 0 on its back."""
        return smoothstep(-self.normal[:, 1], -0.3, 0.3)

    def coarse(self, values: NDArray[T]) -> NDArray[T]:
        """Values [c,...] of the coarse vertices, of values of the fine ones."""
        return values[: len(self.index)]

    def normals(self, points: Array) -> Array:
        """Vertex normals of fine points [n,3]."""
        return unit_normals(points, self.faces)


_UPPER = (NECK, TORSO, UPPER_ARM, LOWER_ARM, HIPS)
_LOWER = (HIPS, UPPER_LEG, LOWER_LEG)


@cache
def canvas(name: str) -> Canvas:
    """One of "upper" (neck to hips, arms), "lower" (waist to ankles), "whole" (both), "hands" (with the
    arms)."""
    faces, regions = package_mesh()
    figure = template()
    points = figure.vertices
    kind = np.full(len(points), TRUNK)
    kind[np.isin(regions, (UPPER_ARM, LOWER_ARM, HAND))] = ARM
    kind[np.isin(regions, (UPPER_LEG, LOWER_LEG, FOOT))] = LEG
    arm, leg = np.zeros(len(points), np.float32), np.zeros(len(points), np.float32)
    for side, on_side in (("L", points[:, 0] > 0), ("R", points[:, 0] <= 0)):
        for field, limb in ((arm, ARM), (leg, LEG)):
            along = _along(points, limb_chain(figure, limb, side))
            field[:] = np.where(on_side, np.where(kind == limb, along, np.minimum(along, 0.1)), field)
    hip, shoulder = figure.joint("upperleg01")[2], figure.joint("upperarm01")[2]
    torso = (points[:, 2] - hip) / (shoulder - hip)
    wanted = {
        "upper": np.isin(regions, _UPPER)
        | ((regions == HAND) & (arm < 2.2))
        | ((regions == UPPER_LEG) & (leg < 0.3)),
        "lower": np.isin(regions, _LOWER)
        | ((regions == TORSO) & (torso < 0.75))
        | ((regions == FOOT) & (leg < 2.12)),
        "hands": np.isin(regions, (UPPER_ARM, LOWER_ARM, HAND)),
    }
    wanted["whole"] = wanted["upper"] | wanted["lower"]
    index = np.flatnonzero(wanted[name] & (regions != HEAD))
    local = np.full(len(points), -1)
    local[index] = np.arange(len(index))
    coarse_faces = local[faces]
    coarse_faces = coarse_faces[(coarse_faces >= 0).all(1)]
    # The hands are fine enough as they are.
    loop, middle, fine, pairs = _subdivide(coarse_faces, len(index), levels=0 if name == "hands" else 1)
    average = _adjacency(coarse_faces, len(index))
    average = sparse.diags(1 / np.maximum(average.sum(1).A1, 1)) @ average
    count = loop.shape[0]
    place = (middle @ points[index]).astype(np.float32)
    on = kind[index][pairs[:, 0]]
    turn, length = np.zeros(count, np.float32), np.zeros(count, np.float32)
    spread = {"arm": middle @ arm[index], "leg": middle @ leg[index], "torso": middle @ torso[index]}
    for limb in (TRUNK, ARM, LEG):
        for side in "LR":
            pick = (on == limb) & ((place[:, 0] > 0) == (side == "L"))
            if limb == TRUNK:
                axis = place[pick] * np.array([0, 0, 1], np.float32) + _TRUNK_AXIS
                length[pick] = shoulder - place[pick, 2]
            else:
                along = spread["arm" if limb == ARM else "leg"][pick]
                axis = _limb_axis(figure, limb, side, along)[0]
                length[pick] = along * 0.27 if limb == ARM else along * 0.42
            radial = place[pick] - axis
            turn[pick] = np.arctan2(radial[:, 0], -radial[:, 1]) / (2 * np.pi) % 1
    normal = unit(middle @ figure.normals[index])
    return Canvas(
        index=index,
        average=average.tocsr().astype(np.float32),
        loop=loop,
        middle=middle,
        faces=fine,
        anchors=index[pairs],
        kind=on,
        **{k: v.astype(np.float32) for k, v in spread.items()},
        place=place,
        normal=normal,
        turn=turn,
        length=length,
    )


def _adjacency(faces: Ints, count: int) -> sparse.csr_matrix:
    i = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    j = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    ones = np.ones(2 * len(i))
    graph = sparse.csr_matrix((ones, (np.r_[i, j], np.r_[j, i])), (count, count))
    graph.data[:] = 1
    return graph


def _subdivide(
    faces: Ints, count: int, levels: int
) -> tuple[sparse.csr_matrix, sparse.csr_matrix, Ints, Ints]:
    """Loop's and the linear refinement, the fine faces, and the pair of coarse vertices of each fine one."""
    eye = sparse.identity(count, dtype=np.float32, format="csr")
    if levels == 0:
        return eye, eye, faces, np.stack([np.arange(count)] * 2, 1)
    sides = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    opposite = np.concatenate([faces[:, 2], faces[:, 0], faces[:, 1]])
    edges, edge_of = np.unique(np.sort(sides, 1), axis=0, return_inverse=True)
    edge_of = edge_of.ravel()
    uses = np.bincount(edge_of, minlength=len(edges))
    inner = uses == 2
    m = len(edges)
    rows = np.arange(m)
    end = np.where(inner, 3 / 8, 1 / 2)
    edge_rule = sparse.csr_matrix(
        (
            np.concatenate([end, end, np.where(inner[edge_of], 1 / 8, 0)]),
            (np.concatenate([rows, rows, edge_of]), np.concatenate([edges[:, 0], edges[:, 1], opposite])),
        ),
        (m, count),
    )
    border = np.zeros(count, bool)
    border[edges[~inner].ravel()] = True
    graph = _adjacency(faces, count)
    degree = graph.sum(1).A1
    beta = np.where(border, 0, np.where(degree == 3, 3 / 16, 3 / (8 * np.maximum(degree, 1))))
    vertex_rule = sparse.diags(1 - beta * degree) + sparse.diags(beta) @ graph
    loop = sparse.vstack([vertex_rule, edge_rule]).tocsr().astype(np.float32)
    mean = sparse.csr_matrix((np.full(2 * m, 0.5), (np.r_[rows, rows], edges.T.ravel())), (m, count))
    middle = sparse.vstack([eye, mean]).tocsr().astype(np.float32)
    ab, bc, ca = (count + edge_of[k * len(faces) : (k + 1) * len(faces)] for k in range(3))
    a, b, c = faces.T
    fine = np.stack([[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]).transpose(0, 2, 1).reshape(-1, 3)
    pairs = np.concatenate([np.stack([np.arange(count)] * 2, 1), edges])
    return loop, middle, fine, pairs


# --- Shells -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drape:
    """A whole canvas as cloth on one figure: points, their normals, and skin [n,3] below them; threads
    [n,3]."""

    canvas: Canvas
    figure: Figure
    points: Array
    normals: Array
    skin: Array
    skin_normals: Array
    threads: Array

    def lifted(self, height: Array | float) -> Drape:
        """Moved outwards by `height` [n] metres."""
        lift = np.broadcast_to(np.asarray(height, np.float32), len(self.points)) * self.figure.scale
        return replace(self, points=self.points + self.normals * lift[:, None])

    def layer(self, height: Array | float) -> Drape:
        """A second layer `height` metres above the cloth, whose hems go back to the cloth."""
        return replace(self.lifted(height), skin=self.points, skin_normals=self.normals)


def drape(
    surface: Canvas,
    figure: Figure,
    offset: Array | float,
    tension: int = 3,
    tubes: tuple[tuple[int, Callable[[Array], Array]], ...] = (),
    hang: Callable[[Array], Array] | None = None,
) -> Drape:
    """Cloth `offset` [n] above the skin, spanned over hollows by `tension` rounds of averaging.

    tubes: (kind of limb, radius in metres as a function of the limb's coordinate) pairs that widen sleeves
    and trouser legs. hang: moves points [c,3] of the trunk outwards, for cloth that falls from the chest."""
    skin = figure.vertices[surface.index]
    average = surface.average
    normals = figure.normals[surface.index]
    for _ in range(4):
        normals = average @ normals
    normals = unit(normals)
    height = np.broadcast_to(np.asarray(offset, np.float32), len(surface.place))
    least = surface.coarse(height) * figure.scale
    points = skin + normals * least[:, None]
    kind = surface.coarse(surface.kind)
    left = surface.coarse(surface.left)
    for limb, radius in tubes:
        along = surface.coarse(surface.arm if limb == ARM else surface.leg)
        wanted = radius(along) * figure.scale
        for side, on_side in (("L", left), ("R", ~left)):
            pick = np.flatnonzero((kind == limb) & on_side & (wanted > 0))
            axis, way = _limb_axis(figure, limb, side, along[pick])
            radial = points[pick] - axis
            radial -= way * (radial * way).sum(1, keepdims=True)
            size = np.maximum(np.linalg.norm(radial, axis=1), 1e-6)
            points[pick] += radial * np.maximum(wanted[pick] / size - 1, 0)[:, None]
    if hang is not None:
        # The skin overhangs below the chest: cloth that hangs there is smoothed in all directions.
        relaxed = surface.overhang[:, None]
        for _ in range(3):
            for _ in range(3):
                points = points + relaxed * (average @ points - points)
            points = hang(points)
            lack = np.maximum(least - dot(points - skin, normals), 0)
            points = points + normals * lack[:, None]
    # Only along the normals: the levels of hems stay where they are.
    for _ in range(tension):
        tightened = dot(average @ points - points, normals)
        points = points + normals * np.maximum(tightened, 0.03 * tightened)[:, None]
    fine, fine_skin = surface.loop @ points, surface.middle @ skin
    fine_normals = unit(surface.middle @ normals)
    lack = np.maximum(0.8 * height * figure.scale - dot(fine - fine_skin, fine_normals), 0)
    fine = fine + fine_normals * lack[:, None]
    cloth_normals = surface.normals(fine)
    threads = _threads(surface, figure, cloth_normals)
    return Drape(surface, figure, fine, cloth_normals, fine_skin, fine_normals, threads)


@dataclass(frozen=True)
class _Clip:
    """Triangles cut along a line: faces over n old vertices and one new one for each cut edge (i, j), at
    share t [k,1] from i to j."""

    faces: Ints
    i: Ints
    j: Ints
    t: Array

    def extended(self, values: Array) -> Array:
        """Values [n,...] of the old vertices, with those of the new ones after them."""
        t = self.t if values.ndim > 1 else self.t[:, 0]
        return np.concatenate([values, values[self.i] * (1 - t) + values[self.j] * t])

    @property
    def nearest(self) -> Ints:
        """The old vertex nearest to each new one."""
        return np.where(self.t[:, 0] < 0.5, self.i, self.j)


def _clip(faces: Ints, field: Array) -> _Clip:
    """The side of the line where `field` [n] is negative."""
    n = len(field)
    field = np.where(np.abs(field) < 1e-6, 1e-6, field).astype(np.float32)
    kept = (field < 0)[faces]
    count = kept[:, 0].astype(np.int8) + kept[:, 1] + kept[:, 2]
    # Turn each cut triangle so that its odd corner comes first.
    some = (count == 1) | (count == 2)
    single = count[some] == 1
    triangles, odd = faces[some], kept[some] == single[:, None]
    first = np.where(odd[:, 0], 0, np.where(odd[:, 1], 1, 2))
    rows = np.arange(len(triangles))
    a, b, c = (triangles[rows, (first + k) % 3] for k in range(3))
    keys = np.concatenate([np.minimum(a, b) * n + np.maximum(a, b), np.minimum(a, c) * n + np.maximum(a, c)])
    unique, new = np.unique(keys, return_inverse=True)
    i, j = unique // n, unique % n
    ab, ac = n + new[: len(a)], n + new[len(a) :]
    pieces = [
        faces[count == 3],
        np.stack([a, ab, ac], 1)[single],
        np.stack([ab, b, c], 1)[~single],
        np.stack([ab, c, ac], 1)[~single],
    ]
    return _Clip(np.concatenate(pieces), i, j, (field[i] / (field[i] - field[j]))[:, None])


def _compact(faces: Ints, count: int) -> tuple[Ints, Ints]:
    """The vertices in use, out of `count`, and the faces with those numbered anew."""
    used = np.zeros(count, bool)
    used[faces.ravel()] = True
    number = np.cumsum(used) - 1
    return np.flatnonzero(used), number[faces]


def _rim(faces: Ints, old: int, count: int) -> tuple[Ints, Ints]:
    """The vertices [r] of the hems of faces whose vertices from `old` on lie on cuts, and the faces of a
    strip from copies of them (numbers from `count` on) to other copies (from count + r on)."""
    new = faces >= old
    faces = faces[(new[:, 0].astype(np.int8) + new[:, 1] + new[:, 2]) >= 2]
    a = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    b = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    both = (a >= old) & (b >= old)
    a, b = a[both], b[both]
    lone = ~np.isin(a * count + b, b * count + a)
    hem = np.stack([a[lone], b[lone]], 1)
    ring, place = np.unique(hem, return_inverse=True)
    place = place.reshape(hem.shape)
    (a, b), (c, d) = (count + place).T, (count + len(ring) + place).T
    return ring, np.concatenate([np.stack([b, a, d], 1), np.stack([d, a, c], 1)])


def cut(cloth: Drape, fields: list[Array], hides: bool = True) -> Sheet:
    """The part of the cloth where all `fields` [n] are negative. A hem is a straight cut through the
    triangles, closed by a strip that goes back to the skin."""
    surface = cloth.canvas
    old = len(surface.place)
    # A bit for each field that a vertex is outside of.
    outside = np.zeros(old, np.int32)
    for k, field in enumerate(fields):
        outside |= (field >= 0).astype(np.int32) << k
    a, b, c = (outside[surface.faces[:, k]] for k in range(3))
    crossed = (a | b | c) != 0
    whole, faces = surface.faces[~crossed], surface.faces[crossed & ((a & b & c) == 0)]
    values = [cloth.points, cloth.skin, cloth.skin_normals]
    source = np.arange(old)
    rest = list(fields)
    while rest:
        clip = _clip(faces, rest[0])
        faces = clip.faces
        values = [clip.extended(v) for v in values]
        rest = [clip.extended(v) for v in rest[1:]]
        source = np.concatenate([source, source[clip.nearest]])
    points, skin, normals = values
    ring, strip = _rim(faces, old, len(points))
    inner = skin[ring] - normals[ring] * np.float32(0.002 * cloth.figure.scale)
    points = np.concatenate([points, points[ring], inner])
    source = np.concatenate([source, source[ring], source[ring]])
    used, faces = _compact(np.concatenate([whole, faces, strip]), len(points))
    source = source[used]
    hidden = np.zeros(len(cloth.figure.vertices), bool)
    if hides:
        bare = surface.coarse(outside) != 0
        hidden[surface.index[~bare & ((surface.average @ bare.astype(np.float32)) == 0)]] = True
    pairs = surface.anchors[source]
    girth = _GIRTH[surface.kind[source]]
    return Sheet(
        vertices=points[used],
        threads=cloth.threads[source],
        faces=faces,
        uv=np.stack([surface.turn[source] * girth, -surface.length[source]], 1),
        girth=girth,
        anchors=pairs,
        share=np.where(pairs[:, 0] == pairs[:, 1], 0, 0.5).astype(np.float32),
        hidden=hidden,
    )


def cut_sheet(sheet: Sheet, fields: list[Array], thickness: float) -> Sheet:
    """The part of a sheet where all `fields` [n] are negative; its hems go `thickness` metres inwards."""
    faces, points, old = sheet.faces, sheet.vertices, len(sheet.vertices)
    source = np.arange(old)
    rest = list(fields)
    while rest:
        clip = _clip(faces, rest[0])
        faces, points = clip.faces, clip.extended(points)
        rest = [clip.extended(v) for v in rest[1:]]
        source = np.concatenate([source, source[clip.nearest]])
    normals = face_normals(points, faces)
    ring, strip = _rim(faces, old, len(points))
    points = np.concatenate([points, points[ring], points[ring] - normals[ring] * np.float32(thickness)])
    source = np.concatenate([source, source[ring], source[ring]])
    used, faces = _compact(np.concatenate([faces, strip]), len(points))
    source = source[used]
    picked = {name: getattr(sheet, name)[source] for name in ("threads", "uv", "girth", "anchors", "share")}
    return replace(sheet, vertices=points[used], faces=faces, **picked)


def face_normals(points: Array, faces: Ints) -> Array:
    """Vertex normals [n,3] of a mesh."""
    return unit_normals(np.ascontiguousarray(points, np.float32), faces)


def _threads(surface: Canvas, figure: Figure, normals: Array) -> Array:
    """Down the trunk and along the bones."""
    ways = np.zeros_like(normals)
    ways[:, 2] = -1
    for limb, along in ((ARM, surface.arm), (LEG, surface.leg)):
        for side, on_side in (("L", surface.left), ("R", ~surface.left)):
            a, b, c = limb_chain(figure, limb, side)
            pick = (surface.kind == limb) & on_side
            ways[pick & (along < 1)] = unit(b - a)
            ways[pick & (along >= 1)] = unit(c - b)
    return unit(ways - normals * dot(ways, normals)[:, None])


def wrinkles(surface: Canvas, rng: np.random.Generator, wavelength: float, strength: Array) -> Array:
    """Folds across the limbs, metres [n]: sharp ridges that wind around them, irregular in place and
    height."""
    turn, length = surface.turn * 2 * np.pi, surface.length
    limb = np.float32(2.1) * surface.kind + np.where(surface.left & (surface.kind != TRUNK), 1.3, 0)
    limb = limb.astype(np.float32)
    total = np.zeros_like(length)
    for _ in range(3):
        wave = wavelength * float(rng.uniform(0.75, 1.35))
        wind = int(rng.integers(-2, 3))
        phase, bend = rng.uniform(0, 2 * np.pi, 2).tolist()
        warp = 1.1 * np.sin(turn * int(rng.integers(1, 4)) + bend + limb) + 0.7 * np.sin(
            length * 19 + 2 * bend
        )
        ridge = 0.5 + 0.5 * np.sin(2 * np.pi * length / wave + wind * turn + warp + phase + 3 * limb)
        patchy = 0.5 + 0.5 * np.sin(turn * int(rng.integers(1, 3)) + phase + length * 11)
        total += ridge**2 * patchy
    return (total * strength / 1.6).astype(np.float32)


def ordered_ring(surface: Canvas, field: Array, count: int) -> Callable[[Array], Array]:
    """The closed line field = 0 around the neck, as a map from points [n,3] of the fine mesh to points
    [count,3] at even angles from the front."""
    i, j = surface.edges.T
    crossing = (field[i] < 0) != (field[j] < 0)
    i, j = i[crossing], j[crossing]
    t = (field[i] / (field[i] - field[j]))[:, None]
    place = surface.place[i] * (1 - t) + surface.place[j] * t
    centre = template().joint("neck01")
    angle = np.arctan2(place[:, 0], -(place[:, 1] - centre[1])) % (2 * np.pi)
    order = np.argsort(angle)
    i, j, t, angle = i[order], j[order], t[order], angle[order]
    even = np.arange(count) * 2 * np.pi / count

    def ring(points: Array) -> Array:
        line = points[i] * (1 - t) + points[j] * t
        return np.stack([np.interp(even, angle, line[:, k], period=2 * np.pi) for k in range(3)], 1)

    return ring


# --- Stacks of hulls ----------------------------------------------------------------------------------


def compass(count: int) -> Array:
    """Unit vectors in the plane [count,2]; the first faces forwards (-y), then towards +x."""
    angle = np.arange(count) * 2 * np.pi / count
    return np.stack([np.sin(angle), -np.cos(angle)], 1).astype(np.float32)


@cache
def _secants(count: int) -> Array:
    """1 / cos of the angles between the directions of a compass; huge beyond 75 degrees."""
    cos = compass(count) @ compass(count).T
    return np.where(cos > 0.25, 1 / np.maximum(cos, 0.25), 1e6).astype(np.float32)


def slice_hulls(points: Array, levels: Array, band: Array | float, count: int = 48) -> tuple[Array, Array]:
    """Centres [L,2] and radii [L,count], in the directions of compass(count), of the convex hulls of the
    points between levels - band and levels + band. A level without points takes the one before."""
    ways = compass(count)
    reach = points[:, :2] @ ways.T
    bands = np.broadcast_to(np.asarray(band, np.float32), levels.shape)
    support = np.zeros((len(levels), count), np.float32)
    for k, level in enumerate(levels):
        near = np.abs(points[:, 2] - level) < bands[k]
        support[k] = reach[near].max(0) if near.any() else support[k - 1]
    quarter = count // 4
    centres = (
        np.stack([support[:, quarter] - support[:, 3 * quarter], support[:, 2 * quarter] - support[:, 0]], 1)
        / 2
    )
    centres = smooth_levels(centres, 3)
    support = np.maximum(support - centres @ ways.T, 0.004)
    return centres, (support[:, None, :] * _secants(count)).min(-1)


def smooth_ring(radii: Array, rounds: int) -> Array:
    """Radii [L,K] averaged with their neighbours around the ring."""
    for _ in range(rounds):
        radii = (np.roll(radii, 1, -1) + 2 * radii + np.roll(radii, -1, -1)) / 4
    return radii


def smooth_levels(radii: Array, rounds: int) -> Array:
    """Radii [L,K] averaged with the levels above and below."""
    for _ in range(rounds):
        padded = np.concatenate([radii[:1], radii, radii[-1:]])
        radii = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4
    return radii


def finer_ring(radii: Array, factor: int) -> Array:
    """Radii [L,K] at K * factor directions."""
    share = np.arange(factor)[None, None] / factor
    return (radii[..., None] * (1 - share) + np.roll(radii, -1, -1)[..., None] * share).reshape(
        len(radii), -1
    )


def stack(levels: Array, centres: Array, radii: Array) -> Array:
    """Points [L,K,3] of rings at the levels [L] (or [L,K])."""
    ways = compass(radii.shape[1])
    flat = centres[:, None] + radii[..., None] * ways
    height = np.broadcast_to(levels.reshape(len(radii), -1), radii.shape)
    return np.concatenate([flat, height[..., None]], -1).astype(np.float32)


def grid(points: Array, anchors: Ints, share: Array | float, closed: bool = True, caps: str = "") -> Sheet:
    """A sheet from points [L,K,3], rows from the top down and columns to the right as seen from outside (with
    compass directions). closed: the last column meets the first. caps: "top", "bottom" or both close the
    ends. anchors [L,K,2] and share [L,K] as in Sheet."""
    rows, columns = points.shape[:2]
    number = np.arange(rows * columns).reshape(rows, columns)
    right = np.roll(number, -1, 1) if closed else number[:, 1:]
    here = number if closed else number[:, :-1]
    a, b, c, d = here[:-1], right[:-1], here[1:], right[1:]
    faces = [np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)]
    down = np.gradient(points, axis=0) if rows > 1 else np.zeros_like(points)
    side = np.linalg.norm(np.roll(points, -1, 1) - points, axis=-1)
    around = np.cumsum(side, 1) - side
    along = np.linalg.norm(np.diff(points, axis=0, prepend=points[:1]), axis=-1).cumsum(0)
    girth = np.broadcast_to(side.sum(1, keepdims=True) if closed else np.float32(1e3), (rows, columns))
    girth = np.broadcast_to(girth.mean(0, keepdims=True), (rows, columns))
    around = around / np.maximum(side.sum(1, keepdims=True), 1e-6) * girth[:, :1] if closed else around
    vertices, threads = points.reshape(-1, 3), down.reshape(-1, 3)
    uv = np.stack([around, -along], -1).reshape(-1, 2)
    pairs, part = anchors.reshape(-1, 2), np.broadcast_to(np.float32(share), (rows, columns)).reshape(-1)
    wide = girth.reshape(-1)
    for cap in caps.split():
        ring = number[0] if cap == "top" else number[-1]
        start = len(vertices)
        middle = vertices[ring].mean(0, keepdims=True)
        pick = np.r_[ring, ring[:1]]
        vertices = np.concatenate([vertices, vertices[ring], middle])
        threads = np.concatenate([threads, threads[pick]])
        uv = np.concatenate([uv, vertices[ring][:, :2], middle[:, :2]])
        pairs, part = np.concatenate([pairs, pairs[pick]]), np.concatenate([part, part[pick]])
        wide = np.concatenate([wide, np.full(columns + 1, 1e3)])
        i = start + np.arange(columns)
        j = start + (np.arange(columns) + 1) % columns
        hub = np.full(columns, start + columns)
        faces.append(np.stack([hub, i, j] if cap == "top" else [hub, j, i], 1))
    return Sheet(
        vertices=vertices.astype(np.float32),
        threads=unit(threads).astype(np.float32),
        faces=np.concatenate(faces),
        uv=uv.astype(np.float32),
        girth=wide.astype(np.float32),
        anchors=pairs,
        share=part.astype(np.float32),
        hidden=np.zeros(len(template().vertices), bool),
    )


@cache
def _landmark_rings() -> tuple[Array, Ints]:
    """Heights of rows of template vertices, falling, and the vertices [R,2] (left, right) at the outer sides
    of the trunk and the legs there."""
    _, regions = package_mesh()
    points = template().vertices
    usable = np.isin(regions, (TORSO, HIPS, UPPER_LEG, LOWER_LEG))
    heights = np.linspace(0.55, -0.78, 40)
    rows = []
    for height in heights:
        near = np.flatnonzero(usable & (np.abs(points[:, 2] - height) < 0.03) & (points[:, 0] > 0))
        left = near[points[near, 0].argmax()]
        mirrored = points[left] * np.array([-1, 1, 1])
        rows.append((left, np.linalg.norm(points - mirrored, axis=1).argmin()))
    return heights.astype(np.float32), np.array(rows)


def side_anchors(figure: Figure, points: Array) -> tuple[Ints, Array]:
    """Anchors [...,2] and shares [...] of points [...,3] that hang around the trunk or both legs: the outer
    sides of the left and of the right, blended across."""
    _, rows = _landmark_rings()
    heights = figure.vertices[rows].mean(1)[:, 2]
    row = np.abs(points[..., 2, None] - heights).argmin(-1)
    half = np.maximum(np.abs(points[..., 0]).max(), 1e-3)
    return rows[row], (1 - smoothstep(points[..., 0] / half, -0.9, 0.9)).astype(np.float32)


def same_anchors(figure: Figure, points: Array, candidates: Ints) -> tuple[Ints, float]:
    """The nearest of the candidate vertices to each of points [...,3], as pairs."""
    nearest = candidates[figure.tree(candidates).query(points.reshape(-1, 3))[1]]
    return np.stack([nearest, nearest], -1).reshape(*points.shape[:-1], 2), 0.0
