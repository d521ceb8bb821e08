"""The training views of a SEID step."""

from __future__ import annotations

import torch
from torch import Tensor

from specularip.cameras import FULL, HEAD, UPPER, Cameras, Framing, Views, sample_views
from specularip.stages.settings import OrbitConfig, SeidConfig


def step_views(config: SeidConfig, step: int, body_height: float, generator: torch.Generator) -> Views:
    """The views of one step, on the CPU: sampled by framing, or by the published sampler if `config.orbit` is
    set."""
    if config.orbit is None:
        return sample_views(
            config.views_per_step,
            size=config.render_size,
            body_height=body_height,
            weights=config.framing_weights,
            generator=generator,
        )
    return orbit_step(config.orbit, config, step, body_height, generator)


def orbit_step(
    orbit: OrbitConfig, config: SeidConfig, step: int, body_height: float, generator: torch.Generator
) -> Views:
    """The published sampler. All views of a step show one of three things: the whole body from all sides, the
    head from its front half, or head and shoulders from behind. Azimuths are stratified."""
    count = config.views_per_step
    choice = torch.rand(2, generator=generator)
    close = step >= orbit.close_from * config.steps
    framing, distances, height = FULL, orbit.distance, 0.0
    middle, span = 0.0, 360.0
    if close and float(choice[0]) < orbit.head_share:
        framing, distances, height, span = HEAD, orbit.head_distance, orbit.close_height, 180.0
    elif close and float(choice[1]) < orbit.back_share:
        framing, distances, height = UPPER, orbit.back_distance, orbit.close_height
        middle, span = 180.0, 180.0
    unit = torch.rand(4, count, generator=generator)
    slices = torch.randperm(count, generator=generator)
    azimuth = middle + ((slices + unit[0]) / count - 0.5) * span
    azimuth = (azimuth + 180.0) % 360.0 - 180.0
    elevation, distance, fov = (
        low + (high - low) * u
        for (low, high), u in zip((orbit.elevation_deg, distances, orbit.fov_y_deg), unit[1:])
    )
    target = torch.tensor([0.0, 0.0, height * body_height])
    size = config.render_size
    cameras = Cameras.orbit(azimuth, elevation, distance * body_height, fov, size, size, target)
    return Views(cameras, azimuth, elevation, [framing] * count, target.expand(count, 3))


def select_views(views: Views, rows: Tensor) -> Views:
    """The views at the indices `rows` [n]."""
    framings = [views.framings[row] for row in rows.tolist()]
    return Views(
        views.cameras[rows], views.azimuth_deg[rows], views.elevation_deg[rows], framings, views.targets[rows]
    )


def full_body(distance: float, fov_y_deg: float) -> Framing:
    """Full-body views from another distance (in body heights) and with another field of view than `FULL`."""
    return Framing(FULL.name, FULL.target_z, distance, fov_y_deg)
