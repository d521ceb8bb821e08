"""Head and neck as a mesh of millimetres, on which a photo is painted.

Each triangle of the body model is divided into sixteen. A vertex of this mesh is a fixed place on the body,
so that colours found with one shape and expression belong to all others.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.sparse import csr_matrix, identity, vstack
from scipy.spatial import cKDTree
from torch import Tensor

from specularip.body.anny import AnnyModel
from specularip.body.regions import NECK

DIVISIONS = 2
"""How often each triangle is divided into four."""


@dataclass(frozen=True)
class DenseHead:
    """D vertices: corners [D,3] int64, vertices of `AnnyModel`, and barycentric [D,3]; faces [F,3] int64;
    mirror [D] int64, the vertex nearest to the mirror image of each; eyeball [D] bool; template [D,3],
    positions on the default adult."""

    corners: Tensor
    barycentric: Tensor
    faces: Tensor
    mirror: Tensor
    eyeball: Tensor
    template: Tensor

    @staticmethod
    @cache
    def load() -> DenseHead:
        """Made from the body model, on the CPU; cached."""
        model = AnnyModel.load()
        faces = model.faces[(model.regions[model.faces] <= NECK).all(1)]
        used, faces = faces.unique(return_inverse=True)
        weights = identity(len(used), format="csr")  # of the body's vertices, a row for each of the mesh's
        for _ in range(DIVISIONS):
            edges, faces = _divided(faces, weights.shape[0])
            weights = vstack([weights, (weights[edges[:, 0].numpy()] + weights[edges[:, 1].numpy()]) / 2])
            weights = weights.tocsr()
        corners, barycentric = _three(weights)
        corners = used[corners]
        template = (model.template[corners] * barycentric[..., None]).sum(1)
        flipped = template * torch.tensor([-1.0, 1.0, 1.0])
        mirror = torch.from_numpy(cKDTree(template.numpy()).query(flipped.numpy(), workers=-1)[1])
        ball = torch.zeros(len(model.regions), dtype=torch.bool)
        ball[model.eyeballs.flatten()] = True
        eyeball = (ball[corners] | (barycentric == 0)).all(1)
        return DenseHead(corners, barycentric, faces, mirror, eyeball, template)

    @property
    def edges(self) -> np.ndarray:
        """The sides of all faces, [3F,2]: each between two faces is there twice."""
        return self.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).numpy()

    def at(self, values: Tensor) -> Tensor:
        """Values [V,C] of the body's vertices at those of this mesh, [D,C]."""
        return (values[self.corners] * self.barycentric[..., None]).sum(1)


def _divided(faces: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Faces [F,3] of `count` vertices -> edges [E,2], whose middles are the vertices from `count` on, and
    faces [4F,3]."""
    sides = torch.stack([faces, faces.roll(-1, 1)], -1).sort(-1).values  # [F,3,2]
    edges, middle = sides.flatten(0, 1).unique(dim=0, return_inverse=True)
    middle = middle.reshape(-1, 3) + count
    a, b, c = faces.unbind(1)
    ab, bc, ca = middle.unbind(1)
    quarters = [(a, ab, ca), (ab, b, bc), (ca, bc, c), (ab, bc, ca)]
    return edges, torch.cat([torch.stack(quarter, 1) for quarter in quarters])


def _three(weights: csr_matrix) -> tuple[Tensor, Tensor]:
    """Rows with at most three entries: their columns [D,3] and values [D,3]."""
    count = np.diff(weights.indptr)
    row = np.repeat(np.arange(len(count)), count)
    slot = np.arange(len(row)) - weights.indptr[row]
    columns, values = np.zeros((len(count), 3), np.int64), np.zeros((len(count), 3), np.float32)
    columns[row, slot], values[row, slot] = weights.indices, weights.data
    return torch.from_numpy(columns), torch.from_numpy(values)
