"""Settings, presets and `--set`: the published configuration, overrides, and imports without torch."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from specularip.errors import UserError
from specularip.overrides import with_settings
from specularip.presets import preset_config, sd15

TORCH_FREE = (
    "specularip.diffusion.settings",
    "specularip.diffusion.loading.settings",
    "specularip.diffusion.loading.sources",
    "specularip.fitting.settings",
    "specularip.stages.settings",
    "specularip.presets",
    "specularip.overrides",
)


def test_settings_import_without_torch() -> None:
    code = f"import sys, {', '.join(TORCH_FREE)}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_the_preset_is_the_published_configuration() -> None:
    config = preset_config("sd15")
    seid, scr, guidance = config.seid, config.scr, config.guidance
    assert (seid.steps, seid.points, seid.render_size, seid.views_per_step) == (2400, 100_000, 1024, 4)
    assert (guidance.kind, guidance.scale, guidance.pixel_clip) == ("anpg", 7.5, 1.0)
    assert (guidance.identity_weight, guidance.identity_structure) == (0.5, 0.4)
    assert (scr.orbit_views, scr.refine_steps, scr.ddim_steps, scr.own_share) == (32, 8, 50, 0.55)
    assert (scr.l1_weight, scr.perceptual_weight, scr.elevation_deg) == (10.0, 15.0, 17.0)
    changes = [
        step
        for step in range(seid.steps)
        if seid.densify_from <= step / seid.steps < seid.densify_until
        and (step + 1) % seid.densify_every == 0
    ]
    assert changes == [499, 999, 1499]
    with pytest.raises(UserError, match="compact or sd15"):
        preset_config("sd2")


def test_overrides_by_name_and_type() -> None:
    given = [
        "seid.steps=7",
        "seid.orbit.distance=0.5,0.75",
        "prior.sources.vae=/models/a=b",
        "seid.orbit.close_from=0",
    ]
    config = with_settings(sd15(), [*given, "scr.guidance.guide_identity=false"])
    assert config.seid.steps == 7 and config.seid.orbit is not None
    assert config.seid.orbit.distance == (0.5, 0.75) and config.prior.sources.vae == "/models/a=b"
    assert config.scr.guidance is not None and not config.scr.guidance.guide_identity
    assert with_settings(sd15(), ["seid.orbit=none"]).seid.orbit is None
    wrong = {
        "seid.step=7": "no setting 'step'",
        "seid.steps=7.5": "whole number",
        "seid.steps": "no '='",
        "seid.orbit.distance=1": "2 numbers",
        "guidance.kind=sds": "anpg or cfg",
        "seed.x=1": "no settings in it",
        "seid.timestep_windows=1": "cannot be given",
        "seid.rates=1": "cannot be given",
    }
    for setting, words in wrong.items():
        with pytest.raises(UserError, match=re.escape(words)):
            with_settings(sd15(), [setting])
