"""The head in photos: camera, phenotype, shape and expression of the body model, from landmarks alone.

A few Levenberg-Marquardt steps on the distances between projected and found landmarks, with a Gaussian prior
on each parameter: where photos say nothing, the head stays average and its expression neutral. All photos
show one person; each has its own camera and expression.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from specularip.body.anny import PHENOTYPE_NAMES, AnnyModel, phenotype_row
from specularip.body.head import HeadModel
from specularip.body.phenotype import Phenotype
from specularip.cameras import Cameras
from specularip.faces.landmarks import Landmarks

STEPS, LEAST_GAIN = 25, 1e-4
CORRELATION = 4.0
"""Factor of the landmarks' errors (`HeadModel.landmark_spread`): neighbours err together."""
OPEN = {"age": 0.08, "gender": 0.25, "african": 0.15, "asian": 0.15, "caucasian": 0.15}
"""Phenotypes that a face shows, and their standard deviations about the average, where the text is silent."""
EXPRESSION_SPREAD = 1.5
FOCAL, FOCAL_SPREAD = 1.7, 0.4
"""Typical focal length of portraits over the photo's longer side, and the spread of its logarithm."""
OUTER_CORNERS, EYES_PER_CORNERS = (33, 263), 0.69
"""The landmarks at the outer corners of the eyes, and the distance of the eyes over theirs."""
CAMERA = 7
"""Parameters of a camera: rotation vector [3] about the middle of the average face, where that middle is [3],
logarithm of the focal length."""


@dataclass(frozen=True)
class FittedHead:
    """What P photos show.

    phenotype; shape [S], the weights of `HeadModel.shapes`; expressions [P,E]; cameras: one of each photo, in
    the body's world; errors [P]: mean distance of the projected landmarks from those found, in distances of
    the eyes.
    """

    phenotype: Phenotype
    shape: Tensor
    expressions: Tensor
    cameras: tuple[Cameras, ...]
    errors: Tensor

    def vertices(self, photo: int | None = None) -> Tensor:
        """Vertices [V,3] of the body with the expression of a photo; None: with the neutral one."""
        bare = AnnyModel.load().vertices(phenotype_row(self.phenotype))[0]
        expression = None if photo is None else self.expressions[photo]
        return bare + HeadModel.load().offsets(self.shape, expression)


@torch.no_grad()
def fit_head(
    faces: Sequence[Landmarks], extents: Sequence[tuple[int, int]], told: Phenotype | None = None
) -> FittedHead:
    """The head in photos of one person, from the landmarks in each and its width and height in pixels.

    told: the phenotype that the text tells; of those that a face shows, the ones that have their default
    value are fitted too.
    """
    return _Fit(faces, extents, told or Phenotype()).run()


