"""How far an avatar is from the true person: pure functions of images, masks, labels and bodies.

Images are float32 [V,H,W,3], sRGB in 0..1 over the same grey on both sides; alphas [V,H,W] in 0..1; labels
[V,H,W] int64, the part of the true person that each pixel shows, -1 outside. Colours are compared in CIELAB
(D65): by CIEDE2000 where a difference is reported, by plain distance where the nearest of several is wanted.
Bodies are vertices [V,3] in metres, in the order of AnnyModel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.measure import perimeter_crofton
from skimage.transform import SimilarityTransform
from torch import Tensor

from specularip.body import AnnyModel
from specularip.body.mesh import vertex_normals
from specularip.body.regions import HEAD
from specularip.metrics import SSIM_WINDOW, luminance, ssim_map

SHADES = (0.05, 0.25, 0.5, 0.75, 0.95)
"""Quantiles of lightness whose colours stand for a surface in the studio, from dark side to highlight."""
SMOOTH = 1 / 240
"""Standard deviation of `fray`'s blur as a share of the image's side: 3 pixels of 720."""

EARS = 1.1
"""Eye distances from the middle of the eyes back to where the ears begin."""
NEAR_TRIANGLES = 24
"""Of so many triangles whose centroids are nearest to a point, one is taken for the nearest of all."""


def lab(srgb: Tensor | np.ndarray) -> np.ndarray:
    """CIELAB [...,3] of sRGB colours [...,3] in 0..1."""
    return rgb2lab(np.asarray(srgb, np.float64))


def ciede2000(a: Tensor, b: Tensor) -> float:
    """CIEDE2000 of two sRGB colours [3]."""
    return float(deltaE_ciede2000(lab(a), lab(b)))


def nearest(srgb: Tensor, palette: Tensor) -> int:
    """Index of the colour of `palette` [K,3] that is nearest to `srgb` [3] in CIELAB; -1 for NaN."""
    distance = np.linalg.norm(lab(palette) - lab(srgb), axis=-1)
    return -1 if np.isnan(distance).any() else int(distance.argmin())


def silhouette_iou(alpha: Tensor, truth: Tensor) -> Tensor:
    """Intersection over union of alpha > 0.5 in each view, [V]; 1 where both are empty."""
    a, b = (alpha > 0.5).flatten(1), (truth > 0.5).flatten(1)
    union = (a | b).sum(1)
    return torch.where(union > 0, (a & b).sum(1) / union.clamp_min(1), torch.ones(len(a), device=a.device))


def body_psnr(image: Tensor, truth: Tensor, alpha: Tensor) -> float:
    """PSNR in dB over the pixels of all views that the true person covers: alpha [V,H,W] > 0.5."""
    return float(-10 * torch.log10((image - truth)[alpha > 0.5].square().mean()))


def body_ssim(image: Tensor, truth: Tensor, alpha: Tensor) -> float:
    """Mean structural similarity of windows whose middle the true person covers: alpha [V,H,W] > 0.5."""
    half = SSIM_WINDOW // 2
    middles = alpha[:, half:-half, half:-half] > 0.5
    return float(ssim_map(image, truth).mean(1)[middles].mean())


def contrast(image: Tensor, mask: Tensor) -> float:
    """Standard deviation of luma over the pixels of the mask [V,H,W] > 0.5, mean over the views."""
    return float(torch.stack([x[m > 0.5].std() for x, m in zip(luminance(image), mask)]).mean())


def eroded(mask: Tensor, pixels: int) -> Tensor:
    """Masks [V,H,W] without the pixels within `pixels` (in rows and columns) of their border. The image's own
    border counts as inside."""
    if pixels == 0:
        return mask
    outside = torch.nn.functional.max_pool2d((~mask).float()[:, None], 2 * pixels + 1, 1, pixels)
    return outside[:, 0] < 0.5


def median_color(image: Tensor, mask: Tensor) -> Tensor:
    """Median colour [3] of the pixels in `mask`; NaN if there are none."""
    pixels = image[mask]
    return pixels.median(0).values if len(pixels) else image.new_full((3,), torch.nan)


def skin_of(face: Tensor) -> Tensor:
    """Median colour [3] of the cheeks and nose in a face crop [3,F,F]."""
    size = face.shape[-1]
    middle = face[:, round(0.45 * size) : round(0.70 * size), round(0.33 * size) : round(0.67 * size)]
    return middle.flatten(1).median(1).values


def lit_palette(image: Tensor, mask: Tensor) -> np.ndarray:
    """CIELAB [5,3] of the pixels in `mask`: for each quantile of `SHADES`, the mean colour of the tenth of
    the pixels whose lightness is nearest to it."""
    colors = lab(image[mask].cpu())
    colors = colors[colors[:, 0].argsort(kind="stable")]
    half = max(1, len(colors) // 20)
    middles = (round(q * (len(colors) - 1)) for q in SHADES)
    return np.stack([colors[max(0, m - half) : m + half + 1].mean(0) for m in middles])


def bare_share(image: Tensor, cloth: Tensor, cloth_colors: np.ndarray, skin_colors: np.ndarray) -> float:
    """Share of the pixels in the mask `cloth` whose colour is nearer to skin than to the garment; both as
    `lit_palette`s. NaN for an empty mask."""
    pixels = lab(image[cloth].cpu())
    if not len(pixels):
        return float("nan")
    to_cloth, to_skin = (
        np.linalg.norm(pixels[:, None] - colors, axis=-1).min(1) for colors in (cloth_colors, skin_colors)
    )
    return float((to_skin < to_cloth).mean())


@dataclass(frozen=True)
class Edges:
    """What is wrong with the silhouettes of V views.

    specks: mean number of pieces besides the largest, speck_share: their share of all covered pixels. holes:
    mean number of enclosed background patches. fray: length of the outline over that of the smoothed outline,
    mean over views; 1 for a smooth one.
    """

    specks: float
    speck_share: float
    holes: float
    fray: float


def edges(alpha: Tensor) -> Edges:
    """Faults of the silhouettes alpha > 0.5, alpha [V,H,W]. Pieces are connected by edges or corners, patches
    of background by edges."""
    specks, holes, loose, covered, frays = 0, 0, 0, 0, []
    for mask in (alpha > 0.5).cpu().numpy():
        pieces, count = ndimage.label(mask, np.ones((3, 3)))
        sizes = np.bincount(pieces.ravel())[1:]
        if not count:
            frays.append(float("nan"))
            continue
        specks += count - 1
        loose += int(sizes.sum() - sizes.max())
        covered += int(sizes.sum())
        holes += ndimage.label(ndimage.binary_fill_holes(mask) & ~mask)[1]
        frays.append(fray(mask))
    views = len(alpha)
    return Edges(specks / views, loose / max(1, covered), holes / views, float(np.mean(frays)))


def fray(mask: np.ndarray) -> float:
    """Length of the outline of a silhouette, bool [H,W], over that of its outline after a blur."""
    smooth = ndimage.gaussian_filter(mask.astype(np.float64), SMOOTH * len(mask)) > 0.5
    length = perimeter_crofton(smooth, directions=4)
    return float(perimeter_crofton(mask, directions=4) / length) if length else float("nan")


# The shape of the head


def front_of_head() -> Tensor:
    """Which vertices [V] of AnnyModel are the front of the head: ahead of the ears, facing forward in the
    default adult, not of the eyeballs."""
    model = AnnyModel.load()
    eyes = model.template[model.eyeballs].mean(1)
    behind = (model.template[:, 1] - eyes[:, 1].mean()) / (eyes[0] - eyes[1]).norm()
    forward = vertex_normals(model.template, model.faces)[:, 1] < 0
    found = (model.regions == HEAD) & (behind < EARS) & forward
    found[model.eyeballs.flatten()] = False
    return found


def surface_error(fitted: Tensor, truth: Tensor) -> float:
    """Mean distance in millimetres from the front of a fitted head to the true surface, both bodies [V,3].

    A photo tells neither size nor place: the fitted front is moved, turned and scaled to the true one first,
    as corresponding vertices agree best (Umeyama 1991).
    """
    front = front_of_head()
    source, target = fitted[front].double().numpy(), truth[front].double().numpy()
    similarity = SimilarityTransform.from_estimate(source, target)
    moved = source @ similarity.params[:3, :3].T + similarity.params[:3, 3]
    distance = distance_to_surface(moved, truth.double().numpy(), AnnyModel.load().faces.numpy())
    return float(1000 * distance.mean())


def distance_to_surface(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Distance [n] of points [n,3] to the triangles `faces` [F,3] of vertices [V,3]."""
    corners = vertices[faces]
    tree = cKDTree(corners.mean(1))
    candidates = tree.query(points, min(NEAR_TRIANGLES, len(faces)))[1].reshape(len(points), -1)
    a, b, c = np.moveaxis(corners[candidates], 2, 0)
    p = points[:, None]
    # Inside a triangle, the distance to its plane; else that to the nearest of its edges.
    normal = np.cross(b - a, c - a)
    area = np.maximum(np.linalg.norm(normal, axis=-1), 1e-30)
    sides = [(np.cross(end - start, p - start) * normal).sum(-1) for start, end in ((a, b), (b, c), (c, a))]
    plane = np.abs(((p - a) * normal).sum(-1)) / area
    edge = np.min([_to_segment(p, start, end) for start, end in ((a, b), (b, c), (c, a))], 0)
    return np.where(np.min(sides, 0) >= 0, plane, edge).min(1)


