"""The Gaussians of the photos' face: their colours, which nothing changes afterwards."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from specularip.cameras import Cameras
from specularip.stages.guide import draw
from specularip.stages.initial_state import AvatarState
from specularip.stages.photo_face import PhotoFace
from specularip.training.step import FIXED

FRONT_DEG, FRONT_DISTANCE, FRONT_FOV_DEG, FRONT_SIZE = (-40.0, 0.0, 40.0), 0.7, 28.0, 512
"""Cameras in front of the face: azimuths, distance in metres, field of view, and side in pixels."""
RIM_FIXED = 3.0
"""How much faster than the photo the Gaussians are fixed from the rim on: half known ones would fray it."""
CORRECTIONS, STEP, IN_FRONT, GREY = 4, 0.7, 0.005, 0.6
"""How often colours are corrected, and by how much of what is missed; metres from the drawn surface within
which a Gaussian is part of it; and the background."""


@torch.no_grad()
def fix_face(state: AvatarState, face: PhotoFace) -> None:
    """Give the Gaussians on the painted head its colours, and fix them as far as the photos determine them.

    Drawn, Gaussians blur each other's colours, and the avatar's light adds to the photos' own highlights. So
    the colours are corrected by what renders from the front miss.
    """
    params = state.params
    values = face.at(params["means"].detach(), torch.cat([face.colors, face.known[:, None]], 1))
    colors, known = values.to(state.device).split([3, 1], 1)
    params["color_logits"].lerp_(torch.logit(colors, eps=0.01), known)
    state.ties[FIXED] = (RIM_FIXED * known[:, 0]).clamp(0, 1)
    middle = face.positions[face.known > 0.5].mean(0)
    cameras = Cameras.orbit(FRONT_DEG, 4.0, FRONT_DISTANCE, FRONT_FOV_DEG, FRONT_SIZE, FRONT_SIZE, middle)
    wanted, weight, _ = face.drawn(face.colors, face.known, cameras)
    wanted, weight, cameras = wanted.to(state.device), weight.to(state.device), cameras.to(state.device)
    rows = (known[:, 0] > 0.1).nonzero()[:, 0]
    at, depth = cameras.project(params["means"][rows])
    grid = (at / FRONT_SIZE * 2 - 1)[:, None]
    for _ in range(CORRECTIONS):
        raster, _ = draw(state.gaussians, state.shared, cameras, GREY, depth=True)
        missed = (wanted - raster.image.permute(0, 3, 1, 2)) * weight
        maps = torch.cat([missed, weight, raster.depth.permute(0, 3, 1, 2)], 1)
        read = F.grid_sample(maps, grid, align_corners=False)[:, :, 0]
        share = read[:, 3] * ((depth - read[:, 4]).abs() < IN_FRONT)
        step = (read[:, :3] * share[:, None]).sum(0).T / share.sum(0).clamp_min(1e-3)[:, None]
        better = params["color_logits"][rows].sigmoid() + STEP * step * share.amax(0)[:, None]
        params["color_logits"][rows] = torch.logit(better, eps=0.01)
