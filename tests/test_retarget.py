"""Captured motions on Anny's joints."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_files import (
    CMU,
    MIXAMO,
    bone_angles,
    bvh_text,
    from_y_up,
    matrices,
    place_joints,
    random_turns,
    rest_positions,
    smpl_motion,
    smpl_skeleton,
    turns_of,
    write_amass,
)
from scipy.spatial.transform import Rotation

from specularip.body.anny import anny_body
from specularip.body.phenotype import Phenotype
from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.capture import Capture
from specularip.motion.clip import Clip
from specularip.motion.read import read_motion
from specularip.motion.retarget import retarget
from specularip.motion.skeletons import parts_of, trunk


@pytest.fixture(scope="module")
def anny() -> Binding:
    body = anny_body(Phenotype())
    return Binding(list(body.joint_names), list(body.joint_parents), body.joints)


def posed(clip: Clip, binding: Binding) -> tuple[np.ndarray, np.ndarray]:
    """World matrices [T,J,3,3] and positions [T,J,3] of a clip's joints."""
    joints = binding.joints.double().numpy()
    moved = joints[0] + clip.translation.double().numpy()
    return place_joints(binding.joint_parents, joints, matrices(clip.rotations.double().numpy()), moved)


def smpl(folder: Path, kind: str, count: int = 55) -> tuple[Capture, np.ndarray, np.ndarray]:
    """A capture of "walk" and so on, and its true world matrices and positions in the file's world."""
    poses, moved = smpl_motion(kind, count)
    parents, joints = smpl_skeleton(count)
    world, places = place_joints(parents, joints, turns_of(poses), moved)
    return read_motion(write_amass(folder / f"{kind}.npz", poses, moved)), world, places


def angles_of(capture: Capture, places: np.ndarray, clip: Clip, binding: Binding):
    parts, ours = parts_of(capture.joint_names, "")[1], parts_of(binding.joint_names, "")[1]
    return bone_angles(parts, places, ours, posed(clip, binding)[1])


@pytest.mark.parametrize("kind", ["walk", "arms", "squat", "twist"])
@pytest.mark.parametrize("count", [22, 55])
def test_limbs_point_where_smplx_limbs_point(tmp_path: Path, anny: Binding, kind: str, count: int) -> None:
    capture, _, places = smpl(tmp_path, kind, count)
    clip = retarget(capture, anny)
    for part, (mean, worst) in angles_of(capture, places, clip, anny).items():
        assert mean < 0.1 and worst < 0.2, part


@pytest.mark.parametrize("kind", ["CMU", "Mixamo"])
def test_limbs_point_where_bvh_limbs_point(tmp_path: Path, anny: Binding, kind: str, seed: int) -> None:
    bones = {"CMU": CMU, "Mixamo": MIXAMO}[kind]
    turns, moved = random_turns(40, len(bones), seed), np.zeros((40, 3))
    path = tmp_path / "a.bvh"
    path.write_text(bvh_text(bones, turns, moved))
    capture = read_motion(path)
    _, places = place_joints(*rest_positions(bones), turns, moved)
    clip = retarget(capture, anny)
    for part, (mean, worst) in angles_of(capture, from_y_up(places), clip, anny).items():
        assert mean < 1 and worst < 1, part  # CMU's shoulders are half a degree askew at rest


def test_trunk_and_head_turn_as_the_capture_does(tmp_path: Path, anny: Binding) -> None:
    capture, world, _ = smpl(tmp_path, "twist")
    clip = retarget(capture, anny)
    ours, _ = posed(clip, anny)
    to_rest = Rotation.from_euler("x", -90, degrees=True).as_matrix()
    names = list(capture.joint_names)
    for mine, theirs in (("root", "pelvis"), ("spine01", "spine3"), ("head", "head"), ("pelvis.L", "pelvis")):
        joint = anny.joint_names.index(mine)
        np.testing.assert_allclose(ours[:, joint], world[:, names.index(theirs)] @ to_rest, atol=2e-6)