class _Fit:
    """The unknowns are one vector [U], in standard deviations: phenotypes and shape; then, for each photo,
    its expression and camera."""

    def __init__(
        self, faces: Sequence[Landmarks], extents: Sequence[tuple[int, int]], told: Phenotype
    ) -> None:
        self.told, self.model, self.head = told, AnnyModel.load(), HeadModel.load()
        self.names = [name for name in OPEN if getattr(told, name) == getattr(Phenotype(), name)]
        self.corners = self.model.faces[self.head.landmark_faces]
        head_rows = torch.full((len(self.model.regions),), -1)
        head_rows[self.head.rows] = torch.arange(len(self.head.rows))
        self.mean = self._at_landmarks(self.model.mean, self.corners)
        self.basis = self._at_landmarks(self.model.basis, self.corners)
        self.shapes = self._at_landmarks(self.head.shapes, head_rows[self.corners])
        self.expressions = EXPRESSION_SPREAD * self._at_landmarks(
            self.head.expressions, head_rows[self.corners]
        )
        self.found = torch.stack([torch.from_numpy(face.points).double() for face in faces])
        sides = self.found[:, OUTER_CORNERS]  # in space: in the image, they come closer as the head turns
        self.units = EYES_PER_CORNERS * (sides[:, 0] - sides[:, 1]).norm(dim=-1)
        self.centres = torch.tensor(extents, dtype=torch.float64) / 2
        self.focals = FOCAL * 2 * self.centres.amax(1)
        self.extents = extents
        self.per_photo = len(self.expressions) + CAMERA
        self.of_person = len(self.names) + len(self.shapes)
        self.average = self.bare_landmarks(torch.zeros(len(self.names), dtype=torch.float64))
        self.middle = self.average.mean(0)

    def _at_landmarks(self, values: Tensor, corners: Tensor) -> Tensor:
        """Values [...,V,3] of vertices at the landmarks, [...,468,3]."""
        return (values.double()[..., corners, :] * self.head.landmark_barycentric.double()[..., None]).sum(-2)

    def run(self) -> FittedHead:
        values, damping = self.start(), 1e-3
        residuals = self.residuals(values)
        for _ in range(STEPS):
            jacobian = self.jacobian(values)
            normal, gradient = jacobian.T @ jacobian, jacobian.T @ residuals
            before = residuals.square().sum()
            while damping < 1e6:
                step = torch.linalg.solve(normal + damping * torch.diag(normal.diagonal()), gradient)
                moved = self.residuals(values - step)
                if bool(moved.square().sum() < before):  # false for what is not finite
                    break
                damping *= 10
            else:
                break
            values, residuals, damping = values - step, moved, damping / 10
            if bool(residuals.square().sum() > (1 - LEAST_GAIN) * before):
                break
        return self.result(values)

    def start(self) -> Tensor:
        """The average head in front of each camera, tilted as the line of the eyes is."""
        values = torch.zeros(self.of_person + len(self.found) * self.per_photo, dtype=torch.float64)
        right, left = OUTER_CORNERS
        apart = EYES_PER_CORNERS * (self.average[right] - self.average[left]).norm()
        for k, found in enumerate(self.found):
            depth = self.focals[k] * apart / self.units[k]
            at = (found[:, :2].mean(0) - self.centres[k]) / self.focals[k] * depth
            across = found[left] - found[right]
            self.camera_of(values, k)[2] = torch.atan2(across[1], across[0])
            self.camera_of(values, k)[3:6] = torch.cat([at, depth[None]])
        return values

    def expression_of(self, values: Tensor, photo: int) -> Tensor:
        first = self.of_person + photo * self.per_photo
        return values[first : first + len(self.expressions)]

    def camera_of(self, values: Tensor, photo: int) -> Tensor:
        first = self.of_person + photo * self.per_photo + len(self.expressions)
        return values[first : first + CAMERA]

    def phenotype(self, values: Tensor) -> Tensor:
        """As a row [1,11], from the first unknowns."""
        told = {name: getattr(self.told, name) for name in PHENOTYPE_NAMES}
        found = {name: told[name] + OPEN[name] * values[k] for k, name in enumerate(self.names)}
        row = [torch.as_tensor((told | found)[name], dtype=torch.float64) for name in PHENOTYPE_NAMES]
        return torch.stack(row)[None].clamp(0, 1)

    def bare_landmarks(self, values: Tensor) -> Tensor:
        """The landmarks [468,3] of a phenotype, before the body is centred."""
        blend = self.model.blend(self.phenotype(values)) - self.model.coefficient_mean
        codes = (blend @ self.model.projection)[0].double()
        return self.mean + torch.einsum("k,kpd->pd", codes, self.basis)

    def landmarks(self, values: Tensor, photo: int) -> Tensor:
        """The landmarks [468,3] with shape and expression, before the body is centred."""
        shape = values[len(self.names) : self.of_person]
        return (
            self.bare_landmarks(values)
            + torch.einsum("s,spd->pd", shape, self.shapes)
            + torch.einsum("e,epd->pd", self.expression_of(values, photo), self.expressions)
        )

    def view(self, camera: Tensor, photo: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rotation [3,3], translation [3] and focal length in pixels from a camera's unknowns [7]."""
        focal = self.focals[photo] * (FOCAL_SPREAD * camera[6]).exp()
        rotation = _rotation(camera[:3]) @ FRONTAL
        return rotation, camera[3:6] - rotation @ self.middle, focal

    def project(self, points: Tensor, camera: Tensor, photo: int) -> Tensor:
        """Points [468,3] in the pixels [468,2] of a photo."""
        rotation, translation, focal = self.view(camera, photo)
        seen = points @ rotation.T + translation
        return focal * seen[:, :2] / seen[:, 2:] + self.centres[photo]

    def weights(self, photo: int) -> Tensor:
        """One over the landmarks' standard deviations in pixels, [468,1]."""
        spread = CORRELATION * self.units[photo] * self.head.landmark_spread.double()
        return 1 / spread[:, None]

    @cached_property
    def priors(self) -> Tensor:
        """Which unknowns are kept small, [U]: all but poses of cameras."""
        kept = torch.ones(self.of_person + len(self.found) * self.per_photo, dtype=torch.float64)
        for k in range(len(self.found)):
            self.camera_of(kept, k)[:6] = 0
        return kept

    def residuals(self, values: Tensor) -> Tensor:
        """Of landmarks and priors, over their standard deviations."""
        parts = []
        for k, found in enumerate(self.found):
            seen = self.project(self.landmarks(values, k), self.camera_of(values, k), k)
            parts.append(((seen - found[:, :2]) * self.weights(k)).flatten())
        return torch.cat([*parts, self.priors * values])

    def jacobian(self, values: Tensor) -> Tensor:
        """Of the residuals, [R,U]."""
        by_phenotype = torch.func.jacfwd(self.bare_landmarks)(values[: len(self.names)]).permute(2, 0, 1)
        parts = []
        for k in range(len(self.found)):
            points, camera = self.landmarks(values, k), self.camera_of(values, k)
            rotation, translation, focal = self.view(camera, k)
            seen = points @ rotation.T + translation
            nearness = focal / seen[:, 2:, None]
            slope = (seen[:, :2] / seen[:, 2:])[..., None]
            by_point = nearness * (rotation[:2] - slope * rotation[2])
            motions = torch.cat([by_phenotype, self.shapes, self.expressions])
            moved = torch.einsum("pij,npj->pin", by_point, motions)
            by_camera = torch.func.jacfwd(lambda c, p=points, k=k: self.project(p, c, k))(camera)
            part = torch.zeros(*by_camera.shape[:2], len(values), dtype=torch.float64)
            part[..., : self.of_person] = moved[..., : self.of_person]
            first = self.of_person + k * self.per_photo
            part[..., first : first + len(self.expressions)] = moved[..., self.of_person :]
            part[..., first + len(self.expressions) : first + self.per_photo] = by_camera
            parts.append((part * self.weights(k)[..., None]).flatten(0, 1))
        return torch.cat([*parts, torch.diag(self.priors)])

    def result(self, values: Tensor) -> FittedHead:
        row = self.phenotype(values)
        phenotype = replace(self.told, **dict(zip(PHENOTYPE_NAMES, row[0].tolist())))
        centred = self._at_landmarks(self.model.vertices(row)[0], self.corners)
        shift = (centred - self.bare_landmarks(values)).mean(0)  # of the body's middle to the origin
        cameras, errors = [], []
        for k, (width, height) in enumerate(self.extents):
            camera = self.camera_of(values, k)
            rotation, translation, focal = self.view(camera, k)
            viewmat, K = torch.eye(4), torch.eye(3)
            viewmat[:3, :3], viewmat[:3, 3] = rotation, translation - rotation @ shift
            K[0, 0] = K[1, 1] = focal
            K[:2, 2] = self.centres[k]
            cameras.append(Cameras(viewmat[None], K[None], width, height))
            missed = self.project(self.landmarks(values, k), camera, k) - self.found[k, :, :2]
            errors.append(missed.norm(dim=1).mean() / self.units[k])
        return FittedHead(
            phenotype,
            values[len(self.names) : self.of_person].float(),
            torch.stack(
                [EXPRESSION_SPREAD * self.expression_of(values, k) for k in range(len(self.found))]
            ).float(),
            tuple(cameras),
            torch.stack(errors).float(),
        )


FRONTAL = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]], dtype=torch.float64)
"""From the world to a camera in front of the body, whose left is at the image's right."""


def _rotation(vector: Tensor) -> Tensor:
    x, y, z = vector
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack([zero, -z, y, z, zero, -x, -y, x, zero]).reshape(3, 3))
