"""Settings of `generate`: its two stages SEID and SCR, and what they share. Free of torch.

Defaults are those of the compact preset. The method publishes lengths in its own unit, in which the body is
PUBLISHED_HEIGHT high; they are in body heights here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from specularip.diffusion.loading.settings import PriorConfig
from specularip.diffusion.settings import GuidanceConfig

PUBLISHED_HEIGHT = 1.5
"""Body height in the method's unit: its close-ups are centred 0.65 above the middle of the body, which is
0.435 body heights."""


@dataclass(frozen=True)
class RateConfig:
    """Adam's learning rates for the Gaussians' fields (means in metres) and the specular head.

    The defaults are SEID's from sampled views: at higher ones its noise blurs eyes, lips and highlights.
    """

    means: float = 5e-5
    quats: float = 5e-4
    log_scales: float = 1e-3
    opacity_logits: float = 3e-3
    color_logits: float = 4e-3
    latents: float = 1e-4
    normal_residuals: float = 5e-4
    head: float = 1e-4


@dataclass(frozen=True)
class OrbitConfig:
    """Training views all around the body, and after `close_from` also close-ups of the head, front and back.

    Lengths are in body heights; ranges are (lowest, highest).
    """

    distance: tuple[float, float] = (1.3 / PUBLISHED_HEIGHT, 1.7 / PUBLISHED_HEIGHT)
    elevation_deg: tuple[float, float] = (-30.0, 30.0)
    fov_y_deg: tuple[float, float] = (40.0, 70.0)
    close_from: float = 0.5
    """Fraction of the steps after which there are close-ups: step 1200 as published."""
    close_height: float = 0.65 / PUBLISHED_HEIGHT
    """Height of the close-ups' centre above the middle of the body."""
    head_share: float = 0.25
    """Probability that all views of a step are close-ups of the front of the head."""
    head_distance: tuple[float, float] = (0.4 / PUBLISHED_HEIGHT, 0.6 / PUBLISHED_HEIGHT)
    back_share: float = 0.2
    """For the other steps: probability that all views show head and shoulders from behind."""
    back_distance: tuple[float, float] = (0.6 / PUBLISHED_HEIGHT, 0.8 / PUBLISHED_HEIGHT)


@dataclass(frozen=True)
class TimestepWindow:
    """Range of timesteps sampled up to the fraction `until` of the steps. highest None: AHDS's bound."""

    until: float
    lowest: int
    highest: int | None = None


