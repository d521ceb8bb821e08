"""Where registration starts: which way is up, where the person is, how tall, where it faces, and its arms.

The visual hull gives place and height. Headings and arms are tried: the body model is drawn over the
outlines, and what fits best is kept. Images may show less than the whole body, from the crown down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from specularip.cameras import Cameras
from specularip.captures.scene import up_axis
from specularip.errors import UserError
from specularip.motion.quaternions import about, matrices, multiply
from specularip.progress import Report, unheard
from specularip.raster.mesh import rasterize_mesh
from specularip.registration.outlines import Outline
from specularip.registration.posed_shape import PosedShape, ShapeModel

GRID = 56
SEEN = 0.5
"""Share of the cameras that must see a point of the hull."""
TRIED_VIEWS, TRIED_SIZE = 10, 72
FAR = 0.2
"""Share of the person's size beyond which distances do not count."""
HEADINGS = 12
RAISED_DEG = (-28.0, 0.0, 25.0, 48.0)
"""By how much arms are raised from the A-pose, where they hang 42 degrees aside."""
BENT_DEG, FORWARD_DEG, TWISTED_DEG = (0.0, 50.0, 95.0), (0.0, 35.0), (-70.0, -35.0, 0.0, 35.0, 70.0)
EFFORT = 4e-6
"""What a degree of a bent elbow costs in misfit: a forearm that no image shows is straight."""
SHOWN, FINER = (1.0, 0.8, 0.65, 0.52, 0.42, 0.33, 0.25), (0.85, 0.92, 1.0, 1.08, 1.17)
"""Shares of the body, from the crown down, that images may show, and factors to try around the best."""
CUT_SHARE = 0.3
"""Share of the images that must end above the feet before less than the whole body is looked for."""
METRES = (1.4, 2.15)
"""Heights of people: a person as high in the capture's units is taken to be in metres."""


def starts(
    model: ShapeModel, outlines: Sequence[Outline], report: Report = unheard
) -> list[tuple[PosedShape, float]]:
    """Where to begin, with the misfit of each, the best first: a heading, and the opposite one.

    Raises UserError where no camera sees what another sees.
    """
    hull = visual_hull(outlines)
    up = up_axis([outline.camera for outline in outlines], hull.mean(0))
    trials = _Trials(model, outlines, hull, up)
    return sorted(_facing(trials, _cut_below(outlines, hull, up), report), key=lambda pair: pair[1])


def with_tried_arms(
    model: ShapeModel, shape: PosedShape, outlines: Sequence[Outline], report: Report = unheard
) -> PosedShape:
    """The same with each arm as it overlaps best, among many poses and its own."""
    views = _some(outlines)
    for side in "LR":
        tried = [shape]
        for raised in RAISED_DEG:
            for forward in FORWARD_DEG:
                for bent, twisted in ((0.0, 0.0), *((b, t) for b in BENT_DEG[1:] for t in TWISTED_DEG)):
                    turns = shape.turns.clone()
                    for name in ("clavicle", "shoulder01", "wrist"):
                        turns[model.joint_names.index(f"{name}.{side}")] = turns.new_tensor([1.0, 0, 0, 0])
                    _put_arm(model, turns, side, raised, forward, bent, twisted)
                    tried.append(replace(shape, turns=turns))
        shape = min(tried, key=lambda one: misfit(model, one, views) + _effort(model, one, side))
        report(0.5 if side == "L" else 1.0)
    return shape


def _effort(model: ShapeModel, shape: PosedShape, side: str) -> float:
    """What a bent elbow costs."""
    turn = shape.turns[model.joint_names.index(f"lowerarm01.{side}")]
    return EFFORT * math.degrees(2 * math.acos(min(1.0, abs(float(turn[0])))))


