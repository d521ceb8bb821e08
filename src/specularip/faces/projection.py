"""The photo on the head: colours of the dense head mesh from photos of the fitted head.

A photo counts where it shows a place squarely and sharply. Its light is evened out by a low-order shading of
the fitted normals; what it hides is filled from the mirrored side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from specularip.body import AnnyModel
from specularip.body.dense_head import DenseHead
from specularip.body.head import HeadModel
from specularip.body.mesh import vertex_normals
from specularip.cameras import Cameras
from specularip.faces.alignment import sample_square
from specularip.faces.head_fit import FittedHead
from specularip.faces.landmarks import Landmarks
from specularip.raster.mesh import rasterize_mesh

CROP, CROP_PER_RADIUS = 768, 4.2
"""The head is read from a square of at most so many pixels, whose side is so many radii of the landmarks."""
OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
"""The landmarks around the face."""
BROWS = ((70, 63, 105, 66, 107, 55, 65, 52, 53, 46), (300, 293, 334, 296, 336, 285, 295, 282, 283, 276))
EYES = (
    (33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7),
    (263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249),
)
LIPS = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
FEATURES = ((BROWS[0], 0.002), (BROWS[1], 0.002), (EYES[0], 0.008), (EYES[1], 0.008), (LIPS, 0.006))
"""Outlines of brows, eyes and lips, and their margins in metres."""
FEATURE_FADE = 0.004
FOREHEAD = 0.035
"""Metres above the brows up to which the forehead is likely to be skin, if nothing that looks like hair is
there."""
ABOVE_BROWS, BESIDE = 0.004, 0.018
"""Metres above the brows, and from the oval's sides above the mouth, where hair may cover the face."""
JAW, MOUTH_TO_LOBE = 0.045, 0.035
"""Metres outside of the oval, below the ears' lobes, over which the colours of the face go on; and height of
the lobes above the mouth."""
MIRRORED, CLEARLY = 0.9, 0.2
"""How well a place is known whose mirror image is; and by how much better that is known to replace it."""
OUTLINE = 64
"""One over the part of the photo of the head that is left out at its outline."""
RIM = 0.012
"""Metres over which the photo fades out at the face's rim."""
LEAST_COSINE, SQUARE_COSINE = 0.3, 0.7
"""Places seen more obliquely than the first do not count, those seen more squarely than the second fully."""
OCCLUSION = 0.004
"""Metres by which a place may lie behind what the photo shows."""
MARGIN = 0.006
"""Metres beside hair over which the photo fades out."""
KNOWN_WELL, SPREAD_OVER = 0.8, 12
"""How well a place must be known for its colour to stand for that of its surroundings, and how many of them
make up a colour."""
SKIN_SPREAD = 2.5
"""How far from the skin's colours, in standard deviations, forehead and jaw may be: beyond is hair."""
LEAST_SPREAD = (0.15, 0.03, 0.03)
"""Least standard deviations of skin: logarithm of the luminance, and shares of red and blue."""
LUMINANCE = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Painted:
    """Colours [D,3] of the vertices of `DenseHead`, sRGB in 0..1; known [D] in 0..1: how well photos show
    them; likely [D] in 0..1: where, around the face, they are those of their surroundings."""

    colors: Tensor
    known: Tensor
    likely: Tensor


@torch.no_grad()
def paint(photos: Sequence[np.ndarray], faces: Sequence[Landmarks], fitted: FittedHead) -> Painted:
    """What photos (uint8 [H,W,3]), with these landmarks, show of the head."""
    dense = DenseHead.load()
    total, weight = torch.zeros(len(dense.corners), 3), torch.zeros(len(dense.corners))
    parts = [_seen(pixels, face, fitted, k) for k, (pixels, face) in enumerate(zip(photos, faces))]
    tone = None
    for colors, known in parts:
        skin = weighted_mean(colors, known)
        tone = skin if tone is None else tone
        total += known[:, None] * colors * (tone / skin)
        weight += known
    colors = total / weight[:, None].clamp_min(1e-6)
    colors, known = mirrored(colors, torch.stack([known for _, known in parts]).amax(0), dense)
    return Painted(spread_out(colors, known, dense), known, FaceAreas.load().around)


