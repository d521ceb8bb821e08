"""Dressed people as triangle meshes: body, eyes, hair and clothes of a `Person`, ready to be rendered.

Everything is fitted to the unposed body: skin, MakeHuman's clothes and hair (`assets`), garments drawn by
program (`garments`). Layers are then kept in order, from the skin outwards, by a height field on the skin: a
vertex of a layer may not lie below the highest point of the layers inside it. Last, all is bent together by
linear blend skinning, so cloth follows the arms.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from assets import Assets, Fitted
from garments import DRAWN, BodyFrame, build
from mesh_kernels import (
    blended,
    compacted,
    filled,
    grown,
    interior,
    moved,
    shown,
    smoothed,
    strand_directions,
    turned,
    vertex_normals,
)
from people import HATS, Person, Piece
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, minimum_filter
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import normalize

from specularip.body.anny import PHENOTYPE_NAMES

RGB = tuple[float, float, float]

NAKED_GAP, CLOTH_GAP, HIGHEST_LIFT = 0.0015, 0.0035, 0.04
"""Metres that cloth keeps from skin and from cloth under it; and the farthest it is ever moved for that."""
SUNKEN = 0.004
"""Metres that skin at the rim of hidden skin sinks under the cloth."""
HANGING = 0.04
"""Cloth farther than this from the skin hangs."""
COARSE = 6
"""So many vertices of the body are one, where only about the closest is wanted."""
WIDENING_BAND = 0.03
"""Metres of height over which skirts are widened alike."""
BELOW_KNEE = 0.02
"""Skin that moves by more than this share with shins and feet is below the knee."""
SEAM = 0.08
"""Metres below its upper end over which a skirt lies inside a bodice, or just comes out of it."""
WHITE: RGB = (0.93, 0.93, 0.92)
FULL_BEARD = 0.45
"""From this `Person.beard` on, a beard has a volume; below it is stubble."""
BEARD_SHELLS = 6
"""Layers of a full beard, besides the stubble."""
FEET = ("shoes", "boots", "sneakers", "high heels", "sandals")
SLIM = ("leggings",)
"""What boots are worn over."""
BARE_LEGS = ("shorts",)
SHIRTS = ("shirt", "blouse")
COATS = ("coat", "raincoat")
OPEN_FRONTS = {"jacket": "jacket", "leather jacket": "jacket", "blazer": "blazer", "suit": "blazer"}
"""Garments that files show open, and the files' name of theirs."""
GRAINS = {
    "sweater": "knit",
    "beanie": "knit",
    "scarf": "knit",
    "jeans": "twill",
    "dungarees": "twill",
    "suit": "twill",
}


@dataclass
class Part:
    """How the triangles of one part of a person look.

    name: "skin", "eye", "lash", "brow", "hair", "beard", or the garment. kind: "skin", "eye", "hair" (lash,
    brow, beard too) or "cloth". material: a key of studio.MATERIALS or "skin", "hair", "shoe", "eye".
    texture, normal_map: rows of the Assets, -1 for none. median: linear RGB of the texture's typical texel.
    rgb: the sRGB colour that this texel becomes; None keeps the texture's colours. keep: how much of the
    texture's differences of hue stays, 0..1. alpha_test: holes where the texture's alpha is low. grain: "",
    "knit" or "twill", a fine pattern.
    """

    name: str
    kind: str
    material: str
    texture: int = -1
    normal_map: int = -1
    median: RGB = (1.0, 1.0, 1.0)
    rgb: RGB | None = None
    keep: float = 0.0
    alpha_test: bool = False
    grain: str = ""


@dataclass
class PersonMesh:
    """One person of n vertices and m triangles, in the world: metres, z up, facing -y.

    vertices, normals, tangents (threads and strands, downwards or along the limb) [n,3]; faces [m,3] int64;
    uv [m,3,2] of their corners, v up; part [m], indices of parts; body [12488,3], the bare body in the order
    of AnnyModel, posed alike; height of the body; face_center [3] between the eyes, face_unit the distance of
    the eyes.
    """

    vertices: Tensor
    normals: Tensor
    faces: Tensor
    uv: Tensor
    part: Tensor
    parts: list[Part]
    tangents: Tensor
    body: Tensor
    height: float
    face_center: Tensor
    face_unit: float


@dataclass
class _Layer:
    """A mesh on the unposed body. vertices [n,3]; faces [m,3]; uv [m,3,2]. Vertex i moves with base vertices
    base[i] by shares share[i], both [n,k]; near [n]: the base vertex of the skin below it; hidden: base
    vertices it hides; falls: it hangs around the trunk or both legs."""

    part: Part
    vertices: Tensor
    faces: Tensor
    uv: Tensor
    base: Tensor
    share: Tensor
    near: Tensor
    hidden: Tensor
    tangents: Tensor | None = None
    falls: bool = False


