"""The body model fitted to posed images of one person: its shape, its pose, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from specularip.body.anny import AnnyModel
from specularip.body.mesh import Body, vertex_normals
from specularip.captures.views import PosedImages
from specularip.errors import DamagedFile
from specularip.gaussians import Binding
from specularip.motion.quaternions import from_matrices, multiply
from specularip.motion.skinning import joint_transforms
from specularip.placement import Placement
from specularip.progress import Report, part, unheard
from specularip.registration.outlines import Outline, outlines_of
from specularip.registration.posed_shape import PosedShape, ShapeModel
from specularip.registration.refine import FINE, ROUGH, Refiner
from specularip.registration.seen_faces import SeenFace, of_head, seen_faces
from specularip.registration.start import METRES, overlap, starts, with_tried_arms
from specularip.training.schema import Many, Maybe, Number, Schema, TensorOf, Text

POOR_OVERLAP = 0.5
"""With less intersection over union, the body is not where the person is."""


@dataclass(frozen=True)
class FittedBody:
    """Anny as it fits the images.

    body: in its A-pose and its own world (metres, z up, facing -y, origin at half height). stance [J,4] wxyz:
    how the joints are turned, relative to the A-pose, as the person stands. placement: from the body's world
    to the capture's. silhouette_iou: mean intersection over union of its outlines with those in the images.
    landmark_error: mean distance in metres of the face's landmarks from those found, None without a face.
    faces: the number of images in which the face was found. notes: for the user, one line each.
    """

    body: Body
    stance: Tensor
    placement: Placement
    silhouette_iou: float
    landmark_error: float | None
    faces: int
    notes: tuple[str, ...] = ()

    def pack(self) -> dict[str, Any]:
        """Plain values and tensors, for a checkpoint."""
        kept = ("stance", "silhouette_iou", "landmark_error", "faces", "notes")
        body = {"vertices": self.body.vertices, "joints": self.body.joints}
        return {**{name: getattr(self, name) for name in kept}, **body, "placement": self.placement.pack()}

    @staticmethod
    def unpack(packed: dict[str, Any]) -> FittedBody:
        """The inverse of `pack`."""
        rest = dict(packed)
        body = AnnyModel.load().body_of(rest.pop("vertices"), rest.pop("joints"))
        return FittedBody(
            body=body,
            placement=Placement.unpack(rest.pop("placement")),
            notes=tuple(rest.pop("notes")),
            **rest,
        )

    @staticmethod
    def schema() -> Schema:
        """Of what `pack` returns."""
        model = AnnyModel.load()
        vertices, joints = len(model.regions), len(model.joint_names)
        return {
            "stance": TensorOf((joints, 4)),
            "silhouette_iou": Number(0, 1),
            "landmark_error": Maybe(Number(0)),
            "faces": Number(0, whole=True),
            "notes": Many(Text(), tuple),
            "vertices": TensorOf((vertices, 3)),
            "joints": TensorOf((joints, 3)),
            "placement": a_placement,
        }

    def described(self) -> str:
        """How well it fits, in words."""
        words = f"the outlines overlap by {100 * self.silhouette_iou:.0f} % (intersection over union)"
        if self.landmark_error is None:
            return words
        faces = f"{self.faces} images" if self.faces > 1 else "one image"
        return f"{words}, and the face in {faces} is off by {1000 * self.landmark_error:.0f} mm"

    def summary(self) -> dict[str, Any]:
        """How well it fits, as JSON values."""
        names = ("silhouette_iou", "landmark_error", "faces")
        return {**{name: getattr(self, name) for name in names}, "height": self.body.height}

    @property
    def binding(self) -> Binding:
        """The skeleton, with the stance."""
        body = self.body
        return Binding(list(body.joint_names), list(body.joint_parents), body.joints, self.stance)

    def standing(self) -> Body:
        """The body as the person stands, in the body's world."""
        return posed_body(self.body, self.stance)


def a_placement(value: Any) -> None:
    """A schema: what `Placement.pack` returns."""
    try:
        Placement.unpack(value)
    except ValueError as error:
        raise DamagedFile(f"is none: {error}") from None


