"""Gaussians in glTF: `KHR_gaussian_splatting`, and our extension of it for highlights.

The ratified extension stores Gaussians as a primitive of points with the attributes ROTATION (unit, xyzw),
SCALE, OPACITY (0..1) and spherical harmonics in 3DGS's order and with its signs. glTF's world is y-up and its
models face +z, ours is z-up and they face −y: all is turned by a quarter about x.

`SPECULARIP_gaussian_splatting_asg` adds the lobes of `Asgs`, which viewers without it pass over; docs/glb.md
specifies it. Skeleton and motions are plain glTF, see `glb_skeleton`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors import Asgs, HarmonicColors
from specularip.colors.asgs import SMOOTH
from specularip.colors.harmonics import SH_0, harmonics_turn
from specularip.errors import UserError, quoted
from specularip.export.axes import Y_UP, turned
from specularip.export.glb_skeleton import (
    add_clip,
    add_skeleton,
    add_skinning,
    bound_place,
    read_skeleton,
    read_skinning,
)
from specularip.export.gltf import Builder, Document, Json
from specularip.export.splats import ABOVE_3, Splats, sound_rows, splats_from
from specularip.gaussians import Binding, Gaussians, rotation_matrices
from specularip.motion.clip import Clip
from specularip.motion.quaternions import from_matrices, multiply
from specularip.placement import Placement

KHR = "KHR_gaussian_splatting"
ASG = "SPECULARIP_gaussian_splatting_asg"
READABLE = {KHR, ASG, "KHR_mesh_quantization"}
"""Extensions that a file may require."""
SMALLEST, FAINTEST, DARKEST = 1e-12, 1e-10, 1e-6
"""Scales, opacities and diffuse colours are at least this, so that their logarithms are finite."""
LOBE = ("light", "shape", "amplitude")
"""What a lobe of our extension consists of."""
DEGREES = 4
"""Of harmonics, from 0: higher ones are not read."""
MAX_LOBES = 4
MAX_REPEATED = 200_000
"""Gaussians that may be there again because several nodes show the same mesh: a small file could fill the
memory."""
Column = Callable[[dict[Any, Any], str | int, str], Tensor]
"""Reads an accessor that an object refers to by name, of a kind, for all Gaussians of a primitive."""


@torch.no_grad()
def write_glb(
    path: str | os.PathLike[str],
    gaussians: Gaussians,
    harmonics: HarmonicColors | None = None,
    *,
    asgs: Asgs | None = None,
    binding: Binding | None = None,
    clips: Sequence[Clip] = (),
    antialiased: bool = False,
    placement: Placement | None = None,
) -> None:
    """Write Gaussians as a .glb, atomically: with their diffuse colour, or with spherical harmonics.

    asgs: highlights, for viewers that know our extension. binding: the skeleton; clips: its motions, each an
    animation. placement: to the world that the file is to be in, as a node above all others. Raises UserError
    if the file cannot be written, ValueError for clips without a binding.
    """
    if clips and binding is None:
        raise ValueError("clips need a binding: without a skeleton nothing moves")
    builder = Builder()
    attributes = _add_splats(builder, gaussians, harmonics)
    khr: Json = {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
        "projection": "perspective",
        "sortingMethod": "cameraDistance",
    }
    builder.json["extensionsUsed"] = [KHR]
    if asgs is not None:
        khr["extensions"] = {ASG: _add_lobes(builder, asgs, gaussians.diffuse)}
        builder.json["extensionsUsed"].append(ASG)
    if antialiased:
        khr["extras"] = {"antialiased": True}
    primitive = {"attributes": attributes, "mode": 0, "extensions": {KHR: khr}}
    body: Json = {"name": "avatar", "mesh": 0}
    builder.add("nodes", body)
    roots = [0]
    if binding is not None:
        attributes |= add_skinning(builder, gaussians, len(binding.joint_names))
        body["skin"], joints, top = add_skeleton(builder, binding)
        roots.append(top)
        for clip in clips:
            add_clip(builder, clip, binding, joints)
    builder.add("meshes", {"name": "avatar", "primitives": [primitive]})
    if placement is not None:
        roots = [builder.add("nodes", {"name": "placement", **_transform(placement), "children": roots})]
    builder.json |= {"scene": 0, "scenes": [{"nodes": roots}]}
    builder.write(path)


@torch.no_grad()
def read_glb(path: str | os.PathLike[str]) -> Splats:
    """Read the Gaussians of a .glb: all primitives with `KHR_gaussian_splatting` in its scene, where their
    nodes place them, turned to z-up. Colours are `Asgs` where all of them have our extension.

    The skeleton is read where all Gaussians have the same one. Raises UserError with one line if the file is
    damaged or contradicts itself, needs other extensions or files, or has no Gaussians.
    """
    document = Document(path)
    if unknown := set(_strings(document, "extensionsRequired")) - READABLE:
        raise document.error(f"it needs {', '.join(sorted(unknown))}: export it without")
    found = _primitives(document)
    positions = [primitive.attributes.get("POSITION") for primitive in found]
    repeated = sum(map(document.count, positions)) - sum(map(document.count, set(positions)))
    if repeated > MAX_REPEATED:
        raise document.error(f"its nodes show the same Gaussians again and again, {repeated} in all")
    parts = [_read_part(document, primitive) for primitive in found]
    notes = list(dict.fromkeys(note for part in parts for note in part.notes))
    skins = {primitive.skin for primitive in found}
    binding = None
    if skins != {None}:
        try:
            if len(skins) > 1:
                raise UserError("its Gaussians have several skeletons")
            binding = read_skeleton(document, found[0].skin)
        except UserError as error:
            notes.append(f"{str(error).removeprefix(f'{document.path} cannot be read: ')}; left out")
    return _joined(document, parts, binding, notes)


@dataclass(frozen=True)
class _Primitive:
    """A primitive of Gaussians in the scene. transform: float64 [4,4], of its node; skin: its index."""

    attributes: Json
    khr: Json
    transform: np.ndarray
    skin: int | None


@dataclass(frozen=True)
class _Part:
    """The Gaussians of a primitive, in our world. coefficients [N,K,3], K 1, 4, 9 or 16; skinning: joints and
    weights [N,4]."""

    means: Tensor
    quats: Tensor
    log_scales: Tensor
    opacity_logits: Tensor
    coefficients: Tensor
    asgs: Asgs | None
    diffuse: Tensor | None
    skinning: tuple[Tensor, Tensor] | None
    notes: tuple[str, ...]
    antialiased: bool


def _transform(placement: Placement) -> Json:
    """A placement as that of a node, between y-up worlds."""
    turn = from_matrices(Y_UP @ placement.rotation @ Y_UP.T)
    return {
        "translation": (Y_UP @ placement.translation).tolist(),
        "rotation": turn.roll(-1).tolist(),
        "scale": [placement.scale] * 3,
    }


def _add_splats(builder: Builder, gaussians: Gaussians, harmonics: HarmonicColors | None) -> Json:
    """The attributes of `KHR_gaussian_splatting`, and colours for viewers that draw points."""
    base = (gaussians.diffuse[:, None] - 0.5) / SH_0
    own = base if harmonics is None else harmonics.coefficients
    means, quats, coefficients = turned(gaussians.means, gaussians.quats, own, Y_UP)
    opacities = gaussians.opacities.detach().cpu()
    columns = {
        "POSITION": means,
        f"{KHR}:ROTATION": F.normalize(quats, dim=-1).roll(-1, -1),
        f"{KHR}:SCALE": gaussians.scales.detach().cpu(),
        f"{KHR}:OPACITY": opacities,
    }
    for degree in range(DEGREES if harmonics is not None else 1):
        for order in range(2 * degree + 1):
            columns[f"{KHR}:SH_DEGREE_{degree}_COEF_{order}"] = coefficients[:, degree**2 + order]
    attributes = {
        name: builder.accessor(column.numpy(), bounds=name == "POSITION", vertices=True)
        for name, column in columns.items()
    }
    srgb = (coefficients[:, 0] * SH_0 + 0.5).clamp(0, 1)
    linear = torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    rgba = torch.cat([linear, opacities[:, None]], 1).numpy()
    rounded = np.round(rgba * 65535).astype(np.uint16)
    attributes["COLOR_0"] = builder.accessor(rounded, normalized=True, vertices=True)
    return attributes


def _add_lobes(builder: Builder, asgs: Asgs, diffuse: Tensor) -> Json:
    """Our extension's object, whose numbers are accessors. All vectors are in the Gaussians' frames, so that
    only these turn."""

    def add(column: Tensor) -> int:
        return builder.accessor(column.detach().cpu().numpy())

    frames = multiply(from_matrices(Y_UP).float(), asgs.quats.cpu())
    lobes = zip(asgs.lights.unbind(1), asgs.shapes.unbind(1), asgs.amplitudes.unbind(1), strict=True)
    return {
        "diffuse": add(diffuse),
        "frame": add(F.normalize(frames, dim=-1).roll(-1, -1)),
        "smooth": [add(column) for column in asgs.smooth.unbind(1)],
        "lobes": [dict(zip(LOBE, map(add, lobe), strict=True)) for lobe in lobes],
    }


def _primitives(document: Document) -> list[_Primitive]:
    found = []
    for index, transform in document.world_matrices().items():
        node = document.item("nodes", index)
        if "mesh" not in node:
            continue
        for primitive in document.objects(document.item("meshes", node["mesh"]), "primitives"):
            extensions = document.object(primitive, "extensions")
            if KHR not in extensions:
                continue
            if document.whole(primitive, "mode", 0, 4) != 0:
                raise document.error("a primitive of Gaussians does not have the mode POINTS")
            skin = document.whole(node, "skin", 0) if "skin" in node else None
            place = transform if skin is None else bound_place(document, skin)
            attributes = document.object(primitive, "attributes")
            found.append(_Primitive(attributes, document.object(extensions, KHR), place, skin))
    if not found:
        raise document.error(f"it holds no Gaussians ({KHR}), as meshes do not")
    return found


def _read_part(document: Document, primitive: _Primitive) -> _Part:
    attributes, khr = primitive.attributes, primitive.khr
    count = document.count(attributes.get("POSITION"))

    def column(parent: dict[Any, Any], name: str | int, kind: str) -> Tensor:
        if name not in parent:
            raise document.error(f"its Gaussians have no {name}")
        if document.count(parent[name]) != count:
            raise document.error(f"its Gaussians have {count} POSITION, but another number of {name}")
        return torch.from_numpy(document.array(parent[name], kind))

    notes = []
    if khr.get("kernel") != "ellipse":
        notes.append(f"the kernel {quoted(khr.get('kernel'), 40)} is unknown: drawn as ellipses")
    if khr.get("colorSpace") != "srgb_rec709_display":
        notes.append(f"the colour space {quoted(khr.get('colorSpace'), 40)} is drawn as if it were sRGB")
    linear = primitive.transform[:3, :3]
    shift = torch.from_numpy(primitive.transform[:3, 3])
    if not 1e-30 < abs(np.linalg.det(linear)) < 1e30:
        raise document.error("a node scales its Gaussians to nothing, or without bounds")
    to_z_up = Y_UP.T @ torch.from_numpy(linear)
    u, _, vt = torch.linalg.svd(to_z_up)
    rotation = u @ vt  # or a reflection
    quats = column(attributes, f"{KHR}:ROTATION", "VEC4").roll(1, -1)
    scales = column(attributes, f"{KHR}:SCALE", "VEC3").abs()
    quats, scales = _placed(quats, scales, to_z_up)
    names = _harmonics(document, attributes)
    if f"{KHR}:SH_DEGREE_{DEGREES}_COEF_0" in attributes:
        notes.append(ABOVE_3)
    coefficients = torch.empty(count, len(names), 3)
    for k, name in enumerate(names):
        coefficients[:, k] = column(attributes, name, "VEC3")
    turn = harmonics_turn(rotation).float()
    opacities = column(attributes, f"{KHR}:OPACITY", "SCALAR")
    lobes, diffuse = None, None
    if ASG in document.object(khr, "extensions"):
        if torch.det(rotation) > 0:
            extension = document.object(document.object(khr, "extensions"), ASG)
            diffuse = column(extension, "diffuse", "VEC3")
            lobes = _read_lobes(document, extension, column)
            lobes = replace(lobes, quats=multiply(from_matrices(rotation).float(), lobes.quats))
        else:
            notes.append("a node mirrors the highlights: only harmonics are read")
    skinning = None
    if primitive.skin is not None:
        skinning = read_skinning(document, attributes, count)
    return _Part(
        means=(column(attributes, "POSITION", "VEC3") @ to_z_up.float().T + (Y_UP.T @ shift).float()),
        quats=quats,
        log_scales=scales.clamp_min(SMALLEST).log(),
        opacity_logits=torch.logit(opacities.clamp(FAINTEST, 1 - 2**-24)),
        coefficients=torch.einsum("ij,njc->nic", turn[: len(names), : len(names)], coefficients),
        asgs=lobes,
        diffuse=diffuse,
        skinning=skinning,
        notes=tuple(notes),
        antialiased=document.object(khr, "extras").get("antialiased") is True,
    )


def _harmonics(document: Document, attributes: Json) -> list[str]:
    """The names of the harmonics' attributes, of complete degrees from 0 to at most 3."""
    pattern = re.compile(rf"{KHR}:SH_DEGREE_(\d)_COEF_(\d)")
    found = {name for name in attributes if (match := pattern.fullmatch(name)) and int(match[1]) < DEGREES}
    names: list[str] = []
    for degree in range(DEGREES):
        of_degree = [f"{KHR}:SH_DEGREE_{degree}_COEF_{order}" for order in range(2 * degree + 1)]
        if not found & set(of_degree):
            break
        names += of_degree
    if not names or found != set(names):
        raise document.error("its spherical harmonics are incomplete")
    return names


