"""The body model as a function of its shape and pose, at some points of its skin, with derivatives.

The unknowns of a step are one vector: rotations of joints [3P], codes of the shape [K], weights of the head's
shape [S], and the similarity to the capture: rotation [3], translation [3], logarithm of the scale. The
skeleton turns as in `motion.skinning`; the derivatives are written out, because automatic ones take minutes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from specularip.body.anny import AnnyModel, phenotype_row
from specularip.body.head import HeadModel
from specularip.body.mesh import Body, centred
from specularip.body.phenotype import Phenotype
from specularip.gaussians import Binding
from specularip.motion.quaternions import from_rotation_vectors, matrices, multiply
from specularip.placement import Placement

CODES = 40
"""Principal components that are fitted; the others stay those of the average adult."""
SPREADS = {
    "spine05": 6.0, "spine04": 6.0, "spine03": 6.0, "spine02": 6.0, "spine01": 6.0,
    "neck01": 8.0, "neck02": 8.0, "head": 10.0,
    "clavicle": 8.0, "shoulder01": 8.0, "upperarm01": 50.0, "lowerarm01": 45.0, "wrist": 12.0,
    "upperleg01": 25.0, "lowerleg01": 25.0, "foot": 12.0,
}  # fmt: skip
"""Joints that are fitted (those with sides, on both), and the standard deviations in degrees of their turns
from the A-pose."""
HINGES = {"lowerarm01": 12.0, "lowerleg01": 4.0}
"""Joints that mostly turn about one axis, and their deviations about the others."""
TWISTS = {"upperarm01": ("lowerarm01", 20.0), "upperleg01": ("lowerleg01", 8.0)}
"""Joints whose turns about their own bones outlines hardly show: where the bone ends, and the deviation."""
SIMILARITY = 7


@dataclass(frozen=True)
class PosedShape:
    """A body somewhere: x_capture = scale * rotation @ x + translation of its points x in metres.

    codes [K] of `AnnyModel.basis`; head [S], weights of `HeadModel.shapes`; turns [J,4] wxyz, of all joints,
    relative to the A-pose; rotation [3,3]; translation [3]; float64.
    """

    codes: Tensor
    head: Tensor
    turns: Tensor
    rotation: Tensor
    translation: Tensor
    scale: float

    @property
    def placement(self) -> Placement:
        """From the body's world to the capture's."""
        return Placement(self.scale, self.rotation, self.translation)

    def moved(self, step: Tensor, points: SkinPoints) -> PosedShape:
        """After a step along the unknowns [U]."""
        model = points.model
        pose, codes, head, similarity = step.split(points.counts)
        turns = self.turns.clone()
        turns[points.joints] = multiply(from_rotation_vectors(pose.reshape(-1, 3)), turns[points.joints])
        own = self.codes.clone()
        own[: len(codes)] += codes
        own_head = self.head + head if len(head) else self.head
        turn = matrices(from_rotation_vectors(similarity[:3]))
        root = model.root(own)
        # The similarity turns and scales about the root.
        scale = self.scale * math.exp(float(similarity[6]))
        rotation = self.rotation @ turn
        place = self.scale * self.rotation @ (model.root(self.codes) + similarity[3:6]) + self.translation
        translation = place - scale * rotation @ root
        return replace(
            self, codes=own, head=own_head, turns=turns, rotation=rotation, scale=scale,
            translation=translation,
        )  # fmt: skip


class ShapeModel:
    """`AnnyModel` and `HeadModel` in float64, with the average adult as its middle."""

    def __init__(self) -> None:
        anny = AnnyModel.load()
        self.anny = anny
        self._last: tuple[Tensor, Tensor, Tensor] | None = None
        count = len(anny.regions)
        self.joint_names, self.joint_parents = anny.joint_names, anny.joint_parents
        row = phenotype_row(Phenotype())
        self.adult = ((anny.blend(row) - anny.coefficient_mean) @ anny.projection)[0].double()
        self.vertex_mean, self.vertex_basis = anny.mean[:count].double(), anny.basis[:, :count].double()
        self.joint_mean = torch.cat([anny.mean[count:], anny.small_joint_mean]).double()
        self.joint_basis = torch.cat([anny.basis[:, count:], anny.small_joint_basis], 1).double()
        self.weights = torch.zeros(count, len(self.joint_names), dtype=torch.float64)
        self.weights.scatter_add_(1, anny.skin_joints, anny.skin_weights.double())
        head = HeadModel.load()
        self.head_shapes = torch.zeros(len(head.shapes), count, 3, dtype=torch.float64)
        self.head_shapes[:, head.rows] = head.shapes.double()

    def neutral(self) -> PosedShape:
        """The average adult in A-pose."""
        turns = torch.zeros(len(self.joint_names), 4, dtype=torch.float64)
        turns[:, 0] = 1
        none = torch.zeros(len(self.head_shapes), dtype=torch.float64)
        return PosedShape(
            self.adult,
            none,
            turns,
            torch.eye(3, dtype=torch.float64),
            torch.zeros(3, dtype=torch.float64),
            1.0,
        )

    @cached_property
    def adult_height(self) -> float:
        return self._height(self.adult)

    def _height(self, codes: Tensor) -> float:
        heights = self.vertices(replace(self.neutral(), codes=codes))[:, 2]
        return float(heights.max() - heights.min())

    def in_metres(self, shape: PosedShape) -> PosedShape:
        """About the same with a scale of 1: the first principal component is stature."""
        step = torch.zeros_like(self.adult)
        step[0] = 0.1
        per_step = self._height(self.adult + step) - self.adult_height
        codes = self.adult + step * (shape.scale - 1) * self.adult_height / per_step
        place = shape.placement.points(self.root(shape.codes))
        translation = place - shape.rotation @ self.root(codes)
        return replace(shape, codes=codes, translation=translation, scale=1.0)

    def root(self, codes: Tensor) -> Tensor:
        """Position [3] of the root at rest."""
        return self.joint_mean[0] + codes @ self.joint_basis[:, 0]

    def joints(self, codes: Tensor) -> Tensor:
        """Positions [J,3] of the joints at rest."""
        return self.joint_mean + torch.einsum("k,kjd->jd", codes, self.joint_basis)

    def vertices(self, shape: PosedShape) -> Tensor:
        """Vertices [V,3] at rest."""
        if self._last is not None and self._last[0] is shape.codes and self._last[1] is shape.head:
            return self._last[2]  # many poses of one shape are tried
        bare = self.vertex_mean + torch.einsum("k,kvd->vd", shape.codes, self.vertex_basis)
        vertices = bare + torch.einsum("s,svd->vd", shape.head, self.head_shapes)
        self._last = shape.codes, shape.head, vertices
        return vertices

    def body(self, shape: PosedShape) -> tuple[Body, Tensor]:
        """The body in A-pose, its mid-height at the origin, and by how much [3] it was moved to be so."""
        vertices, joints = self.vertices(shape), self.joints(shape.codes)
        eyes = [self.joint_names.index(name) for name in ("eye.R", "eye.L")]
        moved = torch.einsum("s,svd->vd", shape.head, self.head_shapes)
        joints[eyes] += moved[self.anny.eyeballs].mean(1)
        shift = centred(vertices)[0]
        body = self.anny.body_of((vertices + shift).float(), (joints + shift).float())
        return body, shift[0]

    def posed_vertices(self, shape: PosedShape) -> Tensor:
        """Vertices [V,3] in the capture."""
        turns, places = self.skeleton(shape)
        vertices, joints = self.vertices(shape), self.joints(shape.codes)
        shifts = places - (turns @ joints[..., None])[..., 0]
        blended = (self.weights @ torch.cat([turns.flatten(1), shifts], 1)).split([9, 3], 1)
        posed = (blended[0].unflatten(1, (3, 3)) @ vertices[..., None])[..., 0] + blended[1]
        return shape.scale * posed @ shape.rotation.T + shape.translation

    def skeleton(self, shape: PosedShape) -> tuple[Tensor, Tensor]:
        """Rotations [J,3,3] and positions [J,3] of the posed joints, in the body's world."""
        local, joints = matrices(shape.turns), self.joints(shape.codes)
        turns, places = [local[0]], [joints[0]]
        for joint, parent in enumerate(self.joint_parents[1:], 1):
            turns.append(turns[parent] @ local[joint])
            places.append(places[parent] + turns[parent] @ (joints[joint] - joints[parent]))
        return torch.stack(turns), torch.stack(places)

    def binding(self, codes: Tensor) -> Binding:
        return Binding(list(self.joint_names), list(self.joint_parents), self.joints(codes))

    @cached_property
    def descendants(self) -> Tensor:
        """Which joints [J,J] (row: ancestor) hang from which, themselves included; 1 or 0."""
        result = torch.eye(len(self.joint_names), dtype=torch.float64)
        for joint, parent in enumerate(self.joint_parents):
            if parent >= 0:
                result[:, joint] += result[:, parent]
        return result


