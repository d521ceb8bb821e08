"""BVH files: what channels mean, which way is up, and one line for damaged ones."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from motion_files import (
    CMU,
    MIXAMO,
    Bones,
    bvh_text,
    from_y_up,
    place_joints,
    random_turns,
    rest_positions,
)
from scipy.spatial.transform import Rotation

from specularip.errors import UserError
from specularip.motion.bvh import read_bvh
from specularip.motion.capture import Capture

FRAMES = 20


def motion(bones: Bones, seed: int, frames: int = FRAMES) -> tuple[np.ndarray, np.ndarray]:
    """Random rotations [T,J,3,3] and a path [T,3] that starts at the root's offset."""
    path = np.linspace([0.0, 0, 0], [30.0, 2, -50], frames)
    return random_turns(frames, len(bones), seed), path + next(iter(bones.values()))[1]


def truth(bones: Bones, turns: np.ndarray, moved: np.ndarray) -> np.ndarray:
    return place_joints(*rest_positions(bones), turns, moved)[1]


def write(folder: Path, text: str) -> Path:
    path = folder / "motion.bvh"
    path.write_text(text)
    return path


def assert_same_motion(capture: Capture, expected: np.ndarray) -> None:
    size = np.ptp(expected)
    np.testing.assert_allclose(capture.pose()[1].numpy(), expected, atol=2e-6 * size)


@pytest.mark.parametrize("order", ["ZXY", "ZYX", "XYZ", "YXZ"])
@pytest.mark.parametrize("kind", ["CMU", "Mixamo"])
def test_joints_are_where_the_file_says(tmp_path: Path, order: str, kind: str, seed: int) -> None:
    bones, prefix = {"CMU": (CMU, ""), "Mixamo": (MIXAMO, "mixamorig:")}[kind]
    turns, moved = motion(bones, seed)
    capture = read_bvh(write(tmp_path, bvh_text(bones, turns, moved, order, prefix)))
    assert f"{kind} skeleton" in capture.notes and "y is taken as up" in capture.notes
    assert capture.fps == pytest.approx(30, rel=1e-5) and len(capture) == FRAMES
    assert_same_motion(capture, from_y_up(truth(bones, turns, moved)))


def test_z_up_files_stay_as_they_are(tmp_path: Path, seed: int) -> None:
    """The same with z up and the body facing −y."""
    turns, moved = motion(MIXAMO, seed)
    tilt = Rotation.from_euler("x", 90, degrees=True).as_matrix()
    bones: Bones = {name: (parent, tuple(tilt @ offset)) for name, (parent, offset) in MIXAMO.items()}
    capture = read_bvh(write(tmp_path, bvh_text(bones, tilt @ turns @ tilt.T, moved @ tilt.T)))
    assert "z is taken as up" in capture.notes
    assert_same_motion(capture, from_y_up(truth(MIXAMO, turns, moved)))


def test_bodies_that_face_elsewhere_are_turned(tmp_path: Path, seed: int) -> None:
    turns, moved = motion(MIXAMO, seed)
    turn = Rotation.from_euler("y", 135, degrees=True).as_matrix()
    bones: Bones = {name: (parent, tuple(turn @ offset)) for name, (parent, offset) in MIXAMO.items()}
    capture = read_bvh(write(tmp_path, bvh_text(bones, turn @ turns @ turn.T, moved @ turn.T)))
    assert_same_motion(capture, from_y_up(truth(MIXAMO, turns, moved)))


def test_a_rest_pose_that_does_not_stand_is_replaced_by_the_first_frame(tmp_path: Path, seed: int) -> None:
    """Some exporters lay every bone along one axis of its own; the pose is in the rotations alone."""
    parents, joints = rest_positions(MIXAMO)
    offsets = [offset for _, offset in MIXAMO.values()]
    world = [np.eye(3)]
    bones: Bones = {"Hips": MIXAMO["Hips"]}
    names = list(MIXAMO)
    for joint, parent in enumerate(parents[1:], 1):
        # A frame of the joint's own, whose x axis is the bone to its first child.
        children = [child for child, above in enumerate(parents) if above == joint]
        along = np.array(offsets[children[0]] if children else (1.0, 0, 0))
        world.append(Rotation.align_vectors([along], [[1.0, 0, 0]])[0].as_matrix())
        bones[names[joint]] = (MIXAMO[names[joint]][0], tuple(world[parent].T @ offsets[joint]))
    turns, moved = motion(MIXAMO, seed)
    own = np.stack(world)
    above = np.stack([np.eye(3) if parent < 0 else own[parent] for parent in parents])
    capture = read_bvh(write(tmp_path, bvh_text(bones, above.transpose(0, 2, 1) @ turns @ own, moved)))
    assert any("first frame" in note for note in capture.notes)
    assert_same_motion(capture, from_y_up(truth(MIXAMO, turns, moved)))
    np.testing.assert_allclose(
        capture.joints.numpy() - capture.joints[0].numpy(), from_y_up(joints - joints[0]), atol=1e-3
    )


def test_tabs_braces_and_cases_of_other_writers(tmp_path: Path, seed: int) -> None:
    turns, moved = motion(CMU, seed)
    text = bvh_text(CMU, turns, moved)
    plain = read_bvh(write(tmp_path, text))
    head, numbers = text.split("MOTION")
    other = head.replace("\t", "  ").replace("\n{", " {").replace("rotation", "ROTATION")
    other = (other + "MOTION" + numbers).replace("\n", "\r\n").replace("Frames: ", "Frames:\t")
    capture = read_bvh(write(tmp_path, other))
    assert (capture.rotations == plain.rotations).all()


