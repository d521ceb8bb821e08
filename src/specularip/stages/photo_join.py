"""The prior's views joined with the photos' face, which is drawn over them.

The prior's skin takes the photos' tone: around the face by the smoothest change that removes the edge, beyond
by the mean change. Its hair takes the photos' colour, where the text names none.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu
from torch import Tensor
from torch.nn import functional as F

from specularip.body import Body
from specularip.body.dense_head import DenseHead
from specularip.body.regions import HAND
from specularip.faces.projection import FaceAreas, luminance, skin_model
from specularip.raster.mesh import rasterize_mesh
from specularip.sentences import affirmed
from specularip.stages.fusion import DepthViews, unproject
from specularip.stages.photo_face import PhotoFace
from specularip.stages.settings import FusionConfig
from specularip.stages.view_colors import observe, weighted_median

SKIN_DEPTH, BARE = 0.03, 0.018
"""Metres between a view's surface and the body's within which it may be skin, and surely is nothing else."""
OUTLINE = 3
"""Pixels by which outlines of views and body may differ."""
LEAST_SEEN = 100
"""Places or pixels that tell a tone."""
HAIR_REACH, HAIR_BELOW, CROWN = 0.2, 0.35, 0.06
"""Metres from the ears, sideways and down, within which hair is; and above them, where hardly anything else
is."""
MOST_TINT = 0.5
"""Largest change of the logarithm of the hair's colour: beyond, highlights and shadows were measured."""
BARE_HANDS = 0.1
"""Mean likeness to skin from which hands wear nothing."""
FAR_WEIGHT = 4e-3
"""Weight of the mean change of tone for each place of the head, beside 1 for a link to a neighbour."""
GLOVES = re.compile(r"\b(?:gloves?|gloved|mittens?|gauntlets?)\b")


def joined(
    face: PhotoFace, images: Tensor, views: DepthViews, body: Body, text: str, config: FusionConfig
) -> tuple[PhotoFace, Tensor]:
    """The face, and the prior's views [V,5,S,S] with skin of the photos' tone and the face drawn over them.

    views: the same, decoded; text: what the person wears. Of a face without hue, the views' skin gives it.
    """
    dense, body = DenseHead.load(), body.to("cpu")
    normals = F.normalize(dense.at(body.vertex_normals), dim=-1)
    colors, squareness = observe(views, face.positions, normals, config)
    drawn = weighted_median(colors, squareness)
    plain = (FaceAreas.load().features == 0) & (squareness.sum(0) > 0)
    sure = plain & (face.known > 0.7)
    if int(sure.sum()) < LEAST_SEEN:
        return face, images
    skin, tone = skin_model(drawn[sure]), drawn[sure].median(0).values
    if face.grey:
        hue = tone / luminance(tone)
        face = replace(face, colors=(luminance(face.colors)[:, None] * hue).clamp(0, 1))
    change = _log(face.colors[sure].median(0).values) - _log(tone)
    field = _harmonic(
        _log(face.colors) - _log(drawn),
        plain * skin(drawn) * 4 * face.known * (1 - face.known),
        change,
        dense,
    )
    local, on_head, _ = face.drawn(field, torch.ones(len(field)), views.cameras)
    triangles, near = _skin_near(views, body)
    likeness = skin(views.colors.permute(0, 2, 3, 1))[:, None]
    local, on_head = _grown(local, on_head > 0.5)
    log_factor = torch.lerp(change[None, :, None, None].expand_as(local), local, on_head)
    log_factor = log_factor * likeness * near
    if not GLOVES.search(affirmed(text)):
        hands = (near * (body.regions[body.faces[:, 0]] == HAND)[triangles])[:, 0] > 0.5
        shown = views.colors.permute(0, 2, 3, 1)[hands]
        if len(shown) > LEAST_SEEN and float(skin(shown).mean()) > BARE_HANDS:
            log_factor.permute(0, 2, 3, 1)[hands] = change + _log(tone) - _log(shown.median(0).values)
    places = unproject(views.depths, views.cameras)
    hair, drawn_hair = _hair(views, places, body, likeness)
    if face.hair is not None and drawn_hair is not None:
        tint = (_log(face.hair) - _log(drawn_hair)).clamp(-MOST_TINT, MOST_TINT)
        log_factor = torch.lerp(log_factor, tint[None, :, None, None].expand_as(log_factor), hair)
    alpha = images[:, 3:4].clamp(0, 1)
    empty = images[:, :3] - alpha * views.colors
    toned = views.colors * log_factor.exp()
    # Around it, the face goes on where the views show nothing but skin or stubble, and no fringe.
    wider, weight, depth = face.drawn(face.colors, face.likely, views.cameras)
    bare = (views.depths[:, None] - depth).abs() < BARE
    above = (places[..., 2] > body.keypoints[14:16, 2].mean())[:, None]
    toned = torch.lerp(toned, wider, weight * bare * (1 - hair * above))
    result = images.clone()
    result[:, :3] = (alpha * toned + empty).clamp(0, 1)
    return face, face.over(result, views.cameras, views.distances)


