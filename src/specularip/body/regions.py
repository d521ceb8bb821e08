"""The ten parts of the body that garments, losses and checks speak of."""

from __future__ import annotations

NAMES = ("head", "neck", "torso", "upper_arm", "lower_arm", "hand", "hips", "upper_leg", "lower_leg", "foot")
"""Region k is called NAMES[k]. The hips reach from crotch to waist, the torso from there to the neck."""

HEAD, NECK, TORSO, UPPER_ARM, LOWER_ARM, HAND, HIPS, UPPER_LEG, LOWER_LEG, FOOT = range(10)
