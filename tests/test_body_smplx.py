"""SMPL-X bodies from a small synthetic file with the keys and layout of SMPLX_NEUTRAL.npz."""

import math
import sys

import numpy as np
import pytest

from specularip.body import smplx_body
from specularip.body.regions import HAND, HEAD, LOWER_ARM, UPPER_ARM
from specularip.body.skeleton import KEYPOINT_NAMES
from specularip.body.smplx import JOINT_NAMES
from specularip.errors import UserError

PARENTS = [-1, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9, 9, 12, 13, 14, 16, 17, 18, 19, 15, 15, 15]
PARENTS += [20 if k % 3 == 0 and k < 15 else 21 if k % 3 == 0 else 24 + k for k in range(30)]
PLACES = {  # a T-pose, y up, facing +z, the person's left on +x
    "pelvis": (0, 0, 0), "hip": (0.1, -0.1, 0), "spine1": (0, 0.1, 0), "knee": (0.1, -0.5, 0),
    "spine2": (0, 0.22, 0), "ankle": (0.1, -0.9, 0), "spine3": (0, 0.3, 0), "foot": (0.1, -0.95, 0.12),
    "neck": (0, 0.48, 0), "collar": (0.06, 0.4, 0), "head": (0, 0.56, 0), "shoulder": (0.18, 0.42, 0),
    "elbow": (0.44, 0.42, 0), "wrist": (0.7, 0.42, 0), "jaw": (0, 0.55, 0.02), "eye": (0.03, 0.62, 0.07),
}  # fmt: skip


def joint_places():
    places = []
    for name in JOINT_NAMES:
        side, _, part = name.rpartition("_")
        x, y, z = PLACES.get(part, (0.76 + 0.02 * int(name[-1]) if name[-1].isdigit() else 0, 0.42, 0))
        if name in PLACES:
            x, y, z = PLACES[name]
        places.append((-x if side == "right" else x, y, z))
    return np.array(places)


def write_model(path, rng):
    """A tetrahedron around every joint, skinned to that joint only; the head's has a nose and ears."""
    places, count = joint_places(), len(JOINT_NAMES)
    corners = 0.02 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    vertices = (places[:, None] + corners).reshape(-1, 3)
    carrier = np.repeat(np.arange(count), 4)
    head = JOINT_NAMES.index("head")
    vertices[4 * head : 4 * head + 4] = [[0, 0.6, 0.12], [0.08, 0.6, 0], [-0.08, 0.6, 0], [0, 0.72, 0]]
    weights = np.zeros((len(vertices), count))
    weights[np.arange(len(vertices)), carrier] = 1
    regressor = weights.T / 4
    tetrahedron = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    faces = (tetrahedron + 4 * np.arange(count)[:, None, None]).reshape(-1, 3)
    arrays = dict(
        v_template=vertices,
        shapedirs=rng.normal(0, 0.01, (len(vertices), 3, 400)),
        posedirs=rng.normal(0, 1e-4, (len(vertices), 3, 9 * (count - 1))),
        J_regressor=regressor,
        weights=weights,
        kintree_table=np.array([[2**32 - 1, *PARENTS[1:]], range(count)], dtype=np.uint32),
        f=faces.astype(np.uint32),
        hands_meanl=np.zeros(45),
        hands_meanr=np.zeros(45),
        hands_componentsl=np.eye(45),
        hands_componentsr=np.eye(45),
        lmk_faces_idx=np.zeros(51, dtype=np.int64),
        lmk_bary_coords=np.full((51, 3), 1 / 3),
        part2num=np.array({"a": "pickled object that must not be loaded"}, dtype=object),
    )
    np.savez(path, **arrays)
    return arrays


@pytest.fixture
def model_file(tmp_path, seed):
    folder = tmp_path / "smplx"
    folder.mkdir()
    write_model(folder / "SMPLX_NEUTRAL.npz", np.random.default_rng(seed))
    return folder / "SMPLX_NEUTRAL.npz"


def test_body_is_in_a_pose(model_file):
    pytest.importorskip("smplx")
    for path in (model_file, model_file.parent, model_file.parent.parent):
        body = smplx_body(path, "neutral")
    at = {name: body.keypoints[i] for i, name in enumerate(KEYPOINT_NAMES)}
    assert at["left_shoulder"][0] > 0.1 and at["nose"][1] < -0.05, "left on +x, facing -y"
    assert at["neck"][2] > at["left_hip"][2] > at["left_ankle"][2], "z up"
    for side in ("left", "right"):
        arm = at[f"{side}_wrist"] - at[f"{side}_shoulder"]
        assert math.degrees(math.atan2(-arm[2], abs(arm[0]))) == pytest.approx(45, abs=1.5)
    top, bottom = body.vertices[:, 2].max(), body.vertices[:, 2].min()
    assert float(top + bottom) == pytest.approx(0, abs=1e-5)
    assert body.height == pytest.approx(float(top - bottom))
    expected = {"left_index2": HAND, "head": HEAD, "right_elbow": LOWER_ARM, "left_shoulder": UPPER_ARM}
    for name, region in expected.items():
        k = JOINT_NAMES.index(name)
        assert (body.regions[4 * k : 4 * k + 4] == region).all(), name
    assert body.joint_parents == tuple(PARENTS)
    samples = body.sample_surface(500, None, {"head": 2.0})
    assert samples.bind_weights.sum(1).allclose(samples.bind_weights.new_ones(500))


def test_missing_file_says_where_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"SMPLX_FEMALE.npz.*smpl-x.is.tue.mpg.de"):
        smplx_body(tmp_path, "female")
    with pytest.raises(UserError, match="never loaded"):
        smplx_body(tmp_path / "SMPLX_NEUTRAL.pkl", "neutral")
    with pytest.raises(ValueError, match="gender"):
        smplx_body(tmp_path, "other")


def test_broken_files_raise(tmp_path):
    path = tmp_path / "SMPLX_NEUTRAL.npz"
    path.write_bytes(b"not a zip file")
    with pytest.raises(UserError, match=r"not a \.npz file"):
        smplx_body(path)
    np.savez(path, v_template=np.zeros((4, 3)))
    with pytest.raises(UserError, match=r"lacks shapedirs"):
        smplx_body(path)
    arrays = write_model(path, np.random.default_rng(0))
    np.savez(path, **{**arrays, "weights": arrays["weights"][:, :24]})
    with pytest.raises(UserError, match=r"weights is"):
        smplx_body(path)
    np.savez(path, **{**arrays, "f": np.array([{"a": 1}], dtype=object)})  # would need unpickling
    with pytest.raises(UserError, match="lacks f"):
        smplx_body(path)
    parents = np.array(arrays["kintree_table"])
    parents[0, 5] = 60
    wrong = {
        "shapedirs is": {"shapedirs": arrays["shapedirs"][:-1]},
        "f is": {"f": arrays["f"][:, :2]},
        "faces have vertices": {"f": np.asarray(arrays["f"]) + 10**6},
        "joints have parents": {"kintree_table": parents},
        "not finite": {"posedirs": np.asarray(arrays["posedirs"]) * np.nan},
        "hands_meanl is": {"hands_meanl": np.zeros(44)},
    }
    for message, changed in wrong.items():
        np.savez(path, **{**arrays, **changed})
        with pytest.raises(UserError, match=message):
            smplx_body(path)


def test_missing_package_is_named(model_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "smplx", None)
    monkeypatch.setitem(sys.modules, "smplx.lbs", None)
    with pytest.raises(UserError, match=r"pip install 'specularip\[smplx\]'"):
        smplx_body(model_file)
