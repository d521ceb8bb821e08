"""Motions made by program, written as files; forward kinematics by matrices in float64; damaged files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from specularip.motion.amass import LAYOUTS, skeleton

Angles = np.ndarray | float

FPS = 30.0
STAND = Rotation.from_euler("x", 90, degrees=True)
"""The root orientation of an SMPL body that stands in AMASS's world: y up becomes z up."""


def smpl_motion(kind: str, count: int = 55, frames: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Rotation vectors [T,J,3] and root translation [T,3] in AMASS's world of "walk", "arms", "squat" or
    "twist", each two seconds long. Rotations are about the body's axes: x to its left, y up, z to its
    front."""
    names = LAYOUTS[count]
    phase = np.linspace(0, 2 * np.pi, frames, endpoint=False)
    swing, zero = np.sin(phase), np.zeros(frames)
    angles = {name: np.zeros((frames, 3)) for name in names}
    moved = np.zeros((frames, 3))

    def bend(joint: str, x: Angles = zero, y: Angles = zero, z: Angles = zero) -> None:
        angles[joint] = np.stack(np.broadcast_arrays(x, y, z), 1)

    down = np.full(frames, np.radians(70))
    if kind == "walk":
        for side, sign in (("left", 1), ("right", -1)):
            bend(f"{side}_hip", x=-0.5 * sign * swing)
            bend(f"{side}_knee", x=0.5 + 0.5 * sign * np.cos(phase))
            bend(f"{side}_ankle", x=-0.1 * sign * swing)
            bend(f"{side}_shoulder", y=-0.5 * sign * swing * sign, z=-sign * down)
            bend(f"{side}_elbow", y=-sign * np.full(frames, 0.4))
        bend("spine2", y=0.15 * swing)
        moved[:, 1] = -1.2 * phase / np.pi  # towards −y, which the body faces
    elif kind == "arms":
        lift = 0.5 - 0.5 * np.cos(phase)
        for side, sign in (("left", 1), ("right", -1)):
            bend(f"{side}_collar", z=sign * 0.3 * lift)
            bend(f"{side}_shoulder", z=sign * (2.4 * lift - 1.2), x=0.6 * swing)
            bend(f"{side}_elbow", y=-sign * 1.8 * (1 - lift), z=0.2 * swing)
            bend(f"{side}_wrist", x=0.9 * swing, z=sign * 0.4 * lift)
        bend("head", x=-0.3 * lift)
    elif kind == "squat":
        depth = 0.5 - 0.5 * np.cos(phase)
        for side, sign in (("left", 1), ("right", -1)):
            bend(f"{side}_hip", x=-1.7 * depth, z=sign * 0.3 * depth)
            bend(f"{side}_knee", x=2.0 * depth)
            bend(f"{side}_ankle", x=-0.7 * depth)
            bend(f"{side}_shoulder", y=-sign * 1.3 * depth, z=-sign * (1 - depth))
        bend("spine1", x=0.4 * depth)
    elif kind == "twist":
        for joint, share in (("spine1", 0.3), ("spine2", 0.3), ("spine3", 0.2), ("neck", 0.2), ("head", 0.3)):
            bend(joint, y=share * swing, z=0.2 * share * np.cos(phase))
        for side, sign in (("left", 1), ("right", -1)):
            bend(f"{side}_elbow", y=-sign * (0.8 + 0.6 * swing), x=0.7 * swing)
            bend(f"{side}_hip", y=0.3 * swing, z=sign * 0.25)
    else:
        raise ValueError(kind)
    yaw = Rotation.from_euler("z", (0.4 * swing if kind == "twist" else zero)[:, None])
    poses = np.stack([angles[name] for name in names], 1)
    poses[:, 0] = (yaw * STAND).as_rotvec()
    _, places = place_joints(*smpl_skeleton(count), turns_of(poses), moved)
    feet = [names.index(f"{side}_{joint}") for side in ("left", "right") for joint in ("ankle", "foot")]
    moved[:, 2] -= (places[:, feet, 2] - [0.08, 0.02, 0.08, 0.02]).min(1)  # on the floor
    return poses, moved + np.array([2.0, -1.0, 0.0])


def write_amass(path: Path, poses: np.ndarray, trans: np.ndarray, /, **more: object) -> Path:
    """An .npz as AMASS has them. `more` replaces or adds arrays; None leaves one out."""
    arrays = {
        "poses": poses.reshape(len(poses), -1), "trans": trans, "betas": np.zeros(16), "mocap_framerate": FPS,
        "gender": "neutral",
    } | more  # fmt: skip
    np.savez(path, **{name: np.asarray(array) for name, array in arrays.items() if array is not None})
    return path


def smpl_skeleton(count: int) -> tuple[Sequence[int], np.ndarray]:
    """Parents and rest positions [J,3] in the body's own axes."""
    _, parents, joints = skeleton(count)
    return parents, joints.double().numpy()


def place_joints(
    parents: Sequence[int], joints: np.ndarray, turns: np.ndarray, moved: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Forward kinematics: joints [J,3] at rest, matrices relative to the parent [T,J,3,3], the root's
    position [T,3] -> matrices in the world [T,J,3,3] and positions [T,J,3]."""
    world, places = np.empty_like(turns), np.empty((*turns.shape[:2], 3))
    for joint, parent in enumerate(parents):
        if parent < 0:
            world[:, joint], places[:, joint] = turns[:, joint], moved
        else:
            world[:, joint] = world[:, parent] @ turns[:, joint]
            offset = joints[joint] - joints[parent]
            places[:, joint] = places[:, parent] + world[:, parent] @ offset
    return world, places


def turns_of(poses: np.ndarray) -> np.ndarray:
    """Rotation matrices [T,J,3,3] of rotation vectors [T,J,3]."""
    return Rotation.from_rotvec(poses.reshape(-1, 3)).as_matrix().reshape(*poses.shape, 3)


def bone_angles(
    parts: dict[str, int], theirs: np.ndarray, our_parts: dict[str, int], ours: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Mean and largest angle in degrees between limbs' bones of positions [T,J,3] of two skeletons, over both
    sides and all frames. The parts are those of `skeletons.parts_of`."""
    found = {}
    for start, end in BONES:
        angles = []
        for side in "LR":
            names = (f"{start}.{side}", f"{end}.{side}")
            a, b = (
                places[:, index[names[1]]] - places[:, index[names[0]]]
                for index, places in ((parts, theirs), (our_parts, ours))
            )
            angles.append(np.arctan2(np.linalg.norm(np.cross(a, b), axis=1), (a * b).sum(1)))
        found[start] = (float(np.degrees(np.mean(angles))), float(np.degrees(np.max(angles))))
    return found


BONES = (
    ("upperarm01", "lowerarm01"), ("lowerarm01", "wrist"), ("upperleg01", "lowerleg01"),
    ("lowerleg01", "foot"),
)  # fmt: skip


def from_y_up(vectors: np.ndarray) -> np.ndarray:
    """Vectors [...,3] with y up, the body facing +z, in this project's axes."""
    x, y, z = np.moveaxis(vectors, -1, 0)
    return np.stack([x, -z, y], -1)


def matrices(quats: np.ndarray) -> np.ndarray:
    """Rotation matrices of quaternions [...,4] wxyz."""
    flat = np.roll(quats.reshape(-1, 4), -1, axis=1)
    return Rotation.from_quat(flat).as_matrix().reshape(*quats.shape[:-1], 3, 3)


CMU = {
    "Hips": (None, (0, 0, 0)),
    "LHipJoint": ("Hips", (0, 0, 0)), "LeftUpLeg": ("LHipJoint", (1.9, -1.7, 0.8)),
    "LeftLeg": ("LeftUpLeg", (2.4, -6.5, 0)), "LeftFoot": ("LeftLeg", (2.5, -7.0, 0)),
    "LeftToeBase": ("LeftFoot", (0.2, -0.4, 1.9)),
    "RHipJoint": ("Hips", (0, 0, 0)), "RightUpLeg": ("RHipJoint", (-1.9, -1.7, 0.8)),
    "RightLeg": ("RightUpLeg", (-2.4, -6.5, 0)), "RightFoot": ("RightLeg", (-2.5, -7.0, 0)),
    "RightToeBase": ("RightFoot", (-0.2, -0.4, 1.9)),
    "LowerBack": ("Hips", (0, 0, 0)), "Spine": ("LowerBack", (0, 2.1, -0.1)),
    "Spine1": ("Spine", (0, 2.1, 0)), "Neck": ("Spine1", (0, 0, 0)), "Neck1": ("Neck", (0, 1.7, 0)),
    "Head": ("Neck1", (-0.1, 1.5, -0.6)),
    "LeftShoulder": ("Spine1", (0, 0, 0)), "LeftArm": ("LeftShoulder", (3.4, 0.5, 0.2)),
    "LeftForeArm": ("LeftArm", (5.4, 0, 0)), "LeftHand": ("LeftForeArm", (2.4, 0, 0)),
    "RightShoulder": ("Spine1", (0, 0, 0)), "RightArm": ("RightShoulder", (-3.3, 0.6, 0.3)),
    "RightForeArm": ("RightArm", (-5.5, 0, 0)), "RightHand": ("RightForeArm", (-2.5, 0, 0)),
}  # fmt: skip
"""The skeleton of the CMU database's BVH files in its zero pose, legs apart, rounded."""

MIXAMO = {
    "Hips": (None, (0, 96, 2)),
    "Spine": ("Hips", (0, 10, 1)), "Spine1": ("Spine", (0, 11, -1)), "Spine2": ("Spine1", (0, 12, -3)),
    "Neck": ("Spine2", (0, 18, 2)), "Head": ("Neck", (0, 5, 2)),
    "LeftShoulder": ("Spine2", (6, 14, 3)), "LeftArm": ("LeftShoulder", (12, -4, -1)),
    "LeftForeArm": ("LeftArm", (25, -1, -3)), "LeftHand": ("LeftForeArm", (24, 0, 1)),
    "LeftHandMiddle1": ("LeftHand", (11, 0, 0)), "LeftHandMiddle2": ("LeftHandMiddle1", (3, -1, 0)),
    "RightShoulder": ("Spine2", (-6, 14, 3)), "RightArm": ("RightShoulder", (-12, -4, -1)),
    "RightForeArm": ("RightArm", (-25, 0, -3)), "RightHand": ("RightForeArm", (-24, 1, 1)),
    "RightHandMiddle1": ("RightHand", (-11, 0, 0)), "RightHandMiddle2": ("RightHandMiddle1", (-3, -1, 0)),
    "LeftUpLeg": ("Hips", (10, -5, -1)), "LeftLeg": ("LeftUpLeg", (0, -42, 3)),
    "LeftFoot": ("LeftLeg", (-2, -42, -2)), "LeftToeBase": ("LeftFoot", (0, -5, 14)),
    "RightUpLeg": ("Hips", (-10, -5, -1)), "RightLeg": ("RightUpLeg", (0, -42, 3)),
    "RightFoot": ("RightLeg", (2, -42, -2)), "RightToeBase": ("RightFoot", (0, -5, 14)),
}  # fmt: skip
"""Mixamo's skeleton in T-pose, centimetres."""

Bones = dict[str, tuple[str | None, tuple[float, float, float]]]


def random_turns(frames: int, count: int, seed: int, degrees: float = 40) -> np.ndarray:
    """Smooth random rotations [T,J,3,3], none in the first frame, up to `degrees`."""
    generator = np.random.default_rng(seed)
    time = np.linspace(0, 2 * np.pi, frames)[:, None, None]
    waves = generator.normal(size=(2, 1, count, 3))
    vectors = np.sin(time) * waves[0] + np.sin(2 * time) * waves[1]
    vectors *= np.radians(degrees) / np.linalg.norm(vectors, axis=-1).max()
    return Rotation.from_rotvec(vectors.reshape(-1, 3)).as_matrix().reshape(frames, count, 3, 3)


def bvh_text(
    bones: Bones,
    turns: np.ndarray,
    moved: np.ndarray,
    order: str = "ZXY",
    prefix: str = "",
    frame_time: str = "0.0333333",
) -> str:
    """A BVH file: joints by name with parent and offset, parents first; matrices [T,J,3,3] relative to the
    parents, the root's position [T,3]; every other joint has its channels in the opposite order."""
    names = list(bones)
    orders = [order if index % 2 == 0 else order[::-1] for index in range(len(names))]
    out = io.StringIO()
    out.write("HIERARCHY\n")

    columns: list[np.ndarray] = []

    def write(name: str, depth: int) -> None:
        index, pad = names.index(name), "\t" * depth
        offset = bones[name][1]
        out.write(f"{pad}{'JOINT' if depth else 'ROOT'} {prefix}{name}\n{pad}{{\n")
        out.write(f"{pad}\tOFFSET {' '.join(f'{x:.6f}' for x in offset)}\n")
        channels = " ".join(f"{axis}rotation" for axis in orders[index])
        position = "" if depth else "Xposition Yposition Zposition "
        out.write(f"{pad}\tCHANNELS {3 if depth else 6} {position}{channels}\n")
        if not depth:
            columns.append(moved)
        columns.append(Rotation.from_matrix(turns[:, index]).as_euler(orders[index], degrees=True))
        children = [child for child, (above, _) in bones.items() if above == name]
        for child in children:
            write(child, depth + 1)
        if not children:
            out.write(f"{pad}\tEnd Site\n{pad}\t{{\n{pad}\t\tOFFSET 0 1 0\n{pad}\t}}\n")
        out.write(f"{pad}}}\n")

    write(names[0], 0)
    out.write(f"MOTION\nFrames: {len(turns)}\nFrame Time: {frame_time}\n")
    np.savetxt(out, np.concatenate(columns, 1), fmt="%.6f")
    return out.getvalue()


def rest_positions(bones: Bones) -> tuple[list[int], np.ndarray]:
    """Parents and rest positions [J,3] of such a skeleton."""
    names = list(bones)
    parents = [-1 if parent is None else names.index(parent) for parent, _ in bones.values()]
    places = np.zeros((len(names), 3))
    for index, (_, offset) in enumerate(bones.values()):
        places[index] = places[parents[index]] * (parents[index] >= 0) + offset
    return parents, places