def weighted_mean(colors: Tensor, weights: Tensor) -> Tensor:
    """The mean [3] of colours [D,3] of weights [D]."""
    return (colors * weights[:, None]).sum(0) / weights.sum().clamp_min(1e-6)


def _seen(pixels: np.ndarray, face: Landmarks, fitted: FittedHead, photo: int) -> tuple[Tensor, Tensor]:
    """Colours [D,3], with the light evened out, and weights [D] of one photo."""
    dense, model = DenseHead.load(), AnnyModel.load()
    crop, camera = _cropped(pixels, face, fitted.cameras[photo])
    vertices = fitted.vertices(photo)
    positions = dense.at(vertices)
    normals = F.normalize(dense.at(vertex_normals(vertices, model.faces)), dim=-1)
    at, depth = (values[0] for values in camera.project(positions))
    towards = F.normalize(camera.positions - positions, dim=-1)
    cosine = (towards * normals).sum(-1)
    nearest = rasterize_mesh(vertices, model.faces, camera).depth[0]
    size = crop.shape[0]
    column, row = at.floor().long().clamp(0, size - 1).unbind(-1)
    # The nearest surface around the pixel: at steep places, the depth within one pixel varies.
    reach = F.max_pool2d(nearest[None, None], 3, 1, 1)[0, 0]
    shown = (depth < reach[row, column] + OCCLUSION) & (at >= 0).all(-1) & (at < size).all(-1)
    # At the head's outline, the photo may show what is behind it.
    margin = size // OUTLINE
    behind = F.max_pool2d((nearest == 0).float()[None, None], 2 * margin + 1, 1, margin)[0, 0]
    shown &= behind[row, column] == 0
    grid = (at / size * 2 - 1)[None, None]
    colors = F.grid_sample(crop.permute(2, 0, 1)[None], grid, align_corners=False, padding_mode="border")
    colors = colors[0, :, 0].T
    squareness = ((cosine - LEAST_COSINE) / (SQUARE_COSINE - LEAST_COSINE)).clamp(0, 1)
    areas = FaceAreas.load()
    known = shown * squareness * areas.face
    core = areas.core * (1 - areas.features)
    skin = skin_model(colors[known * core > 0.5])(colors)
    known = known * bare(skin, known, areas, dense)
    return evened(colors, normals, known * skin * (1 - areas.features)), known


def _cropped(pixels: np.ndarray, face: Landmarks, camera: Cameras) -> tuple[Tensor, Cameras]:
    """A square around the head, float [S,S,3] in 0..1, and its camera."""
    middle = face.points[:, :2].mean(0)
    side = CROP_PER_RADIUS * face.radius
    corner = (float(middle[0]) - side / 2, float(middle[1]) - side / 2)
    size = int(min(CROP, max(side, 256)))
    crop = torch.from_numpy(sample_square(pixels, corner, (side, 0.0), size)).float()
    K = camera.Ks.clone()
    K[:, :2, 2] -= K.new_tensor(corner)
    K[:, :2] *= size / side
    return crop, Cameras(camera.viewmats, K, size, size)


