"""Motion files of SMPL bodies: AMASS's .npz and others with the same arrays.

Mahmood et al., "AMASS: Archive of Motion Capture as Surface Shapes" (ICCV 2019). `poses` [T,3J] are rotations
of the J joints relative to their parents, axis times angle; `trans` [T,3] metres; `mocap_framerate` (SMPL-H
files) or `mocap_frame_rate` (SMPL-X files). SMPL-X files have the same in parts: `root_orient`, `pose_body`,
`pose_jaw`, `pose_eye`, `pose_hand`.

The files have no skeleton: it depends on body models that cannot be redistributed. The joints here are mean
adults' in T-pose, left and right averaged, in millimetres. Retargeting needs the directions of the bones
only.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from specularip.errors import UserError, escaped
from specularip.motion.capture import Capture, upright
from specularip.motion.quaternions import from_rotation_vectors
from specularip.npz import read_arrays

RATES = ("mocap_framerate", "mocap_frame_rate", "fps", "framerate")
ROOTS, BODIES, TRANSLATIONS = (
    ("root_orient", "global_orient"),
    ("pose_body", "body_pose"),
    ("trans", "transl"),
)
COLUMNS = {"root_orient": 3, "pose_body": 63, "pose_jaw": 3, "pose_eye": 6, "pose_hand": 90}
PARTS = ("pose_jaw", "pose_eye", "pose_hand")

MOST_RADIANS = 4 * math.pi
"""Rotations beyond two turns are in degrees. Fits to markers stay below one turn and a half."""
MOST_DEGREES = 1080.0
"""Rotations beyond three turns are damaged."""
MOST_METRES = 1e4

_FINGERS = ("index", "middle", "pinky", "ring", "thumb")
_BODY = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist",
)  # fmt: skip
_HANDS = tuple(f"{side}_{finger}{n}" for side in ("left", "right") for finger in _FINGERS for n in (1, 2, 3))
LAYOUTS = {
    22: _BODY,
    24: (*_BODY, "left_hand", "right_hand"),
    52: (*_BODY, *_HANDS),
    55: (*_BODY, "jaw", "left_eye", "right_eye", *_HANDS),
}
"""Joint names by their count: SMPL-X's body, SMPL, SMPL-H, SMPL-X."""

# From the parent, in the body's own axes: x to its left, y up, z to its front; of the left side.
_SMPL = {
    "spine1": ("pelvis", 0, 109, -27), "spine2": ("spine1", 0, 135, 1), "spine3": ("spine2", 0, 53, 25),
    "neck": ("spine3", 0, 214, -43), "head": ("neck", 0, 65, 51),
    "hip": ("pelvis", 68, -91, -6), "knee": ("hip", 36, -379, -7), "ankle": ("knee", -15, -398, -43),
    "foot": ("ankle", 26, -52, 121),
    "collar": ("spine3", 80, 120, -36), "shoulder": ("collar", 94, 32, -9),
    "elbow": ("shoulder", 257, -13, -24), "wrist": ("elbow", 252, 8, -3), "hand": ("wrist", 84, -7, -13),
}  # fmt: skip
_SMPLX = _SMPL | {
    "spine1": ("pelvis", 0, 110, -28), "spine2": ("spine1", 0, 132, -6), "spine3": ("spine2", 0, 52, 28),
    "neck": ("spine3", 0, 165, -32), "head": ("neck", 0, 160, 20),
    "hip": ("pelvis", 61, -98, -24), "knee": ("hip", 50, -370, -13), "ankle": ("knee", -30, -407, -26),
    "foot": ("ankle", 43, -58, 119),
    "collar": ("spine3", 47, 85, -10), "shoulder": ("collar", 111, 56, -14),
    "elbow": ("shoulder", 263, -54, -34), "wrist": ("elbow", 251, 9, -9),
    "jaw": ("head", 0, 20, 0), "eye": ("head", 32, 55, 75),
}  # fmt: skip
_FINGER_BONES = {
    "index": ((88, -5, 21), (33, 3, 3), (22, 0, 0)), "middle": ((95, -2, -3), (31, 3, 0), (24, 0, 0)),
    "ring": ((82, -4, -27), (29, 3, -3), (25, 0, -2)), "pinky": ((69, -8, -43), (19, 0, -8), (16, 0, -6)),
    "thumb": ((24, -15, 26), (27, -5, 20), (23, -4, 17)),
}  # fmt: skip


def skeleton(count: int) -> tuple[tuple[str, ...], tuple[int, ...], Tensor]:
    """Names, parents and rest positions [J,3] in metres of the SMPL skeleton with 22, 24, 52 or 55 joints: in
    the body's own axes, y up, facing +z, the pelvis at the origin."""
    names = LAYOUTS[count]
    bones = dict(_SMPLX if count == 55 else _SMPL)
    for finger, offsets in _FINGER_BONES.items():
        for n, offset in enumerate(offsets, 1):
            bones[f"{finger}{n}"] = (f"{finger}{n - 1}" if n > 1 else "wrist", *offset)
    parents, places = [-1], [np.zeros(3)]
    for name in names[1:]:
        side, _, joint = name.rpartition("_")
        parent, offset = bones[joint][0], bones[joint][1:]
        above = parent if parent in names else f"{side}_{parent}"
        mirror = (-1 if side == "right" else 1, 1, 1)
        parents.append(names.index(above))
        places.append(places[parents[-1]] + np.multiply(offset, mirror) / 1000)
    return names, tuple(parents), torch.from_numpy(np.stack(places)).float()