@dataclass
class _Figure:
    """One person's unposed body: base vertices [B,3], skin normals [B,3], joints [J,3]; frame for drawn
    garments; bend [B,3,4]: the pose of each base vertex; along [B,3]: the limb's direction; outwards [B,3]:
    away from the limb's axis, where cloth moves."""

    base: Tensor
    normals: Tensor
    bend: Tensor
    along: Tensor
    frame: BodyFrame
    outwards: Tensor

    @cached_property
    def coarse(self) -> cKDTree:
        """One of every `COARSE` vertices of the body."""
        return cKDTree(self.frame.vertices[::COARSE].numpy())


@torch.no_grad()
def dress(persons: list[Person], assets: Assets, shifts: Tensor | None = None) -> list[PersonMesh]:
    """The meshes of people, on the device of the assets. shifts [P,B,3]: metres by which the base vertices of
    each are moved from where the phenotype places them; hair, brows and clothes follow."""
    model = assets.model
    device = assets.mean.device
    phenotypes = torch.tensor(
        [[p.phenotype.get(k, 0.5) for k in PHENOTYPE_NAMES] for p in persons], device=device
    )
    base, joints = assets.bodies(phenotypes)
    if shifts is not None:
        base = base + shifts.to(base)
    poses = torch.tensor([p.pose for p in persons], device=device)
    bend = pose_transforms(joints, poses, model.joint_names, model.joint_parents)
    bend = torch.einsum("bj,pjrc->pbrc", assets.skinning, bend)
    along = assets.skinning @ limb_directions(joints, model.joint_names)
    meshes = []
    for k, person in enumerate(persons):
        body = base[k, assets.package]
        height = float(body[:, 2].max() - body[:, 2].min())
        normals = vertex_normals(body, model.faces)
        frame = BodyFrame(body, normals, model.faces, model.regions, joints[k], model.joint_names, height)
        skin_normals = vertex_normals(base[k], assets.skin_faces)
        outwards = away_from_limbs(skin_normals, along[k], assets.skin_faces)
        figure = _Figure(base[k], skin_normals, bend[k], along[k], frame, outwards)
        meshes.append(_assemble(person, figure, assets))
    return meshes


def pose_transforms(
    joints: Tensor, poses: Tensor, names: tuple[str, ...], parents: tuple[int, ...]
) -> Tensor:
    """Joints [P,J,3] and `Person.pose` [P,7] -> transforms [P,J,3,4] of the rest pose."""
    arm_left, arm_right, elbow_left, elbow_right, legs, turn, tilt = (poses * math.pi / 180).unbind(1)
    sideways, upwards = joints.new_tensor([0.0, 1.0, 0.0]), joints.new_tensor([0.0, 0.0, 1.0])
    forwards = joints.new_tensor([0.0, -1.0, 0.0])

    def elbow_axis(side: str) -> Tensor:
        forearm = joints[:, names.index(f"wrist.{side}")] - joints[:, names.index(f"lowerarm01.{side}")]
        return normalize(torch.linalg.cross(forearm, forwards.expand_as(forearm)), dim=-1)

    turns = {
        "upperarm01.L": -arm_left[:, None] * sideways,
        "upperarm01.R": arm_right[:, None] * sideways,
        "lowerarm01.L": elbow_left.abs()[:, None] * elbow_axis("L"),
        "lowerarm01.R": elbow_right.abs()[:, None] * elbow_axis("R"),
        "upperleg01.L": -legs[:, None] * sideways,
        "upperleg01.R": legs[:, None] * sideways,
        "neck02": 0.5 * (turn[:, None] * upwards + tilt[:, None] * sideways),
        "head": 0.5 * (turn[:, None] * upwards + tilt[:, None] * sideways),
    }
    result: list[Tensor] = []
    rest = torch.eye(3, 4, device=joints.device).expand(len(joints), 3, 4)
    for k, (name, parent) in enumerate(zip(names, parents)):
        above = result[parent] if parent >= 0 else rest
        if name in turns:
            rotation = rotations(turns[name])
            shift = joints[:, k] - (rotation @ joints[:, k, :, None])[..., 0]
            above = torch.cat(
                [above[..., :3] @ rotation, above[..., 3:] + above[..., :3] @ shift[..., None]], -1
            )
        result.append(above)
    return torch.stack(result, 1)


def rotations(vectors: Tensor) -> Tensor:
    """Rotation vectors [P,3] -> matrices [P,3,3]."""
    zero = torch.zeros_like(vectors[:, 0])
    x, y, z = vectors.unbind(1)
    return torch.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], 1).unflatten(1, (3, 3)))


