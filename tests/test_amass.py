"""AMASS and SMPL files: what their arrays mean, and one line for those that cannot be read."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from motion_files import (
    FPS,
    STAND,
    place_joints,
    smpl_motion,
    smpl_skeleton,
    turns_of,
    write_amass,
)
from scipy.spatial.transform import Rotation

from specularip.body.smplx import JOINT_NAMES
from specularip.errors import UserError
from specularip.motion.amass import LAYOUTS, read_amass, skeleton
from specularip.motion.capture import Capture


def truth(poses: np.ndarray, moved: np.ndarray) -> np.ndarray:
    """Positions of the joints [T,J,3] in the file's world, relative to the root's in the first frame."""
    _, places = place_joints(*smpl_skeleton(poses.shape[1]), turns_of(poses), moved)
    return places - places[0, 0]


def places_of(capture: Capture) -> np.ndarray:
    places = capture.pose()[1].numpy()
    return places - places[0, 0]


@pytest.mark.parametrize("count", sorted(LAYOUTS))
def test_joints_are_where_the_file_says(tmp_path: Path, count: int) -> None:
    poses, moved = smpl_motion("arms", count)
    capture = read_amass(write_amass(tmp_path / "arms.npz", poses, moved))
    assert capture.name == "arms" and capture.fps == FPS and capture.joint_names == LAYOUTS[count]
    np.testing.assert_allclose(places_of(capture), truth(poses, moved), atol=2e-6)


def test_skeletons_are_people_in_t_pose() -> None:
    assert LAYOUTS[55] == JOINT_NAMES
    for count in LAYOUTS:
        names, parents, joints = skeleton(count)
        assert parents[0] == -1 and all(parent < joint for joint, parent in enumerate(parents))
        at = dict(zip(names, joints.tolist()))
        assert 1.3 < at["head"][1] - at["left_foot"][1] < 1.6
        for name, (x, y, z) in at.items():
            if name.startswith("left"):
                assert at[name.replace("left", "right", 1)] == pytest.approx([-x, y, z]), name
        assert abs(at["left_shoulder"][1] - at["left_wrist"][1]) < 0.1  # arms spread
        assert at["left_foot"][2] > at["left_ankle"][2]  # facing +z


def test_parts_give_the_same_as_poses(tmp_path: Path) -> None:
    poses, moved = smpl_motion("arms", 55)
    whole = read_amass(write_amass(tmp_path / "whole.npz", poses, moved))
    flat = poses.reshape(len(poses), -1)
    parts = {
        "poses": None, "root_orient": flat[:, :3], "pose_body": flat[:, 3:66], "pose_jaw": flat[:, 66:69],
        "pose_eye": flat[:, 69:75], "pose_hand": flat[:, 75:], "mocap_framerate": None,
        "mocap_frame_rate": FPS, "surface_model_type": "smplx",
    }  # fmt: skip
    capture = read_amass(write_amass(tmp_path / "parts.npz", poses, moved, **parts))
    assert torch.equal(capture.rotations, whole.rotations) and capture.fps == FPS
    faceless = {**parts, "pose_jaw": None, "pose_eye": None}
    assert len(read_amass(write_amass(tmp_path / "smplh.npz", poses, moved, **faceless)).joint_names) == 52
    bare = {**faceless, "pose_hand": None}
    assert len(read_amass(write_amass(tmp_path / "body.npz", poses, moved, **bare)).joint_names) == 22


@pytest.mark.parametrize("up", ["y", "−y", "x", "z"])
def test_the_up_axis_is_told_from_the_motion(tmp_path: Path, up: str) -> None:
    """In worlds with other axes up the motion is the same, but for a turn about the vertical."""
    poses, moved = smpl_motion("squat", 22)
    turned = {
        "y": STAND.inv(), "−y": Rotation.from_euler("x", 90, degrees=True), "z": Rotation.identity(),
        "x": Rotation.from_euler("y", 90, degrees=True),
    }[up]  # fmt: skip
    other = poses.copy()
    other[:, 0] = (turned * Rotation.from_rotvec(poses[:, 0])).as_rotvec()
    capture = read_amass(write_amass(tmp_path / "a.npz", other, turned.apply(moved)))
    assert f"{up} is taken as up" in capture.notes
    places, expected = places_of(capture), truth(poses, moved)
    np.testing.assert_allclose(places[..., 2], expected[..., 2], atol=1e-5)
    across = [np.linalg.norm(p[:, :, None, :2] - p[:, None, :, :2], axis=-1) for p in (places, expected)]
    np.testing.assert_allclose(*across, atol=1e-5)


def test_a_motion_lying_down_has_the_usual_axis_up_and_says_so(tmp_path: Path) -> None:
    poses, moved = smpl_motion("arms", 22)
    angles = np.linspace(0, 2 * np.pi, len(poses))
    poses[:, 0] = Rotation.from_euler("x", angles[:, None]).as_rotvec()  # a somersault: no axis is up
    capture = read_amass(write_amass(tmp_path / "a.npz", poses, moved))
    assert "the body is seldom upright" in capture.notes and "z is taken as up" in capture.notes


def test_degrees_are_radians_once_seen(tmp_path: Path) -> None:
    poses, moved = smpl_motion("walk", 52)
    honest = read_amass(write_amass(tmp_path / "a.npz", poses, moved))
    capture = read_amass(write_amass(tmp_path / "b.npz", np.degrees(poses), moved))
    assert any("degrees" in note for note in capture.notes)
    assert not any("degrees" in note for note in honest.notes)
    np.testing.assert_allclose(places_of(capture), places_of(honest), atol=1e-5)


def test_a_missing_rate_is_asked_for(tmp_path: Path) -> None:
    poses, moved = smpl_motion("walk", 22)
    path = write_amass(tmp_path / "a.npz", poses, moved, mocap_framerate=None)
    with pytest.raises(UserError, match=r"no frame rate.*--file-fps"):
        read_amass(path)
    assert read_amass(path, fps=60).fps == 60


def test_a_missing_path_is_said(tmp_path: Path) -> None:
    poses, moved = smpl_motion("walk", 22)
    capture = read_amass(write_amass(tmp_path / "a.npz", poses, moved, trans=None))
    assert any("no trans" in note for note in capture.notes) and not (places_of(capture)[:, 0] != 0).any()


def bad_nan(poses: np.ndarray) -> dict[str, object]:
    poses = poses.copy()
    poses[[3, 4], 5] = np.nan
    return {"poses": poses.reshape(len(poses), -1)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda poses: {"poses": np.zeros((5, 63))}, "63 columns, 21 joints"),
        (lambda poses: {"poses": np.zeros((5, 70))}, "70 columns, 23.33 joints"),
        (lambda poses: {"poses": np.zeros(165)}, r"poses is \[165\]"),
        (lambda poses: {"poses": np.zeros((0, 165))}, r"poses is \[0, 165\]"),
        (bad_nan, "poses is not a number in 2 of 60 frames, the first is 3"),
        (lambda poses: {"poses": poses.reshape(60, -1) * 1e6}, "neither radians nor degrees"),
        (lambda poses: {"poses": None}, "holds no motion"),
        (lambda poses: {"poses": np.array([{"a": 1}], object)}, "holds no motion"),
        (lambda poses: {"trans": np.zeros((59, 3))}, r"trans is \[59, 3\], not \[60,3\]"),
        (lambda poses: {"trans": np.full((60, 3), np.inf)}, "trans is not a number in 60 of 60 frames"),
        (lambda poses: {"mocap_framerate": 0.0}, "frame rate of 0"),
        (lambda poses: {"mocap_framerate": np.nan}, "frame rate of nan"),
        (
            lambda poses: {"poses": None, "root_orient": poses[:, 0], "pose_body": np.zeros((60, 60))},
            r"pose_body is \[60, 60\], not \[60,63\]",
        ),
    ],
)  # fmt: skip
def test_bad_files_give_one_line(tmp_path: Path, change, message: str) -> None:
    poses, moved = smpl_motion("walk", 55)
    path = write_amass(tmp_path / "bad.npz", poses, moved, **change(poses))
    with pytest.raises(UserError, match=message) as caught:
        read_amass(path)
    assert "\n" not in str(caught.value) and "bad.npz" in str(caught.value)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (pytest.fail, ("unpickled",))

    poses, moved = smpl_motion("walk", 22)
    bomb = np.empty(1, object)
    bomb[0] = Bomb()
    with pytest.raises(pytest.fail.Exception):
        pickle.loads(pickle.dumps(bomb))
    path = tmp_path / "a.npz"
    arrays = {"poses": poses.reshape(60, -1), "trans": moved, "gender": bomb, "mocap_framerate": bomb}
    np.savez(path, **arrays)
    with pytest.raises(UserError, match="no frame rate"):
        read_amass(path)
    assert len(read_amass(path, fps=30)) == 60


def member(shape: str, data: bytes = b"", descr: str = "<f8") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (member("(1099511627776, 165)"), "is not what its .* bytes hold"),
        (member("(-5, 165)"), "header of an array is damaged"),
        (member("(2, 66)", bytes(2 * 66 * 8 - 1)), "is not what its"),
        (member("(2, 66)", descr="|V1000000"), "holds no motion"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f", "header of an array is too long"),
        (b"not an array", r"not a \.npy array"),
        (b"\x93NUMPY", r"not a \.npy array"),
        (
            member("(400000, 66)", bytes(400_000 * 66 * 8)),
            "too large for a file of its size",
        ),
    ],
    ids=["claims", "negative", "short", "void", "header", "other", "empty", "bomb"],
)
def test_claims_are_not_believed(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("poses.npy", content)
    with pytest.raises(UserError, match=message):
        read_amass(path)


def test_a_directory_of_many_members_is_not_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        for index in range(20_000):
            archive.writestr(f"{index}", b"")
    with pytest.raises(UserError, match="too many arrays"):
        read_amass(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"HIERARCHY\n", bytes(1000)])
def test_other_files_are_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not a \.npz file"):
        read_amass(path)
    with pytest.raises(UserError, match="there is no"):
        read_amass(tmp_path / "none.npz")
    with pytest.raises(UserError, match="not a regular file"):
        read_amass(tmp_path)


def test_compressed_files_are_read(tmp_path: Path) -> None:
    poses, moved = smpl_motion("walk", 52)
    path = tmp_path / "a.npz"
    np.savez_compressed(
        path, poses=np.asfortranarray(poses.reshape(60, -1)), trans=moved, mocap_framerate=120
    )
    np.testing.assert_allclose(places_of(read_amass(path)), truth(poses, moved), atol=2e-6)
