"""The photos' face in the avatar: a painted head, drawn into views, that gives Gaussians their colours.

What the photos show well is fixed: drawn over the prior's views, and given to the Gaussians of the face,
which nothing changes afterwards. The prior's skin takes the photos' tone, so that the two join.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.sparse import coo_matrix, diags
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import shade
from specularip.body import Body
from specularip.body.dense_head import DenseHead
from specularip.body.regions import HAND
from specularip.cameras import Cameras
from specularip.faces.projection import FaceAreas, Painted, luminance, skin_model
from specularip.raster.mesh import rasterize_mesh, render_attributes
from specularip.stages.fusion import DEPTH_GAIN, DepthViews
from specularip.stages.initial_state import AvatarState
from specularip.stages.settings import FusionConfig
from specularip.stages.view_start import observe, weighted_median
from specularip.training.step import FIXED

SUPERSAMPLE = 2
REACH = 0.0025
"""Metres from the painted head within which a Gaussian is part of it."""
SKIN_DEPTH, BARE = 0.03, 0.012
"""Metres between a view's surface and the body's within which it may be skin, and surely is nothing else."""
LEAST_SEEN = 100
"""Places or pixels that tell a tone."""
BARE_HANDS = 0.1
"""Mean likeness to skin from which hands wear nothing."""
FAR_WEIGHT = 1e-3
"""Weight of the mean change of tone for each place of the head, beside 1 for a link to a neighbour."""
COVERS = re.compile(
    r"\b(?:hat|cap|beanie|helmet|hood|turban|hijab|headscarf|headband|bandana|crown|tiara|beret|fedora|bonnet)s?\b"
)
"""What a text puts on a forehead."""
GLOVES = re.compile(r"\b(?:gloves?|gloved|mittens?|gauntlets?)\b")
BEARD = re.compile(r"\b(?:beard|bearded|moustache|mustache|goatee|stubble|whiskers)\b")
BROW, BELOW_NOSE, FADE = 0.022, 0.012, 0.01
"""Metres above the eyes from which hats cover the face, and below the nose from which beards do; and over
which the photo fades out."""
BEARD_SHARE = 0.5
"""How much less the photos determine a face where the text puts a beard."""


@dataclass(frozen=True)
class PhotoFace:
    """The painted head in the avatar's pose and expression, on the CPU.

    positions [D,3], in metres; colors [D,3] in 0..1; known [D] in 0..1: how far the photos determine them;
    likely [D] in 0..1: where they go on if nothing lies on the skin; grey: they have no hue.
    """

    positions: Tensor
    colors: Tensor
    known: Tensor
    likely: Tensor
    grey: bool = False

    def drawn(self, values: Tensor, weights: Tensor, cameras: Cameras) -> tuple[Tensor, Tensor, Tensor]:
        """Values [D,C] of weight [D] as cameras see them: [V,C,H,W]; weights [V,1,H,W]; and depths [V,1,H,W]
        in metres, valid where the weight is not 0."""
        dense, cameras = DenseHead.load(), cameras.to("cpu")
        weighted = torch.cat([values * weights[:, None], weights[:, None]], 1)
        images, _ = render_attributes(self.positions, dense.faces, weighted, cameras, SUPERSAMPLE)
        depth = rasterize_mesh(self.positions, dense.faces, cameras).depth[:, None]
        weight = images[:, -1:]
        return images[:, :-1] / weight.clamp_min(1e-4), weight * (depth > 0), depth

    def over(self, images: Tensor, cameras: Cameras, distances: Tensor | None = None) -> Tensor:
        """Images [V,C,H,W] in the prior's format (see `guide.as_images`) with the face drawn over them.

        distances [V]: of the cameras from their targets, for images with depth.
        """
        cameras = cameras.resized(images.shape[-1], images.shape[-2])
        colors, weight, depth = self.drawn(self.colors, self.known, cameras)
        channels = [colors, torch.ones_like(weight)]
        if images.shape[1] == 5:
            assert distances is not None
            channels.append(0.5 + DEPTH_GAIN * (depth / distances.cpu()[:, None, None, None] - 1))
        layer = torch.cat(channels, 1)[:, : images.shape[1]].to(images)
        return torch.lerp(images, layer.clamp(0, 1), weight.to(images))

    def nearest(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """For points [N,3]: colours [N,3], and how far the photos determine them [N]; 0 off the surface."""
        tree = cKDTree(self.positions.double().numpy())
        distance, index = tree.query(points.double().cpu().numpy(), 3, distance_upper_bound=REACH, workers=-1)
        found = torch.from_numpy(index < len(self.positions)).float()
        index = torch.from_numpy(index).clamp_max(len(self.positions) - 1)
        near = found / (torch.from_numpy(distance).float().nan_to_num(posinf=1.0) + 2e-4)
        share = near / near.sum(1, keepdim=True).clamp_min(1e-6)
        colors = (self.colors[index] * share[..., None]).sum(1)
        return colors, (self.known[index] * share).sum(1)


def photo_face(painted: Painted, body: Body, weight: float, text: str, grey: bool = False) -> PhotoFace:
    """The painted head on `body`. weight: of the photos, 0..1; text: what it puts on the head stays there."""
    text = text.lower()
    body = body.to("cpu")
    positions = DenseHead.load().at(body.vertices)
    known, likely = weight * painted.known, weight * painted.likely
    nose, eyes = float(body.keypoints[0, 2]), float(body.keypoints[14:16, 2].mean())
    if COVERS.search(text):
        known = known * ((eyes + BROW + FADE - positions[:, 2]) / FADE).clamp(0, 1)
    if BEARD.search(text):
        # The photo's own beard, if it has one, is drawn by the prior too, which gives it a shape.
        beard = ((nose - BELOW_NOSE - positions[:, 2]) / FADE).clamp(0, 1)
        known, likely = known * (1 - BEARD_SHARE * beard), likely * (1 - beard)
    return PhotoFace(positions, painted.colors, known, likely, grey)


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
    log_factor = torch.lerp(change[None, :, None, None].expand_as(local), local, (on_head > 0.5).float())
    log_factor = log_factor * likeness
    if not GLOVES.search(text.lower()):
        hands = (near * (body.regions[body.faces[:, 0]] == HAND)[triangles])[:, 0] > 0.5
        shown = views.colors.permute(0, 2, 3, 1)[hands]
        if len(shown) > LEAST_SEEN and float(skin(shown).mean()) > BARE_HANDS:
            log_factor.permute(0, 2, 3, 1)[hands] = change + _log(tone) - _log(shown.median(0).values)
    alpha = images[:, 3:4].clamp(0, 1)
    empty = images[:, :3] - alpha * views.colors
    toned = views.colors * (near * log_factor).exp()
    # Over the jaw's edge, the face goes on where the views show nothing but skin, or stubble.
    wider, weight, depth = face.drawn(face.colors, face.likely, views.cameras)
    bare = (views.depths[:, None] - depth).abs() < BARE
    toned = torch.lerp(toned, wider, weight * bare)
    result = images.clone()
    result[:, :3] = (alpha * toned + empty).clamp(0, 1)
    return face, face.over(result, views.cameras, views.distances)


def _log(colors: Tensor) -> Tensor:
    return colors.clamp_min(0.02).log()


def _harmonic(values: Tensor, weights: Tensor, far: Tensor, dense: DenseHead) -> Tensor:
    """The smoothest field [D,C] on the head's mesh that has `values` [D,C] where `weights` [D] are large; far
    from there it goes to `far` [C]."""
    count = len(values)
    a, b = dense.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2).T.numpy()
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
    return drawn.triangles.long().clamp_min(0)[:, None], near.float()[:, None]


@torch.no_grad()
def fix_face(state: AvatarState, face: PhotoFace) -> None:
    """Give the Gaussians on the painted head its colours, and fix them as far as the photos determine them.

    The photos' own highlights are part of those colours: what the avatar's light adds from the front is
    subtracted.
    """
    params = state.params
    colors, known = (values.to(state.device) for values in face.nearest(params["means"].detach()))
    middle = face.positions[face.known > 0.5].mean(0)
    front = Cameras.orbit([-30.0, 0.0, 30.0], 4.0, 0.7, 30.0, 64, 64, middle).to(state.device)
    added = shade(state.gaussians, state.shared, front, 1.0)[1].mean(0)
    logits = torch.logit(colors - added, eps=0.01)
    params["color_logits"].lerp_(logits, known[:, None])
    state.ties[FIXED] = known