def test_spine_and_neck_share_a_bend_equally(tmp_path: Path, anny: Binding) -> None:
    """The chest bends 50° at one joint of the source's; each of Anny's five bends 10°."""
    poses, moved = smpl_motion("walk", 22, frames=4)
    poses[:, 1:] = 0
    for joint in (3, 6, 9):
        poses[:, joint, 0] = np.radians(50) / 3
    poses[:, 15, 1] = np.radians(40)
    clip = retarget(read_motion(write_amass(tmp_path / "a.npz", poses, moved)), anny)
    bend = 2 * torch.rad2deg(torch.acos(clip.rotations[..., 0].clamp(-1, 1)))[0]
    for name in ("spine05", "spine04", "spine03", "spine02", "spine01"):
        assert float(bend[anny.joint_names.index(name)]) == pytest.approx(10, abs=0.05), name
    for name, degrees in (("neck01", 0), ("neck02", 0), ("neck03", 20), ("head", 20)):
        assert float(bend[anny.joint_names.index(name)]) == pytest.approx(degrees, abs=0.1), name


def test_the_forearm_takes_half_of_the_wrists_twist(tmp_path: Path, anny: Binding) -> None:
    """The hand turns exactly as the source's about the forearm, half of it before the wrist."""
    poses, moved = smpl_motion("walk", 55, frames=2)
    poses[:, 1:] = 0
    still = posed(retarget(read_motion(write_amass(tmp_path / "a.npz", poses, moved)), anny), anny)[0]
    names, parents, joints = anny.joint_names, *smpl_skeleton(55)
    axis = joints[20] - joints[18]
    axis /= np.linalg.norm(axis)
    poses[:, 20] = axis * np.radians(80)
    turned = posed(retarget(read_motion(write_amass(tmp_path / "b.npz", poses, moved)), anny), anny)[0]
    for name, degrees in (("lowerarm01.L", 0), ("lowerarm02.L", 40), ("wrist.L", 80), ("wrist.R", 0)):
        joint = names.index(name)
        vector = Rotation.from_matrix(turned[0, joint] @ still[0, joint].T).as_rotvec(degrees=True)
        np.testing.assert_allclose(vector, from_y_up(axis) * degrees, atol=0.05, err_msg=name)
    assert parents[20] == 18


def test_the_rest_pose_in_gives_arms_spread_and_palms_down(tmp_path: Path, anny: Binding) -> None:
    """SMPL rests in T-pose. Anny's elbows, bent at rest, are straight then, and her knuckles level."""
    poses, moved = smpl_motion("walk", 55, frames=2)
    poses[:, 1:] = 0
    _, places = posed(retarget(read_motion(write_amass(tmp_path / "a.npz", poses, moved)), anny), anny)
    at = dict(zip(anny.joint_names, places[0]))
    arm = [at[name] for name in ("upperarm01.L", "lowerarm01.L", "wrist.L", "finger3-1.L", "finger3-2.L")]
    for start, end in pairwise(arm):
        direction = (end - start) / np.linalg.norm(end - start)
        assert direction[0] > 0.95
    assert abs(at["foot.L"][2] - at["foot.R"][2]) < 0.01
    across = at["metacarpal1.L"] - at["finger3-1.L"]  # towards the thumb: to the front
    assert across[1] < 0 and abs(across[2]) < 0.2 * np.linalg.norm(across)


