"""Settings of `generate`: its two stages SEID and SCR, and what they share. Free of torch.

Defaults are those of the compact preset. The method publishes lengths in its own unit, in which the body is
PUBLISHED_HEIGHT high; they are in body heights here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Literal

from specularip.bounds import (
    ASCENDING,
    Count,
    Elevation,
    FieldOfView,
    Length,
    Range,
    Seed,
    Share,
    Weight,
    out_of_order,
)
from specularip.diffusion.loading.settings import PriorConfig
from specularip.diffusion.settings import GuidanceConfig

PUBLISHED_HEIGHT = 1.5
"""Body height in the method's unit: its close-ups are centred 0.65 above the middle of the body, which is
0.435 body heights."""

MOST_PIXELS = 2**26
"""Pixels that may be in memory at once, in all views of a step or of an orbit: 64 views of 1024 x 1024."""
FEWEST_PIXELS = 32
"""Least side of the images that SCR compares: the perceptual loss halves them several times."""

Rate = Annotated[float, Range(0.0, 10.0)]
LAST_TIMESTEP = 999
Timestep = Annotated[int, Range(0, LAST_TIMESTEP)]
Pixels = Annotated[int, Range(16, 4096)]
PixelsOrOwn = Annotated[int, Range(0, 4096)]
"""0 stands for a size that is given elsewhere."""
Views = Annotated[int, Range(1, 256)]
Points = Annotated[int, Range(50, 10_000_000)]
LengthRange = Annotated[tuple[float, float], Range(0.01, 100.0), ASCENDING]


@dataclass(frozen=True)
class RateConfig:
    """Adam's learning rates for the Gaussians' fields (means in metres) and the specular head.

    The defaults are SEID's from sampled views: at higher ones its noise blurs eyes, lips and highlights.
    """

    means: Rate = 5e-5
    quats: Rate = 5e-4
    log_scales: Rate = 1e-3
    opacity_logits: Rate = 3e-3
    color_logits: Rate = 4e-3
    latents: Rate = 1e-4
    normal_residuals: Rate = 5e-4
    head: Rate = 1e-4


@dataclass(frozen=True)
class OrbitConfig:
    """Training views all around the body, and after `close_from` also close-ups of the head, front and back.

    Lengths are in body heights; ranges are (lowest, highest).
    """

    distance: LengthRange = (1.3 / PUBLISHED_HEIGHT, 1.7 / PUBLISHED_HEIGHT)
    elevation_deg: Annotated[tuple[float, float], Range(-89.0, 89.0), ASCENDING] = (-30.0, 30.0)
    fov_y_deg: Annotated[tuple[float, float], Range(1.0, 170.0), ASCENDING] = (40.0, 70.0)
    close_from: Share = 0.5
    """Fraction of the steps after which there are close-ups: step 1200 as published."""
    close_height: Annotated[float, Range(-1.0, 1.0)] = 0.65 / PUBLISHED_HEIGHT
    """Height of the close-ups' centre above the middle of the body."""
    head_share: Share = 0.25
    """Probability that all views of a step are close-ups of the front of the head."""
    head_distance: LengthRange = (0.4 / PUBLISHED_HEIGHT, 0.6 / PUBLISHED_HEIGHT)
    back_share: Share = 0.2
    """For the other steps: probability that all views show head and shoulders from behind."""
    back_distance: LengthRange = (0.6 / PUBLISHED_HEIGHT, 0.8 / PUBLISHED_HEIGHT)


@dataclass(frozen=True)
class TimestepWindow:
    """Range of timesteps sampled up to the fraction `until` of the steps. highest None: AHDS's bound."""

    until: Share
    lowest: Timestep
    highest: Timestep | None = None

    def contradiction(self) -> str:
        return "" if self.highest is None else out_of_order(self, "lowest", "highest")


