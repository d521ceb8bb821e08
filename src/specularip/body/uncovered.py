"""Gaussians for what facial actions uncover: the skin of closed lids, and the inside of an open mouth.

With open eyes, an upper lid is a strip of a few millimetres, which a blink stretches to three times its
height; Gaussians that lie on it leave holes. So others lie beneath it, hidden, and come out as it closes.
Likewise teeth and a dark ground lie behind the lips.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.body.anny import AnnyModel
from specularip.body.dense_head import DenseHead
from specularip.body.facial_actions import (
    LEAST_OFFSET,
    SIDES,
    Places,
    expressions_at,
    facial_actions,
    fitted_actions,
    lid_edges,
    skin_places,
)
from specularip.body.mesh import Body, vertex_normals
from specularip.body.regions import HEAD, NECK
from specularip.gaussians import Expressions, Gaussians, turned_to

LID_SPACING = 0.0010
"""Metres between Gaussians of a closed lid; all lengths here are metres."""
STRETCHED = 1.3
"""By how much a blink enlarges the skin that is hidden beneath."""
BENEATH, ABOVE = 0.0014, 0.0008
"""How deep it lies beneath the open lid, and how far above the closed lid."""
LASHES = 0.0012
"""The edge of a lid, which keeps its own Gaussians: lashes."""
AROUND = (0.004, 0.02)
"""Distances from the lids' edges within which the skin tells the lid's colour."""
UNLIKE, SKIN_NEIGHBOURS = 0.15, 150
"""Difference of colours, 0..1, from which on it is lashes, brows or an eye; and how many neighbours count.
A face with fewer is so coarse that nothing is hidden beneath it."""
OPACITY_LOGIT = 4.0
MOUTH_COLUMNS, MOUTH_ROWS, TEETH_ROWS = 18, 14, 4
MOUTH_DEPTH, TEETH_DEPTH = 0.014, 0.005
"""How far behind the lips the ground of the mouth is in its middle, and the teeth."""
TEETH = (0.0015, -0.0075)
"""From where below the edge of the upper lip to where above it the upper teeth reach."""
MOUTH_COLOR, TEETH_COLOR = (0.10, 0.03, 0.03), (0.72, 0.68, 0.62)
FLATNESS = 0.3


@dataclass(frozen=True)
class _Hidden:
    """h hidden points: means [h,3] at rest; normals [h,3] as they are when seen; scales [h,2] along the
    surface; colors [h,3]; latents [h,L]; and offsets [E,h,3] by facial actions."""

    means: Tensor
    normals: Tensor
    scales: Tensor
    colors: Tensor
    latents: Tensor
    offsets: Tensor


def with_expressions(gaussians: Gaussians, body: Body) -> tuple[Gaussians, Expressions]:
    """The Gaussians, with those after them that facial actions uncover, and the facial actions of all.

    gaussians: around `body`, in its rest pose. Raises ValueError for a body that is not `AnnyModel`'s.
    """
    if body.template is None:
        raise ValueError("facial actions need the body model Anny")
    device = gaussians.means.device
    gaussians, body = gaussians.to("cpu"), body.to("cpu")
    actions = fitted_actions(body)
    index = (gaussians.regions <= NECK).nonzero()[:, 0]
    places = skin_places(gaussians.means.detach()[index], body)
    offsets = places.at(actions)
    skin = gaussians.select(index)
    parts = [part for side in SIDES for part in _lid(side, skin, offsets, body, actions)]
    parts += _mouth(skin, body, actions)
    if not parts:
        return gaussians.to(device), expressions_at(index, offsets).to(device)
    hidden = _Hidden(*(torch.cat([getattr(p, f.name) for p in parts], -2) for f in fields(_Hidden)))
    more = _as_gaussians(hidden, body)
    whole = Gaussians(
        **{name: torch.cat([t.detach(), more.tensors()[name]]) for name, t in gaussians.tensors().items()}
    )
    index = torch.cat([index, torch.arange(len(gaussians), len(whole))])  # ascending
    return whole.to(device), expressions_at(index, torch.cat([offsets, hidden.offsets], 1)).to(device)


def _lid(side: str, skin: Gaussians, offsets: Tensor, body: Body, actions: Tensor) -> list[_Hidden]:
    """The skin of one closed lid; none on a coarse face. skin: the Gaussians of the head, with offsets
    [E,n,3]."""
    around = _skin_around(side, skin, offsets, body)
    if len(around) < SKIN_NEIGHBOURS:
        return []
    blink = facial_actions()[0].index(f"eyeBlink{side}")
    dense = DenseHead.load()
    closed = body.vertices + actions[blink]
    open_faces, closed_faces = dense.at(body.vertices)[dense.faces], dense.at(closed)[dense.faces]
    growth = _area(closed_faces) / _area(open_faces).clamp_min(1e-12)
    moved = dense.at(actions[blink])[dense.faces].norm(dim=-1).amax(1)
    middles = closed_faces.mean(1)
    tree = cKDTree(closed[torch.cat(lid_edges(side))].numpy())
    from_edge = torch.from_numpy(tree.query(middles.numpy())[0])
    normals = F.normalize(_cross(closed_faces), dim=-1)
    chosen = (growth > STRETCHED) & (moved > 1e-3) & (from_edge > LASHES) & (normals[:, 1] < -0.3)
    rows = chosen.nonzero()[:, 0]
    rows = rows[_one_a_cell(middles[rows], LID_SPACING)]
    corners = dense.corners[dense.faces[rows]].flatten(1)
    weights = dense.barycentric[dense.faces[rows]].flatten(1) / 3
    places = Places(corners, weights)
    smooth_open = F.normalize(places.at(body.vertex_normals), dim=-1)
    smooth_closed = F.normalize(places.at(vertex_normals(closed, body.faces)), dim=-1)
    means = places.at(body.vertices) - BENEATH * smooth_open
    following = places.at(actions)
    following[blink] = places.at(closed) + ABOVE * smooth_closed - means

    there = (skin.means[around] + offsets[blink, around]).double().numpy()
    distance, found = cKDTree(there).query(places.at(closed).double().numpy(), SKIN_NEIGHBOURS)
    shares = torch.from_numpy(1 / (distance + AROUND[0])).float()
    shares = (shares / shares.sum(1, keepdim=True))[..., None]
    like = around[torch.from_numpy(found)]
    colors, latents = ((shares * values[like]).sum(1) for values in (skin.diffuse, skin.latents))
    scales = torch.full((len(rows), 2), LID_SPACING)
    return [_Hidden(means, smooth_closed, scales, colors, latents, following)]


def _skin_around(side: str, skin: Gaussians, offsets: Tensor, body: Body) -> Tensor:
    """Indices of the Gaussians of the skin around an eye.

    What the photo or the prior drew on the lids are lashes, and brows are near: only what resembles the skin
    below the eye counts.
    """
    edges = lid_edges(side)
    tree = cKDTree(body.vertices[torch.cat(edges)].numpy())
    from_edge = torch.from_numpy(tree.query(skin.means.numpy())[0])
    moved = offsets.norm(dim=-1).amax(0) > LEAST_OFFSET  # neither an eyeball nor hair
    ring = (from_edge > AROUND[0]) & (from_edge < AROUND[1]) & moved
    below = ring & (skin.means[:, 2] < body.vertices[edges[1], 2].mean() - AROUND[0])
    if not bool(below.any()):
        return below.nonzero()[:, 0]
    usual = skin.diffuse[below].median(0).values
    return (ring & ((skin.diffuse - usual).abs().amax(1) < UNLIKE)).nonzero()[:, 0]


def _mouth(skin: Gaussians, body: Body, actions: Tensor) -> list[_Hidden]:
    """The dark ground of the mouth, from lip to lip, and the upper teeth; neither in a coarse face."""
    model = AnnyModel.load()
    tree = cKDTree(body.vertices[torch.cat(model.lips)].numpy())
    lips = torch.from_numpy(tree.query(skin.means.numpy())[0]) < AROUND[1]
    if int(lips.sum()) < SKIN_NEIGHBOURS:
        return []
    across = torch.linspace(0.04, 0.96, MOUTH_COLUMNS)
    upper, lower = (_along(edge, across) for edge in model.lips)
    backwards = (4 * across * (1 - across)).sqrt()  # half an ellipse, from corner to corner
    bulge = backwards[:, None] * torch.tensor([0.0, 1.0, 0.0])
    width = float((body.vertices[model.lips[0][0]] - body.vertices[model.lips[0][-1]]).norm())
    latents = skin.latents[lips].mean(0)

    def rows(downs: Tensor, lowers: Tensor, depth: float, tall: float, color: tuple[float, ...]) -> _Hidden:
        """Points at `downs` [R] metres below a line that is the share `lowers` [R] on the way from the upper
        to the lower lip."""
        share = lowers[:, None, None]
        line = (1 - share) * upper.at(body.vertices) + share * lower.at(body.vertices)
        means = line + depth * bulge - downs[:, None, None] * torch.tensor([0.0, 0.0, 1.0])
        moved = (1 - share) * upper.at(actions)[:, None] + share * lower.at(actions)[:, None]
        count = means.shape[0] * means.shape[1]
        return _Hidden(
            means.reshape(count, 3),
            torch.tensor([0.0, -1.0, 0.0]).expand(count, 3),
            torch.tensor([0.7 * width / MOUTH_COLUMNS, tall]).expand(count, 2),
            torch.tensor(color).expand(count, 3),
            latents.expand(count, -1),
            moved.flatten(1, 2),
        )

    share = torch.linspace(-0.1, 1.1, MOUTH_ROWS)
    ground = rows(torch.zeros(MOUTH_ROWS), share, MOUTH_DEPTH, 0.0022, MOUTH_COLOR)
    heights = torch.linspace(*TEETH, TEETH_ROWS)
    teeth = rows(heights, torch.zeros(TEETH_ROWS), TEETH_DEPTH, 0.0016, TEETH_COLOR)
    return [ground, teeth]


def _along(edge: Tensor, shares: Tensor) -> Places:
    """The places at these shares [n] of the way from the first to the last vertex of a lip's edge."""
    x = AnnyModel.load().template[edge, 0].contiguous()
    at = x[0] + shares * (x[-1] - x[0])
    after = torch.searchsorted(x, at).clamp(1, len(x) - 1)
    weight = (at - x[after - 1]) / (x[after] - x[after - 1])
    vertices = torch.stack([edge[after - 1], edge[after]], 1)
    return Places(vertices, torch.stack([1 - weight, weight], 1))


