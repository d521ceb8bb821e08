"""The skeleton of an avatar in glTF, what its Gaussians are bound to, and its motions.

A joint is a node. Those written here are translations only, in rest pose, as joints' rest frames have the
world's axes (see `motion.skinning`). An avatar with a stance rests in it: its nodes are rotated, and the
skin's extras say so; without the rotations, the nodes are in the rest pose. In files of other programs,
joints may have any place and rotation. glTF is y-up: vectors (x, y, z) become (x, z, −y).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from specularip.errors import quoted
from specularip.export.gltf import Builder, Document, Json
from specularip.gaussians import Binding, Gaussians
from specularip.motion.clip import Clip
from specularip.motion.quaternions import continuous, from_matrices, matrices, slerp
from specularip.motion.skinning import joint_transforms

STANCE = "specularip_stance"
"""Key of a skin's extras: true if its nodes are rotated by a stance."""
REST = 1e-3
"""How far, in metres, a file's rest pose may be from that of its mesh."""
MAX_FRAMES = 100_000
"""Of a clip that is read."""
SPARSE, RATE = 15, 30.0
"""Animations with fewer keys a second are resampled at this rate."""


def y_up(vectors: Tensor) -> Tensor:
    """Vectors [...,3] of our world in glTF's."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, z, -y], -1)


def z_up(vectors: Tensor) -> Tensor:
    """Vectors [...,3] of glTF's world in ours."""
    x, y, z = vectors.unbind(-1)
    return torch.stack([x, -z, y], -1)


def _y_up_quats(quats: Tensor) -> Tensor:
    """Rotations [...,4] wxyz of our world in glTF's, xyzw."""
    return torch.cat([y_up(quats[..., 1:]), quats[..., :1]], -1)


def _z_up_quats(quats: Tensor) -> Tensor:
    """Rotations [...,4] xyzw of glTF's world in ours, wxyz."""
    return torch.cat([quats[..., 3:], z_up(quats[..., :3])], -1)


def add_skinning(builder: Builder, gaussians: Gaussians, joints: int) -> Json:
    """The attributes that bind Gaussians to `joints` joints. Weights sum to 1, and no joint is there twice,
    as glTF demands. Raises ValueError for joints that do not exist."""
    index = gaussians.bind_joints.cpu().numpy().copy()
    weights = gaussians.bind_weights.detach().cpu().double().clamp_min(0).numpy()
    if index.min() < 0 or index.max() >= joints:
        raise ValueError(f"bind_joints must be below {joints}, got {index.min()} to {index.max()}")
    for first in range(4):
        for second in range(first + 1, 4):
            same = (index[:, first] == index[:, second]) & (weights[:, [first, second]] > 0).all(1)
            weights[same, first] += weights[same, second]
            weights[same, second] = 0
    total = weights.sum(1, keepdims=True)
    weights[:, :1] += total <= 0
    weights = (weights / weights.sum(1, keepdims=True)).astype(np.float32)
    index[weights == 0] = 0
    smallest = np.uint8 if joints <= 256 else np.uint16
    return {
        "JOINTS_0": builder.accessor(index.astype(smallest), vertices=True),
        "WEIGHTS_0": builder.accessor(weights, vertices=True),
    }


def add_skeleton(builder: Builder, binding: Binding) -> tuple[int, list[int], int]:
    """The indices of a skin, of its joints' nodes, and of the node above them all."""
    places = y_up(binding.joints.detach().cpu().double())
    names, parents = binding.joint_names, binding.joint_parents
    offsets = [places[j] - places[p] if p >= 0 else places[j] for j, p in enumerate(parents)]
    nodes = [
        builder.add("nodes", {"name": name, "translation": offset.tolist()})
        for name, offset in zip(names, offsets, strict=True)
    ]
    for joint, parent in enumerate(parents):
        if parent >= 0:
            builder.json["nodes"][nodes[parent]].setdefault("children", []).append(nodes[joint])
    roots = [nodes[joint] for joint, parent in enumerate(parents) if parent < 0]
    top = roots[0]
    if len(roots) > 1:  # the joints of a skin have a common root
        top = builder.add("nodes", {"name": "skeleton", "children": roots})
    bound = torch.eye(4, dtype=torch.float64).repeat(len(nodes), 1, 1)
    bound[:, :3, 3] = places
    extras: Json = {}
    if binding.stance is not None:
        quats = torch.nn.functional.normalize(binding.stance.detach().cpu().double(), dim=-1)
        turned = _y_up_quats(quats)
        for node, quat in zip(nodes, turned.tolist()):
            builder.json["nodes"][node]["rotation"] = quat
        raised = replace(binding, joints=places, stance=None)
        bound = joint_transforms(raised, turned.roll(1, -1)) @ bound
        extras = {"extras": {STANCE: True}}
    skin: Json = {
        "joints": nodes,
        # Column by column, as glTF stores matrices.
        "inverseBindMatrices": builder.accessor(torch.linalg.inv(bound).float().numpy()),
        "skeleton": top,
        **extras,
    }
    return builder.add("skins", skin), nodes, top