@dataclass(frozen=True)
class SeidConfig:
    """Stage 1: Specular-Enhanced Identity Distillation."""

    steps: int = 16
    points: int = 44_000
    """Initial Gaussians: at most so many on the surface that sampled views show, or, with a prior that shows
    no depth, so many on the body's."""
    max_points: int = 50_000
    lights: int = 24
    """Lobes of the lighting, shared by all Gaussians."""
    render_size: int = 256
    views_per_step: int = 4
    views_at_once: int = 0
    """How many of them the prior processes together; 0: all. Fewer take less memory and more time."""
    framing_weights: tuple[float, float, float, float] = (0.34, 0.22, 0.16, 0.28)
    """Probabilities of full-body, upper-body, lower-body and head views."""
    orbit: OrbitConfig | None = None
    """The method's own sampling of views, instead of framings."""
    top_timestep: int = 250
    """Initial upper bound of the timesteps, which AHDS anneals to `bottom_timestep`. Low where the stage
    starts from sampled views: more noise would replace their detail by the mean over all that it may hide."""
    bottom_timestep: int = 60
    timestep_windows: tuple[TimestepWindow, ...] = ()
    """Narrower ranges of timesteps early in the stage. Empty: the lower bound is a fifth to a quarter of the
    upper."""
    timestep_slack: int = 0
    """How far timesteps may exceed AHDS's bound within a window."""
    specular_from: float | None = None
    """Fraction of the steps after which the specular branch is switched on, with a rising gain; None: it is
    always on, as suits a start that has highlights."""
    densify_from: float = 0.1
    densify_until: float = 0.7
    densify_every: int = 10
    prune_until: float = 0.85
    """Fraction of the steps up to which Gaussians are pruned; after `densify_until` none are added."""
    prune_every: int = 10
    grad_threshold: float = 0.0
    """Mean screen-space gradient above which a Gaussian may be densified. For this and the next four
    settings see `training.densify.DensityConfig`."""
    grow_share: float = 0.08
    split_scale: float = 0.012
    min_opacity: float = 0.02
    max_scale: float = 0.08
    rates: RateConfig = field(default_factory=RateConfig)
    sds_weight: float = 0.02
    """Brings the distillation loss, a sum over pixels, to the scale of the regularisers below."""
    size_weight: float = 100.0
    size_free: float = 0.012
    """Weight on the longest axis of Gaussians in excess of `size_free` metres: large soft ones blur the
    silhouette."""
    anchor_weight: float = 18.0
    """Weight, per squared metre, of each Gaussian's distance from its initial position: allows cloth to leave
    the skin and suppresses floaters."""
    sparsity_weight: float = 0.0
    """Weight of the coverage of the views: the mean of sqrt(alpha^2 + 0.01)."""
    opacity_weight: float = 0.08
    """Weight that drives opacities to 0 or 1, over the last third of the steps."""
    specular_weight: float = 0.0
    """Weight of the specular colours' magnitude, for a start without highlights."""


@dataclass(frozen=True)
class FusionConfig:
    """How sampled views become one surface (`stages.fusion`). Lengths in metres.

    Sampled depths are smooth but off by one to three centimetres, and differently so in each view.
    """

    depth_tolerance: float = 0.012
    """Error of depths that counts as agreement, relative to the camera's distance: about 3 cm for the whole
    body, 1.5 % of the range of the depth channel."""
    least_tolerance: float = 0.02
    """The same for close-ups, where the views' disagreement about the shape dominates."""
    outline_tolerance: int = 2
    """Pixels by which a point may be outside of a silhouette: soft outlines, and disagreement of views."""
    depth_blur: int = 2
    """Radius in pixels of the smoothing of depths before normals are taken."""
    steepest: float = 4.0
    """Slope (depth per sideways step) above which two neighbouring pixels show different surfaces: a surface
    seen at 76 degrees from its normal."""
    least_cosine: float = 0.2
    """Surfaces that are seen more obliquely than this give no points."""
    confirmations_per_outside: int = 4
    """A point may be outside of one silhouette for each so many views that confirm its depth."""
    fine_voxel: float = 0.003
    """Grid that joins the pixels of all views before they are merged."""
    merge_radius: float = 0.03
    """Distance within which points are layers of one surface."""
    merge_sigma: float = 1.5
    """Standard deviation sideways of the mean that merges them, in pixels of the views that see a point."""
    neighbours: int = 32
    least_neighbours: int = 6
    """How many points the mean takes at most, and how many must face the same way; others are stray."""
    passes: int = 2
    """How often points are moved onto the mean."""


