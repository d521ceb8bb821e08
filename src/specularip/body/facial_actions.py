"""Facial actions of the body model, such as a smile, and how Gaussians follow them.

The actions are MakeHuman's face units (CC0), which have ARKit's names, as offsets of the vertices of
`AnnyModel`; tools/make_rig_asset.py writes them. Eyeballs belong to no action: they turn about their joints.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from specularip.body.anny import AnnyModel, asset
from specularip.body.mesh import Body, nearest_places
from specularip.body.regions import NECK
from specularip.gaussians import Expressions

NEAR, FAR = 0.01, 0.04
"""Metres from the skin up to which a Gaussian moves with it wholly, and from which not at all."""
SIDES = ("Left", "Right")
LEAST_OFFSET = 5e-5
"""Metres. Gaussians that no action moves by more are left out."""


@cache
def facial_actions() -> tuple[tuple[str, ...], Tensor]:
    """Names of the E actions and offsets [E,V,3] of the vertices of `AnnyModel` at full strength, in metres
    on the default adult; on the CPU, cached."""
    raw, metadata = asset("rig.safetensors")
    names = tuple(json.loads(metadata["action_names"]))
    offsets = torch.zeros(len(names), len(AnnyModel.load().regions), 3)
    action = torch.arange(len(names)).repeat_interleave(raw["action_counts"])
    offsets[action, raw["action_vertices"].long()] = raw["action_offsets"].float()
    return names, offsets


def fitted_actions(body: Body) -> Tensor:
    """The offsets [E,V,3] of `facial_actions`, with blinks that close the eyes of this body, however open they
    are."""
    names, offsets = facial_actions()
    offsets = offsets.clone()
    for side in SIDES:
        blink = names.index(f"eyeBlink{side}")
        upper, lower = lid_edges(side)
        gap = (body.vertices[upper] - body.vertices[lower])[:, 2].cpu()
        closes = (offsets[blink, lower] - offsets[blink, upper])[:, 2]
        offsets[blink] *= gap.mean() / closes.mean()
    return offsets


@cache
def lid_edges(side: str) -> tuple[Tensor, Tensor]:
    """Vertices [n] on the edge of the upper lid that a blink of this side moves, and those [n] below them on
    the edge of the lower lid."""
    names, offsets = facial_actions()
    model = AnnyModel.load()
    sides = torch.stack([model.faces, model.faces.roll(-1, 1)], -1).flatten(0, 1).sort(1).values
    edges, count = sides.unique(dim=0, return_counts=True)
    rim = edges[count == 1].unique()  # of the skin around the eyeballs, and of the eyeballs
    moved = offsets[names.index(f"eyeBlink{side}")]
    right, left = model.template[model.eyeballs].mean(1)
    eye, distance = (left if side == "Left" else right), (left - right).norm()
    rim = rim[(model.template[rim] - eye).norm(dim=-1) < 0.4 * distance]
    rim = rim[~torch.isin(rim, model.eyeballs)]
    down = -moved[rim, 2]
    upper, still = rim[down > down.max() / 2], rim[down.abs() < down.max() / 8]
    beside = (model.template[upper, None, 0] - model.template[still, 0]).abs()
    return upper, still[beside.argmin(1)]


@dataclass(frozen=True)
class Places:
    """Where n points lie on the body's skin: vertices [n,3] int64 of `AnnyModel`, weights [n,3], which sum to
    how far a point follows the skin."""

    vertices: Tensor
    weights: Tensor

    def at(self, values: Tensor) -> Tensor:
        """Values [...,V,C] of the body's vertices at the points, [...,n,C]."""
        return (values[..., self.vertices, :] * self.weights[..., None]).sum(-2)


def skin_places(points: Tensor, body: Body) -> Places:
    """The places whose actions points [n,3] near head and neck follow: the nearest ones on the skin, less with
    growing distance from it. On eyeballs they follow nothing; between the lips, where teeth are, the upper lip.
    """
    model = AnnyModel.load()
    vertices = body.vertices.cpu()
    head = model.faces[(model.regions[model.faces] <= NECK).all(1)]
    triangles, barycentric, distance = nearest_places(points, vertices, head)
    corners = head[triangles]
    share = ((FAR - distance) / (FAR - NEAR)).clamp(0, 1)
    weights = barycentric * (share * share * (3 - 2 * share))[:, None]
    eyeball = torch.isin(corners, model.eyeballs).all(1)
    weights[eyeball] = 0
    edges = torch.cat(model.lips)
    mouth = torch.isin(corners, edges).all(1)
    upper = model.lips[0]
    beside = (points[mouth, None, 0] - vertices[upper, 0]).abs()
    corners[mouth] = upper[beside.argmin(1)][:, None]
    return Places(corners, weights)


def bind_expressions(means: Tensor, regions: Tensor, body: Body) -> Expressions:
    """The facial actions of Gaussians with means [N,3] and regions [N] around `body`, in its rest pose. Raises
    ValueError for a body that is not `AnnyModel`'s."""
    if body.template is None:
        raise ValueError("facial actions need the body model Anny")
    index = (regions <= NECK).nonzero()[:, 0].cpu()
    return expressions_at(index, skin_places(means.detach().cpu()[index], body).at(fitted_actions(body)))


def expressions_at(index: Tensor, offsets: Tensor) -> Expressions:
    """The facial actions by offsets [E,n,3] of the Gaussians `index` [n], without those that none moves."""
    moved = offsets.norm(dim=-1).amax(0) > LEAST_OFFSET
    # Rounded as the file rounds them, so that a saved avatar is the same.
    return Expressions(facial_actions()[0], index[moved], offsets[:, moved].half().float())
