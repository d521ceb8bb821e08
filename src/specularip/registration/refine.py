"""Steps that fit the body model to outlines and faces, from a start that is nearly right.

Gauss-Newton steps on two kinds of distances, in metres at the person: from points of the images' outlines to
the outline of the drawn body, along the normal, and of the body's skin that projects outside the person. Skin
outside an outline always counts. An outline outside the body counts less the further it is, because clothes
and hair are wider than the body (after Balan and Black, "The Naked Truth: Estimating Body Shape Under
Clothing", 2008). Landmarks of faces count by their distances in the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.body.head import HeadModel
from specularip.body.mesh import vertex_normals
from specularip.body.regions import HIPS, LOWER_LEG, TORSO, UPPER_LEG
from specularip.cameras import Cameras
from specularip.captures.views import PosedImages
from specularip.progress import Report, unheard
from specularip.registration.outlines import Outline
from specularip.registration.posed_shape import (
    CODES,
    PosedShape,
    ShapeModel,
    SkinPoints,
    pose_precisions,
)
from specularip.registration.seen_faces import SeenFace
from specularip.registration.start import cameras_of, drawn_mask, own_vertices

SKIN_POINTS = 4000
OUTLINE_ERROR = 0.012
"""Standard deviation in metres of outlines, where nothing is wider than the body."""
OUTLINE_SPACING = 0.025
"""Metres between points of an outline that are used."""
INDEPENDENT_VIEWS = 12
"""More views than these err together, as clothes do."""
INDEPENDENT_SHARE = 0.3
"""Neighbouring points of an outline err together."""
RIM = 0.35
"""Cosine of the angle between the normal and the line of sight, up to which skin is on the body's outline."""
NORMAL_REACH = 0.15
"""Metres that opposite normals are apart when the nearest skin is looked for."""
LEAST_AGREEMENT = 0.4
"""Cosine of the angle between normals of what belongs together."""
LOOSE = {TORSO: 0.5, HIPS: 0.3, UPPER_LEG: 0.3, LOWER_LEG: 0.6}
"""Regions where clothes are loose: an outline outside the body counts a quarter at this share of the distance
elsewhere, but not below CLOSE metres."""
CLOSE = 0.03
MOST_OUTSIDE = 0.08
"""Metres from which on skin outside an outline counts linearly."""
FIRST_CODE_SPREADS = (0.35, 0.08)
"""Deviation of the first principal component, which is stature, where metres are known and where not."""
DAMPING = 1e-4
MOST_TURN = 0.35
"""Radians that a joint turns at most in a step."""


OUTER_CORNERS, EYES_PER_CORNERS = (33, 263), 0.69
"""The landmarks at the outer corners of the eyes, and the distance of the eyes over theirs."""
CORRELATION = 4.0
"""Factor of the landmarks' errors (`HeadModel.landmark_spread`): neighbours err together."""
PIXELS_OFF = 0.7
"""How many pixels of the image landmarks are off, at least."""
MOST_DEVIATIONS = 3.0
"""From which on a landmark counts linearly."""


@dataclass(frozen=True)
class Stage:
    """codes: how many are fitted; steps; clothes: from and to how many metres an outline may be outside the
    body and still counts a quarter; reach: from and to how far away its skin is looked for, metres."""

    codes: int
    steps: int
    clothes: tuple[float, float]
    reach: tuple[float, float]


ROUGH = Stage(codes=3, steps=10, clothes=(0.35, 0.15), reach=(0.5, 0.25))
FINE = Stage(codes=CODES, steps=16, clothes=(0.12, 0.04), reach=(0.2, 0.1))


@dataclass(frozen=True)
class Rows:
    """m residuals, in metres: of the skin points `index` [m] along `directions` [m,3] in the body's world,
    `residuals` [m] and `weights` [m]."""

    index: Tensor
    directions: Tensor
    residuals: Tensor
    weights: Tensor


