"""Settings of `fit`. Free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from specularip.bounds import Count, Range, Share, Weight

Exposure = Literal["auto", "on", "off"]


@dataclass(frozen=True)
class FitConfig:
    """Fitting an avatar to posed images. None: chosen by the device."""

    iterations: Annotated[int, Range(1, 10_000_000)] | None = None
    """Steps, one image each; None: 7,000 on a GPU, 1,500 on the CPU."""
    points: Annotated[int, Range(100, 10_000_000)] | None = None
    """Number of Gaussians, which stays constant. None: 100,000 on a GPU, 20,000 on the CPU."""
    lights: Annotated[int, Range(1, 1024)] = 64
    """Lobes of the lighting, shared by all Gaussians."""
    attention: bool = True
    """Mutual attention between diffuse colour and material; see docs/specular.md for its effect."""
    initial_shading_steps: Annotated[int, Range(0, 1_000_000)] = 400
    """Steps that initialise lighting and materials from pixels, before anything is rendered; 0 for none."""
    material_tie: Weight = 0.1
    """Weight of the smoothness of materials over neighbouring Gaussians."""
    exposure: Exposure = "auto"
    """Whether differences of exposure and white balance between the images are compensated; auto: where the
    images differ by more than highlights explain, and initial points lie on a surface, not at random."""
    ssim_weight: Share = 0.2
    """Weight of 1 - SSIM in the loss; L1 has the rest."""
    body: bool = False
    """Fit the body model to the images first, so that the avatar can be animated (docs/rig.md)."""
    relocate_every: Count = 100
    """Steps between relocations of useless Gaussians (`training.relocate`)."""
    relocate_until: Share = 0.75
    """Fraction of the steps after which Gaussians are no longer relocated."""
