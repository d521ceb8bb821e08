"""Batches of tiny runs: a random prior of 16 pixels, a few steps, seconds a job. Imports torch only where it
is used: benchmarks measure the memory of processes that must not have it."""

from __future__ import annotations

from pathlib import Path

from specularip.batch.jobs import Job

TINY_SETTINGS = (
    "photo_weight=0", "seid.steps=4", "seid.points=300", "seid.max_points=400", "seid.render_size=16",
    "seid.views_per_step=2", "scr.orbit_views=8", "scr.close_ups=false", "scr.render_size=64",
    "scr.refine_size=64", "scr.refine_steps=1", "scr.ddim_steps=25", "scr.fit_steps=3",
    "scr.views_per_step=2", "scr.perceptual_weight=0", "turntable_frames=12", "turntable_size=32",
)  # fmt: skip


def save_tiny_prior(folder: Path) -> Path:
    from tiny_prior import pixel_prior

    from specularip.diffusion.loading.folder import save_prior

    save_prior(pixel_prior(0), folder)
    return folder


def tiny_jobs(prior: Path, count: int) -> list[Job]:
    """Jobs named job-0, job-1..., which differ in their seeds."""
    from tiny_runs import FACE, TEXT

    settings = (f"prior.path={prior}", *TINY_SETTINGS)
    return [Job(f"job-{i}", TEXT, (FACE,), seed=i, force=True, settings=settings) for i in range(count)]
