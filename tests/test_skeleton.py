"""OpenPose drawings of the body from all sides: visible joints, colours, thickness."""

import pytest
import torch

from specularip.body import AnnyModel, HeadEllipsoid, anny_body, draw_skeleton, skeleton
from specularip.body.skeleton import COLORS, KEYPOINT_NAMES, LIMBS, STICK, visible_keypoints
from specularip.cameras import Cameras

LIMB_ORDER = [(1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10)]


@pytest.fixture(scope="module")
def body():
    return anny_body()


def seen(body, azimuth, elevation=5.0):
    flags = visible_keypoints(body.keypoints, body.head, Cameras.orbit(azimuth, elevation, 2.4))[0]
    return {name for name, flag in zip(KEYPOINT_NAMES, flags) if flag}


FACE = {"nose", "left_eye", "right_eye", "left_ear", "right_ear"}


@pytest.mark.parametrize(
    "azimuth, elevation, face",
    [
        (0, 5, FACE),
        (0, 30, FACE),
        (90, 5, {"nose", "left_eye", "left_ear"}),
        (-90, 5, {"nose", "right_eye", "right_ear"}),
        (180, 5, {"left_ear", "right_ear"}),
        (180, 30, {"left_ear", "right_ear"}),
        (150, 0, {"left_ear"}),
        (-150, 0, {"right_ear"}),
    ],
)
def test_head_occludes_its_far_side(body, azimuth, elevation, face):
    assert seen(body, azimuth, elevation) & FACE == face
    assert set(KEYPOINT_NAMES) - FACE <= seen(body, azimuth, elevation), "the head occludes no limb here"


def test_head_occludes_a_shoulder_from_above(body):
    above = seen(body, 75, 68)
    assert "left_shoulder" in above and "right_shoulder" not in above
    assert {"left_wrist", "right_wrist", "left_ear"} <= above


def test_batch_equals_singles(seed):
    generator = torch.Generator().manual_seed(seed)
    model = AnnyModel.load()
    vertices = model.vertices(torch.rand(6, 11, generator=generator))
    keypoints, head = model.keypoints(vertices), model.head(vertices)
    cameras = Cameras.orbit(360 * torch.rand(6, generator=generator), 20, 2.0, 45, 48, 48)
    batch = draw_skeleton(keypoints, head, cameras, 48)
    assert batch.shape == (6, 3, 48, 48) and batch.dtype == torch.float32
    assert batch.min() >= 0 and batch.max() <= 1
    for i in range(6):
        one = HeadEllipsoid(head.centre[i : i + 1], head.half_axes[i : i + 1])
        alone = draw_skeleton(keypoints[i], one, cameras[i], 48)[0]
        torch.testing.assert_close(alone, batch[i], msg=str(seed))


def color_at(image, xy):
    return tuple((image[:, int(xy[1]), int(xy[0])] * 255).round().int().tolist())


def test_joints_and_limbs_have_their_colours(body):
    cameras = Cameras.orbit([0.0, 180.0], 5, 2.4, 45, 512, 512)
    images = draw_skeleton(body.keypoints, body.head, cameras, 512)
    xy = cameras.project(body.keypoints)[0]
    for view in range(2):
        for name in ("right_elbow", "left_elbow", "right_knee", "left_knee", "right_wrist", "left_ankle"):
            k = KEYPOINT_NAMES.index(name)
            assert color_at(images[view], xy[view, k]) == COLORS[k], name
        for limb in (2, 3, 4, 5, 8, 11):
            i, j = LIMBS[limb]
            middle = (xy[view, i] + xy[view, j]) / 2
            assert color_at(images[view], middle) == tuple(int(0.6 * c + 0.5) for c in COLORS[limb]), limb
    right = KEYPOINT_NAMES.index("right_wrist")
    assert xy[0, right, 0] < 256 < xy[1, right, 0], "sides swap from behind"


def test_palette_is_that_of_openpose():
    assert list(LIMBS[:9]) == LIMB_ORDER and len(LIMBS) == 17 and len(set(COLORS)) == len(COLORS) == 18
    assert COLORS[0] == (255, 0, 0) and COLORS[12] == (0, 0, 255) and COLORS[17] == (255, 0, 85)


