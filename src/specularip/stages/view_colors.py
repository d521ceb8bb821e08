"""The colours in which sampled views show places on a surface."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from specularip.stages.fusion import DepthViews, look_up
from specularip.stages.settings import FusionConfig


def observe(
    views: DepthViews, positions: Tensor, normals: Tensor, config: FusionConfig
) -> tuple[Tensor, Tensor]:
    """The colours [V,P,3] of points in the views, and by how much the cosine of the angle under which each
    view sees them exceeds `least_cosine` [V,P]; 0: the view does not show the point."""
    seen = look_up(views, positions, config.outline_tolerance)
    towards = F.normalize(views.cameras.positions[:, None] - positions, dim=-1)
    cosine = (towards * normals).sum(-1)
    visible = seen.surface & (seen.behind.abs() < views.tolerances(config)[:, None])
    return seen.colors, visible * (cosine - config.least_cosine).clamp_min(0)


def weighted_median(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted median over the first dimension, by channel: values [V,P,C], weights [V,P] -> [P,C]."""
    ordered, order = values.sort(dim=0)
    weight = weights[..., None].expand_as(values).gather(0, order)
    reached = weight.cumsum(0) >= 0.5 * weight.sum(0)
    return ordered.gather(0, reached.float().argmax(0, keepdim=True))[0]