def add_clip(builder: Builder, clip: Clip, binding: Binding, nodes: list[int]) -> None:
    """An animation: the rotations of the joints that the clip and the skeleton have, and the translation of
    the roots. Of a looping clip, the first frame is there again at the end."""
    rotations, translation = clip.rotations.cpu(), y_up(clip.translation.cpu().float())
    if clip.loops:
        rotations = torch.cat([rotations, rotations[:1]])
        translation = torch.cat([translation, translation[:1]])
    times = (np.arange(len(rotations)) / clip.fps).astype(np.float32)
    when = builder.accessor(times, bounds=True)
    samplers: list[Json] = []
    channels: list[Json] = []

    def track(node: int, path: str, values: Tensor) -> None:
        output = builder.accessor(values.float().contiguous().numpy())
        channels.append({"sampler": len(samplers), "target": {"node": node, "path": path}})
        samplers.append({"input": when, "output": output, "interpolation": "LINEAR"})

    places = y_up(binding.joints.detach().cpu().float())
    columns = {name: column for column, name in enumerate(clip.joint_names)}
    for joint, name in enumerate(binding.joint_names):
        if name in columns:
            quats = continuous(torch.nn.functional.normalize(rotations[:, columns[name]], dim=-1))
            track(nodes[joint], "rotation", _y_up_quats(quats))
        elif binding.stance is not None:  # what a clip does not move is in the rest pose, not in the stance
            track(nodes[joint], "rotation", torch.tensor([0.0, 0.0, 0.0, 1.0]).repeat(len(times), 1))
        if binding.joint_parents[joint] < 0:
            track(nodes[joint], "translation", places[joint] + translation)
    extras = {"fps": clip.fps, "loops": clip.loops}
    builder.add(
        "animations", {"name": clip.name, "samplers": samplers, "channels": channels, "extras": extras}
    )


def read_skinning(document: Document, attributes: Json, count: int) -> tuple[Tensor, Tensor]:
    """Joints [N,4] int64 and weights [N,4], which sum to 1, of `count` points."""
    for name in ("JOINTS_0", "WEIGHTS_0"):
        if name not in attributes or document.count(attributes[name]) != count:
            raise document.error(f"it has a skin, but not as many {name} as points")
    joints = torch.from_numpy(document.integers(attributes["JOINTS_0"], "VEC4"))
    weights = torch.from_numpy(document.array(attributes["WEIGHTS_0"], "VEC4")).clamp_min(0)
    total = weights.sum(1, keepdim=True)
    unbound = total[:, 0] == 0
    weights = weights / torch.where(total > 0, total, 1.0)
    weights[unbound, 0] = 1
    return joints, weights


def read_skeleton(document: Document, skin: Any) -> Binding:
    """The skeleton of a skin, in our world. Raises UserError if it is damaged, or if the mesh was bound in
    another pose than the file's rest pose."""
    joints = _joints(document, skin)
    world = document.world_matrices()
    if any(joint not in world for joint in joints):
        raise document.error("a joint is not in the scene")
    places = np.stack([world[joint] for joint in joints])
    if not _agree(_bound(document, skin, joints, places)):
        raise document.error("its skeleton does not rest in the pose that the mesh was bound in")
    above = _parents(document, world)
    index = {joint: k for k, joint in enumerate(joints)}
    parents = [next((index[a] for a in _ancestors(joint, above) if a in index), -1) for joint in joints]
    stance = None
    if _stands(document, skin):
        turns = [
            document.numbers(document.item("nodes", joint), "rotation", [0, 0, 0, 1]) for joint in joints
        ]
        stance = torch.nn.functional.normalize(_z_up_quats(torch.from_numpy(np.stack(turns))), dim=-1).float()
        rest = _unturned(document, world, above, joints)
        places = np.stack([rest[joint] for joint in joints])
    return Binding(
        _names(document, joints), parents, z_up(torch.from_numpy(places[:, :3, 3])).float(), stance
    )


def _stands(document: Document, skin: Any) -> bool:
    """Whether a skin's nodes are rotated by a stance."""
    return document.object(document.item("skins", skin), "extras").get(STANCE) is True


