"""The body prior: the body in A-pose that Gaussians are initialised on, and its skeleton for pose control."""

from specularip.body.anny import PHENOTYPE_NAMES, AnnyModel, anny_body
from specularip.body.mesh import Body, HeadEllipsoid, SurfaceSamples
from specularip.body.phenotype import Phenotype, phenotype_from_text
from specularip.body.skeleton import draw_skeleton
from specularip.body.smplx import smplx_body

__all__ = [
    "PHENOTYPE_NAMES",
    "AnnyModel",
    "Body",
    "HeadEllipsoid",
    "Phenotype",
    "SurfaceSamples",
    "anny_body",
    "draw_skeleton",
    "phenotype_from_text",
    "smplx_body",
]