@dataclass(frozen=True)
class FaceAreas:
    """Parts of the dense head, [D] in 0..1.

    face: where the landmarks lie, fading over RIM inside the oval; core: what hair or a collar seldom covers,
    beards included; features: eyes, brows and lips with a margin, which may differ from the skin; around:
    below the oval, over the jaw's edge, and the lower forehead, which hair may cover. outside: metres from
    the oval, negative within; height: metres above the mouth; both on the default adult.
    """

    face: Tensor
    core: Tensor
    features: Tensor
    around: Tensor
    outside: Tensor
    height: Tensor

    @staticmethod
    @cache
    def load() -> FaceAreas:
        """From the landmarks on the default adult; cached."""
        on_adult = HeadModel.load().landmarks(AnnyModel.load().template)
        places, landmarks = _unrolled(DenseHead.load().template), _unrolled(on_adult)
        inside = _signed_distance(places, landmarks[list(OVAL)])
        brows = landmarks[list(BROWS[0] + BROWS[1]), 1].max()
        mouth = landmarks[list(LIPS), 1].mean()
        below = (brows + ABOVE_BROWS - places[:, 1]) / MARGIN
        beside = torch.maximum((inside - BESIDE) / MARGIN, (mouth - places[:, 1]) / MARGIN)
        features = torch.zeros(len(places))
        for loop, margin in FEATURES:
            distance = _signed_distance(places, landmarks[list(loop)])
            features = torch.maximum(features, ((distance + margin) / FEATURE_FADE).clamp(0, 1))
        jaw = torch.minimum((inside + JAW) / RIM, (mouth + MOUTH_TO_LOBE - places[:, 1]) / RIM)
        forehead = torch.minimum(inside / RIM, (brows + FOREHEAD - places[:, 1]) / RIM)
        around = torch.maximum(jaw, torch.minimum(forehead, (places[:, 1] - brows) / FEATURE_FADE))
        core = torch.minimum(below, beside)
        face, height = (inside / RIM).clamp(0, 1), places[:, 1] - mouth
        return FaceAreas(face, core.clamp(0, 1), features, around.clamp(0, 1), -inside, height)


def _unrolled(points: Tensor) -> Tensor:
    """Places [n,3] of the default adult's head on a cylinder around its axis: metres along it, and up."""
    middle = DenseHead.load().template
    axis_y = float(middle[:, 1].quantile(0.5))
    angle = torch.atan2(points[:, 0], axis_y - points[:, 1])
    return torch.stack([0.08 * angle, points[:, 2]], -1)


def _signed_distance(points: Tensor, polygon: Tensor) -> Tensor:
    """Distance [n] of points [n,2] to the edges of a closed polygon [m,2], negative outside."""
    a, b = polygon, polygon.roll(-1, 0)
    edge, offset = b - a, points[:, None] - a
    share = ((offset * edge).sum(-1) / edge.square().sum(-1)).clamp(0, 1)
    distance = (offset - share[..., None] * edge).norm(dim=-1).amin(1)
    crosses = (a[:, 1] > points[:, 1:]) != (b[:, 1] > points[:, 1:])
    x = a[:, 0] + (points[:, 1:] - a[:, 1]) / (b[:, 1] - a[:, 1]) * edge[:, 0]
    inside = (crosses & (points[:, :1] < x)).sum(1) % 2 == 1
    return torch.where(inside, distance, -distance)


def skin_model(colors: Tensor) -> Callable[[Tensor], Tensor]:
    """A function of colours [...,3] that says how likely they are skin, [...] in 0..1, from colours [n,3] of
    which most are."""
    features = _chroma(colors)
    middle, least = features.median(0).values, torch.tensor(LEAST_SPREAD)
    for _ in range(3):
        usual = (features - middle).abs().median(0).values
        near = ((features - middle).abs() < (4.5 * usual).clamp_min(least)).all(1)
        middle = features[near].mean(0)
    spread = features[near].std(0).clamp_min(least)

    def likeness(other: Tensor) -> Tensor:
        distance = ((_chroma(other) - middle) / spread).square().sum(-1).sqrt()
        return ((2 * SKIN_SPREAD - distance) / SKIN_SPREAD).clamp(0, 1)

    return likeness


def luminance(colors: Tensor) -> Tensor:
    """Of sRGB colours [...,3], as they are: [...]."""
    return (colors * colors.new_tensor(LUMINANCE)).sum(-1)


def _chroma(colors: Tensor) -> Tensor:
    """Logarithm of the luminance, and shares of red and blue, [...,3]."""
    grey = luminance(colors).clamp_min(0.02)
    red, blue = colors[..., 0] / grey, colors[..., 2] / grey
    return torch.stack([grey.log(), red, blue], -1)


