"""SMPL-X as a Body, for users who have its files.

Pavlakos et al., "Expressive Body Capture: 3D Hands, Face, and Body from a Single Image", CVPR 2019. The
model cannot be redistributed: it needs a registration at smpl-x.is.tue.mpg.de and forbids commercial use.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from specularip.body.mesh import Body, centred, fit_head, vertex_normals
from specularip.body.regions import HEAD, NAMES
from specularip.errors import UserError
from specularip.npz import read_arrays

_SIDES = ("left", "right")
_FINGERS = tuple(
    f"{side}_{finger}{joint}"
    for side in _SIDES
    for finger in ("index", "middle", "pinky", "ring", "thumb")
    for joint in (1, 2, 3)
)
JOINT_NAMES = (
    "pelvis", "left_hip", "right_hip", "spine1", "left_knee", "right_knee", "spine2", "left_ankle",
    "right_ankle", "spine3", "left_foot", "right_foot", "neck", "left_collar", "right_collar", "head",
    "left_shoulder", "right_shoulder", "left_elbow", "right_elbow", "left_wrist", "right_wrist", "jaw",
    "left_eye", "right_eye", *_FINGERS,
)  # fmt: skip
"""SMPL-X's 55 joints in its own order."""

# The first word found in a joint's name gives the region of the vertices with that joint as heaviest.
_REGION_OF_JOINT = (
    ("head", "head"), ("jaw", "head"), ("eye", "head"), ("neck", "neck"), ("shoulder", "upper_arm"),
    ("elbow", "lower_arm"), ("pelvis", "hips"), ("hip", "upper_leg"), ("knee", "lower_leg"),
    ("ankle", "foot"), ("foot", "foot"), ("spine", "torso"), ("collar", "torso"),
)  # fmt: skip
_COCO18_JOINTS = {
    2: "right_shoulder", 3: "right_elbow", 4: "right_wrist", 5: "left_shoulder", 6: "left_elbow",
    7: "left_wrist", 8: "right_hip", 9: "right_knee", 10: "right_ankle", 11: "left_hip", 12: "left_knee",
    13: "left_ankle",
}  # fmt: skip
_KEYS = ("v_template", "shapedirs", "posedirs", "J_regressor", "weights", "kintree_table", "f")
_SHAPES = 10
_ARMS_DOWN_DEG = 45.0


def smplx_body(path: str | Path, gender: Literal["neutral", "female", "male"] = "neutral") -> Body:
    """The mean SMPL-X body in A-pose with relaxed hands, from the user's model file.

    `path` is SMPLX_NEUTRAL.npz (or FEMALE, MALE), its folder, or the folder that contains its `smplx` folder.
    Nothing is unpickled. Raises UserError if the file or the `smplx` package is missing, or the file is not
    an SMPL-X model; ValueError for another gender.
    """
    if gender not in ("neutral", "female", "male"):
        raise ValueError(f"gender must be neutral, female or male, got {gender!r}")
    arrays = _read(_find(Path(path), gender))
    lbs = _import_lbs()
    template = torch.from_numpy(np.asarray(arrays["v_template"], dtype=np.float32))
    count = len(template)
    weights = torch.from_numpy(np.asarray(arrays["weights"], dtype=np.float32))
    parents = torch.from_numpy(np.asarray(arrays["kintree_table"][0]).astype(np.int64))
    parents[0] = -1  # stored as 2**32 - 1
    shapedirs = torch.from_numpy(np.asarray(arrays["shapedirs"], dtype=np.float32)[..., :_SHAPES])
    vertices, joints = lbs(
        torch.zeros(1, shapedirs.shape[-1]),
        _pose(arrays)[None],
        template[None],
        shapedirs,
        torch.from_numpy(np.asarray(arrays["posedirs"], dtype=np.float32).reshape(count * 3, -1).T.copy()),
        torch.from_numpy(np.asarray(arrays["J_regressor"], dtype=np.float32)),
        parents,
        weights,
    )
    # y up, facing +z -> z up, facing -y; the person's left stays on +x.
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    vertices, joints = vertices[0] @ turn.T, joints[0] @ turn.T
    offset, height = centred(vertices)
    vertices, joints = vertices + offset, joints + offset
    heaviest = weights.argmax(1)
    regions = torch.tensor([_region(name) for name in JOINT_NAMES])[heaviest]
    faces = torch.from_numpy(np.asarray(arrays["f"]).astype(np.int64))
    top = weights.topk(4, dim=1)
    return Body(
        vertices=vertices,
        faces=faces,
        vertex_normals=vertex_normals(vertices, faces),
        regions=regions,
        joints=joints,
        joint_names=JOINT_NAMES,
        joint_parents=tuple(parents.tolist()),
        skin_joints=top.indices,
        skin_weights=top.values / top.values.sum(1, keepdim=True),
        keypoints=_keypoints(vertices, joints, heaviest, regions),
        head=fit_head(vertices[None, regions == HEAD]),
        height=float(height),
    )