class SkinPoints:
    """n points of the skin, each on a triangle: corners [n,3] int64, barycentric [n,3].

    head_shape: whether the head's shape is among the unknowns.
    """

    def __init__(
        self, model: ShapeModel, corners: Tensor, barycentric: Tensor, codes: int, head_shape: bool = False
    ) -> None:
        self.model, self.codes = model, codes
        share = barycentric.double()

        def at(values: Tensor) -> Tensor:
            return (values[..., corners, :] * share[..., None]).sum(-2)

        self.at = at
        self.mean = at(model.vertex_mean)
        self.basis = at(model.vertex_basis)
        self.weights = at(model.weights)
        self.head_shapes = at(model.head_shapes)
        self.joints = torch.tensor([model.joint_names.index(name) for name in fitted_joints()])
        heads = len(model.head_shapes) if head_shape else 0
        self.head_count = heads
        self.counts = [3 * len(self.joints), codes, heads, SIMILARITY]

    def __len__(self) -> int:
        return len(self.mean)

    @property
    def unknowns(self) -> int:
        return sum(self.counts)

    def posed(self, shape: PosedShape, normals: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Points [n,3] in the body's world, posed, and their `normals` [n,3] at rest turned likewise."""
        turns, places = self.model.skeleton(shape)
        rest, joints = self._rest(shape), self.model.joints(shape.codes)
        shifts = places - (turns @ joints[..., None])[..., 0]
        blended, shift = (self.weights @ torch.cat([turns.flatten(1), shifts], 1)).split([9, 3], 1)
        blended = blended.unflatten(1, (3, 3))
        posed = (blended @ rest[..., None])[..., 0] + shift
        if normals is not None:
            normals = torch.nn.functional.normalize((blended @ normals[..., None])[..., 0], dim=-1)
        return posed, normals

    def _rest(self, shape: PosedShape) -> Tensor:
        bare = self.mean + torch.einsum("k,knd->nd", shape.codes, self.basis)
        return bare + torch.einsum("s,snd->nd", shape.head, self.head_shapes)

    def derivatives(self, shape: PosedShape) -> Tensor:
        """Of the posed points in the body's world by all unknowns, [n,3,U]; those by the similarity are as if
        it acted there, before it is applied."""
        model = self.model
        turns, places = model.skeleton(shape)
        joints, rest = model.joints(shape.codes), self._rest(shape)
        parents = torch.tensor(model.joint_parents)
        # Every joint's part in where a point is: w (turn (x - joint) + place), [n,J,3].
        parts = torch.einsum("jab,njb->nja", turns, rest[:, None] - joints) + places
        parts *= self.weights[..., None]
        below = model.descendants[self.joints]  # [P,J]
        hung = below @ self.weights.T  # [P,n]
        moved = torch.einsum("pj,nja->pna", below, parts)
        arms = moved - hung[..., None] * places[self.joints][:, None]  # [P,n,3]
        above = turns[parents[self.joints].clamp_min(0)]  # [P,3,3], the frame in which a joint turns
        by_pose = torch.linalg.cross(above.mT[:, None], arms[:, :, None], dim=-1)  # [P,n,axis,3]
        by_pose = by_pose.permute(1, 3, 0, 2).flatten(2)

        # Shape: points move in their joints' frames, and joints with their parents; the root stays.
        K = self.codes
        joint_basis = model.joint_basis[:K]
        place_moves = [torch.zeros_like(joint_basis[:, 0])]
        for joint, parent in enumerate(model.joint_parents[1:], 1):
            along = joint_basis[:, joint] - joint_basis[:, parent]
            place_moves.append(place_moves[parent] + along @ turns[parent].T)
        shifts = torch.stack(place_moves, 1) - torch.einsum("jab,kjb->kja", turns, joint_basis)
        blended = (self.weights @ turns.flatten(1)).unflatten(1, (3, 3))
        by_codes = torch.einsum("nab,knb->nak", blended, self.basis[:K])
        by_codes += torch.einsum("nj,kja->nak", self.weights, shifts)
        by_head = torch.einsum("nab,snb->nas", blended, self.head_shapes[: self.head_count])

        lever = parts.sum(1) - places[0]
        eye = torch.eye(3, dtype=torch.float64)
        by_turn = torch.linalg.cross(eye.expand(len(lever), 3, 3), lever[:, None], dim=-1).mT
        by_shift = eye.expand(len(lever), 3, 3)
        return torch.cat([by_pose, by_codes, by_head, by_turn, by_shift, lever[..., None]], 2)


def fitted_joints() -> list[str]:
    """The names of the joints whose rotations are fitted."""
    names = AnnyModel.load().joint_names
    return [name for name in names if name.partition(".")[0] in SPREADS]


def pose_precisions(model: ShapeModel) -> Tensor:
    """The square roots [P,3,3] of the inverse covariances of the fitted joints' rotation vectors."""
    joints, index = model.joints(model.adult), model.joint_names.index
    result = []
    for name in fitted_joints():
        kind, _, side = name.partition(".")
        spreads = torch.full((3,), SPREADS[kind], dtype=torch.float64).deg2rad()
        frame = torch.eye(3, dtype=torch.float64)
        if kind in HINGES:
            before, after = ("upperarm01", "wrist") if kind == "lowerarm01" else ("upperleg01", "foot")
            ends = [joints[index(f"{end}.{side}")] for end in (before, kind, after)]
            hinge = torch.linalg.cross(ends[1] - ends[0], ends[2] - ends[1])
            frame = _frame(hinge)
            spreads[1:] = math.radians(HINGES[kind])
        elif kind in TWISTS:
            end, spread = TWISTS[kind]
            frame = _frame(joints[index(f"{end}.{side}")] - joints[index(name)])
            spreads[0] = math.radians(spread)
        result.append(frame.T / spreads[:, None])
    return torch.stack(result)


def _frame(first: Tensor) -> Tensor:
    """A rotation matrix [3,3] whose first column is along `first` [3]."""
    first = first / first.norm()
    other = torch.zeros_like(first)
    other[first.abs().argmin()] = 1
    second = torch.linalg.cross(first, other)
    second = second / second.norm()
    return torch.stack([first, second, torch.linalg.cross(first, second)], 1)