class Refiner:
    """Steps of a fit. scale_known: whether the capture is in metres."""

    def __init__(
        self,
        model: ShapeModel,
        outlines: Sequence[Outline],
        scale_known: bool,
        faces: Sequence[SeenFace] = (),
        views: PosedImages | None = None,
    ) -> None:
        self.model, self.outlines, self.scale_known = model, outlines, scale_known
        self.faces = [] if views is None else [(face, views[face.view].camera.to("cpu")) for face in faces]
        neutral = model.neutral()
        body = model.anny.body_of(model.vertices(neutral).float(), model.joints(neutral.codes).float())
        samples = body.sample_surface(SKIN_POINTS, generator=torch.Generator().manual_seed(0))
        self.corners, self.barycentric = model.anny.faces[samples.faces], samples.barycentric
        self.loose = torch.ones(len(samples.regions), dtype=torch.float64)
        for region, share in LOOSE.items():
            self.loose[samples.regions == region] = share
        self.precisions = pose_precisions(model)

    def run(self, shape: PosedShape, stage: Stage, report: Report = unheard) -> PosedShape:
        """The shape after all steps of a stage."""
        heads = bool(self.faces)
        skin = SkinPoints(self.model, self.corners, self.barycentric, stage.codes, heads)
        landmarks = self._landmarks(stage.codes)
        for k in range(stage.steps):
            share = k / max(1, stage.steps - 1)
            clothes, reach = (a * (b / a) ** share for a, b in (stage.clothes, stage.reach))
            parts = [(skin, self.silhouette_rows(shape, skin, clothes, reach))]
            if heads:
                parts.append((landmarks, self.landmark_rows(shape, landmarks)))
            shape = self._step(shape, parts)
            report((k + 1) / stage.steps)
        return shape

    def _landmarks(self, codes: int) -> SkinPoints:
        head = HeadModel.load()
        corners = self.model.anny.faces[head.landmark_faces]
        return SkinPoints(self.model, corners, head.landmark_barycentric, codes, head_shape=True)

    def _step(self, shape: PosedShape, parts: Sequence[tuple[SkinPoints, Rows]]) -> PosedShape:
        points = parts[0][0]
        normal, gradient = self._priors(shape, points)
        for points, rows in parts:
            slopes = points.derivatives(shape)
            jacobian = torch.einsum("md,mdu->mu", rows.directions, slopes[rows.index])
            weighted = jacobian * rows.weights[:, None]
            normal += weighted.T @ jacobian
            gradient += weighted.T @ rows.residuals
        damped = normal + DAMPING * normal.diagonal().diag()
        step = -torch.linalg.solve(damped, gradient)
        pose = step[: points.counts[0]].reshape(-1, 3)  # a view
        pose *= (MOST_TURN / pose.norm(dim=1, keepdim=True).clamp_min(MOST_TURN)).clamp_max(1)
        return shape.moved(step, points)

    def _priors(self, shape: PosedShape, points: SkinPoints) -> tuple[Tensor, Tensor]:
        """The normal matrix [U,U] and the gradient [U] of what is usual."""
        poses, codes, heads, _ = points.counts
        normal = torch.zeros(points.unknowns, points.unknowns, dtype=torch.float64)
        gradient = torch.zeros(points.unknowns, dtype=torch.float64)
        vectors = rotation_vectors(shape.turns[points.joints])
        for k, (root, vector) in enumerate(zip(self.precisions, vectors)):
            own = slice(3 * k, 3 * k + 3)
            normal[own, own] = root.T @ root
            gradient[own] = root.T @ root @ vector
        spreads = torch.ones(codes, dtype=torch.float64)
        spreads[0] = FIRST_CODE_SPREADS[0 if self.scale_known else 1]
        own = slice(poses, poses + codes)
        normal[own, own] = spreads.pow(-2).diag()
        gradient[own] = (shape.codes - self.model.adult)[:codes] / spreads.square()
        if heads:
            own = slice(poses + codes, poses + codes + heads)
            normal[own, own] = torch.eye(heads, dtype=torch.float64)
            gradient[own] = shape.head
        if self.scale_known:
            normal[-1, -1] = 1e12
        return normal, gradient

    def silhouette_rows(self, shape: PosedShape, points: SkinPoints, clothes: float, reach: float) -> Rows:
        rest_normals = vertex_normals(self.model.vertices(shape), self.model.anny.faces)
        skin, normals = points.posed(shape, F.normalize(points.at(rest_normals), dim=-1))
        assert normals is not None
        drawn = own_vertices(self.model, shape)
        parts = []
        clothes_at = (self.loose * clothes).clamp_min(CLOSE)
        count = min(1.0, INDEPENDENT_VIEWS / len(self.outlines)) * INDEPENDENT_SHARE / OUTLINE_ERROR**2
        for outline in self.outlines:
            camera = cameras_of(shape, outline)
            view = _View(camera, skin, normals)
            mask = drawn_mask(drawn, self.model, camera)
            for rows in (
                _outline_rows(view, outline, mask, clothes_at, self.loose.square(), reach),
                _outside_rows(view, outline),
            ):
                parts.append(replace(rows, weights=count * rows.weights))
        return _joined(parts)

    def landmark_rows(self, shape: PosedShape, points: SkinPoints) -> Rows:
        """Of the faces' landmarks, across and down their images."""
        skin, _ = points.posed(shape)
        eyes = skin[OUTER_CORNERS[0]] - skin[OUTER_CORNERS[1]]
        spread = (
            CORRELATION * EYES_PER_CORNERS * float(eyes.norm()) * HeadModel.load().landmark_spread.double()
        )
        share = min(1.0, INDEPENDENT_VIEWS / len(self.faces))
        index, parts = torch.arange(len(skin)), []
        for face, camera in self.faces:
            view = _View(shape.placement.inverse().cameras(camera), skin, skin)
            missed = view.pixels - face.points
            off = missed.norm(dim=1) * view.metres
            deviations = (spread.square() + (PIXELS_OFF * view.metres).square()).sqrt()
            weights = share * (MOST_DEVIATIONS * deviations / off).clamp_max(1) / deviations.square()
            for axis in torch.eye(2, dtype=torch.float64):
                residuals = (missed @ axis) * view.metres
                parts.append(
                    Rows(index, view.directions(index, axis.expand(len(skin), 2)), residuals, weights)
                )
        return _joined(parts)

    def landmark_error(self, shape: PosedShape) -> float:
        """Mean distance in metres of the landmarks from those found."""
        skin, _ = self._landmarks(CODES).posed(shape)
        found = []
        for face, camera in self.faces:
            view = _View(shape.placement.inverse().cameras(camera), skin, skin)
            found.append(((view.pixels - face.points).norm(dim=1) * view.metres).mean())
        return float(torch.stack(found).mean())


