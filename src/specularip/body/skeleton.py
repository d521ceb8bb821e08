"""OpenPose drawings of the 18 COCO keypoints: the conditioning images of pose ControlNets.

Limb order, colours and shapes are those that ControlNet was trained with (lllyasviel/ControlNet,
annotator/openpose): each limb an ellipse of half-width 4 pixels at 512² in 0.6 of its colour, each joint a
disc of radius 4 in its full colour on top. Here both are drawn from analytic distances, with antialiased
edges.
"""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.body.mesh import HeadEllipsoid
from specularip.cameras import Cameras
from specularip.kernels.async_transfer import copy_async

KEYPOINT_NAMES = (
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee", "left_ankle",
    "right_eye", "left_eye", "right_ear", "left_ear",
)  # fmt: skip
"""OpenPose's COCO order; left and right are the person's."""

LIMBS = (
    (1, 2), (1, 5), (2, 3), (3, 4), (5, 6), (6, 7), (1, 8), (8, 9), (9, 10), (1, 11), (11, 12), (12, 13),
    (1, 0), (0, 14), (14, 16), (0, 15), (15, 17),
)  # fmt: skip
COLORS = (
    (255, 0, 0), (255, 85, 0), (255, 170, 0), (255, 255, 0), (170, 255, 0), (85, 255, 0), (0, 255, 0),
    (0, 255, 85), (0, 255, 170), (0, 255, 255), (0, 170, 255), (0, 85, 255), (0, 0, 255), (85, 0, 255),
    (170, 0, 255), (255, 0, 255), (255, 0, 170), (255, 0, 85),
)  # fmt: skip
"""Limb k and keypoint k both have the colour COLORS[k]."""

STICK = 4.0
"""Half-width of a limb and radius of a joint, in pixels of a 512² image."""
THINNEST = 0.7
"""Lower limit of STICK in pixels of the drawing, so that limbs stay opaque in small ones."""
CORE = 0.88
"""Scale of the occluding ellipsoid relative to the head's: ears and nose lie outside."""
BURIED = 0.35
"""A joint is occluded if its ray crosses more than this fraction of the ellipsoid's mean half axis."""


def visible_keypoints(keypoints: Tensor, head: HeadEllipsoid | None, cameras: Cameras) -> Tensor:
    """Which keypoints [B,18,3] are visible, [B,18] bool: in front of the camera and not occluded by the head,
    the only occluder.

    The ray from camera to joint may cross a little of the ellipsoid, because eyes lie just under its surface.
    """
    keypoints, cameras, head = _batched(keypoints, cameras, head)
    depth = cameras.project(keypoints)[1]
    visible = depth > 1e-3
    if head is None:
        return visible
    axes = head.half_axes[:, None] * CORE
    # Scaled by the half axes, the ellipsoid is the unit sphere: |o + t d| = 1, t = 1 at the joint.
    origin = (cameras.positions[:, None] - head.centre[:, None]) / axes
    direction = (keypoints - cameras.positions[:, None]) / axes
    a = direction.square().sum(-1).clamp_min(1e-12)
    b = (origin * direction).sum(-1) / a
    discriminant = b.square() - (origin.square().sum(-1) - 1) / a
    root = discriminant.clamp_min(0).sqrt()
    inside = ((-b + root).clamp(0, 1) - (-b - root).clamp(0, 1)) * (discriminant > 0)
    length = inside * (keypoints - cameras.positions[:, None]).norm(dim=-1)
    seen = visible & (length < BURIED * axes.mean(-1))
    # OpenPose's neck is the midpoint of the shoulders, found if either of them is.
    seen[:, 1] = visible[:, 1] & (seen[:, 2] | seen[:, 5])
    return seen