def test_fingers_and_toes_follow_where_both_have_them(tmp_path: Path, anny: Binding) -> None:
    poses, moved = smpl_motion("walk", 55, frames=2)
    poses[:, 1:] = 0
    names = list(read_motion(write_amass(tmp_path / "rest.npz", poses, moved)).joint_names)
    poses[:, names.index("left_middle1"), 2] = -1.0  # towards the palm, which faces down
    poses[:, names.index("left_foot"), 0] = -0.5  # the toes up
    clip = retarget(read_motion(write_amass(tmp_path / "a.npz", poses, moved)), anny)
    parents, joints = smpl_skeleton(55)
    _, theirs = place_joints(parents, joints, turns_of(poses), moved)
    at = dict(zip(anny.joint_names, posed(clip, anny)[1][0]))
    ours = at["finger3-2.L"] - at["finger3-1.L"]
    bone = theirs[0, names.index("left_middle2")] - theirs[0, names.index("left_middle1")]
    assert ours @ bone / np.linalg.norm(ours) / np.linalg.norm(bone) == pytest.approx(1, abs=1e-5)
    for toe in ("toe3-1.L", "toe1-1.L"):
        local = Rotation.from_matrix(matrices(clip.rotations[0, anny.joint_names.index(toe)].numpy()))
        assert np.degrees(local.magnitude()) == pytest.approx(np.degrees(0.5), abs=0.05)
    ours = at["toe3-1.L"] - at["foot.L"]
    bone = theirs[0, names.index("left_foot")] - theirs[0, names.index("left_ankle")]
    assert ours @ bone / np.linalg.norm(ours) / np.linalg.norm(bone) == pytest.approx(1, abs=1e-5)


def test_feet_without_toes_keep_their_soles_flat(tmp_path: Path, anny: Binding, seed: int) -> None:
    bones = {name: bone for name, bone in MIXAMO.items() if "Toe" not in name}
    turns, moved = random_turns(10, len(bones), seed), np.zeros((10, 3))
    (tmp_path / "a.bvh").write_text(bvh_text(bones, turns, moved))
    clip = retarget(read_motion(tmp_path / "a.bvh"), anny)
    theirs, _ = place_joints(*rest_positions(bones), turns, moved)
    axes = from_y_up(np.eye(3)).T
    expected = axes @ theirs[:, list(bones).index("LeftFoot")] @ axes.T
    ours, _ = posed(clip, anny)
    np.testing.assert_allclose(ours[:, anny.joint_names.index("foot.L")], expected, atol=1e-5)


def test_feet_stay_on_the_floor_and_steps_scale_with_the_legs(tmp_path: Path, anny: Binding) -> None:
    capture, _, theirs = smpl(tmp_path, "squat")
    clip = retarget(capture, anny)
    _, ours = posed(clip, anny)
    feet = [anny.joint_names.index(f"foot.{side}") for side in "LR"]
    rest = anny.joints[feet, 2].numpy()
    assert np.abs(ours[:, feet, 2] - rest).max() < 0.06  # her heels rise, as the capture's do
    assert np.ptp(theirs[:, 0, 2]) > 0.4 and np.ptp(ours[:, 0, 2]) > 0.4

    capture, _, theirs = smpl(tmp_path, "walk")
    hips = [anny.joint_names.index(f"upperleg01.{side}") for side in "LR"]
    for size in (1.0, 0.6):
        small = replace_joints(anny, size)
        _, ours = posed(retarget(capture, small), small)
        middle = ours[:, hips].mean(1)
        np.testing.assert_allclose(middle[0, :2], small.joints[hips, :2].mean(0).numpy(), atol=1e-6)
        scale = leg(small.joints.numpy(), small.joint_names) / smpl_leg()
        travelled = theirs[-1, [1, 2], 1].mean() - theirs[0, [1, 2], 1].mean()
        assert middle[-1, 1] - middle[0, 1] == pytest.approx(scale * travelled, abs=1e-4)


def replace_joints(binding: Binding, size: float) -> Binding:
    return replace(binding, joints=binding.joints * size)


def leg(joints: np.ndarray, names: list[str]) -> float:
    path = [joints[names.index(f"{part}.L")] for part in ("upperleg01", "lowerleg01", "foot")]
    return float(np.linalg.norm(np.diff(path, axis=0), axis=1).sum())


def smpl_leg() -> float:
    _, joints = smpl_skeleton(55)
    return float(np.linalg.norm(np.diff(joints[[1, 4, 7]], axis=0), axis=1).sum())


