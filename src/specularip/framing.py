"""Where a camera stands so that the person, or a part of them, fills the picture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specularip.body.regions import HAND, HEAD, NECK, TORSO
from specularip.cameras import FULL
from specularip.errors import UserError
from specularip.gaussians import Gaussians
from specularip.options import FramingName

PARTS: dict[FramingName, tuple[int, ...]] = {"upper": (HEAD, NECK, TORSO), "head": (HEAD,), "hands": (HAND,)}
"""Body regions that a framing shows."""
SHARES: dict[FramingName, float] = {"upper": 0.5, "head": 0.15}
"""Share of the height, from the top, where the regions are not known."""
FOV_Y_DEG: dict[FramingName, float] = {"full": FULL.fov_y_deg, "upper": 30.0, "head": 16.0, "hands": 16.0}
"""Fields of view that suit them: close-ups from too near look distorted."""
MAX_SAMPLES = 100_000
"""Gaussians whose positions are sorted."""
STRAY = 0.002
"""Share of the outermost Gaussians on each side that framing ignores."""
MOST, FENCE = 0.05, 3.0
"""Strays, too, are Gaussians that lie further outside of where most are (all but this share on each side)
than FENCE times the size of that."""
FAINT = 0.02
"""Gaussians more transparent than this do not count, unless all are."""
SMALLEST = 6.0
"""Size of a subject at least, in standard deviations of its usual Gaussian: it may be a single one."""
NEAREST = 0.05
"""Metres from the subject at least: rasterisers leave out what is nearer than 0.01."""
MARGIN = 2 * FULL.distance * math.tan(math.radians(FULL.fov_y_deg / 2))
"""Height of the picture relative to the subject's, at the subject's distance."""


def frame_subject(
    gaussians: Gaussians,
    framing: FramingName = "full",
    *,
    fov_y_deg: float = FULL.fov_y_deg,
    aspect: float = 1.0,
) -> tuple[float, tuple[float, float, float]]:
    """Distance in metres and target of a camera that frames the subject from any side, stray Gaussians aside.
    aspect: width of the picture relative to its height.

    Where the file does not say which Gaussians are the head (other programs' files), a person who stands
    upright is assumed. Raises UserError for hands in such a file.
    """
    low, high = extremes(part_of(gaussians, framing))
    size = high - low
    width = 1.0 if framing == "full" else 0.8  # a close-up may cut off shoulders and hair
    usual = float(gaussians.log_scales.detach().amax(1).median().exp())
    extent = max(float(size[2]), width * float(size[:2].max()) / aspect, SMALLEST * usual / min(aspect, 1.0))
    distance = 0.5 * MARGIN * extent / math.tan(math.radians(fov_y_deg / 2))
    x, y, z = ((low + high) / 2).tolist()
    return max(distance, NEAREST), (x, y, z)


def part_of(gaussians: Gaussians, framing: FramingName) -> Tensor:
    """Positions [n,3] of the Gaussians that a framing shows; see `frame_subject`."""
    means, regions = gaussians.means.detach().cpu(), gaussians.regions.cpu()
    visible = gaussians.opacities.detach().cpu() > FAINT
    if bool(visible.any()):
        means, regions = means[visible], regions[visible]
    if framing == "full":
        return means
    if bool((regions != regions[0]).any()):
        part = torch.isin(regions, torch.tensor(PARTS[framing]))
        if framing == "hands":
            part &= means[:, 0] >= means[:, 0].median()  # of the two, the person's left
        if bool(part.any()):
            return means[part]
    if framing not in SHARES:
        raise UserError("this file does not say where the hands are: use --framing full, upper or head")
    low, high = (float(end[2]) for end in extremes(means))
    return means[means[:, 2] >= high - SHARES[framing] * (high - low)]


def extremes(points: Tensor) -> tuple[Tensor, Tensor]:
    """The lowest and highest coordinates [3] of points [n,3], stray ones aside."""
    some = points[:: max(1, len(points) // MAX_SAMPLES)]
    first, last = torch.quantile(some, torch.tensor([MOST, 1 - MOST]), dim=0)
    reach = FENCE * (last - first)
    inside = ((some >= first - reach) & (some <= last + reach)).all(1)
    low, high = torch.quantile(some[inside], torch.tensor([STRAY, 1 - STRAY]), dim=0)
    return low, high
