"""The specular branch: a light shared by all Gaussians, a material per Gaussian, the shading formula."""

from specularip.specular.culling import in_view
from specularip.specular.dispatch import warm_up
from specularip.specular.head import (
    PreparedShading,
    SpecularConfig,
    SpecularHead,
    facing,
    fibonacci_directions,
    shading_normals,
)
from specularip.specular.shading import LATENTS, Light, Surface, specular_reference

__all__ = [
    "LATENTS",
    "Light",
    "PreparedShading",
    "SpecularConfig",
    "SpecularHead",
    "Surface",
    "facing",
    "fibonacci_directions",
    "in_view",
    "shading_normals",
    "specular_reference",
    "warm_up",
]