def _unturned(
    document: Document, world: dict[int, np.ndarray], above: dict[int, int], joints: list[int]
) -> dict[int, np.ndarray]:
    """Where the nodes of the scene would be, were the joints not rotated."""
    found: dict[int, np.ndarray] = {}
    turned = set(joints)

    def place(node: int) -> np.ndarray:
        if node not in found:
            local = document.local_matrix(document.item("nodes", node))
            if node in turned:
                local = np.block([[np.eye(3), local[:3, 3:]], [np.zeros((1, 3)), np.ones((1, 1))]])
            found[node] = (place(above[node]) if node in above else np.eye(4)) @ local
        return found[node]

    return {node: place(node) for node in world}


def bound_place(document: Document, skin: Any) -> np.ndarray:
    """Where the joints of a skin put the mesh at rest, whatever its own node: float64 [4,4]. The identity
    where they do not agree, see `read_skeleton`."""
    joints = _joints(document, skin)
    world = document.world_matrices()
    if any(joint not in world for joint in joints):
        return np.eye(4)
    bound = _bound(document, skin, joints, np.stack([world[joint] for joint in joints]))
    still = np.abs(bound[0] - np.eye(4)).max() < REST
    return bound[0] if _agree(bound) and not still else np.eye(4)


def _agree(bound: np.ndarray) -> bool:
    """Whether all matrices [J,4,4] are the same, within REST of the mesh's own unit."""
    with np.errstate(all="ignore"):  # they may hold anything
        return bool(np.abs(bound - bound[0]).max() < REST * max(1.0, float(np.abs(bound[0, :3, :3]).max())))


def _bound(document: Document, skin: Any, joints: list[int], places: np.ndarray) -> np.ndarray:
    """Where each joint puts the mesh at rest: float64 [J,4,4]."""
    stored = document.item("skins", skin)
    if "inverseBindMatrices" not in stored:
        return np.broadcast_to(np.eye(4), places.shape)
    inverse = document.array(stored["inverseBindMatrices"], "MAT4")
    if len(inverse) != len(joints):
        raise document.error(f"a skin has {len(joints)} joints and {len(inverse)} matrices")
    with np.errstate(all="ignore"):
        return np.asarray(places @ inverse.astype(np.float64))


def read_clips(path: str | os.PathLike[str]) -> list[Clip]:
    """The motions of a .glb: its animations of joints, in our world. Scales and morph targets are left out.

    Keys are resampled at the rate the file says, or one that fits them. Raises UserError if the file is
    damaged or has no skin.
    """
    document = Document(path)
    if not document.items("skins"):
        raise document.error("it has no skeleton")
    skins = range(len(document.items("skins")))
    joints = list(dict.fromkeys(joint for skin in skins for joint in _joints(document, skin)))
    world = document.world_matrices()
    above = _parents(document, world)
    if any(joint not in world for joint in joints):
        raise document.error("a joint is not in the scene")
    standing = [joint for skin in skins if _stands(document, skin) for joint in _joints(document, skin)]
    if standing:
        world = _unturned(document, world, above, standing)
    return [
        _read_clip(document, animation, joints, world, above, f"clip {number + 1}")
        for number, animation in enumerate(document.items("animations"))
    ]


def _read_clip(
    document: Document,
    animation: Json,
    joints: list[int],
    world: dict[int, np.ndarray],
    above: dict[int, int],
    name: str,
) -> Clip:
    tracks: dict[tuple[int, str], _Track] = {}
    for channel in document.objects(animation, "channels"):
        target = document.object(channel, "target")
        node, path = target.get("node"), target.get("path")
        if node in joints and path in ("rotation", "translation"):
            tracks[node, path] = _track(document, animation, channel, path)
    keys = [track.times for track in tracks.values()] or [np.zeros(1)]
    start, end = min(times[0] for times in keys), max(times[-1] for times in keys)
    extras = document.object(animation, "extras")
    fps = extras.get("fps", _rate(max(keys, key=len)))
    if not isinstance(fps, int | float) or not 0 < fps < 1e4 or (end - start) * fps > MAX_FRAMES:
        raise document.error(
            f"an animation has {quoted(fps, 40)} frames a second, or over {MAX_FRAMES} frames"
        )
    frames = max(1, round((end - start) * fps) + 1)
    loops = extras.get("loops") is True and frames > 1
    times = start + np.arange(frames - loops) / fps
    rotations = torch.zeros(len(times), len(joints), 4, dtype=torch.float64)
    rotations[..., 0] = 1
    translation = torch.zeros(len(times), 3, dtype=torch.float64)
    for (node, path), track in tracks.items():
        parent = world[above[node]] if node in above else np.eye(4)
        sampled = track.at(times)
        if path == "rotation":
            # The node's rotation, from rest and in the world's axes: W_parent · a · W_joint⁻¹.
            turns = torch.from_numpy(_turn(parent)) @ matrices(sampled.roll(1, -1))
            turns = turns @ torch.from_numpy(_turn(world[node])).T
            quats = from_matrices(turns)
            column = joints.index(node)
            rotations[:, column] = torch.cat([quats[:, :1], z_up(quats[:, 1:])], 1)
        elif not any(ancestor in joints for ancestor in _ancestors(node, above)):
            moved = sampled @ torch.from_numpy(parent[:3, :3]).T + torch.from_numpy(parent[:3, 3])
            translation = z_up(moved - torch.from_numpy(world[node][:3, 3]))
    title = animation.get("name", name)
    return Clip(
        name=title if isinstance(title, str) else name,
        fps=float(fps),
        joint_names=tuple(_names(document, joints)),
        rotations=continuous(rotations).float(),
        translation=translation.float(),
        loops=loops,
    )


