"""Presets: named configurations of a run. Free of torch.

`compact` has the default of every setting: a small prior of 256x256 pixels, minutes on two cores. `sd15` is
the method's published configuration at full size.
"""

from __future__ import annotations

from dataclasses import replace

from specularip.diffusion.loading.settings import PriorConfig
from specularip.diffusion.settings import GuidanceConfig
from specularip.errors import UserError, quoted
from specularip.stages.settings import (
    PUBLISHED_HEIGHT,
    Config,
    OrbitConfig,
    RateConfig,
    ScrConfig,
    SeidConfig,
    TimestepWindow,
)

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
        specular_from=0.1,
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
        # Weight 1.0 on the excess over twice the initial size of Gaussians.
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
        perceptual_weight=15.0,
        rates=RateConfig(
            means=5e-5,
            quats=2.5e-4,
            log_scales=1.25e-3,
            opacity_logits=2.5e-3,
            color_logits=1.25e-2,
            latents=1.25e-3,
            normal_residuals=5e-4,
            head=1.5e-3,
        ),
        perceptual="lpips",
    )
    return Config(
        preset="sd15",
        device="cuda",
        background=0.0,
        prior=PriorConfig(path="sd15"),
        guidance=guidance,
        seid=seid,
        scr=scr,
        turntable_size=720,
    )


PRESETS = {"compact": Config, "sd15": sd15}


def preset_config(name: str) -> Config:
    """The configuration of a preset. Raises UserError for an unknown name."""
    if name not in PRESETS:
        raise UserError(f"there is no preset {quoted(name)}: use {' or '.join(PRESETS)}")
    return PRESETS[name]()


def with_low_memory(config: Config) -> Config:
    """The same result but for rounding, in smaller batches: less memory, more time."""
    return replace(
        config,
        low_memory=True,
        seid=replace(config.seid, views_at_once=2),
        scr=replace(config.scr, refine_batch=2, vae_batch=1),
    )