def limb_directions(joints: Tensor, names: tuple[str, ...]) -> Tensor:
    """Unit directions [P,J,3] down each limb; of the trunk and head, downwards."""
    down = joints.new_tensor([0.0, 0.0, -1.0])
    result = down.expand_as(joints).clone()
    for side in "LR":
        ends = {"upperarm": ("upperarm01", "lowerarm01"), "lowerarm": ("lowerarm01", "wrist"),
                "wrist": ("lowerarm01", "wrist"), "metacarpal": ("lowerarm01", "wrist"),
                "finger": ("lowerarm01", "wrist"), "upperleg": ("upperleg01", "lowerleg01"),
                "lowerleg": ("lowerleg01", "foot")}  # fmt: skip
        for k, name in enumerate(names):
            limb = name.rstrip(".LR-0123456789")
            if name.endswith(side) and limb in ends:
                a, b = (names.index(f"{end}.{side}") for end in ends[limb])
                result[:, k] = normalize(joints[:, b] - joints[:, a], dim=-1)
    return result


def away_from_limbs(normals: Tensor, along: Tensor, faces: Tensor, rounds: int = 4) -> Tensor:
    """Directions [B,3], about unit, of the skin's normals without their part along the limb, smooth."""
    flat = normals - (normals * along).sum(1, keepdim=True) * along
    flat = torch.stack([smoothed(column.contiguous(), faces, rounds) for column in flat.unbind(1)], 1)
    return flat / flat.norm(dim=-1, keepdim=True).clamp_min(0.5)


def _assemble(person: Person, figure: _Figure, assets: Assets) -> PersonMesh:
    rng = random.Random(person.seed)
    clothes = _clothes(person, figure, assets)
    _under_coat(clothes, figure)
    hats = [layer for layer in clothes if layer.part.name in HATS]
    clothes = [layer for layer in clothes if layer.part.name not in HATS]
    covered, height = _stack(clothes, figure, assets)
    _stack(hats, figure, assets)
    layers = [*_skin(person, figure, assets, covered, rng), *_head(person, figure, assets, rng)]
    for layer in layers:
        if layer.part.name == "hair":
            _over_clothes(layer, height, figure, assets)
            if hats:
                _under_hat(layer, hats, figure, assets)
    return _posed([*layers, *clothes, *hats], figure, assets)


# --- Clothes ------------------------------------------------------------------------------------------------


def _clothes(person: Person, figure: _Figure, assets: Assets) -> list[_Layer]:
    """The layers of all pieces, inner first."""
    worn = [piece.garment for piece in person.pieces]
    female = person.phenotype.get("gender", 0.5) > 0.5
    plan = {id(piece): _source(piece, female, worn, assets) for piece in person.pieces}
    # The shirt under an open front from a file is only the part that shows.
    fronts = {
        name
        for piece in person.pieces
        for name in (OPEN_FRONTS.get(piece.garment),)
        if name and plan[id(piece)] is not None
    }
    shirt = next((piece for piece in person.pieces if piece.garment in SHIRTS), None)
    dressed = any(piece.slot in ("top", "whole") for piece in person.pieces)
    drawn_suit = any(piece.garment == "suit" and plan[id(piece)] is None for piece in person.pieces)
    layers: list[_Layer] = []
    for piece in sorted(person.pieces, key=lambda piece: _rank(piece, worn)):
        source = plan[id(piece)]
        if fronts and piece.garment in SHIRTS:
            front = assets.fitted[f"{next(iter(fronts))}:shirt"][0]
            layers.append(_fitted(front, figure, replace(_cloth(piece), keep=0.6)))
        elif piece.garment in SHIRTS and drawn_suit:
            continue
        elif source is None:
            layers.extend(_drawn(piece if dressed else _closed(piece), figure, assets, shirt))
        else:
            part = _cloth(piece)
            layers.extend(_fitted(mesh, figure, part) for mesh in source)
            sock = assets.fitted.get(f"{piece.garment}:sock")
            if sock and any(name in BARE_LEGS for name in worn) and not (female and piece.garment == "shoes"):
                mesh = next(mesh for mesh in sock if mesh.source == source[0].source)
                layers.append(
                    _fitted(mesh, figure, Part("shoes", "cloth", "cotton", rgb=WHITE, grain="knit"))
                )
    return layers


def _closed(piece: Piece) -> Piece:
    """A jacket or coat with nothing under it is not of an open variant."""
    if piece.slot != "outer":
        return piece
    return replace(piece, cut=piece.cut | {"variant": piece.cut["variant"] * 0.5})


def _rank(piece: Piece, worn: list[str]) -> int:
    """Shoes are under trousers, boots over slim ones; tops hang over what is worn below, some are tucked in.
    Else the order of the pieces stays."""
    if piece.garment == "boots" and any(name in SLIM for name in worn):
        return 2
    if piece.garment in FEET:
        return 0
    tucked = piece.garment in (*SHIRTS, "tank top") and piece.cut["length"] < 0.4
    return 1 if piece.slot == "bottom" or tucked else 2


