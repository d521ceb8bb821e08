"""Every knob, as typed dataclasses, and the presets built from them.

Defaults are the compact preset's: 64x64 pixels of a small prior, minutes on two cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .errors import UserError

Guidance = Literal["anpg", "cfg"]


@dataclass(frozen=True)
class PriorConfig:
    """Which diffusion prior to load and how to run it."""

    path: str = "compact"
    """A folder in diffusers' layout, or "compact" for the prior that ships with the package."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the processor multiplies it natively, float16 on CUDA, else float32."""


@dataclass(frozen=True)
class GuidanceConfig:
    """How the denoiser's answers become one direction."""

    kind: Guidance = "cfg"
    """cfg: classifier-free guidance. anpg: annealed negative prompt guidance, three evaluations a step."""
    scale: float = 4.0
    negative: str = ""
    """What to avoid. Plain CFG pushes away from it as hard as towards the text: "blurry" over-sharpens a
    small prior, and nothing is best. ANPG wants one."""
    rescale: float = 0.5
    """Pull of the guided estimate's spread back to the unguided one's, against over-saturation (0..1)."""
    identity_weight: float = 1.0
    """Strength of the face tokens in views that see the face."""
    identity_hidden: float = 0.5
    """The same where the face is hidden: the compact prior's face tokens also carry skin and hair."""
    guide_identity: bool = False
    """Whether guidance exaggerates the face as it does the words. With a prior whose face tokens carry skin
    tones, that bleaches or darkens the skin."""
    pixel_clip: float = 1.0
    """Largest norm of the gradient of one latent pixel (pixel-wise gradient clipping)."""


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
    framing_weights: tuple[float, float, float, float] = (0.34, 0.22, 0.16, 0.28)
    """Shares of full-body, upper-body, lower-body and head views."""
    top_timestep: int = 980
    """The bound of the first steps' timesteps; it falls to `bottom_timestep` as AHDS says."""
    bottom_timestep: int = 180
    specular_from: float = 0.1
    """The specular branch is on from this share of the steps."""
    densify_from: float = 0.15
    densify_until: float = 0.7
    densify_every: int = 40
    prune_until: float = 0.85
    """Between densify_until and this share, only pruning."""


@dataclass(frozen=True)
class ScrConfig:
    """Stage 2: Specular-Consistency Refinement."""

    orbit_views: int = 16
    """Full-body views of the orbit; half as many look at the upper body, the legs and the head."""
    refine_steps: int = 4
    """Denoising steps of the refinement, the last of `ddim_steps`."""
    ddim_steps: int = 25
    elevation_deg: float = 10.0
    fit_steps: int = 160
    views_per_step: int = 4
    l1_weight: float = 10.0
    perceptual_weight: float = 15.0


@dataclass(frozen=True)
class Config:
    """One run. Build it from a preset and `dataclasses.replace`."""

    preset: str = "compact"
    seed: int = 0
    background: float = 0.6
    """Grey behind the avatar while it is optimised; the compact prior was trained on this grey."""
    photo_weight: float = 1.0
    """Pull of the photo on the front of the head; 0 switches it off."""
    prior: PriorConfig = field(default_factory=PriorConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    seid: SeidConfig = field(default_factory=SeidConfig)
    scr: ScrConfig = field(default_factory=ScrConfig)
    turntable_frames: int = 120
    turntable_size: int = 480


def preset_config(name: str) -> Config:
    """The settings of a preset. Raises UserError for a name that there is none of."""
    if name != "compact":
        raise UserError(f"there is no preset '{name}': use compact")
    return Config()


@dataclass(frozen=True)
class FitConfig:
    """`fit`: posed images to an avatar. None: what suits the device."""

    iterations: int | None = None
    """Steps, one image each; None: 7,000 on a GPU, 1,500 on the CPU."""
    points: int | None = None
    """Gaussians; their number stays. None: 100,000 on a GPU, 20,000 on the CPU."""
    lights: int = 64
    """Lobes of the light that all Gaussians share."""
    attention: bool = True
    """Mutual attention between diffuse colour and material; docs/specular.md has what it gives."""
    first_light_steps: int = 400
    """Steps on pixels alone, before anything is drawn, that find light and materials; 0 leaves them out."""
    material_tie: float = 0.1
    """Pull of neighbouring Gaussians' materials on each other."""
    ssim_weight: float = 0.2
    """Of 1 - SSIM in the loss; L1 has the rest."""
    relocate_every: int = 100
    """Steps between two moves of useless Gaussians to where they are needed."""
    relocate_until: float = 0.75
    """Share of the steps after which all Gaussians stay."""