@dataclass(frozen=True)
class SeidConfig:
    """Stage 1: Specular-Enhanced Identity Distillation."""

    steps: Count = 16
    points: Points = 44_000
    """Initial Gaussians: at most so many on the surface that sampled views show, or, with a prior that shows
    no depth, so many on the body's."""
    max_points: Points = 50_000
    lights: Annotated[int, Range(1, 1024)] = 24
    """Lobes of the lighting, shared by all Gaussians."""
    render_size: Pixels = 256
    views_per_step: Views = 4
    views_at_once: Annotated[int, Range(0, 256)] = 0
    """How many of them the prior processes together, unless they attend to each other; 0: all. Fewer take
    less memory and more time, for the same gradient."""
    framing_weights: Annotated[tuple[float, float, float, float], Range(0.0, 1e6)] = (0.34, 0.22, 0.16, 0.28)
    """Probabilities of full-body, upper-body, lower-body and head views."""
    orbit: OrbitConfig | None = None
    """The method's own sampling of views, instead of framings."""
    top_timestep: Timestep = 250
    """Initial upper bound of the timesteps, which AHDS anneals to `bottom_timestep`. Low where the stage
    starts from sampled views: more noise would replace their detail by the mean over all that it may hide."""
    bottom_timestep: Timestep = 60
    timestep_windows: tuple[TimestepWindow, ...] = ()
    """Narrower ranges of timesteps early in the stage. Empty: the lower bound is a fifth to a quarter of the
    upper."""
    timestep_slack: Timestep = 0
    """How far timesteps may exceed AHDS's bound within a window."""
    specular_from: Share | None = None
    """Fraction of the steps after which the specular branch is switched on, with a rising gain; None: it is
    always on, as suits a start that has highlights."""
    densify_from: Share = 0.1
    densify_until: Share = 0.7
    densify_every: Count = 10
    prune_until: Share = 0.85
    """Fraction of the steps up to which Gaussians are pruned; after `densify_until` none are added."""
    prune_every: Count = 10
    grad_threshold: Weight = 0.0
    """Mean screen-space gradient above which a Gaussian may be densified. For this and the next four
    settings see `training.densify.DensityConfig`."""
    grow_share: Share = 0.08
    split_scale: Length = 0.012
    min_opacity: Share = 0.02
    max_scale: Length = 0.08
    rates: RateConfig = field(default_factory=RateConfig)
    sds_weight: Weight = 0.02
    """Brings the distillation loss, a sum over pixels, to the scale of the regularisers below."""
    size_weight: Weight = 100.0
    size_free: Annotated[float, Range(0.0, 100.0)] = 0.012
    """Weight on the longest axis of Gaussians in excess of `size_free` metres: large soft ones blur the
    silhouette."""
    anchor_weight: Weight = 18.0
    """Weight, per squared metre, of each Gaussian's distance from its initial position: allows cloth to leave
    the skin and suppresses floaters."""
    sparsity_weight: Weight = 0.0
    """Weight of the coverage of the views: the mean of sqrt(alpha^2 + 0.01)."""
    opacity_weight: Weight = 0.08
    """Weight that drives opacities to 0 or 1, over the last third of the steps."""
    specular_weight: Weight = 0.0
    """Weight of the specular colours' magnitude, for a start without highlights."""

    def contradiction(self) -> str:
        if not any(self.framing_weights):
            return "framing_weights must not all be 0"
        if self.bottom_timestep == self.top_timestep:
            return f"bottom_timestep must be below top_timestep, got {self.bottom_timestep} for both"
        if self.top_timestep + self.timestep_slack > LAST_TIMESTEP:
            return (
                f"timestep_slack above a top_timestep of {self.top_timestep} must not exceed "
                f"{LAST_TIMESTEP - self.top_timestep}, got {self.timestep_slack}"
            )
        return (
            out_of_order(self, "bottom_timestep", "top_timestep")
            or out_of_order(self, "densify_from", "densify_until")
            or _too_large("render_size", self.views_per_step, self.render_size)
        )


@dataclass(frozen=True)
class FusionConfig:
    """How sampled views become one surface (`stages.fusion`). Lengths in metres.

    Sampled depths are smooth but off by one to three centimetres, and differently so in each view.
    """

    depth_tolerance: Annotated[float, Range(0.0, 1.0)] = 0.012
    """Error of depths that counts as agreement, relative to the camera's distance: about 3 cm for the whole
    body, 1.5 % of the range of the depth channel."""
    least_tolerance: Annotated[float, Range(0.0, 1.0)] = 0.02
    """The same for close-ups, where the views' disagreement about the shape dominates."""
    outline_tolerance: Annotated[int, Range(0, 64)] = 2
    """Pixels by which a point may be outside of a silhouette: soft outlines, and disagreement of views."""
    depth_blur: Annotated[int, Range(0, 16)] = 2
    """Radius in pixels of the smoothing of depths before normals are taken."""
    steepest: Annotated[float, Range(0.01, 1000.0)] = 4.0
    """Slope (depth per sideways step) above which two neighbouring pixels show different surfaces: a surface
    seen at 76 degrees from its normal."""
    least_cosine: Annotated[float, Range(0.0, 0.99)] = 0.2
    """Surfaces that are seen more obliquely than this give no points."""
    confirmations_per_outside: Count = 4
    """A point may be outside of one silhouette for each so many views that confirm its depth."""
    fine_voxel: Annotated[float, Range(1e-4, 1.0)] = 0.003
    """Grid that joins the pixels of all views before they are merged."""
    merge_radius: Annotated[float, Range(1e-4, 1.0)] = 0.03
    """Distance within which points are layers of one surface."""
    merge_sigma: Annotated[float, Range(0.01, 100.0)] = 1.5
    """Standard deviation sideways of the mean that merges them, in pixels of the views that see a point."""
    neighbours: Annotated[int, Range(2, 1024)] = 32
    least_neighbours: Annotated[int, Range(1, 1024)] = 6
    """How many points the mean takes at most, and how many must face the same way; others are stray."""
    passes: Annotated[int, Range(0, 100)] = 2
    """How often points are moved onto the mean."""

    def contradiction(self) -> str:
        return out_of_order(self, "least_neighbours", "neighbours")