class _View:
    """Skin points [n,3] and normals in one camera, in the body's world."""

    def __init__(self, camera: Cameras, skin: Tensor, normals: Tensor) -> None:
        view = camera.viewmats[0].double()
        self.rotation = view[:3, :3]
        self.seen = skin @ self.rotation.T + view[:3, 3]
        self.focal = camera.Ks[0].double().diagonal()[:2]
        self.mean_focal = float(self.focal.prod().sqrt())
        depth = self.seen[:, 2].clamp_min(1e-6)
        self.slope = self.seen[:, :2] / depth[:, None]
        self.pixels = self.focal * self.slope + camera.Ks[0, :2, 2].double()
        self.metres = depth / self.mean_focal
        """Of a pixel at each point."""
        turned = normals @ self.rotation.T
        self.facing = -(turned * F.normalize(self.seen, dim=-1)).sum(1)
        across = (turned[:, :2] - self.slope * turned[:, 2:]) * self.focal
        self.normals = F.normalize(across, dim=-1)
        self.visible = self.seen[:, 2] > 0

    def directions(self, index: Tensor, along: Tensor) -> Tensor:
        """Directions [m,3] in the body's world along which skin points `index` move in the image by `along`
        [m,2], in metres at their depths."""
        scaled = along * self.focal / self.mean_focal
        last = -(scaled * self.slope[index]).sum(1, keepdim=True)
        return torch.cat([scaled, last], 1) @ self.rotation


