"""Settings of `fit`. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Exposure = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class FitConfig:
    """Fitting an avatar to posed images. None: chosen by the device."""

    iterations: int | None = None
    """Steps, one image each; None: 7,000 on a GPU, 1,500 on the CPU."""
    points: int | None = None
    """Number of Gaussians, which stays constant. None: 100,000 on a GPU, 20,000 on the CPU."""
    lights: int = 64
    """Lobes of the lighting, shared by all Gaussians."""
    attention: bool = True
    """Mutual attention between diffuse colour and material; see docs/specular.md for its effect."""
    initial_shading_steps: int = 400
    """Steps that initialise lighting and materials from pixels, before anything is rendered; 0 for none."""
    material_tie: float = 0.1
    """Weight of the smoothness of materials over neighbouring Gaussians."""
    exposure: Exposure = "auto"
    """Whether differences of exposure and white balance between the images are compensated; auto: where the
    images differ by more than highlights explain, and initial points lie on a surface, not at random."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss; L1 has the rest."""
    body: bool = False
    """Fit the body model to the images first, so that the avatar can be animated (docs/rig.md)."""
    relocate_every: int = 100
    """Steps between relocations of useless Gaussians (`training.relocate`)."""
    relocate_until: float = 0.75
    """Fraction of the steps after which Gaussians are no longer relocated."""
