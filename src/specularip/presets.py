"""Every knob, as typed dataclasses, and the presets built from them.

Defaults are the compact preset's: 64x64 pixels of a small prior, minutes on two cores. `sd15` has the
published configuration of the method; where a number there is in the method's own units of length, in which
the body is PUBLISHED_HEIGHT high, it is in body heights here.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal

from specularip.diffusion.loading.sources import Sd15Sources
from specularip.diffusion.settings import GuidanceConfig
from specularip.errors import UserError

Preset = Literal["compact", "sd15"]
PUBLISHED_HEIGHT = 1.5
"""The method's cameras look at the head at 0.65, which is 0.435 body heights above the middle."""


@dataclass(frozen=True)
class PriorConfig:
    """Which diffusion prior to load and how to run it."""

    path: str = "compact"
    """A folder in diffusers' layout; "compact" for the prior that ships with the package; "sd15" for the
    full-size one, whose parts come from `sources`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where the processor multiplies it natively, float16 on CUDA, else float32."""
    fast: bool = True
    """On CUDA: fused kernels and recorded graphs, which change no result, for priors of Stable Diffusion 1's
    shape."""
    sources: Sd15Sources = field(default_factory=Sd15Sources)
    """Where the networks of "sd15" come from."""
    faces: str = "~/.insightface/models/buffalo_l"
    """Folder of insightface's models, for priors whose identity is its embedding."""


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


NEGATIVE = (
    "cloned face, multi face, bad face, poorly drawn face, duplicate face, cropped, out of frame, "
    "extra fingers, deformed, blurry, bad proportions, disfigured, fused fingers, long neck"
)
NEGATIVE_REFINE = (
    "blurry face, bad face, poorly drawn face, duplicate face, extra fingers, blurry, fused fingers"
)


def sd15() -> Config:
    """The method's published configuration, at full size."""
    guidance = GuidanceConfig(
        kind="anpg",
        scale=7.5,
        negative=NEGATIVE,
        rescale=0.0,
        identity_weight=0.5,
        identity_hidden=0.0,
        identity_structure=0.4,
        guide_identity=True,
        pixel_clip=1.0,
    )
    steps = 2400
    seid = SeidConfig(
        steps=steps,
        points=100_000,
        max_points=150_000,
        lights=64,
        render_size=1024,
        views_per_step=4,
        orbit=OrbitConfig(),
        top_timestep=800,
        bottom_timestep=0,
        timestep_windows=(
            TimestepWindow(700 / steps, 500, 800),
            TimestepWindow(900 / steps, 400),
            TimestepWindow(1400 / steps, 150),
            TimestepWindow(1.0, 20),
        ),
        timestep_slack=50,
        densify_from=200 / steps,
        densify_until=1700 / steps,
        densify_every=500,
        prune_until=1900 / steps,
        prune_every=300,
        grad_threshold=2e-4,
        grow_share=1.0,
        split_scale=0.04,
        min_opacity=0.05,
        max_scale=0.015,
        rates=RateConfig(
            means=2e-4,
            quats=1e-3,
            log_scales=5e-3,
            opacity_logits=1e-2,
            color_logits=1.25e-2,
            latents=2.5e-3,
            normal_residuals=1e-3,
            head=3e-3,
        ),
        sds_weight=1.0,
        # Weight 1.0 on how far a Gaussian exceeds twice the size that those of the start have.
        size_weight=1.0 / 0.01,
        size_free=0.01,
        anchor_weight=0.0,
        sparsity_weight=1.0,
        opacity_weight=0.0,
        specular_weight=20.0,
    )
    scr = ScrConfig(
        orbit_views=32,
        close_ups=False,
        distance=1.5 / PUBLISHED_HEIGHT,
        fov_y_deg=70.0,
        elevation_deg=17.0,
        render_size=1024,
        refine_size=1024,
        refine_steps=8,
        ddim_steps=50,
        refine_batch=4,
        vae_batch=1,
        guidance=replace(
            guidance, kind="cfg", negative=NEGATIVE_REFINE, identity_weight=0.6, identity_structure=0.5
        ),
        crop=(60 / 1024, 890 / 1024, 220 / 1024, 800 / 1024),
        shrink=0.5,
        fit_steps=1200,
        views_per_step=4,
        perceptual="lpips",
    )
    return Config(
        preset="sd15",
        device="cuda",
        background=0.0,
        photo_weight=0.0,
        prior=PriorConfig(path="sd15"),
        guidance=guidance,
        seid=seid,
        scr=scr,
        turntable_size=720,
    )


def preset_config(name: str) -> Config:
    """The settings of a preset. Raises UserError for a name that there is none of."""
    presets = {"compact": Config, "sd15": sd15}
    if name not in presets:
        raise UserError(f"there is no preset '{name}': use {' or '.join(presets)}")
    return presets[name]()


def with_low_memory(config: Config) -> Config:
    """The same result from smaller batches: less memory, more time."""
    return replace(
        config,
        low_memory=True,
        seid=replace(config.seid, views_at_once=2),
        scr=replace(config.scr, refine_batch=2, vae_batch=1),
    )


def with_settings(config: Config, settings: Sequence[str]) -> Config:
    """`config` with settings such as "seid.steps=1200" or "prior.sources.base=/models/realistic".

    Ranges are written with commas: "seid.orbit.distance=0.8,1.1". Raises UserError for a name that there is
    none of and a value of another type.
    """
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals:
            raise UserError(f"--set {setting} has no '=': write --set seid.steps=1200")
        config = _set(config, name.split("."), text, setting)
    return config


def _set(config: Any, path: list[str], text: str, setting: str) -> Any:
    hints = typing.get_type_hints(type(config))
    if path[0] not in hints:
        raise UserError(f"--set {setting}: there is no setting '{path[0]}', only {', '.join(hints)}")
    value = getattr(config, path[0])
    if len(path) == 1:
        return replace(config, **{path[0]: _parse(text, hints[path[0]], setting)})
    if not is_dataclass(value):
        raise UserError(f"--set {setting}: '{path[0]}' has no settings of its own")
    return replace(config, **{path[0]: _set(value, path[1:], text, setting)})


def _parse(text: str, kind: Any, setting: str) -> Any:
    """`text` as a value of type `kind`."""
    origin, options = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        if text not in options:
            raise UserError(f"--set {setting}: must be {' or '.join(map(str, options))}")
        return text
    if origin in (typing.Union, types.UnionType):
        if text == "none" and type(None) in options:
            return None
        return _parse(text, next(option for option in options if option is not type(None)), setting)
    if origin is tuple and options[-1] is not ...:
        parts = text.split(",")
        if len(parts) != len(options):
            raise UserError(f"--set {setting}: must be {len(options)} numbers with commas between")
        return tuple(_parse(part, option, setting) for part, option in zip(parts, options))
    if kind is bool and text in ("true", "false"):
        return text == "true"
    if kind in (int, float, str):
        try:
            return kind(text)
        except ValueError:
            pass
    names = {int: "a whole number", float: "a number", bool: "true or false"}
    if kind not in names:
        raise UserError(f"--set {setting}: this setting cannot be given on the command line")
    raise UserError(f"--set {setting}: must be {names[kind]}")


def setting_names(config: Any, prefix: str = "") -> list[str]:
    """All names that `with_settings` knows, in order."""
    names = []
    for entry in fields(config):
        value = getattr(config, entry.name)
        if is_dataclass(value):
            names += setting_names(value, f"{prefix}{entry.name}.")
        else:
            names.append(prefix + entry.name)
    return names


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
