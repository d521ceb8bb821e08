"""Data types of `ops`: features with their channel sums, and group norms.

Features are [B,H,W,C], contiguous: the layout that tensor cores read.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Part:
    """A range of channels of `ops.join`: x + other + bias.

    x and other [b,H,W,C]: image i of the result reads i mod b; bias [C].
    """

    x: Tensor
    other: Tensor | None = None
    bias: Tensor | None = None


@dataclass(frozen=True)
class Features:
    """x [B,H,W,C] and, if known, `sums` [B,chunks,2,C] float32: sums of its values and of their squares."""

    x: Tensor
    sums: Tensor | None = None


@dataclass(frozen=True)
class Norm:
    """A group norm with its statistics: y = x·scale + offset; (x − centre)·rate before weight and bias.

    values [4,B,C] float32: scale, offset, centre and rate (1 / standard deviation) of each channel; [4,1,C]
    serves all images. The centre is the group's mean less the channel's shift. weight [C].
    """

    values: Tensor
    weight: Tensor
    groups: int
