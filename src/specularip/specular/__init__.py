"""The specular branch: one light for all, a material for each Gaussian, and the formula where they meet."""

from specularip.specular.culling import in_view
from specularip.specular.dispatch import warm_up
from specularip.specular.head import (
    Lobes,
    SpecularConfig,
    SpecularHead,
    facing,
    fibonacci_directions,
    shading_normals,
)
from specularip.specular.shading import LATENTS, specular_reference

__all__ = [
    "LATENTS",
    "Lobes",
    "SpecularConfig",
    "SpecularHead",
    "facing",
    "fibonacci_directions",
    "in_view",
    "shading_normals",
    "specular_reference",
    "warm_up",
]
