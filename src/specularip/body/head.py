"""Shapes and expressions of the head, and where the 468 landmarks of MediaPipe's face mesh lie on it.

Principal components of MakeHuman's modifiers of head and face and of its units of expression (CC0), which
tools/make_head_asset.py computes, as offsets of the vertices of `AnnyModel`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files

import torch
from safetensors.torch import load_file
from torch import Tensor

from specularip.body.anny import AnnyModel
from specularip.files import utf8_name


@dataclass(frozen=True)
class HeadModel:
    """Offsets of the H vertices `rows` [H] int64 of head and neck, in metres.

    shapes [S,H,3] and expressions [E,H,3]: components, a weight of 1 of each being usual; the neutral
    expression is zero. landmark_faces [468] int64: the triangle of `AnnyModel.faces` that a landmark lies on;
    landmark_barycentric [468,3]; landmark_spread [468]: root mean square distance at which it is found from
    there, in each direction of an image, in distances of the eyes.
    """

    rows: Tensor
    shapes: Tensor
    expressions: Tensor
    landmark_faces: Tensor
    landmark_barycentric: Tensor
    landmark_spread: Tensor

    @staticmethod
    @cache
    def load() -> HeadModel:
        """Load the components from the package's assets (1 MB), on the CPU; cached."""
        with as_file(files("specularip") / "assets" / "head.safetensors") as path, utf8_name(path) as name:
            raw = load_file(name)
        return HeadModel(
            rows=raw["rows"].long(),
            shapes=raw["shapes"].float() * raw["shape_step"][:, None, None],
            expressions=raw["expressions"].float() * raw["expression_step"][:, None, None],
            landmark_faces=raw["landmark_faces"].long(),
            landmark_barycentric=raw["landmark_barycentric"],
            landmark_spread=raw["landmark_spread"],
        )

    def landmarks(self, vertices: Tensor) -> Tensor:
        """The landmarks [468,3] on a body with vertices [V,3]."""
        corners = vertices[AnnyModel.load().faces[self.landmark_faces]]
        return (corners * self.landmark_barycentric[..., None]).sum(1)

    def offsets(self, shape: Tensor, expression: Tensor | None = None) -> Tensor:
        """Offsets [V,3] of all vertices of `AnnyModel` for weights shape [S] and expression [E] (None:
        neutral)."""
        moved = torch.einsum("s,shd->hd", shape.float(), self.shapes)
        if expression is not None:
            moved = moved + torch.einsum("e,ehd->hd", expression.float(), self.expressions)
        return torch.zeros(len(AnnyModel.load().regions), 3).index_copy(0, self.rows, moved)