@dataclass(frozen=True)
class ViewFitConfig:
    """The fit to the sampled views (`stages.view_fit`)."""

    steps: int = 120
    views_per_step: int = 4
    color_weight: float = 10.0
    alpha_weight: float = 5.0
    depth_weight: float = 1.0
    """Weights of the mean absolute differences of the views' channels. Sampled depths are the least exact:
    they keep surfaces of one colour in place."""
    anchor_weight: float = 100.0
    """Weight, per squared metre, of each Gaussian's distance from where the fusion put it."""
    hand_stiffness: float = 30.0
    """Factor of `anchor_weight` for the hands, which start on the body's."""
    smooth_weight: float = 3000.0
    """The same for the difference of this displacement from the neighbours': the surface moves as a whole,
    and outlines do not fray."""
    size_weight: float = 100.0
    size_free: float = 0.012
    """Weight on the longest axis of Gaussians in excess of `size_free` metres."""
    needle_weight: float = 0.05
    stretch_free: float = 2.5
    """Weight on the log of the ratio of the two longer axes in excess of `stretch_free`."""
    opacity_weight: float = 0.08
    """Weight that drives opacities to 0 or 1, over the second half of the steps."""
    densify_at: tuple[float, ...] = (0.25, 0.5)
    """Fractions of the steps at which Gaussians with large screen-space gradients are split and cloned."""
    grow_share: float = 0.08
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

    ddim_steps: int = 12
    last_timesteps: tuple[int, ...] = (60, 40, 20, 8)
    """After these steps, whose last is at 82: details, without guidance."""
    scale: float = 2.5
    """Guidance of the sampling; 1 for a prior into which guidance was distilled."""
    rescale: float = 0.5
    fusion: FusionConfig = field(default_factory=FusionConfig)
    shading_steps: int = 200
    """Steps that split the colours of the views into diffuse ones, materials and a light
    (`fitting.initial_shading`), before the fit."""
    fit: ViewFitConfig = field(default_factory=ViewFitConfig)


@dataclass(frozen=True)
class ScrConfig:
    """Stage 2: Specular-Consistency Refinement."""

    orbit_views: int = 12
    """Full-body views of the orbit."""
    close_ups: bool = True
    """Adds half as many views of the upper body, the legs and the head."""
    distance: float = 1.42
    """Distance of the full-body cameras, in body heights."""
    fov_y_deg: float = 45.0
    elevation_deg: float = 10.0
    render_size: int = 0
    """Side of the renders in pixels; 0: as in SEID."""
    refine_size: int = 0
    """Side of the refined images in pixels; 0: the prior's own size."""
    refine_steps: int = 3
    """Denoising steps of the refinement: the last ones of `ddim_steps`."""
    ddim_steps: int = 25
    refine_batch: int = 8
    """Batch size of the denoiser, in views."""
    vae_batch: int = 8
    """Batch size of the autoencoder, in images."""
    guidance: GuidanceConfig | None = None
    """Guidance of the refinement; None: as in SEID. Always plain CFG."""
    own_share: float = 0.55
    """Weight of a view's own self-attention beside that to its neighbouring key views."""
    crop: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    """Region that is fitted: top, bottom, left and right, as fractions of the image."""
    shrink: float = 1.0
    """Scale of the compared images relative to the refined ones."""
    fit_steps: int = 100
    views_per_step: int = 3
    l1_weight: float = 10.0
    perceptual_weight: float = 2.0
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


@dataclass(frozen=True)
class Config:
    """Configuration of a run of `generate`. Start from a preset and use `dataclasses.replace`."""

    preset: str = "compact"
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    """Device of all computation."""
    low_memory: bool = False
    """Whether batch sizes were reduced to save memory (see `presets.with_low_memory`)."""
    background: float = 0.6
    """Grey level of the background during optimisation; the compact prior was trained on this one."""
    body: str = "anny"
    """"anny", or the file or folder of SMPL-X."""
    photo_weight: float = 1.0
    """How far the photos determine shape and colours of the face; 0: the prior alone draws it."""
    expression: Literal["neutral", "photo"] = "neutral"
    """Of the avatar's face: neutral, or that of the clearest photo."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    start: StartConfig = field(default_factory=StartConfig)
    seid: SeidConfig = field(default_factory=SeidConfig)
    scr: ScrConfig = field(default_factory=ScrConfig)
    turntable_frames: int = 120
    turntable_size: int = 480

    @property
    def detects_face(self) -> bool:
        """Whether the shipped face detector runs. With insightface (sd15), only the photo's loss needs it."""
        return self.prior.path != "sd15" or self.photo_weight > 0
