"""The body model fitted to posed images of one person: its shape, its pose, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specularip.body.mesh import Body, vertex_normals
from specularip.captures.views import PosedImages
from specularip.gaussians import Binding
from specularip.motion.quaternions import from_matrices, multiply
from specularip.motion.skinning import joint_transforms
from specularip.placement import Placement
from specularip.progress import Progress
from specularip.registration.outlines import Outline, outlines_of
from specularip.registration.posed_shape import PosedShape, ShapeModel
from specularip.registration.refine import FINE, ROUGH, Refiner
from specularip.registration.seen_faces import SeenFace, of_head, seen_faces
from specularip.registration.start import METRES, overlap, starts, with_tried_arms

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

    @property
    def binding(self) -> Binding:
        """The skeleton, with the stance."""
        body = self.body
        return Binding(list(body.joint_names), list(body.joint_parents), body.joints, self.stance)

    def standing(self) -> Body:
        """The body as the person stands, in the body's world."""
        return posed_body(self.body, self.stance)


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
def fit_body(views: PosedImages, progress: Progress | None = None) -> FittedBody:
    """Fit Anny to the images of one person, who stands with limbs apart, in clothes or not.

    The outlines must be known: images with alpha. Where a person is between 1.4 and 2.15 units tall, these
    are taken as metres; else the body is about an average adult's size. Takes some 15 seconds on one core.
    Raises UserError where fewer than three images have an outline, or cameras and outlines contradict.
    """
    log = progress.log if progress is not None else lambda line: None
    model, outlines = ShapeModel(), outlines_of(views)
    log(f"looking for the body in {len(outlines)} outlines")
    begun = [shape for shape, _ in starts(model, outlines)]
    known = METRES[0] <= begun[0].scale * model.adult_height <= METRES[1]
    if known:
        begun = [model.in_metres(shape) for shape in begun]
    refiner = Refiner(model, outlines, known)
    rough = [refiner.run(shape, ROUGH) for shape in begun[:2]]
    faces = seen_faces(model, rough[0], outlines, views)
    looking = [of_head(model, shape, faces, views) for shape in rough]
    overlaps = [overlap(model, shape, outlines) for shape in rough]
    best = max(range(len(rough)), key=lambda k: (len(looking[k]), overlaps[k]))
    up = begun[best].rotation[:, 2]
    seen = f"its face in {len(looking[best])} images" if looking[best] else "its outline alone"
    log(f"fitting the body's shape and pose; {seen} tells front from back")
    shape = with_tried_arms(model, rough[best], outlines)
    shape = refiner.run(shape, ROUGH)
    kept = of_head(model, shape, looking[best], views)
    refiner = Refiner(model, outlines, known, kept, views)
    shape = refiner.run(shape, FINE)
    found = _fitted(model, shape, up, outlines, kept, refiner)
    log(f"the body's outline covers {100 * found.silhouette_iou:.0f} % of the person's (intersection over union)")
    return found


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
        body, stance.float(), Placement(shape.scale, upright, translation), iou, error, len(faces), tuple(notes)
    )