def _some(outlines: Sequence[Outline]) -> list[Outline]:
    return [outlines[k * len(outlines) // TRIED_VIEWS] for k in range(min(TRIED_VIEWS, len(outlines)))]


def cameras_of(shape: PosedShape, outline: Outline) -> Cameras:
    """The camera of an outline in the world of the body, in metres."""
    view = outline.camera.viewmats[0].double()
    viewmat = torch.eye(4, dtype=torch.float64)
    viewmat[:3, :3] = view[:3, :3] @ shape.rotation
    viewmat[:3, 3] = (view[:3, :3] @ shape.translation + view[:3, 3]) / shape.scale
    camera = outline.camera
    return Cameras(viewmat[None].float(), camera.Ks, camera.width, camera.height)


def overlap(model: ShapeModel, shape: PosedShape, outlines: Sequence[Outline]) -> float:
    """Mean intersection over union of the drawn body and the outlines."""
    posed = own_vertices(model, shape)
    found = []
    for outline in outlines:
        drawn = drawn_mask(posed, model, cameras_of(shape, outline))
        found.append((drawn & outline.mask).sum() / max(1, (drawn | outline.mask).sum()))
    return float(np.mean(found))


def misfit(model: ShapeModel, shape: PosedShape, outlines: Sequence[Outline]) -> float:
    """How far the person's pixels are from the drawn body, and the drawn ones from the person, on average, in
    shares of the person's size. In small images; unlike the overlap, it guides thin limbs from afar."""
    posed = own_vertices(model, shape)
    total = 0.0
    for outline in outlines:
        camera, mask, outside = _smaller(cameras_of(shape, outline), outline)
        drawn = drawn_mask(posed, model, camera)
        most = FAR * max(mask.shape)
        missed = distance_transform_edt(~drawn)[mask] if drawn.any() else np.full(int(mask.sum()), most)
        wrong = np.minimum(outside[drawn], most).sum() + np.minimum(missed, most).sum()
        total += float(wrong) / max(1, int(mask.sum())) / max(mask.shape)
    return total / len(outlines)


def own_vertices(model: ShapeModel, shape: PosedShape) -> Tensor:
    """Posed vertices [V,3] float32 in the body's world, metres."""
    still = replace(shape, rotation=torch.eye(3).double(), translation=torch.zeros(3).double(), scale=1.0)
    return model.posed_vertices(still).float()


def drawn_mask(vertices: Tensor, model: ShapeModel, camera: Cameras) -> np.ndarray:
    """Where vertices [V,3] of the body cover an image, bool [h,w]."""
    return (rasterize_mesh(vertices, model.anny.faces, camera).triangles[0] >= 0).numpy()


def _smaller(camera: Cameras, outline: Outline) -> tuple[Cameras, np.ndarray, np.ndarray]:
    """A camera of an outline's image, and its mask and distances, at every so many pixels of it."""
    stride = -(-max(camera.width, camera.height) // TRIED_SIZE)
    first = stride // 2
    mask, outside = (whole[first::stride, first::stride] for whole in (outline.mask, outline.outside))
    K = camera.Ks.clone()
    K[:, :2, 2] += 0.5 * stride - (first + 0.5)  # centres of pixels stay where they are
    K[:, :2] /= stride
    return Cameras(camera.viewmats, K, mask.shape[1], mask.shape[0]), mask, outside / stride


def visual_hull(outlines: Sequence[Outline]) -> Tensor:
    """Points [N,3] on a grid within the person, in the capture's world. Raises UserError for none."""
    positions, rays, sizes = [], [], []
    for outline in outlines:
        camera = outline.camera
        rows, columns = np.nonzero(outline.mask)
        K, view = camera.Ks[0].double(), camera.viewmats[0].double()
        middle = torch.tensor([columns.mean() + 0.5, rows.mean() + 0.5, 1.0], dtype=torch.float64)
        ray = view[:3, :3].T @ (torch.linalg.inv(K) @ middle)
        positions.append(-view[:3, :3].T @ view[:3, 3])
        rays.append(ray / ray.norm())
        extent = max(np.ptp(rows) / float(K[1, 1]), np.ptp(columns) / float(K[0, 0]))
        sizes.append(extent)
    origin, ray = torch.stack(positions), torch.stack(rays)
    across = torch.eye(3, dtype=torch.float64) - ray[:, :, None] * ray[:, None]
    system = across.sum(0) + 1e-9 * torch.eye(3)
    centre = torch.linalg.solve(system, (across @ origin[..., None]).sum(0)[:, 0])
    depth = ((centre - origin) * ray).sum(1)
    radius = float((depth * torch.tensor(sizes, dtype=torch.float64)).median())
    if not radius > 0:
        raise UserError("the cameras do not look at one person: check their transforms")
    for _ in range(2):  # the second time on the box of what was found
        points = _carved(outlines, centre - radius, 2 * radius / GRID)
        if not len(points):
            raise UserError("no point lies within the person in all images: check masks and transforms")
        low, high = points.amin(0), points.amax(0)
        centre, radius = (low + high) / 2, 0.55 * float((high - low).max()) + 2 * radius / GRID
    return points


def _carved(outlines: Sequence[Outline], low: Tensor, step: float) -> Tensor:
    axis = (torch.arange(GRID) + 0.5) * step
    points = (torch.cartesian_prod(axis, axis, axis) + low).float()
    kept, seen = torch.arange(len(points)), torch.zeros(len(points))
    for outline in outlines:
        camera = outline.camera
        pixels, depth = camera.project(points[kept])
        x, y = pixels[0].floor().long().unbind(-1)
        inside = (depth[0] > 0) & (x >= 0) & (x < camera.width) & (y >= 0) & (y < camera.height)
        mask = torch.from_numpy(outline.mask)
        at = mask[y.clamp(0, camera.height - 1), x.clamp(0, camera.width - 1)]
        seen[kept] += inside
        kept = kept[~inside | at]
    kept = kept[seen[kept] >= SEEN * len(outlines)]
    return points[kept].double()


class _Trials:
    """Upright poses of the average adult in the hull, whose crown is the hull's top."""

    def __init__(self, model: ShapeModel, outlines: Sequence[Outline], hull: Tensor, up: Tensor) -> None:
        self.model, self.hull, self.up, self.views = model, hull, up, _some(outlines)
        self.heights = hull @ up
        step = float((hull[1:] - hull[:-1]).abs().amax(1).min())
        self.bottom, self.top = (float(self.heights.quantile(share)) for share in (0.002, 0.998))
        self.bottom, self.top = self.bottom - step / 2, self.top + step / 2
        other = torch.linalg.cross(up, torch.eye(3).double()[int(up.abs().argmin())])
        other = other / other.norm()
        self.level = torch.stack(
            [other, torch.linalg.cross(up, other), up], 1
        )  # the body's axes to the capture's
        self.neutral = model.neutral()
        self.crown = float(model.vertices(self.neutral)[:, 2].max())

    def shape(self, degrees: float, arms: Arms, shown: float) -> PosedShape:
        """Facing `degrees`, with the upper `shown` of the body in the hull."""
        height = (self.top - self.bottom) / shown
        low, high = (self.top - share * height for share in (0.5, 0.2))
        trunk = self.hull[(self.heights > low) & (self.heights < high)]
        middle = (trunk if len(trunk) else self.hull).median(0).values
        middle = middle + (self.top - middle @ self.up) * self.up
        scale = height / self.model.adult_height
        turned = self.level @ matrices(about(_Z, _radians(degrees)))
        posed = self.neutral.turns.clone()
        for side, arm in arms.items():
            _put_arm(self.model, posed, side, *arm)
        translation = middle - scale * self.crown * turned[:, 2]
        return replace(self.neutral, turns=posed, rotation=turned, translation=translation, scale=scale)

    def misfit(self, degrees: float, arms: Arms, shown: float) -> float:
        return misfit(self.model, self.shape(degrees, arms, shown), self.views)


Arms = dict[str, tuple[float, float, float]]
"""By side, by how many degrees an arm is raised, swung to the front and bent."""


def _facing(trials: _Trials, cut: bool, report: Report) -> list[tuple[PosedShape, float]]:
    """The best heading and arms, and the same seen from behind. cut: whether images end above the feet."""
    rough: list[tuple[float, float, Arms, float]] = []
    for k in range(HEADINGS):
        report(0.4 * k / HEADINGS)
        for raised in RAISED_DEG:
            arms = {side: (raised, 0.0, 0.0) for side in "LR"}
            degrees = 360.0 * k / HEADINGS
            for shown in SHOWN if cut else SHOWN[:1]:
                rough.append((trials.misfit(degrees, arms, shown), degrees, arms, shown))
    _, best, arms, shown = min(rough, key=lambda one: one[0])
    if cut:
        shown = min((shown * factor for factor in FINER), key=lambda one: trials.misfit(best, arms, one))
    result = []
    for degrees in (best, best + 180):
        report(0.4 if degrees == best else 0.7)
        own = dict(arms)
        for side in "LR":
            options = [
                {**own, side: (raised, forward, bent)}
                for raised in RAISED_DEG for forward in FORWARD_DEG for bent in BENT_DEG
            ]  # fmt: skip
            own = min(
                options,
                key=lambda option: trials.misfit(degrees, option, shown) + EFFORT * option[side][2],
            )
        result.append((trials.shape(degrees, own, shown), trials.misfit(degrees, own, shown)))
    return result


def _cut_below(outlines: Sequence[Outline], hull: Tensor, up: Tensor) -> bool:
    """Whether the lower end of the person is beyond the images' edges in many of them."""
    count = 0
    middle, step = hull.mean(0), 0.1 * float((hull @ up).max() - (hull @ up).min())
    for outline in outlines:
        pixels, _ = outline.camera.project(torch.stack([middle, middle - step * up]).float())
        centre, below = pixels[0, 0].numpy(), (pixels[0, 1] - pixels[0, 0]).numpy()
        rows, columns = np.nonzero(outline.mask)
        depths = (np.stack([columns, rows], 1) + 0.5 - centre) @ below
        height, width = outline.mask.shape
        edge = (rows == 0) | (rows == height - 1) | (columns == 0) | (columns == width - 1)
        count += bool((depths[edge] > 0.7 * depths.max()).any())
    return count > CUT_SHARE * len(outlines)


def _put_arm(
    model: ShapeModel,
    turns: Tensor,
    side: str,
    raised: float,
    forward: float,
    bent: float,
    twisted: float = 0.0,
) -> None:
    """Raise an arm, swing it to the front, bend its elbow, and twist it, by degrees from the A-pose."""
    index, joints = model.joint_names.index, model.joints(model.adult)
    sign = 1.0 if side == "L" else -1.0
    lift = about(_Y, _radians(-sign * raised))
    swing = about(_Z, _radians(-sign * forward))
    upper, elbow, wrist = (joints[index(f"{name}.{side}")] for name in ("upperarm01", "lowerarm01", "wrist"))
    bone = (elbow - upper) / (elbow - upper).norm()
    twist = about(bone, _radians(twisted))
    turns[index(f"upperarm01.{side}")] = multiply(multiply(swing, lift), twist)
    hinge = torch.linalg.cross(elbow - upper, wrist - elbow)
    turns[index(f"lowerarm01.{side}")] = about(hinge / hinge.norm(), _radians(bent))


def _radians(degrees: float) -> Tensor:
    return torch.tensor(math.radians(degrees), dtype=torch.float64)


_Y, _Z = torch.eye(3, dtype=torch.float64)[1:]