def _outline_rows(
    view: _View, outline: Outline, mask: np.ndarray, clothes: Tensor, pull: Tensor, reach: float
) -> Rows:
    """From points of the outline to the nearest skin on the body's own outline."""
    at = (view.pixels + 1.5 * view.normals).floor().long().numpy()
    height, width = mask.shape
    within = (at >= 0).all(1) & (at < [width, height]).all(1)
    covered = np.zeros(len(at), dtype=bool)
    covered[within] = mask[at[within, 1], at[within, 0]]
    rim = (view.facing.abs() < RIM).numpy() & ~covered & view.visible.numpy()
    index = np.flatnonzero(rim)
    metres = float(view.metres[view.visible].median())
    stride = max(1, round(OUTLINE_SPACING / metres))
    points, normals = outline.points[::stride], outline.normals[::stride]
    if not len(index) or not len(points):
        return _no_rows()
    own = np.concatenate([metres * view.pixels[index].numpy(), NORMAL_REACH * view.normals[index].numpy()], 1)
    tree = cKDTree(own)
    distance, nearest = tree.query(np.concatenate([metres * points, NORMAL_REACH * normals], 1))
    chosen = torch.from_numpy(index[nearest])
    target, normal = torch.from_numpy(points), torch.from_numpy(normals)
    agreement = (view.normals[chosen] * normal).sum(1)
    kept = (torch.from_numpy(distance) < reach) & (agreement > LEAST_AGREEMENT)
    chosen, target, normal = chosen[kept], target[kept], normal[kept]
    residuals = ((view.pixels[chosen] - target) * normal).sum(1) * view.metres[chosen]
    # Inside the outline by `clothes`, a quarter (Geman and McClure); outside, linear from MOST_OUTSIDE on.
    wide = (1 + (residuals / clothes[chosen]).square()).pow(-2)
    far = (MOST_OUTSIDE / residuals.abs().clamp_min(MOST_OUTSIDE)).clamp_max(1)
    weights = torch.where(residuals < 0, wide * pull[chosen], far)
    return Rows(chosen, view.directions(chosen, normal), residuals, weights)


def _outside_rows(view: _View, outline: Outline) -> Rows:
    """Skin that the image shows to be outside the person."""
    at = view.pixels.floor().long()
    height, width = outline.mask.shape
    inside = view.visible & (at >= 1).all(1) & (at[:, 0] < width - 1) & (at[:, 1] < height - 1)
    index = inside.nonzero()[:, 0][::4]
    x, y = at[index].unbind(1)
    distances = torch.from_numpy(outline.outside)
    away = distances[y, x] > 1
    index, x, y = index[away], x[away], y[away]
    slope = torch.stack(
        [distances[y, x + 1] - distances[y, x - 1], distances[y + 1, x] - distances[y - 1, x]], 1
    )
    normal = F.normalize(slope.double(), dim=-1)
    residuals = (distances[y, x].double() - 0.5) * view.metres[index]
    weights = (MOST_OUTSIDE / residuals.clamp_min(MOST_OUTSIDE)).clamp_max(1)
    return Rows(index, view.directions(index, normal), residuals, weights)


def _joined(parts: Sequence[Rows]) -> Rows:
    return Rows(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Rows)))


def _no_rows() -> Rows:
    none = torch.zeros(0, dtype=torch.float64)
    return Rows(torch.zeros(0, dtype=torch.int64), none.reshape(0, 3), none, none)


def rotation_vectors(quats: Tensor) -> Tensor:
    """Axis times angle in radians [...,3], at most half a turn, of rotations [...,4] wxyz."""
    quats = torch.where(quats[..., :1] < 0, -quats, quats)
    sine = quats[..., 1:].norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quats[..., :1])
    return quats[..., 1:] * torch.where(sine > 1e-9, angle / sine.clamp_min(1e-9), 2.0)
