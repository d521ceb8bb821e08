"""Settings of a run of `generate`: the stages SEID and SCR, and what they share.

Defaults are the compact preset's: 64x64 pixels of a small prior, minutes on two cores. Where a number of the
method is in its own units of length, in which the body is PUBLISHED_HEIGHT high, it is in body heights here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from specularip.diffusion.loading.settings import PriorConfig
from specularip.diffusion.settings import GuidanceConfig

PUBLISHED_HEIGHT = 1.5
"""The method's cameras look at the head at 0.65, which is 0.435 body heights above the middle."""


@dataclass(frozen=True)
class RateConfig:
    """Adam's learning rates of the Gaussians' fields (means in metres) and of the specular head."""

    means: float = 8e-4
    quats: float = 4e-3
    log_scales: float = 8e-3
    opacity_logits: float = 3e-2
    color_logits: float = 4e-2
    latents: float = 8e-3
    normal_residuals: float = 3e-3
    head: float = 1e-2


@dataclass(frozen=True)
class OrbitConfig:
    """Training views all around the body, and from `close_from` on close-ups of the head, front and back.

    Lengths in body heights; ranges are (lowest, highest).
    """

    distance: tuple[float, float] = (1.3 / PUBLISHED_HEIGHT, 1.7 / PUBLISHED_HEIGHT)
    elevation_deg: tuple[float, float] = (-30.0, 30.0)
    fov_y_deg: tuple[float, float] = (40.0, 70.0)
    close_from: float = 0.5
    """Share of the steps after which there are close-ups: step 1200."""
    close_height: float = 0.65 / PUBLISHED_HEIGHT
    """Where close-ups look, above the middle of the body."""
    head_share: float = 0.25
    """Probability that all views of a step are close-ups of the face's side of the head."""
    head_distance: tuple[float, float] = (0.4 / PUBLISHED_HEIGHT, 0.6 / PUBLISHED_HEIGHT)
    back_share: float = 0.2
    """Of the other steps: probability that all views look at head and shoulders from behind."""
    back_distance: tuple[float, float] = (0.6 / PUBLISHED_HEIGHT, 0.8 / PUBLISHED_HEIGHT)


@dataclass(frozen=True)
class TimestepWindow:
    """Between which timesteps the steps up to a share of the stage are drawn; highest None: AHDS's bound."""

    until: float
    lowest: int
    highest: int | None = None


@dataclass(frozen=True)
class SeidConfig:
    """Stage 1: Specular-Enhanced Identity Distillation."""

    steps: int = 360
    points: int = 18_000
    """Gaussians sampled on the body's surface to start with."""
    max_points: int = 28_000
    lights: int = 24
    """Lobes of the light that all Gaussians share; 64x64 pixels of a prior show no more detail of it."""
    render_size: int = 128
    views_per_step: int = 6
    views_at_once: int = 0
    """How many of them go through the prior together; 0: all. Fewer take less memory and more time."""
    framing_weights: tuple[float, float, float, float] = (0.34, 0.22, 0.16, 0.28)
    """Shares of full-body, upper-body, lower-body and head views."""
    orbit: OrbitConfig | None = None
    """The method's own sampler of views, in place of framings."""
    top_timestep: int = 980
    """The bound of the first steps' timesteps; it falls to `bottom_timestep` as AHDS says."""
    bottom_timestep: int = 180
    timestep_windows: tuple[TimestepWindow, ...] = ()
    """Narrower ranges of timesteps while the stage is young. None given: a fifth to a quarter of the bound is
    the lowest."""
    timestep_slack: int = 0
    """How far timesteps may exceed AHDS's bound within a window."""
    specular_from: float = 0.1
    """The specular branch is on from this share of the steps."""
    densify_from: float = 0.15
    densify_until: float = 0.7
    densify_every: int = 40
    prune_until: float = 0.85
    """Between densify_until and this share, only pruning."""
    prune_every: int = 40
    grad_threshold: float = 0.0
    """Mean screen gradient above which a Gaussian may multiply, see `density`, which has the next four
    too."""
    grow_share: float = 0.08
    split_scale: float = 0.012
    min_opacity: float = 0.02
    max_scale: float = 0.08
    rates: RateConfig = field(default_factory=RateConfig)
    sds_weight: float = 0.02
    """Puts the distillation loss, a sum over pixels, on the scale of the regularisers below."""
    size_weight: float = 100.0
    size_free: float = 0.012
    """Pull on the longest axis of Gaussians above size_free metres: large soft ones make fuzzy
    silhouettes."""
    anchor_weight: float = 18.0
    """Pull of each Gaussian to where it started, per squared metre: cloth may leave the skin, dust may
    not."""
    sparsity_weight: float = 0.0
    """Pull on what the views cover: the mean of sqrt(alpha^2 + 0.01)."""
    opacity_weight: float = 0.08
    """Towards fully there or not at all, over the last third."""
    specular_weight: float = 0.4
    """Highlights are few: a mild pull of the specular colours to zero."""


@dataclass(frozen=True)
class ScrConfig:
    """Stage 2: Specular-Consistency Refinement."""

    orbit_views: int = 16
    """Full-body views of the orbit."""
    close_ups: bool = True
    """Half as many more of the upper body, the legs and the head."""
    distance: float = 1.42
    """Of the full-body views, in body heights."""
    fov_y_deg: float = 45.0
    elevation_deg: float = 10.0
    render_size: int = 0
    """Side of the renders in pixels; 0: as in SEID."""
    refine_size: int = 0
    """Side of the images that are refined, in pixels; 0: the prior's own size."""
    refine_steps: int = 4
    """Denoising steps of the refinement, the last of `ddim_steps`."""
    ddim_steps: int = 25
    refine_batch: int = 8
    """Views that the denoiser sees together."""
    vae_batch: int = 8
    """The same for the autoencoder."""
    guidance: GuidanceConfig | None = None
    """Of the refinement; None: as in SEID. Always plain CFG."""
    own_share: float = 0.55
    """How much of its own attention a view between key views keeps."""
    crop: tuple[float, float, float, float] = (0.0, 1.0, 0.0, 1.0)
    """What the fit looks at: top, bottom, left and right, in shares of the image."""
    shrink: float = 1.0
    """Along each side, how much smaller than the refined images the compared ones are."""
    fit_steps: int = 160
    views_per_step: int = 4
    l1_weight: float = 10.0
    perceptual_weight: float = 15.0
    perceptual: Literal["any", "lpips"] = "any"
    """any: LPIPS where its weights are, else features of the prior's own UNet."""


@dataclass(frozen=True)
class Config:
    """One run. Build it from a preset and `dataclasses.replace`."""

    preset: str = "compact"
    seed: int = 0
    device: Literal["cpu", "cuda"] = "cpu"
    """Where everything of the run lives."""
    low_memory: bool = False
    """Whether the settings were changed to need less memory, see `with_low_memory`."""
    background: float = 0.6
    """Grey behind the avatar while it is optimised; the compact prior was trained on this grey."""
    body: str = "anny"
    """"anny", or where the user's SMPL-X is: its file or folder."""
    photo_weight: float = 1.0
    """Pull of the photo on the front of the head; 0 switches it off."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    seid: SeidConfig = field(default_factory=SeidConfig)
    scr: ScrConfig = field(default_factory=ScrConfig)
    turntable_frames: int = 120
    turntable_size: int = 480

    @property
    def looks_for_face(self) -> bool:
        """Whether the package's own face detector is asked; insightface's needs no second opinion."""
        return self.prior.path != "sd15" or self.photo_weight > 0
