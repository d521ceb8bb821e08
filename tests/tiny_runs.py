"""`generate` on a tiny configuration, and how far two avatars differ."""

from __future__ import annotations

from pathlib import Path

from specularip.avatar import Avatar
from specularip.pipeline import generate
from specularip.stages.settings import Config, RateConfig, ScrConfig, SeidConfig, StartConfig, ViewFitConfig

FACE = Path(__file__).parent.parent / "examples" / "eileen_collins.jpg"
TEXT = "A woman in a red satin dress"
SEID = SeidConfig(
    steps=10,
    points=900,
    max_points=1200,
    render_size=64,
    views_per_step=2,
    densify_every=3,
    rates=RateConfig(color_logits=0.1),  # ten steps must change something
)
TINY = Config(
    photo_weight=1.0,
    start=StartConfig(
        ddim_steps=1,
        last_timesteps=(),
        scale=1.0,
        shading_steps=4,
        fit=ViewFitConfig(steps=4, views_per_step=2),
    ),
    seid=SEID,
    scr=ScrConfig(orbit_views=8, refine_steps=1, ddim_steps=25, fit_steps=4, views_per_step=2),
    turntable_frames=90,
    turntable_size=64,
)


def make(out: Path, **options: object) -> Avatar:
    settings = {"config": TINY, **options}
    return generate(TEXT, FACE, out=out, **settings)  # type: ignore[arg-type]


def difference(a: Avatar, b: Avatar) -> float:
    """Largest absolute difference of any float tensor of two avatars."""
    assert len(a.gaussians) == len(b.gaussians), "the avatars have different numbers of Gaussians"
    assert a.head is not None and b.head is not None
    pairs = [(x, b.gaussians.tensors()[k]) for k, x in a.gaussians.tensors().items()]
    pairs += [(x, b.head.state_dict()[k]) for k, x in a.head.state_dict().items()]
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)
