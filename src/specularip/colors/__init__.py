"""Explicit colours: functions of the view direction that a viewer evaluates without the specular head."""

from specularip.colors.asgs import Asgs
from specularip.colors.betas import SphericalBetas
from specularip.colors.harmonics import HarmonicColors

Colors = Asgs | HarmonicColors | SphericalBetas

__all__ = ["Asgs", "Colors", "HarmonicColors", "SphericalBetas"]