def read_amass(path: Path, fps: float | None = None) -> Capture:
    """The motion in an AMASS, SMPL, SMPL-H or SMPL-X file. fps: used if the file gives no frame rate.

    Rotations in degrees and the up axis are told from the data, and noted. Body shape and gender are not
    read. Raises UserError for other counts of joints, numbers that are not finite, no frame rate, damaged
    files.
    """
    keys = ("poses", *ROOTS, *BODIES, *PARTS, *TRANSLATIONS, *RATES)
    arrays = read_arrays(path, keys)
    poses = _poses(path, arrays)
    frames, count = poses.shape[:2]
    notes = []
    largest = float(poses.norm(dim=-1).max())
    if largest > MOST_DEGREES:
        raise UserError(f"{path}: rotations up to {largest:.3g}, neither radians nor degrees: damaged file")
    if largest > MOST_RADIANS:
        poses = poses.deg2rad()
        notes.append(f"rotations up to {largest:.0f} are taken as degrees")
    translation = _first(arrays, TRANSLATIONS)
    if translation is None:
        notes.append("no trans: the body stays in its place")
        moved = torch.zeros(frames, 3)
    else:
        if translation.shape != (frames, 3):
            raise UserError(f"{path}: trans is {list(translation.shape)}, not [{frames},3] like its poses")
        moved = _numbers(path, "trans", translation)
        if float(moved.abs().max()) > MOST_METRES:
            raise UserError(f"{path}: trans goes up to {float(moved.abs().max()):.3g} metres: damaged file")
    names, parents, joints = skeleton(count)
    capture = Capture(
        name=escaped(path.stem),
        fps=_rate(path, arrays, fps),
        joint_names=names,
        joint_parents=parents,
        joints=joints,
        rotations=from_rotation_vectors(poses),
        translation=moved,
        notes=tuple(notes),
    )
    return upright(capture, str(path), usual_up=torch.tensor([0.0, 0.0, 1.0]))


def _first(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    return next((arrays[name] for name in names if name in arrays), None)


def _poses(path: Path, arrays: dict[str, np.ndarray]) -> Tensor:
    """All joints' rotation vectors [T,J,3]."""
    whole, root, body = arrays.get("poses"), _first(arrays, ROOTS), _first(arrays, BODIES)
    if whole is not None:
        parts = {"poses": _table(path, "poses", whole)}
    elif root is not None and body is not None:
        given = {"root_orient": root, "pose_body": body} | {
            key: arrays[key] for key in PARTS if key in arrays
        }
        parts = {key: _table(path, key, array) for key, array in given.items()}
        for key, table in parts.items():
            if table.shape != (len(root), COLUMNS[key]):
                raise UserError(f"{path}: {key} is {list(table.shape)}, not [{len(root)},{COLUMNS[key]}]")
        if "pose_jaw" in parts or "pose_eye" in parts:  # SMPL-X; without a face it is SMPL-H
            still = {key: torch.zeros(len(root), width) for key, width in COLUMNS.items()}
            parts = still | parts
    else:
        raise UserError(f"{path} holds no motion: neither poses nor root_orient and pose_body")
    vectors = torch.cat(list(parts.values()), 1)
    count = vectors.shape[1] / 3
    if count not in LAYOUTS:
        raise UserError(
            f"{path}: its poses have {vectors.shape[1]} columns, {count:.4g} joints; known are 22 or 24 "
            "joints (SMPL), 52 (SMPL-H) and 55 (SMPL-X)"
        )
    return vectors.reshape(len(vectors), -1, 3)


def _table(path: Path, name: str, array: np.ndarray) -> Tensor:
    """The array [T,K] or [T,J,3] as finite numbers [T,K]."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] != 3) or not len(array):
        raise UserError(f"{path}: {name} is {list(array.shape)}, not frames by 3 numbers a joint")
    return _numbers(path, name, array.reshape(len(array), -1))


def _numbers(path: Path, name: str, array: np.ndarray) -> Tensor:
    """The array [T,K] in float32; UserError for values that are not finite."""
    with np.errstate(over="ignore"):
        values = torch.from_numpy(array.astype(np.float32))
    bad = (~values.isfinite().all(1)).nonzero()[:, 0]
    if len(bad):
        frames = f"{len(bad)} of {len(values)} frames, the first is {int(bad[0])}"
        raise UserError(f"{path}: {name} is not a number in {frames}: cut them out")
    return values


def _rate(path: Path, arrays: dict[str, np.ndarray], fps: float | None) -> float:
    value = _first(arrays, RATES)
    if value is None or value.size != 1:
        if fps is None:
            raise UserError(f"{path} has no frame rate (mocap_framerate): give it, such as --file-fps 120")
        return fps
    rate = float(value.reshape(()))
    if not 0.1 <= rate <= 10_000:
        raise UserError(f"{path}: a frame rate of {rate:g} a second cannot be: damaged file")
    return rate
