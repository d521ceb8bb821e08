"""The ten body regions."""

from __future__ import annotations

NAMES = ("head", "neck", "torso", "upper_arm", "lower_arm", "hand", "hips", "upper_leg", "lower_leg", "foot")
"""NAMES[k] is the name of region k. Hips: from crotch to waist; torso: from there to the neck."""

HEAD, NECK, TORSO, UPPER_ARM, LOWER_ARM, HAND, HIPS, UPPER_LEG, LOWER_LEG, FOOT = range(10)
