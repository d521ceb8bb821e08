"""Gaussian splatting rasteriser: one function, numba kernels on the CPU, gsplat on CUDA."""

from specularip.raster.api import rasterize, warm_up
from specularip.raster.reference import rasterize_reference
from specularip.raster.types import Raster

__all__ = ["Raster", "rasterize", "rasterize_reference", "warm_up"]