def _find(path: Path, gender: str) -> Path:
    name = f"SMPLX_{gender.upper()}.npz"
    if path.suffix == ".pkl":
        raise UserError(f"{path} is a pickle, which is never loaded; use {name} from the same download")
    for candidate in (path, path / name, path / "smplx" / name):
        if candidate.is_file():
            return candidate
    raise UserError(
        f"no {name} at {path}; register at https://smpl-x.is.tue.mpg.de and download SMPL-X v1.1 (NPZ), "
        "or leave the body at its default, Anny"
    )


def _read(path: Path) -> dict[str, Any]:
    arrays = read_arrays(path, (*_KEYS, "hands_meanl", "hands_meanr"))
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise UserError(f"{path} is not an SMPL-X model: it lacks {', '.join(missing)}")
    template, joints = arrays["v_template"], len(JOINT_NAMES)
    vertices = len(template) if template.ndim else 0
    expected = {
        "v_template": (vertices, 3),
        "weights": (vertices, joints),
        "J_regressor": (joints, vertices),
        "kintree_table": (2, joints),
        "posedirs": (vertices, 3, (joints - 1) * 9),
        "shapedirs": (vertices, 3),
    }
    expected |= {key: (45,) for key in ("hands_meanl", "hands_meanr") if key in arrays}
    for key, shape in expected.items():
        found = arrays[key].shape
        if found[: len(shape)] != shape or len(found) > max(len(shape), 3):
            raise UserError(f"{path} is not an SMPL-X model: {key} is {list(found)}, not {list(shape)}")
    for key in expected:
        if not np.isfinite(arrays[key]).all():
            raise UserError(f"{path} is damaged: {key} has numbers that are not finite")
    parents = arrays["kintree_table"][0].astype(np.int64)[1:]
    if ((parents < 0) | (parents >= np.arange(1, joints))).any():
        raise UserError(f"{path} is damaged: joints have parents that do not come before them")
    faces = arrays["f"]
    if faces.ndim != 2 or faces.shape[1] != 3 or faces.dtype.kind not in "iu" or not len(faces):
        raise UserError(f"{path} is not an SMPL-X model: f is {faces.dtype} {list(faces.shape)}")
    if int(faces.min()) < 0 or int(faces.max()) >= vertices:
        raise UserError(f"{path} is damaged: faces have vertices that it does not have")
    return arrays


def _import_lbs() -> Any:
    try:
        from smplx.lbs import lbs
    except ImportError as error:
        raise UserError("SMPL-X bodies need the smplx package: pip install 'specularip[smplx]'") from error
    return lbs


def _pose(arrays: dict[str, Any]) -> Tensor:
    """Axis-angle pose [55*3]: arms lowered by a rotation about the forward axis, hands relaxed."""
    pose = torch.zeros(len(JOINT_NAMES), 3)
    for side, sign in (("left", -1.0), ("right", 1.0)):
        pose[JOINT_NAMES.index(f"{side}_shoulder"), 2] = sign * math.radians(_ARMS_DOWN_DEG)
    for key, first in (("hands_meanl", 25), ("hands_meanr", 40)):
        if key in arrays:
            hand = np.asarray(arrays[key], dtype=np.float32).reshape(15, 3)
            pose[first : first + 15] = torch.from_numpy(hand)
    return pose.reshape(-1)


def _region(joint: str) -> int:
    return NAMES.index(next((region for word, region in _REGION_OF_JOINT if word in joint), "hand"))


def _keypoints(vertices: Tensor, joints: Tensor, heaviest: Tensor, regions: Tensor) -> Tensor:
    """OpenPose keypoints [18,3]: joints for the limbs, extreme vertices of the head for the face."""

    def extreme(mask: Tensor, direction: tuple[float, float, float]) -> Tensor:
        points = vertices[mask]
        return points[(points @ points.new_tensor(direction)).argmax()]

    keypoints = torch.zeros(18, 3)
    for index, name in _COCO18_JOINTS.items():
        keypoints[index] = joints[JOINT_NAMES.index(name)]
    keypoints[1] = (keypoints[2] + keypoints[5]) / 2
    head = regions == HEAD
    keypoints[0] = extreme(head, (0, -1, 0))
    for index, name in ((14, "right_eye"), (15, "left_eye")):
        keypoints[index] = extreme(heaviest == JOINT_NAMES.index(name), (0, -1, 0))
    keypoints[16], keypoints[17] = extreme(head, (-1, 0, 0)), extreme(head, (1, 0, 0))
    return keypoints