def posed_body(body: Body, turns: Tensor) -> Body:
    """A body whose joints are turned by `turns` [J,4] wxyz, each relative to the A-pose and its parent."""
    rest = Binding(list(body.joint_names), list(body.joint_parents), body.joints)
    transforms = joint_transforms(rest, turns.to(body.joints))
    weights = torch.zeros(len(body.vertices), len(body.joints)).to(body.vertices)
    weights.scatter_add_(1, body.skin_joints, body.skin_weights)
    blended = (weights @ transforms[:, :3].flatten(1)).unflatten(1, (3, 4))
    vertices = (blended[..., :3] @ body.vertices[..., None])[..., 0] + blended[..., 3]
    joints = (transforms[:, :3, :3] @ body.joints[..., None])[..., 0] + transforms[:, :3, 3]
    normals = vertex_normals(vertices, body.faces)
    return replace(body, vertices=vertices, joints=joints, vertex_normals=normals)


@torch.no_grad()
def fit_body(views: PosedImages, report: Report = unheard) -> FittedBody:
    """Fit Anny to the images of one person, who stands with limbs apart, in clothes or not.

    The outlines must be known: images with alpha. Where a person is between 1.4 and 2.15 units tall, these
    are taken as metres; else the body is about an average adult's size. Takes some 15 seconds on one core.
    Raises UserError where fewer than three images have an outline, or cameras and outlines contradict.
    """
    model, outlines = ShapeModel(), outlines_of(views)
    begun = [shape for shape, _ in starts(model, outlines, part(report, 0.0, 0.2))]
    known = METRES[0] <= begun[0].scale * model.adult_height <= METRES[1]
    if known:
        begun = [model.in_metres(shape) for shape in begun]
    refiner = Refiner(model, outlines, known)
    rough = [
        refiner.run(shape, ROUGH, part(report, 0.2 + 0.1 * k, 0.3 + 0.1 * k)) for k, shape in enumerate(begun)
    ]
    faces = seen_faces(model, rough[0], outlines, views)
    looking = [of_head(model, shape, faces, views) for shape in rough]
    overlaps = [overlap(model, shape, outlines) for shape in rough]
    best = max(range(len(rough)), key=lambda k: (len(looking[k]), overlaps[k]))
    up = begun[best].rotation[:, 2]
    shape = with_tried_arms(model, rough[best], outlines, part(report, 0.4, 0.6))
    shape = refiner.run(shape, ROUGH, part(report, 0.6, 0.7))
    kept = of_head(model, shape, looking[best], views)
    refiner = Refiner(model, outlines, known, kept, views)
    shape = refiner.run(shape, FINE, part(report, 0.7, 1.0))
    return _fitted(model, shape, up, outlines, kept, refiner)


def _fitted(
    model: ShapeModel,
    shape: PosedShape,
    up: Tensor,
    outlines: Sequence[Outline],
    faces: Sequence[SeenFace],
    refiner: Refiner,
) -> FittedBody:
    """The result in a world that stands upright: the body's lean is its stance's."""
    body, shift = model.body(shape)
    forward = -shape.rotation[:, 1]
    backward = up * (forward @ up) - forward
    backward = backward / backward.norm()
    upright = torch.stack([torch.linalg.cross(backward, up), backward, up], 1)
    lean = upright.T @ shape.rotation
    stance = shape.turns.clone()
    stance[0] = multiply(from_matrices(lean), stance[0])
    root = model.root(shape.codes)
    # The root is where it was: s R root + t = s U (root + shift) + translation.
    place = shape.placement.points(root)
    translation = place - shape.scale * upright @ (root + shift)
    iou = overlap(model, shape, outlines)
    notes = []
    if not faces:
        notes.append("no face was found in the images: front and back were told by the outline alone")
    if iou < POOR_OVERLAP:
        notes.append(
            f"the body covers the person badly (intersection over union {iou:.2f}): "
            "several people, wide clothes, or wrong masks or cameras"
        )
    error = refiner.landmark_error(shape) if faces else None
    return FittedBody(
        body,
        stance.float(),
        Placement(shape.scale, upright, translation),
        iou,
        error,
        len(faces),
        tuple(notes),
    )