def _read_lobes(document: Document, extension: Json, column: Column) -> Asgs:
    smooth, lobes = extension.get("smooth"), document.objects(extension, "lobes")
    if not isinstance(smooth, list) or len(smooth) != SMOOTH or not 1 <= len(lobes) <= MAX_LOBES:
        raise document.error(f"{ASG} needs {SMOOTH} smooth terms and 1 to {MAX_LOBES} lobes")
    lights, shapes, amplitudes = (
        torch.stack([column(lobe, name, "VEC3") for lobe in lobes], 1) for name in LOBE
    )
    terms = dict(enumerate(smooth))
    return Asgs(
        quats=column(extension, "frame", "VEC4").roll(1, -1),
        smooth=torch.stack([column(terms, k, "VEC3") for k in terms], 1),
        lights=lights,
        shapes=shapes,
        amplitudes=amplitudes,
    )


def _placed(quats: Tensor, scales: Tensor, linear: Tensor) -> tuple[Tensor, Tensor]:
    """Rotations and scales after a linear map, float64 [3,3]: the covariance becomes A R S² Rᵀ Aᵀ."""
    size = float(linear.det().abs() ** (1 / 3))
    turn = linear / size
    turn = turn * turn.det().sign()  # −1 does not change a covariance
    if bool((turn @ turn.T - torch.eye(3)).abs().max() < 1e-6):
        return multiply(from_matrices(turn).float(), quats), scales * size
    axes = rotation_matrices(quats) * scales[:, None]
    sound = axes.isfinite().all(-1).all(-1)
    u, sizes, _ = torch.linalg.svd(turn.float() @ torch.where(sound[:, None, None], axes, torch.eye(3)))
    placed = from_matrices(u * u.det().sign()[:, None, None])
    return torch.where(sound[:, None], placed, torch.nan), sizes * size