@dataclass(frozen=True)
class ViewFitConfig:
    """The fit to the sampled views (`stages.view_fit`)."""

    steps: Count = 120
    views_per_step: Views = 4
    color_weight: Weight = 10.0
    alpha_weight: Weight = 5.0
    depth_weight: Weight = 1.0
    """Weights of the mean absolute differences of the views' channels. Sampled depths are the least exact:
    they keep surfaces of one colour in place."""
    anchor_weight: Weight = 100.0
    """Weight, per squared metre, of each Gaussian's distance from where the fusion put it."""
    hand_stiffness: Weight = 30.0
    """Factor of `anchor_weight` for the hands, which start on the body's."""
    smooth_weight: Weight = 3000.0
    """The same for the difference of this displacement from the neighbours': the surface moves as a whole,
    and outlines do not fray."""
    size_weight: Weight = 100.0
    size_free: Annotated[float, Range(0.0, 100.0)] = 0.012
    """Weight on the longest axis of Gaussians in excess of `size_free` metres."""
    needle_weight: Weight = 0.05
    stretch_free: Annotated[float, Range(1.0, 1000.0)] = 2.5
    """Weight on the log of the ratio of the two longer axes in excess of `stretch_free`."""
    opacity_weight: Weight = 0.08
    """Weight that drives opacities to 0 or 1, over the second half of the steps."""
    densify_at: tuple[Share, ...] = (0.25, 0.5)
    """Fractions of the steps at which Gaussians with large screen-space gradients are split and cloned."""
    grow_share: Share = 0.08
    rates: RateConfig = field(
        default_factory=lambda: RateConfig(
            means=4e-4,
            quats=4e-3,
            log_scales=8e-3,
            opacity_logits=3e-2,
            color_logits=1e-2,
            latents=2e-3,
            normal_residuals=3e-3,
            head=2e-3,
        )
    )
    """Low for colours and materials, which `StartConfig.shading_steps` has told apart already."""


@dataclass(frozen=True)
class StartConfig:
    """The start of stage 1 with a prior that shows depth: sampled views, and the fit to them."""

    ddim_steps: Annotated[int, Range(1, 1000)] = 12
    last_timesteps: tuple[Timestep, ...] = (60, 40, 20, 8)
    """After these steps, whose last is at 82: details, without guidance."""
    scale: Annotated[float, Range(0.0, 1000.0)] = 2.5
    """Guidance of the sampling; 1 for a prior into which guidance was distilled."""
    rescale: Share = 0.5
    fusion: FusionConfig = field(default_factory=FusionConfig)
    shading_steps: Annotated[int, Range(0, 1_000_000)] = 200
    """Steps that split the colours of the views into diffuse ones, materials and a light
    (`fitting.initial_shading`), before the fit."""
    fit: ViewFitConfig = field(default_factory=ViewFitConfig)

    def contradiction(self) -> str:
        if any(after >= before for before, after in pairwise(self.last_timesteps)):
            return f"last_timesteps must fall, got {', '.join(map(str, self.last_timesteps))}"
        return ""