def draw_skeleton(
    keypoints: Tensor,
    head: HeadEllipsoid | None,
    cameras: Cameras,
    size: int,
    device: torch.device | None = None,
) -> Tensor:
    """Pose drawings [B,3,size,size], float32 in 0..1 on black, of keypoints [18,3] or [B,18,3].

    `head` occludes joints (see `visible_keypoints`); its batch is 1 or B. One body and many cameras, or one
    camera per body; cameras of another image size are rescaled. `device` is that of the drawing, by default
    that of the keypoints; with keypoints on the CPU and a drawing on CUDA the copy is asynchronous. Raises
    ValueError for other shapes.
    """
    keypoints, cameras, head = _batched(keypoints, cameras, head)
    cameras = cameras.resized(size, size)
    xy = cameras.project(keypoints)[0]
    visible = visible_keypoints(keypoints, head, cameras)
    device = device or xy.device
    if device.type == "cuda":
        try:
            from specularip.body.triton_ellipses import draw_ellipses
        except ImportError:
            pass  # plain tensors give the same, more slowly
        else:
            return draw_ellipses(copy_async(_shapes(xy, visible, size), device), size)
    xy, visible = xy.to(device), visible.to(device)
    batch = max(1, PIXELS_AT_ONCE // size**2)
    parts = zip(xy.split(batch), visible.split(batch))
    return torch.cat([_draw(joints, shown, size) for joints, shown in parts])


PIXELS_AT_ONCE = 2**20
"""Pixels per batch of drawings: all their limbs are rasterised at once, which takes memory."""


def _draw(xy: Tensor, visible: Tensor, size: int) -> Tensor:
    """Drawings [B,3,size,size] of the visible [B,18] joints at xy [B,18,2], in plain tensors."""
    radius = max(STICK * size / 512, THINNEST)
    palette = xy.new_tensor(COLORS) / 255
    centres = torch.arange(size, device=xy.device, dtype=torch.float32) + 0.5
    py, px = torch.meshgrid(centres, centres, indexing="ij")
    first, second = torch.tensor(LIMBS, device=xy.device).unbind(1)
    # Coverage of all limbs and joints in a few large operations: hundreds of small kernels would be
    # launch-bound.
    limbs = _ellipse(px, py, xy[:, first], xy[:, second], radius)
    limbs = limbs * (visible[:, first] & visible[:, second])[..., None, None]
    distance = torch.hypot(px - xy[..., 0, None, None], py - xy[..., 1, None, None]) - radius
    joints = (0.5 - distance).clamp(0, 1) * visible[..., None, None]
    colors = torch.cat([0.6 * palette[: len(LIMBS)], palette])[..., None, None]
    canvas = xy.new_zeros(len(xy), 3, size, size)
    for color, cover in zip(colors, torch.cat([limbs, joints], 1).split(1, 1)):
        canvas = torch.lerp(canvas, color, cover)
    return canvas


def _shapes(xy: Tensor, visible: Tensor, size: int) -> Tensor:
    """The ellipses that `_draw` composites, limbs before joints, [B,35,10]: centre, direction of the long
    axis, both half axes, visibility (1 or 0), colour. A joint is a circular one."""
    radius = max(STICK * size / 512, THINNEST)
    palette = xy.new_tensor(COLORS) / 255
    first, second = torch.tensor(LIMBS, device=xy.device).unbind(1)
    a, b = xy[:, first], xy[:, second]
    long = ((b - a).norm(dim=-1, keepdim=True) / 2).clamp_min(radius)
    seen = (visible[:, first] & visible[:, second])[..., None]
    along = torch.nn.functional.normalize(b - a, dim=-1)
    colors = (0.6 * palette[: len(LIMBS)]).expand(len(xy), -1, -1)
    limbs = torch.cat([(a + b) / 2, along, long, torch.full_like(long, radius), seen, colors], -1)
    circle = xy.new_tensor([1.0, 0.0, radius, radius]).expand(*visible.shape, 4)
    joints = torch.cat([xy, circle, visible[..., None], palette.expand(len(xy), -1, -1)], -1)
    return torch.cat([limbs, joints], 1)


def _ellipse(px: Tensor, py: Tensor, a: Tensor, b: Tensor, half_width: float) -> Tensor:
    """Coverage [...,H,W] of ellipses with long axes from a to b, [...,2] each."""
    middle, axis = (a + b) / 2, b - a
    half_length = (axis.norm(dim=-1) / 2).clamp_min(half_width)
    along = torch.nn.functional.normalize(axis, dim=-1)
    dx, dy = px - middle[..., 0, None, None], py - middle[..., 1, None, None]
    u = dx * along[..., 0, None, None] + dy * along[..., 1, None, None]
    v = dy * along[..., 0, None, None] - dx * along[..., 1, None, None]
    long = half_length[..., None, None]
    # First-order distance to the outline: f / |grad f| with f = |(u/a, v/b)| - 1.
    level = torch.hypot(u / long, v / half_width)
    gradient = torch.hypot(u / long**2, v / half_width**2) / level.clamp_min(1e-6)
    return (0.5 - (level - 1) / gradient.clamp_min(1e-6)).clamp(0, 1)


def _batched(
    keypoints: Tensor, cameras: Cameras, head: HeadEllipsoid | None
) -> tuple[Tensor, Cameras, HeadEllipsoid | None]:
    if keypoints.ndim not in (2, 3) or keypoints.shape[-2:] != (18, 3):
        raise ValueError(f"keypoints must be [18,3] or [B,18,3], got {list(keypoints.shape)}")
    if keypoints.ndim == 3 and len(keypoints) not in (1, len(cameras)):
        raise ValueError(f"keypoints hold {len(keypoints)} bodies for {len(cameras)} cameras")
    keypoints = keypoints.float().expand(len(cameras), 18, 3)
    cameras = cameras.to(keypoints.device)
    return keypoints, cameras, head.to(keypoints.device) if head is not None else None
