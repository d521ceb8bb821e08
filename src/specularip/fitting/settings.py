"""Settings of `fit`."""

from __future__ import annotations

from dataclasses import dataclass


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
    initial_shading_steps: int = 400
    """Steps that fit light and materials to observed colours before anything is rasterised; 0: none."""
    material_tie: float = 0.1
    """Pull of neighbouring Gaussians' materials on each other."""
    ssim_weight: float = 0.2
    """Of 1 - SSIM in the loss; L1 has the rest."""
    relocate_every: int = 100
    """Steps between two moves of useless Gaussians to where they are needed."""
    relocate_until: float = 0.75
    """Share of the steps after which all Gaussians stay."""