@dataclass(frozen=True)
class ScrConfig:
    """Stage 2: Specular-Consistency Refinement."""

    orbit_views: Annotated[int, Range(4, 256)] = 12
    """Full-body views of the orbit."""
    close_ups: bool = True
    """Adds half as many views of the upper body, the legs and the head."""
    distance: Annotated[float, Range(0.01, 100.0)] = 1.42
    """Distance of the full-body cameras, in body heights."""
    fov_y_deg: FieldOfView = 45.0
    elevation_deg: Elevation = 10.0
    render_size: PixelsOrOwn = 0
    """Side of the renders in pixels; 0: as in SEID."""
    refine_size: PixelsOrOwn = 0
    """Side of the refined images in pixels; 0: the prior's own size."""
    refine_steps: Annotated[int, Range(1, 1000)] = 3
    """Denoising steps of the refinement: the last ones of `ddim_steps`."""
    ddim_steps: Annotated[int, Range(1, 1000)] = 25
    refine_together: Views = 8
    """How many views are refined as one, at most, where the prior's views attend to each other."""
    refine_batch: Views = 8
    """Batch size of the renderer, and of the denoiser where views do not attend to each other; it does not
    change the result."""
    vae_batch: Views = 8
    """Batch size of the autoencoder, in images; it does not change the result."""
    guidance: GuidanceConfig | None = None
    """Guidance of the refinement; None: as in SEID. Always plain CFG."""
    own_share: Share = 0.55
    """Weight of a view's own self-attention beside that to its neighbouring key views."""
    crop: Annotated[tuple[float, float, float, float], Range(0.0, 1.0)] = (0.0, 1.0, 0.0, 1.0)
    """Region that is fitted: top, bottom, left and right, as fractions of the image."""
    shrink: Annotated[float, Range(0.01, 1.0)] = 1.0
    """Scale of the compared images relative to the refined ones."""
    fit_steps: Count = 100
    views_per_step: Views = 3
    l1_weight: Weight = 10.0
    perceptual_weight: Weight = 2.0
    rates: RateConfig = field(
        default_factory=lambda: RateConfig(
            means=5e-5,
            quats=5e-4,
            log_scales=1e-3,
            opacity_logits=2.5e-3,
            color_logits=1.5e-2,
            latents=5e-4,
            normal_residuals=1e-3,
            head=5e-4,
        )
    )
    """Low for the geometry, because the targets are sharp but show the same shape, and for the specular
    branch, because fast latents overfit to few views."""
    perceptual: Literal["any", "lpips"] = "any"
    """any: LPIPS if its weights are downloaded, else features of the prior's own networks."""

    @property
    def target_pixels(self) -> float:
        """Pixels of the refined views that are kept, at most about: three orbits of half as many close-ups,
        and images of the usual size where it is the prior's own."""
        top, bottom, left, right = self.crop
        side = self.shrink * (self.refine_size or 512)
        views = self.orbit_views + (3 * max(self.orbit_views, 16) if self.close_ups else 0)
        return views * side**2 * (bottom - top) * (right - left)

    def contradiction(self) -> str:
        for name in ("render_size", "refine_size"):
            size = getattr(self, name)
            if 0 < size < 16:
                return f"{name} must be 0 or at least 16, got {size}"
            if problem := _too_large(name, self.orbit_views, size):
                return problem
        if self.refine_size % 64:
            return f"refine_size must be a multiple of 64, which the networks halve, got {self.refine_size}"
        top, bottom, left, right = self.crop
        if min(bottom - top, right - left) < 0.1:
            return (
                "crop must be top, bottom, left and right, at least 0.1 apart, got "
                f"{', '.join(format(edge, 'g') for edge in self.crop)}"
            )
        compared = self.shrink * min(bottom - top, right - left) * (self.refine_size or 256)
        if compared < FEWEST_PIXELS:
            return f"shrink must leave {FEWEST_PIXELS} pixels of the cropped images, got {self.shrink:g}"
        return out_of_order(self, "refine_steps", "ddim_steps")


@dataclass(frozen=True)
class Config:
    """Configuration of a run of `generate`. Start from a preset and use `dataclasses.replace`."""

    preset: str = "compact"
    seed: Seed = 0
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of all computation."""
    low_memory: bool = False
    """Whether batch sizes were reduced to save memory (see `presets.with_low_memory`)."""
    background: Share = 0.6
    """Grey level of the background during optimisation; the compact prior was trained on this one."""
    body: str = "anny"
    """"anny", or the file or folder of SMPL-X."""
    photo_weight: Share = 1.0
    """How far the photos determine shape and colours of the face; 0: the prior alone draws it."""
    expression: Literal["neutral", "photo"] = "neutral"
    """Of the avatar's face: neutral, or that of the clearest photo."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    start: StartConfig = field(default_factory=StartConfig)
    seid: SeidConfig = field(default_factory=SeidConfig)
    scr: ScrConfig = field(default_factory=ScrConfig)
    turntable_frames: Annotated[int, Range(1, 100_000)] = 120
    turntable_size: Annotated[int, Range(16, 8192)] = 480

    @property
    def detects_face(self) -> bool:
        """Whether the shipped face detector runs. With insightface (sd15), only the photo's loss needs it."""
        return self.prior.path != "sd15" or self.photo_weight > 0

    def contradiction(self) -> str:
        if self.scr.guidance is not None and self.scr.guidance.negative_face:
            return "scr.guidance.negative_face must be empty: guidance.negative_face counts for both stages"
        if self.scr.render_size == 0:
            return _too_large("seid.render_size", self.scr.orbit_views, self.seid.render_size)
        return ""


def _too_large(name: str, views: int, size: int) -> str:
    """The contradiction of so many views of size x size pixels; "" if they fit in memory."""
    if views * size * size <= MOST_PIXELS:
        return ""
    largest = int((MOST_PIXELS / views) ** 0.5)
    return f"{name} must not exceed {largest} for {views} views at once, got {size}"