def _to_segment(points: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
    along = end - start
    share = ((points - start) * along).sum(-1) / np.maximum((along**2).sum(-1), 1e-30)
    return np.linalg.norm(points - start - share.clip(0, 1)[..., None] * along, axis=-1)


# Recognition of garments


@dataclass(frozen=True)
class Recognizer:
    """Nearest neighbours among examples, by Mahalanobis distance.

    examples [n,d] are features times `whitening` [D,d]; labels [n] int64 index `names`.
    """

    names: tuple[str, ...]
    examples: np.ndarray
    labels: np.ndarray
    whitening: np.ndarray
    neighbours: int = 5

    @staticmethod
    def learn(
        features: np.ndarray, labels: np.ndarray, names: tuple[str, ...], shrinkage: float = 0.5
    ) -> Recognizer:
        """From features [n,D] and labels [n]. Distances are whitened by the covariance within classes, shrunk
        by `shrinkage` towards its diagonal."""
        means = np.stack([features[labels == k].mean(0) for k in range(len(names))])
        inside = features - means[labels]
        covariance = inside.T @ inside / max(1, len(features) - len(names))
        diagonal = np.diag(covariance.diagonal() + 1e-3 * covariance.diagonal().mean() + 1e-12)
        values, vectors = np.linalg.eigh((1 - shrinkage) * covariance + shrinkage * diagonal)
        whitening = vectors / np.sqrt(values)
        # Only the differences between classes count: project on their span.
        spread = (means - means.mean(0)) @ whitening
        _, strength, axes = np.linalg.svd(spread, full_matrices=False)
        whitening = whitening @ axes[strength > 1e-6 * strength.max()].T
        return Recognizer(names, features @ whitening, labels, whitening)

    def classify(self, features: np.ndarray) -> np.ndarray:
        """Labels [m] of features [m,D]: a vote of the nearest examples, weighted by 1/distance."""
        return self._vote(features @ self.whitening)

    def _vote(self, points: np.ndarray) -> np.ndarray:
        distance = np.linalg.norm(points[:, None] - self.examples, axis=-1)
        order = distance.argsort(1, kind="stable")[:, : self.neighbours]
        weight = 1 / (np.take_along_axis(distance, order, 1) + 1e-9)
        votes = np.zeros((len(points), len(self.names)))
        np.add.at(votes, (np.arange(len(points))[:, None], self.labels[order]), weight)
        return votes.argmax(1)


def confusion(truth: np.ndarray, found: np.ndarray, classes: int) -> np.ndarray:
    """Share of the examples of class i that were taken for class j, [classes,classes]; rows sum to 1."""
    counts = np.zeros((classes, classes))
    np.add.at(counts, (truth, found), 1)
    return counts / np.maximum(counts.sum(1, keepdims=True), 1)


def cross_validated(
    features: np.ndarray, labels: np.ndarray, names: tuple[str, ...], folds: int = 4
) -> np.ndarray:
    """Each example's label [n] as a `Recognizer` that was learned without its fold gives it."""
    found, fold = np.empty_like(labels), np.arange(len(labels)) % folds
    for k in range(folds):
        rest = fold != k
        found[~rest] = Recognizer.learn(features[rest], labels[rest], names).classify(features[~rest])
    return found


def alike(shares: np.ndarray, limit: float = 0.15) -> list[set[int]]:
    """For each class, itself and those that cannot be told from it: taken for each other in more than `limit`
    of the cases, on average of both directions. shares: see `confusion`."""
    linked = (shares + shares.T) / 2 > limit
    return [{k, *np.flatnonzero(linked[k]).tolist()} for k in range(len(shares))]