def _as_gaussians(hidden: _Hidden, body: Body) -> Gaussians:
    """Opaque disks, bound to the head."""
    count = len(hidden.means)
    x = torch.tensor([1.0, 0.0, 0.0]).expand(count, 3)
    along = F.normalize(x - (x * hidden.normals).sum(-1, keepdim=True) * hidden.normals, dim=-1)
    thickness = FLATNESS * hidden.scales.amin(1, keepdim=True)
    return Gaussians(
        means=hidden.means,
        quats=turned_to(hidden.normals, along),
        log_scales=torch.cat([hidden.scales, thickness], 1).log(),
        opacity_logits=torch.full((count,), OPACITY_LOGIT),
        color_logits=torch.logit(hidden.colors, eps=0.01),
        latents=hidden.latents.clone(),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.full((count,), HEAD),
        bind_joints=torch.full((count, 4), body.joint_names.index("head")),
        bind_weights=torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1),
    )


def _one_a_cell(points: Tensor, side: float) -> Tensor:
    """The first of points [n,3] in each cell of a grid."""
    cells = (points / side).floor().long()
    _, cell = cells.unique(dim=0, return_inverse=True)
    first = torch.full((int(cell.max()) + 1,), len(points))
    return first.scatter_reduce(0, cell, torch.arange(len(points)), "amin")


def _cross(corners: Tensor) -> Tensor:
    return torch.linalg.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])


def _area(corners: Tensor) -> Tensor:
    return _cross(corners).norm(dim=-1) / 2