def _source(piece: Piece, female: bool, worn: list[str], assets: Assets) -> list[Fitted] | None:
    """The meshes of a piece from the files, or None where it is to be drawn."""
    name = OPEN_FRONTS.get(piece.garment, piece.garment)
    choices: list[list[Fitted]] = [[mesh] for mesh in assets.fitted.get(name, [])]
    ours = [
        c
        for c in choices
        if c[0].source.startswith("female" if female else "male") or name in ("shoes", "hat")
    ]
    choices = ours or choices
    if piece.garment == "suit":
        trousers = [mesh for mesh in assets.fitted["trousers"] if mesh.source == "male_elegantsuit01"]
        choices = [[*trousers, *choice] for choice in choices]
    if piece.garment in DRAWN:
        alone = name in OPEN_FRONTS.values() and not any(shirt in worn for shirt in SHIRTS)
        if alone or not choices:
            return None
        pick = int(piece.cut["variant"] * 7 % 1 * (len(choices) + 1))
        return choices[pick] if pick < len(choices) else None
    if not choices:
        raise KeyError(f"nothing to wear as {piece.garment}")
    return choices[int(piece.cut["variant"] * 7 % 1 * len(choices))]


def _cloth(piece: Piece) -> Part:
    keep = 0.35 if piece.garment in ("jeans", "dungarees") else 0.1
    grain = GRAINS.get(piece.garment, "knit" if piece.material == "wool" else "")
    return Part(piece.garment, "cloth", piece.material, rgb=piece.rgb, keep=keep, grain=grain)


def _fitted(mesh: Fitted, figure: _Figure, part: Part) -> _Layer:
    """A mesh of the files on a body."""
    axes = torch.arange(3, device=mesh.base.device)
    span = (figure.base[mesh.scale[:, 0], axes] - figure.base[mesh.scale[:, 1], axes]).abs()
    vertices = blended(figure.base, mesh.base, mesh.weights) + mesh.offsets * span
    part = replace(part, texture=mesh.texture, normal_map=mesh.normal_map, median=mesh.median)
    return _Layer(part, vertices, mesh.faces, mesh.uv, mesh.base, mesh.weights, mesh.near, mesh.hidden)


def _drawn(piece: Piece, figure: _Figure, assets: Assets, shirt: Piece | None) -> list[_Layer]:
    """A garment drawn by program on a body. The shirt that a suit brings along looks like `shirt`."""
    layers, last = [], piece.garment
    for mesh in build(piece, figure.frame):
        part = _cloth(piece)
        part = replace(
            part, rgb=mesh.rgb_override or part.rgb, material=mesh.material_override or part.material
        )
        if piece.garment == "suit" and shirt and mesh.name in ("shirt", "suit"):
            last = "shirt" if mesh.name == "shirt" else "suit"
        if last == "shirt":
            part = replace(part, name="shirt")
            if shirt and mesh.name != "tie":
                part = replace(part, rgb=shirt.rgb, material=shirt.material)
        base = assets.package[torch.stack([mesh.anchors, mesh.other_anchors], 1)]
        share = torch.stack([1 - mesh.other_share, mesh.other_share], 1)
        hidden = assets.package[mesh.hidden]
        near = assets.package[_closest(mesh.vertices, mesh.anchors, figure)]
        layers.append(
            _Layer(
                part, mesh.vertices, mesh.faces, mesh.uv, base, share, near, hidden, mesh.tangents, mesh.falls
            )
        )
    return layers


def _closest(vertices: Tensor, anchors: Tensor, figure: _Figure) -> Tensor:
    """The body vertex [n] closest to each of vertices [n,3]: its anchor, unless that is far away; then one of
    every few is near enough."""
    result = anchors.clone()
    hanging = (vertices - figure.frame.vertices[anchors]).norm(dim=-1) > HANGING
    if hanging.any():
        result[hanging] = torch.from_numpy(figure.coarse.query(vertices[hanging].numpy())[1]) * COARSE
    return result