def bare(skin: Tensor, known: Tensor, areas: FaceAreas, dense: DenseHead) -> Tensor:
    """Where the face is not covered, [D] in 0..1: not by what reaches from its rim to where skin or its core
    begins, with a margin. Within the skin, what differs from it is a highlight or a scar."""
    core = ((areas.core > 0.5) | (areas.features > 0)).numpy()
    seen = (known > 0.05).numpy()
    other = ~((skin > 0.5).numpy() & seen) & ~core
    outside = other & ~(areas.face == 1).numpy()
    part = _connected(other, dense)
    covered = seen & other & np.isin(part, np.unique(part[outside]))
    if not covered.any():
        return torch.ones(len(skin))
    places = dense.template.numpy()
    distance, _ = cKDTree(places[covered]).query(places, distance_upper_bound=2 * MARGIN, workers=-1)
    clear = (distance / MARGIN - 0.5).clip(0, 1) * ~covered
    return torch.maximum(torch.from_numpy(clear.astype(np.float32)), areas.core)


def _connected(chosen: np.ndarray, dense: DenseHead) -> np.ndarray:
    """The number [D] of the connected part of the mesh's `chosen` vertices that each belongs to."""
    ends = dense.edges
    ends = ends[chosen[ends].all(1)]
    graph = coo_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), (len(chosen), len(chosen)))
    return connected_components(graph, directed=False)[1]


def spread_out(colors: Tensor, known: Tensor, dense: DenseHead) -> Tensor:
    """Colours [D,3] that are known well, carried over the rim to those known less well."""
    source = known > KNOWN_WELL
    if not bool(source.any()):
        return colors
    places = dense.template.numpy()
    distance, index = cKDTree(places[source.numpy()]).query(places, SPREAD_OVER, workers=-1)
    weight = 1 / (torch.from_numpy(distance).float() + 1e-3)
    near = (colors[source][torch.from_numpy(index)] * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)
    return torch.lerp(near, colors, (known / KNOWN_WELL).clamp(0, 1)[:, None])


def evened(colors: Tensor, normals: Tensor, weights: Tensor) -> Tensor:
    """Colours [D,3] divided by a shading of spherical harmonics of order 2 of the normals [D,3], which is
    fitted to the skin (weights [D]), one for all channels; the mean stays."""
    grey = luminance(colors).clamp_min(0.02).log()
    basis = harmonics(normals)
    weight = weights.clone()
    damping = weight.sum() * torch.diag(torch.tensor([0.0, *[0.02] * 3, *[0.06] * 5]))
    for _ in range(4):  # moles, shadows and stubble are not shading
        weighted = basis * weight[:, None]
        solution = torch.linalg.solve(basis.T @ weighted + damping, weighted.T @ grey)
        off = (grey - basis @ solution) / 0.12
        weight = weights / (1 + off.square())
    shading = basis @ solution
    shading = shading - (shading * weight).sum() / weight.sum().clamp_min(1e-6)
    return (colors * torch.exp(-shading.clamp(-0.4, 0.4))[:, None]).clamp(0, 1)


def harmonics(normals: Tensor) -> Tensor:
    """1, x, y, z and the five products of order 2, [D,9]."""
    x, y, z = normals.unbind(-1)
    return torch.stack([torch.ones_like(x), x, y, z, x * y, y * z, x * z, x * x - y * y, 3 * z * z - 1], -1)


def mirrored(colors: Tensor, known: Tensor, dense: DenseHead) -> tuple[Tensor, Tensor]:
    """What is badly seen takes the colours of its mirror image, as far as that is seen better."""
    other = known[dense.mirror]
    share = torch.where(known > 0, ((other - known) / CLEARLY).clamp(0, 1), 1.0)
    return torch.lerp(colors, colors[dense.mirror], share[:, None]), torch.maximum(known, MIRRORED * other)