@pytest.mark.parametrize("size", [64, 128, 512])
def test_thickness_scales_with_the_image_down_to_a_minimum(size):
    keypoints = torch.full((18, 3), 0.0)
    keypoints[:, 1] = 100.0  # behind the camera, except one limb across the view
    keypoints[2], keypoints[3] = torch.tensor([-0.5, 0, 0]), torch.tensor([0.5, 0, 0])
    cameras = Cameras.orbit(180, 0, 2.0, 45, size, size)
    image = draw_skeleton(keypoints, None, cameras, size)[0]
    column = image[:, :, size // 2].amax(0)
    thickness = float(column.sum() / (0.6 * max(COLORS[2]) / 255))
    assert thickness == pytest.approx(max(2 * STICK * size / 512, 1.4), rel=0.15)


def test_points_behind_the_camera_are_not_drawn(body):
    cameras = Cameras.orbit(0, 0, 0.5, 45, 64, 64, target=(0, -3.0, 0))  # in front of the body, facing it
    away = Cameras(cameras.viewmats.clone(), cameras.Ks, 64, 64)
    away.viewmats[:, [0, 2]] *= -1  # facing away
    assert draw_skeleton(body.keypoints, body.head, away, 64).abs().max() == 0
    assert torch.isfinite(draw_skeleton(body.keypoints, body.head, Cameras.orbit(0, 0, 0.05), 64)).all()


def test_head_close_up(body):
    target = (0.0, 0.0, 0.435 * body.height)
    front, back = draw_skeleton(
        body.keypoints, body.head, Cameras.orbit([0, 180], 0, 0.36 * body.height, target=target), 128
    )
    eyes = torch.tensor([COLORS[14], COLORS[15]]) / 255.0  # colours that nothing else has
    for color in eyes:
        assert ((front - color[:, None, None]).abs().sum(0) < 0.02).any()
        assert not ((back - color[:, None, None]).abs().sum(0) < 0.02).any()
    assert back.amax() > 0.9, "ears and shoulders show from behind"


def test_shapes_are_checked(body):
    cameras = Cameras.orbit([0.0, 90.0], 0, 2.0)
    with pytest.raises(ValueError, match="keypoints must be"):
        draw_skeleton(torch.zeros(17, 3), None, cameras, 32)
    with pytest.raises(ValueError, match="3 bodies for 2 cameras"):
        draw_skeleton(torch.zeros(3, 18, 3), None, cameras, 32)


@pytest.mark.parametrize("size", [1, 100, 512])
def test_shapes_describe_the_drawing(body, size, seed):
    """The kernel's loop over `_shapes`, in plain tensors, gives the same image as `_draw`."""
    generator = torch.Generator().manual_seed(seed)
    azimuth = 360 * torch.rand(3, generator=generator)
    xy = Cameras.orbit(azimuth, 5, [2.4, 0.9, 0.5], 45, size, size).project(body.keypoints)[0]
    visible = torch.rand(3, 18, generator=generator) < 0.8
    centres = torch.arange(size) + 0.5
    canvas = torch.zeros(3, 3, size, size)
    for shape in skeleton._shapes(xy, visible, size).unbind(1):
        x, y, cos, sin, long, wide, seen = (value[:, None, None] for value in shape[:, :7].unbind(1))
        dx, dy = centres - x, centres[:, None] - y
        u, v = (dx * cos + dy * sin) / long, (dy * cos - dx * sin) / wide
        level = torch.hypot(u, v)
        gradient = torch.hypot(u / long, v / wide) / level.clamp_min(1e-6)
        cover = (0.5 - (level - 1) / gradient.clamp_min(1e-6)).clamp(0, 1) * seen
        canvas += cover[:, None] * (shape[:, 7:, None, None] - canvas)
    assert (canvas - skeleton._draw(xy, visible, size)).abs().max() < 2e-4, generator.initial_seed()


@pytest.mark.gpu(needs="triton")
def test_kernel_matches_plain_tensors(body):
    cameras = Cameras.orbit([0.0, 70.0, 180.0, 200.0], 5, [2.4, 0.9, 0.5, 2.0], 45, 100, 100)
    wanted = draw_skeleton(body.keypoints, body.head, cameras, 200)
    from_cpu = draw_skeleton(body.keypoints, body.head, cameras, 200, torch.device("cuda"))
    there = draw_skeleton(body.keypoints.cuda(), body.head, cameras, 200)
    for drawn in (from_cpu, there):
        assert drawn.is_cuda and (drawn.cpu() - wanted).abs().max() < 1e-3
