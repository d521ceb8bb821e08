"""SpecularIP: a sentence and a photo in, a full-body 3D Gaussian avatar with specular highlights out.

The public names load on first use, so that `import specularip` and the command line's help stay instant.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from specularip.version import __version__

if TYPE_CHECKING:
    from specularip.avatar import Avatar as Avatar
    from specularip.avatar import Frame as Frame
    from specularip.avatar import bake as bake
    from specularip.avatar import load as load
    from specularip.cameras import Cameras as Cameras
    from specularip.errors import UserError as UserError
    from specularip.fitting.fit import fit as fit
    from specularip.fitting.settings import FitConfig as FitConfig
    from specularip.pipeline import generate as generate
    from specularip.raster import Raster as Raster
    from specularip.raster import rasterize as rasterize
    from specularip.stages.settings import Config as Config


_HOMES = {
    "Avatar": "specularip.avatar",
    "Cameras": "specularip.cameras",
    "Config": "specularip.stages.settings",
    "FitConfig": "specularip.fitting.settings",
    "Frame": "specularip.avatar",
    "Raster": "specularip.raster",
    "UserError": "specularip.errors",
    "bake": "specularip.avatar",
    "fit": "specularip.fitting.fit",
    "generate": "specularip.pipeline",
    "load": "specularip.avatar",
    "rasterize": "specularip.raster",
}

__all__ = [
    "Avatar",
    "Cameras",
    "Config",
    "FitConfig",
    "Frame",
    "Raster",
    "UserError",
    "__version__",
    "bake",
    "fit",
    "generate",
    "load",
    "rasterize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'specularip' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next access does not come through here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