def test_units_of_length_do_not_matter(tmp_path: Path, anny: Binding, seed: int) -> None:
    turns, moved = random_turns(10, len(MIXAMO), seed), np.linspace([0, 96.0, 2], [50, 90, 100], 10)
    metres = {name: (parent, tuple(np.array(offset) / 100)) for name, (parent, offset) in MIXAMO.items()}
    (tmp_path / "cm.bvh").write_text(bvh_text(MIXAMO, turns, moved))
    (tmp_path / "m.bvh").write_text(bvh_text(metres, turns, moved / 100))
    a, b = (retarget(read_motion(tmp_path / name), anny) for name in ("cm.bvh", "m.bvh"))
    torch.testing.assert_close(a.rotations, b.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(a.translation, b.translation, atol=1e-5, rtol=0)


def test_the_first_frame_faces_front(tmp_path: Path, anny: Binding) -> None:
    """Wherever the capture starts and whichever way it faces, the clip is the same."""
    poses, moved = smpl_motion("walk", 22)
    here = retarget(read_motion(write_amass(tmp_path / "a.npz", poses, moved)), anny)
    turn = Rotation.from_euler("z", 130, degrees=True)
    poses[:, 0] = (turn * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    there = write_amass(tmp_path / "b.npz", poses, turn.apply(moved) + np.array([5, 7, 0.3]))
    clip = retarget(read_motion(there), anny)
    torch.testing.assert_close(clip.rotations, here.rotations, atol=1e-5, rtol=0)
    torch.testing.assert_close(clip.translation, here.translation, atol=1e-5, rtol=0)


def test_annys_own_skeleton_needs_no_change(tmp_path: Path, anny: Binding, seed: int) -> None:
    """MakeHuman's BVH has Anny's joints: the clip has the file's rotations."""
    joints = anny.joints.double().numpy()
    to_file = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # z up to y up
    bones = {}
    for joint, (name, parent) in enumerate(zip(anny.joint_names, anny.joint_parents)):
        offset = joints[joint] - (joints[parent] if parent >= 0 else 0)
        above = anny.joint_names[parent] if parent >= 0 else None
        bones[name.replace(".", "_")] = (above and above.replace(".", "_"), tuple(to_file @ offset))
    turns = random_turns(12, len(bones), seed)
    path = tmp_path / "a.bvh"
    path.write_text(bvh_text(bones, to_file @ turns @ to_file.T, np.zeros((12, 3))))
    capture = read_motion(path)
    assert "MakeHuman skeleton" in capture.notes
    clip = retarget(capture, anny)
    np.testing.assert_allclose(matrices(clip.rotations.double().numpy()), turns, atol=1e-4)


def test_tracks_are_continuous(tmp_path: Path, anny: Binding) -> None:
    """Quaternions of following frames lie next to each other, as interpolation and glTF want them."""
    for kind in ("walk", "arms"):
        clip = retarget(smpl(tmp_path, kind)[0], anny)
        steps = (clip.rotations[1:] * clip.rotations[:-1]).sum(-1)
        assert float(steps.min()) > 0.9


def test_unknown_skeletons_are_named(tmp_path: Path, anny: Binding) -> None:
    capture = smpl(tmp_path, "walk")[0]
    with pytest.raises(UserError, match="the avatar: unknown skeleton"):
        retarget(capture, Binding(["a"], [-1], torch.zeros(1, 3)))
    with pytest.raises(UserError, match=r"read from \.npz \(AMASS, SMPL\) or \.bvh"):
        read_motion(tmp_path / "a.fbx")


def test_the_trunk_is_where_arms_and_head_part(anny: Binding) -> None:
    parts = parts_of(anny.joint_names, "")[1]
    spine, neck = trunk(anny.joint_parents, parts)
    assert [anny.joint_names[joint] for joint in spine] == ["root", *(f"spine0{k}" for k in (5, 4, 3, 2, 1))]
    assert [anny.joint_names[joint] for joint in neck] == ["spine01", "neck01", "neck02", "neck03", "head"]