@dataclass(frozen=True)
class _Track:
    """Keys of a node's rotation (xyzw) or translation: times [K], seconds, ascending; values [K,4 or 3]."""

    times: np.ndarray
    values: Tensor
    step: bool

    def at(self, times: np.ndarray) -> Tensor:
        """The values at `times`, those at the ends beyond them."""
        after = np.searchsorted(self.times, times, side="right").clip(1, max(1, len(self.times) - 1))
        before = after - 1
        after = after.clip(max=len(self.times) - 1)
        span = np.maximum(self.times[after] - self.times[before], 1e-9)
        share = torch.from_numpy(((times - self.times[before]) / span).clip(0, 1))
        if self.step:
            share = share.floor()
        first, second = self.values[before], self.values[after]
        if self.values.shape[1] == 4:
            return slerp(first, second, share)
        return torch.lerp(first, second, share[:, None])


def _track(document: Document, animation: Json, channel: Json, path: str) -> _Track:
    samplers = document.objects(animation, "samplers")
    number = document.whole(channel, "sampler", 0)
    if number >= len(samplers):
        raise document.error(f"an animation has no sampler {number}")
    sampler = samplers[number]
    kind = {"rotation": "VEC4", "translation": "VEC3"}[path]
    with np.errstate(invalid="ignore"):  # a signalling NaN would warn
        times = document.array(sampler.get("input"), "SCALAR").astype(np.float64)
    values = torch.from_numpy(document.array(sampler.get("output"), kind)).double()
    if sampler.get("interpolation") == "CUBICSPLINE":
        values = values[1::3]  # the keys themselves, between their tangents
    if len(values) != len(times):
        raise document.error(f"an animation has {len(times)} times and {len(values)} values")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any() or not bool(values.isfinite().all()):
        raise document.error("an animation has times that do not ascend, or values that are not finite")
    if path == "rotation":
        if bool(((values.norm(dim=-1) - 1).abs() > 0.1).any()):
            raise document.error("an animation has rotations that are not unit quaternions")
        values = torch.nn.functional.normalize(values, dim=-1)
    return _Track(times, values, sampler.get("interpolation") == "STEP")


def _rate(times: np.ndarray) -> float:
    """Frames a second of keys."""
    found = 1 / float(np.median(np.diff(times))) if len(times) > 1 else 0.0
    return found if found >= SPARSE else RATE


def _turn(matrix: np.ndarray) -> np.ndarray:
    """The rotation of a matrix [4,4], without its scale."""
    u, _, vt = np.linalg.svd(matrix[:3, :3])
    return np.asarray(u @ vt)


def _joints(document: Document, skin: Any) -> list[int]:
    """The nodes of a skin's joints."""
    joints = document.item("skins", skin).get("joints")
    if not isinstance(joints, list) or not joints:
        raise document.error(f"skins[{skin}] has no joints")
    for joint in joints:
        document.item("nodes", joint)
    if len(set(joints)) < len(joints):
        raise document.error(f"skins[{skin}] has a joint twice")
    return joints


def _parents(document: Document, world: dict[int, np.ndarray]) -> dict[int, int]:
    """The nodes above those of the scene."""
    nodes = document.items("nodes")
    return {child: index for index in world for child in nodes[index].get("children", [])}


def _ancestors(node: int, above: dict[int, int]) -> Iterator[int]:
    """The nodes above a node, nearest first."""
    while node in above:
        node = above[node]
        yield node


def _names(document: Document, joints: list[int]) -> list[str]:
    """The names of joints, made different where they are not."""
    names: list[str] = []
    for joint in joints:
        name = document.item("nodes", joint).get("name")
        if not isinstance(name, str) or name in names:
            name = f"{name if isinstance(name, str) else 'joint'} {joint}"
        names.append(name)
    return names