def test_a_frame_time_of_zero_asks_for_the_rate(tmp_path: Path, seed: int) -> None:
    path = write(tmp_path, bvh_text(CMU, *motion(CMU, seed), frame_time="0"))
    with pytest.raises(UserError, match=r"no frame rate.*--file-fps"):
        read_bvh(path)
    assert read_bvh(path, fps=25).fps == 25


def replaced(old: str, new: str, count: int = 1):
    def change(text: str) -> str:
        assert old in text
        return text.replace(old, new, count)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: "", "not a BVH file"),
        (lambda text: text[: text.index("MOTION")], "no MOTION"),
        (lambda text: text[:-200], "of 20 frames are there: cut short"),
        (lambda text: text + "1 2 3\n", "more numbers than 20 frames"),
        (replaced("Frames: 20", "Frames: 1000000000000"), "more than the file holds"),
        (replaced("Frames: 20", "Frames: 0"), "0 frames of .* cannot be"),
        (replaced("Frames: 20", "Frames: -3"), "-3 frames of .* cannot be"),
        (replaced("Frame Time: 0.0333333", "Frame Time: nan"), "of nan s cannot be"),
        (replaced("Frame Time: 0.0333333", "Frame Time: 1e9"), "of 1e9 s cannot be"),
        (replaced("HIERARCHY", "HIERARCHIE"), "does not start with HIERARCHY"),
        (replaced("\t}\n", "\n"), "braces of the skeleton do not match|out of place"),
        (replaced("OFFSET", "OFSET"), "cannot make sense of 'OFSET"),
        (replaced("OFFSET 2.400000", "OFFSET nan"), "'nan' in the skeleton"),
        (replaced("OFFSET 2.400000", "OFFSET 1e30"), "'1e30' in the skeleton"),
        (replaced("CHANNELS 3", "CHANNELS 4"), "CHANNELS says '4"),
        (replaced("Xrotation", "Wrotation"), "'Wrotation' is no channel"),
        (replaced("Xrotation", "Zrotation"), "is no channel"),
        (replaced("LeftUpLeg", "LeftThigh"), "nearest, CMU, also has LeftUpLeg; this one has Hips"),
        (replaced("OFFSET 5.400000 0.000000 0.000000", "OFFSET 0 0 0"), "limbs have no length"),
        (replaced("JOINT LHipJoint", "ROOT LHipJoint"), "out of place"),
        (lambda text: text.rstrip() + "x\n", "not a number"),
        (lambda text: text.rsplit(" ", 1)[0] + " nan\n", "in 1 of 20 frames, the first is 19"),
        (lambda text: text.rsplit(" ", 1)[0] + " 1e300\n", "not finite, or huge, in 1 of 20"),
    ],
)  # fmt: skip
def test_damaged_files_give_one_line(tmp_path: Path, change, message: str, seed: int) -> None:
    path = write(tmp_path, change(bvh_text(CMU, *motion(CMU, seed))))
    with pytest.raises(UserError, match=message) as caught:
        read_bvh(path)
    assert "\n" not in str(caught.value) and "motion.bvh" in str(caught.value)


def test_deep_and_endless_skeletons_end(tmp_path: Path) -> None:
    deep = "HIERARCHY\nROOT a\n{\nOFFSET 0 0 0\n" + "JOINT b\n{\nOFFSET 0 1 0\n" * 20_000
    with pytest.raises(UserError, match="more than 1000 joints"):
        read_bvh(write(tmp_path, deep + "}" * 20_001 + "\nMOTION\nFrames: 1\nFrame Time: 0.1\n0\n"))
    with pytest.raises(UserError, match="no MOTION"):
        read_bvh(write(tmp_path, "HIERARCHY\n" + " " * (2 << 20) + "\nMOTION\nFrames: 1\nFrame Time: 0.1\n"))


def test_ten_thousand_frames_are_fast_and_small(tmp_path: Path, seed: int) -> None:
    """10,000 frames of 81 channels."""
    frames = 10_000
    turns, moved = motion(CMU, seed, frames=100)
    text = bvh_text(CMU, turns, moved).replace("Frames: 100", f"Frames: {frames}")
    head, numbers = text[: text.index("Frame Time")], text[text.index("Frame Time") :]
    line, rest = numbers.split("\n", 1)
    path = write(tmp_path, head + line + "\n" + rest * (frames // 100))
    start = time.process_time()
    capture = read_bvh(path)
    seconds = time.process_time() - start
    assert len(capture) == frames and seconds < 2, f"{seconds:.2f} s"
    tracemalloc.start()
    read_bvh(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * path.stat().st_size + (64 << 20)


def test_positions_of_joints_beyond_the_root_are_ignored_and_said(tmp_path: Path, seed: int) -> None:
    turns, moved = motion(MIXAMO, seed)
    text = bvh_text(MIXAMO, turns, moved)
    plain = read_bvh(write(tmp_path, text))
    head, numbers = text.split("Frame Time: 0.0333333\n")
    # The last joint gets a position that changes.
    start = head.rindex("CHANNELS 3")
    head = head[:start] + "CHANNELS 6 Xposition Yposition Zposition" + head[start + len("CHANNELS 3") :]
    rows = np.loadtxt(numbers.splitlines())
    wide = np.concatenate([rows[:, :-3], np.arange(FRAMES)[:, None] * [1.0, 0, 0], rows[:, -3:]], 1)
    lines = "\n".join(" ".join(f"{x:.6f}" for x in row) for row in wide)
    capture = read_bvh(write(tmp_path, head + "Frame Time: 0.0333333\n" + lines + "\n"))
    assert "joints keep their rest distance: RightToeBase move" in " ".join(capture.notes)
    np.testing.assert_allclose(capture.rotations.numpy(), plain.rotations.numpy(), atol=1e-6)