def _joined(document: Document, parts: list[_Part], binding: Binding | None, notes: list[str]) -> Splats:
    """All parts as one. Rows that are not finite are left out."""

    def cat(name: str) -> Tensor:
        return torch.cat([getattr(part, name) for part in parts])

    columns = {name: cat(name) for name in ("means", "quats", "log_scales", "opacity_logits")}
    terms = max(part.coefficients.shape[1] for part in parts)
    columns["coefficients"] = torch.cat(
        [F.pad(part.coefficients, (0, 0, 0, terms - part.coefficients.shape[1])) for part in parts]
    )
    asgs = [part.asgs for part in parts if part.asgs is not None]
    if len(asgs) == len(parts) and len({one.lights.shape[1] for one in asgs}) == 1:
        for name in asgs[0].tensors():
            columns[f"asg {name}"] = torch.cat([one.tensors()[name] for one in asgs])
        columns["diffuse"] = cat("diffuse")
    if binding is not None:
        columns["joints"] = torch.cat([part.skinning[0] for part in parts if part.skinning is not None])
        columns["weights"] = torch.cat([part.skinning[1] for part in parts if part.skinning is not None])
        if int(columns["joints"].max()) >= len(binding.joint_names):
            raise document.error("its Gaussians are bound to joints that it does not have")
    try:
        sound, dropped = sound_rows(columns["quats"], columns["log_scales"], *columns.values())
    except UserError as error:
        raise UserError(f"{document.path}: {error}") from None
    if dropped:
        columns = {name: column[sound] for name, column in columns.items()}
    splats = splats_from(
        *(columns[name] for name in ("means", "quats", "log_scales", "opacity_logits", "coefficients")),
        antialiased=any(part.antialiased for part in parts),
        movable=binding is None,
    )
    cloud, colors = splats.gaussians, splats.colors
    if "diffuse" in columns:
        cloud = replace(cloud, color_logits=torch.logit(columns["diffuse"].clamp(DARKEST, 1 - DARKEST)))
        tensors = {name.removeprefix("asg "): column for name, column in columns.items() if "asg " in name}
        colors = Asgs(**tensors | {"quats": F.normalize(tensors["quats"], dim=-1)})
    if binding is not None:
        cloud = replace(cloud, bind_joints=columns["joints"], bind_weights=columns["weights"])
    return replace(splats, gaussians=cloud, colors=colors, binding=binding, notes=(*notes, *dropped))


def _strings(document: Document, name: str) -> list[str]:
    found = document.json.get(name, [])
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise document.error(f"{name} is not a list of names")
    return found