def _hair(views: DepthViews, places: Tensor, body: Body, skin: Tensor) -> tuple[Tensor, Tensor | None]:
    """How likely each pixel is hair, [V,1,S,S], and the hair's colour [3]; None if there is none. places
    [V,S,S,3]: of the pixels, in metres; skin [V,1,S,S]: how likely it is skin."""
    ears = body.keypoints[16:18].mean(0)
    beside = (places[..., :2] - ears[:2]).norm(dim=-1)
    zone = views.solid & (beside < HAIR_REACH) & (places[..., 2] > ears[2] - HAIR_BELOW)
    crown = zone & (places[..., 2] > ears[2] + CROWN) & (skin[:, 0] < 0.3)
    colors = views.colors.permute(0, 2, 3, 1)
    if int(crown.sum()) < LEAST_SEEN:
        return torch.zeros_like(skin), None
    likely = (skin_model(colors[crown])(colors) * zone)[:, None] * (1 - skin)
    return likely, colors[crown].median(0).values


def _log(colors: Tensor) -> Tensor:
    return colors.clamp_min(0.02).log()


def _harmonic(values: Tensor, weights: Tensor, far: Tensor, dense: DenseHead) -> Tensor:
    """The smoothest field [D,C] on the head's mesh that has `values` [D,C] where `weights` [D] are large; far
    from there it goes to `far` [C]."""
    count = len(values)
    a, b = dense.edges.T
    ones = np.ones(len(a))
    links = coo_matrix((ones, (a, b)), (count, count)).tocsr()
    links = links.maximum(links.T)
    degree = np.asarray(links.sum(1))[:, 0]
    pull = weights.double().numpy()
    known = (weights[:, None] * values + FAR_WEIGHT * far).double().numpy()
    matrix = (diags(degree + pull + FAR_WEIGHT) - links).tocsc()
    return torch.from_numpy(splu(matrix).solve(known)).float()


def _skin_near(views: DepthViews, body: Body) -> tuple[Tensor, Tensor]:
    """The body's triangle [V,1,S,S] at each pixel, and 1 where the view shows what lies on its skin, else
    0."""
    drawn = rasterize_mesh(body.vertices, body.faces, views.cameras)
    near = (drawn.triangles >= 0) & views.solid & ((views.depths - drawn.depth).abs() < SKIN_DEPTH)
    _, grown = _grown(views.colors, near[:, None])
    return drawn.triangles.long().clamp_min(0)[:, None], grown * views.solid[:, None]


def _grown(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Values [V,C,S,S] carried over the outline of a mask [V,1,S,S], and the larger mask as 0 or 1: outlines
    of views and body differ by pixels."""
    part = mask.float()
    around = F.avg_pool2d(part, 2 * OUTLINE + 1, 1, OUTLINE)
    carried = F.avg_pool2d(values * part, 2 * OUTLINE + 1, 1, OUTLINE) / around.clamp_min(1e-6)
    return torch.where(mask, values, carried), (around > 0).float()