def _under_coat(layers: list[_Layer], figure: _Figure, bands: int = 48, sectors: int = 24) -> None:
    """Press skirts into the coat over them: no farther from the body's axis than its narrowest sheet, and not
    much farther below its hem."""
    coats = [layer.vertices for layer in layers if layer.part.name in COATS]
    if not coats:
        return
    hips = figure.frame.joints[[figure.frame.joint_names.index(f"upperleg01.{side}") for side in "LR"]].mean(
        0
    )

    def polar(points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Heights, radii and sectors of points [n,3]."""
        flat = points[:, :2] - hips[:2]
        angle = torch.atan2(flat[:, 1], flat[:, 0]) / (2 * math.pi) % 1
        return points[:, 2], flat.norm(dim=-1), (angle * sectors).long() % sectors

    height, radius, sector = polar(torch.cat(coats))
    low, top = height.min(), hips[2] + 0.05 * figure.frame.height
    if low > hips[2]:
        return

    def band(height: Tensor) -> Tensor:
        return ((height - low) / (top - low) * bands).long().clamp(0, bands - 1)

    below = height < top
    table = torch.full((bands * sectors,), 9.0, device=height.device)
    table.scatter_reduce_(0, band(height[below]) * sectors + sector[below], radius[below], "amin")
    table = -torch.nn.functional.max_pool2d(
        -torch.cat([table.view(1, bands, sectors)] * 3, 2), (7, 3), stride=1, padding=(3, 1)
    )[0, :, sectors : 2 * sectors]
    for layer in layers:
        if layer.part.name in COATS or layer.part.name in FEET:
            continue
        height, radius, sector = polar(layer.vertices)
        allowed = table[band(height), sector] - 0.012 + 0.35 * (low + 0.03 - height).clamp_min(0)
        squeeze = torch.where(
            height < top, (allowed / radius.clamp_min(1e-3)).clamp(0.3, 1), torch.ones_like(radius)
        )
        squeeze = torch.where(_hangs(layer, figure), squeeze, torch.ones_like(squeeze))
        layer.vertices = torch.cat(
            [hips[:2] + (layer.vertices[:, :2] - hips[:2]) * squeeze[:, None], layer.vertices[:, 2:]], 1
        )


def _hangs(layer: _Layer, figure: _Figure) -> Tensor:
    """Which vertices [n] hang away from the skin."""
    return (layer.vertices - figure.base[layer.near]).norm(dim=-1) > HANGING


def _stack(layers: list[_Layer], figure: _Figure, assets: Assets) -> tuple[Tensor, Tensor]:
    """Keep each layer outside those before it; drop what later layers hide. Returns which base vertices are
    hidden by any and the height of all cloth above them, both [B]."""
    height = torch.zeros(len(figure.base))
    inner: list[_Layer] = []
    legs: list[Tensor] = []
    for garment in _garments(layers):
        # Meshes of one garment (a coat and its buttons) move together.
        shells = [layer for layer in garment if not layer.falls]
        above = [_above(layer, figure) for layer in shells]
        floor = _envelope(height, assets)
        floor = floor + torch.where(floor > 0, CLOTH_GAP, NAKED_GAP)
        needs = [(floor[layer.near] - own).clamp(0, HIGHEST_LIFT) for layer, own in zip(shells, above)]
        lifts = torch.zeros_like(height)
        for layer, need in zip(shells, needs):
            lifts.scatter_reduce_(0, layer.near, need, "amax")
        lifts = _envelope(lifts, assets)
        before = [layer.vertices for layer in shells]
        lifts = lifts * (1 - assets.shins)
        for layer in shells:
            lift = lifts[layer.near]
            layer.vertices = layer.vertices + lift[:, None] * figure.outwards[layer.near]
            _widen_legs(layer, legs, figure, assets)
            height = torch.maximum(height, _spread(layer, _above(layer, figure), assets))
        for layer in garment:
            if layer.falls:
                _widen(layer, inner, list(zip(shells, before)), figure, assets)
                height = torch.maximum(height, _spread(layer, _above(layer, figure), assets))
        inner += garment
        legs += [layer.vertices[assets.shins[layer.near] > BELOW_KNEE] for layer in garment]
    covered = torch.zeros_like(height, dtype=torch.bool)
    for garment in reversed(_garments(layers)):
        inside = interior(covered, assets.skin_faces)
        for layer in garment:
            keep = shown(layer.faces, layer.near, inside)
            if not keep.all():
                _keep_faces(layer, keep)
        for layer in garment:
            covered[layer.hidden] = True
    return covered, height


def _keep_faces(layer: _Layer, keep: Tensor) -> None:
    """Drop the faces [m] that are not kept, and the vertices that only they use."""
    used, layer.faces = compacted(layer.faces[keep], len(layer.vertices))
    layer.uv = layer.uv[keep]
    layer.vertices, layer.near = layer.vertices[used], layer.near[used]
    layer.base, layer.share = layer.base[used], layer.share[used]
    if layer.tangents is not None:
        layer.tangents = layer.tangents[used]


@dataclass
class _Bins:
    """Bands of height from `low` to `high` and sectors around a vertical axis [2]."""

    axis: Tensor
    low: float
    high: float
    sectors: int = 32

    @property
    def bands(self) -> int:
        return max(int((self.high - self.low) / WIDENING_BAND), 1)

    def place(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Bands and sectors of points [n,3], with fractions, and radii."""
        flat = points[:, :2] - self.axis
        turn = torch.atan2(flat[:, 1], flat[:, 0]) / (2 * math.pi) % 1
        band = (points[:, 2] - self.low) / (self.high - self.low) * self.bands
        return band, turn * self.sectors, flat.norm(dim=-1)

    def radius(self, points: Tensor) -> Tensor:
        return (points[:, :2] - self.axis).norm(dim=-1)

    def farthest(self, points: Tensor, values: Tensor, nowhere: float) -> Tensor:
        """The largest of values [n] at points [n,3] in each band and sector."""
        band, sector, _ = self.place(points)
        inside = (band >= 0) & (band < self.bands)
        bins = band[inside].long() * self.sectors + sector[inside].long() % self.sectors
        table = torch.full((self.bands * self.sectors,), nowhere)
        return table.scatter_reduce(0, bins, values[inside], "amax").view(self.bands, self.sectors)

    def push(self, points: Tensor, need: Tensor, grow: int = 3) -> Tensor:
        """Metres [n] to move points outwards, smooth, for what each bin needs; `grow` bins around it, too."""
        modes = ("nearest", "wrap")
        wide = maximum_filter(need.clamp_min(0).numpy(), (grow, grow), mode=modes)
        smooth = np.pad(gaussian_filter(wide, 1.0, mode=modes), ((0, 0), (1, 1)), mode="wrap")
        band, sector, _ = self.place(points)
        at = np.stack([(band - 0.5).clamp(0, self.bands - 1).numpy(), (sector + 0.5).numpy()])
        return torch.from_numpy(map_coordinates(smooth, at, order=1, mode="nearest"))

    def pushed(self, points: Tensor, push: Tensor) -> Tensor:
        """Points [n,3] moved away from the axis by `push` [n]."""
        away = (points[:, :2] - self.axis) * (push / self.radius(points).clamp_min(1e-3))[:, None]
        return torch.cat([points[:, :2] + away, points[:, 2:]], 1)


def _widen(
    layer: _Layer, inner: list[_Layer], shells: list[tuple[_Layer, Tensor]], figure: _Figure, assets: Assets
) -> None:
    """Move a layer that falls away from the body's axis: out of the `inner` layers, and as far as the shells
    of its own garment moved, which come with their vertices before that."""
    hips = [figure.frame.joint_names.index(f"upperleg01.{side}") for side in "LR"]
    z = layer.vertices[:, 2]
    end, start = float(z.min()), float(z.max())
    bins = _Bins(figure.frame.joints[hips, :2].mean(0), end - WIDENING_BAND, start + WIDENING_BAND)
    # Rows that go inwards at the ends do not count.
    own = layer.vertices[(z > end + 0.002) & (z < start - 0.002)]
    narrowest = -bins.farthest(own, -bins.radius(own), -9.0)
    beside = torch.from_numpy(minimum_filter(narrowest.numpy(), (3, 1), mode="nearest"))
    narrowest = torch.where(narrowest < 9, narrowest, beside)
    need = torch.zeros_like(narrowest)
    for other in inner:
        points = other.vertices[~assets.arms[other.near]]
        reach = bins.farthest(points, bins.radius(points), 0.0)
        need = torch.maximum(need, reach + CLOTH_GAP - narrowest)
    push = bins.push(layer.vertices, need.clamp_max(2 * HIGHEST_LIFT))
    if any(other.vertices[:, 2].max() > start + SEAM for other, _ in shells):
        # The upper end stays inside the bodice that it hangs from.
        push *= ((start - z) / SEAM).clamp(0, 1)
    shift = torch.zeros_like(need)
    for other, before in shells:
        trunk = ~assets.arms[other.near]
        moved_by = (bins.radius(other.vertices) - bins.radius(before))[trunk]
        shift = torch.maximum(shift, bins.farthest(other.vertices[trunk], moved_by, 0.0))
    push = torch.maximum(push, bins.push(layer.vertices, shift, grow=1))
    layer.vertices = bins.pushed(layer.vertices, push)


def _widen_legs(layer: _Layer, inner: list[Tensor], figure: _Figure, assets: Assets) -> None:
    """Move cloth below the knees away from the ankle, out of shoes and other cloth, points `inner` [k,3]."""
    below = assets.shins[layer.near] > BELOW_KNEE
    if not below.any() or not any(len(points) for points in inner):
        return
    for side, sign in (("L", 1), ("R", -1)):
        ankle = figure.frame.joints[figure.frame.joint_names.index(f"foot.{side}"), :2]
        own = (below & (layer.vertices[:, 0] * sign > 0)).nonzero()[:, 0]
        under = torch.cat([points[points[:, 0] * sign > 0] for points in inner])
        if not len(own) or not len(under):
            continue
        points = layer.vertices[own]
        bins = _Bins(ankle, float(points[:, 2].min()) - 1e-4, float(points[:, 2].max()) + 1e-4)
        reach = bins.farthest(points, bins.radius(points), 0.0)
        need = bins.farthest(under, bins.radius(under), 0.0) + CLOTH_GAP - reach
        need = torch.where(reach > 0, need, 0.0)
        push = bins.push(points, need.clamp_max(HIGHEST_LIFT)) * assets.shins[layer.near[own]]
        vertices = layer.vertices.clone()
        vertices[own] = bins.pushed(points, push)
        layer.vertices = vertices


def _garments(layers: list[_Layer]) -> list[list[_Layer]]:
    """Layers of the same garment together, in their order."""
    groups: list[list[_Layer]] = []
    for layer in layers:
        if groups and groups[-1][0].part.name == layer.part.name:
            groups[-1].append(layer)
        else:
            groups.append([layer])
    return groups


def _above(layer: _Layer, figure: _Figure) -> Tensor:
    """Heights [n] of a layer's vertices above the skin; of those that hang far away, their distance."""
    offset = layer.vertices - figure.base[layer.near]
    distance = offset.norm(dim=-1)
    return torch.where(distance > HANGING, distance, (offset * figure.normals[layer.near]).sum(-1))


def _envelope(values: Tensor, assets: Assets, rounds: int = 3) -> Tensor:
    """A smooth field [B] on the skin, hardly anywhere below values [B]."""
    faces = assets.skin_faces
    return smoothed(grown(grown(values, faces), faces), faces, rounds)


def _spread(layer: _Layer, above: Tensor, assets: Assets, rings: int = 3, nowhere: float = 0.0) -> Tensor:
    """A layer's heights [n] above the skin on base vertices [B]: as large as that of any vertex nearby."""
    height = torch.full((len(assets.mean),), -1e3)
    height.scatter_reduce_(0, layer.near, above, "amax")
    height = filled(height, assets.skin_faces, rings, -1e3)
    return torch.where(height <= -1e3, nowhere, height)


def _over_clothes(hair: _Layer, height: Tensor, figure: _Figure, assets: Assets, reach: float = 0.10) -> None:
    """Lift hair out of the clothes, what is above the same skin alike: a braid keeps its thickness."""
    need = (height[hair.near] + 0.006 - _above(hair, figure)).clamp(0, reach)
    neck = figure.frame.joints[figure.frame.joint_names.index("neck01"), 2]
    need = need * ((neck + 0.03 - figure.base[hair.near, 2]) / 0.06).clamp(0, 1) * (height[hair.near] > 0)
    lift = _envelope(torch.zeros_like(height).scatter_reduce(0, hair.near, need, "amax"), assets)
    hair.vertices = hair.vertices + lift[hair.near, None] * figure.outwards[hair.near]


def _under_hat(hair: _Layer, hats: list[_Layer], figure: _Figure, assets: Assets) -> None:
    """Press hair into a hat: below its lowest vertex nearby."""
    for hat in hats:
        ceiling = -_spread(hat, -_above(hat, figure), assets, rings=2, nowhere=-1.0)
        sink = (_above(hair, figure) - (ceiling[hair.near] - 0.004).clamp_min(0.001)).clamp_min(0)
        hair.vertices = hair.vertices - sink[:, None] * figure.normals[hair.near]


# --- Skin, eyes, hair ---------------------------------------------------------------------------------------


def _skin(
    person: Person, figure: _Figure, assets: Assets, covered: Tensor, rng: random.Random
) -> list[_Layer]:
    """The visible skin and the eyes."""
    hidden = interior(covered, assets.skin_faces)
    visible = ~hidden[assets.skin_faces].all(1)
    vertices = figure.base - SUNKEN * (covered & ~hidden)[:, None] * figure.normals
    texture = assets.texture(skin_texture(person, assets, rng))
    part = Part("skin", "skin", "skin", texture, median=_median(assets, texture), rgb=person.skin, keep=1.0)
    eyes = person.eyes
    if eyes == "brownlight" and rng.random() < (0.9 if luminance(person.skin) < 0.2 else 0.6):
        eyes = "brown"
    eye = Part("eye", "eye", "eye", assets.texture(f"eye/{eyes}"))
    return [
        _shell(part, vertices, assets.skin_faces[visible], assets.skin_uv[visible], assets),
        _shell(eye, figure.base, assets.eye_faces, assets.eye_uv, assets),
    ]


def _median(assets: Assets, texture: int) -> RGB:
    r, g, b = assets.medians[texture].tolist()
    return r, g, b


def skin_texture(person: Person, assets: Assets, rng: random.Random) -> str:
    """A skin of the person's age and sex: a dark one for dark men; of women there are light ones only."""
    family, _, sex = person.skin_texture.partition("_")
    skins = [name for name in assets.texture_names if "skinned" in name and name.split("_")[2] == sex]
    if luminance(person.skin) < 0.22:
        skins = [name for name in skins if "dark" in name] or skins
    else:
        skins = [name for name in skins if "light" in name]
    ages = {"young": ("young",), "middleage": ("middleage",), "old": ("old", "middleage")}[family]
    for age in ages:
        if chosen := [name for name in skins if name.startswith(age)]:
            return rng.choice(chosen)
    return rng.choice(skins)


def luminance(rgb: RGB) -> float:
    """Linear luminance of an sRGB colour."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _shell(part: Part, vertices: Tensor, faces: Tensor, uv: Tensor, assets: Assets) -> _Layer:
    """Triangles of the base mesh itself; vertices [B,3]."""
    used, inverse = compacted(faces, len(vertices))
    share = torch.ones(len(used), 1, device=used.device)
    return _Layer(part, vertices[used], inverse, uv, used[:, None], share, used, used[:0])


def _head(person: Person, figure: _Figure, assets: Assets, rng: random.Random) -> list[_Layer]:
    """Hair, brows, lashes and beard."""
    female = person.phenotype.get("gender", 0.5) > 0.5
    dark = tuple(c * 0.8 for c in person.hair_rgb)
    hair = Part("hair", "hair", "hair", rgb=person.hair_rgb, keep=0.15, alpha_test=True)
    layers = []

    def fitted(name: str, part: Part) -> None:
        layers.append(_fitted(rng.choice(assets.fitted[name]), figure, part))

    def short(texture: str, part: Part, chosen: Tensor, lift: Tensor | float) -> None:
        row = assets.texture(texture)
        part = replace(part, texture=row, median=_median(assets, row))
        vertices = figure.base + lift * figure.normals
        layers.append(_shell(part, vertices, assets.skin_faces[chosen], assets.skin_uv[chosen], assets))

    if person.hair_style != "bald":
        short("scalp", hair, assets.scalp, 0.0008)
        fitted(f"hair/{person.hair_style}", hair)
    fitted(f"brow/{person.brows}", replace(hair, name="brow", rgb=dark))
    lash = rng.choice((2, 3, 4)) if female else 1
    fitted(f"lash/{lash}", replace(hair, name="lash", rgb=(0.05, 0.04, 0.04)))
    if person.beard > 0:
        # Shells of sparse hair, longest where it grows most densely: together opaque there, thin at the rim.
        r, g, b = (0.85 * h + 0.06 for h in person.hair_rgb)
        beard = replace(hair, name="beard", rgb=(r, g, b))
        longest = max(person.beard - FULL_BEARD, 0.0)
        for shell in range(1 + (longest > 0) * BEARD_SHELLS):
            lift = 0.0008 + (0.002 + 0.012 * longest) * assets.beard_growth[:, None] * shell / BEARD_SHELLS
            short("stubble", beard, assets.beard, lift)
    return layers


# --- Pose ---------------------------------------------------------------------------------------------------


def _posed(layers: list[_Layer], figure: _Figure, assets: Assets) -> PersonMesh:
    """Bend all layers and join them."""
    vertices, tangents, normals, faces, uv, part = [], [], [], [], [], []
    first = 0
    skull = figure.base[assets.eye_faces.flatten()].mean(0) + figure.base.new_tensor([0.0, 0.07, 0.0])
    for k, layer in enumerate(layers):
        bend = blended(figure.bend, layer.base, layer.share)
        if layer.tangents is not None:
            along = layer.tangents
        elif layer.part.kind == "hair" and layer.part.texture >= 0:
            along = strand_directions(layer.vertices, layer.faces, layer.uv)
        else:
            along = blended(figure.along, layer.base, layer.share)
        normal = vertex_normals(layer.vertices, layer.faces)
        if layer.part.name == "hair":
            # Cards of hair are seen from both sides: their normals point away from the head, rounded like it,
            # and below it from its vertical axis.
            centre = skull.repeat(len(normal), 1)
            centre[:, 2] = torch.minimum(skull[2], layer.vertices[:, 2])
            away = normalize(layer.vertices - centre, dim=-1)
            side = (normal * away).sum(-1, keepdim=True).sign()
            normal = normalize(normal * side + 0.9 * away, dim=-1)
        vertices.append(moved(layer.vertices, bend))
        normals.append(turned(normal, bend))
        tangents.append(turned(along, bend))
        faces.append(layer.faces + first)
        uv.append(layer.uv)
        part.append(torch.full((len(layer.faces),), k, device=figure.base.device))
        first += len(layer.vertices)
    body = moved(figure.frame.vertices, figure.bend[assets.package])
    right, left = (body[row].mean(0) for row in assets.model.eyeballs)
    return PersonMesh(
        vertices=torch.cat(vertices),
        normals=torch.cat(normals),
        faces=torch.cat(faces),
        uv=torch.cat(uv),
        part=torch.cat(part),
        parts=[layer.part for layer in layers],
        tangents=torch.cat(tangents),
        body=body,
        height=figure.frame.height,
        face_center=(left + right) / 2,
        face_unit=float((left - right).norm()),
    )
