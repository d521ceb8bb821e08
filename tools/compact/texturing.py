"""Textures: pyramids of levels, recolouring, and the fine patterns of cloth.

Everything here works on N samples at once, with colours in linear RGB.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

GRAINS = ("", "knit", "twill")
LUMINANCE = (0.2126, 0.7152, 0.0722)


@dataclass(frozen=True)
class Pyramid:
    """T square textures, each with all its levels in one row: texels [T,texels,C] uint8, the finest level of
    size^2 texels first, each next one with half the side, down to 1."""

    texels: Tensor
    size: int

    @staticmethod
    def build(textures: Tensor, weighted_by_alpha: bool = False) -> Pyramid:
        """From textures [T,size,size,C] uint8; with `weighted_by_alpha`, transparent texels do not bleed."""
        size = textures.shape[1]
        if size & (size - 1):
            raise ValueError(f"the side of textures must be a power of two, not {size}")
        rows = []
        for texture in textures:
            level = texture.float().movedim(-1, 0)
            levels = [texture.reshape(-1, texture.shape[-1])]
            while level.shape[-1] > 1:
                if weighted_by_alpha:
                    alpha = level[3:] + 1e-3
                    mean = F.avg_pool2d(alpha, 2)
                    level = torch.cat([F.avg_pool2d(level[:3] * alpha, 2) / mean, F.avg_pool2d(level[3:], 2)])
                else:
                    level = F.avg_pool2d(level, 2)
                levels.append(level.flatten(1).t().round().to(torch.uint8))
            rows.append(torch.cat(levels))
        empty = textures.new_zeros(0, (4 * size * size - 1) // 3, textures.shape[-1])
        return Pyramid(torch.stack(rows) if rows else empty, size)

    def sample(self, texture: Tensor, uv: Tensor, density: Tensor) -> Tensor:
        """Texels [N,C] in 0..1, bilinear, of textures [N] at uv [N,2] (v up, repeating).

        density [N]: the area of a screen sample in units of the texture's area, which chooses the level.
        """
        finest = int(math.log2(self.size))
        level = (0.5 * torch.log2((density * self.size**2).clamp_min(1e-12)) + 0.25).round()
        level = level.clamp(0, finest).long()
        side = self.size >> level
        start = texture.long() * self.texels.shape[1] + (4 * (self.size**2 - side**2)) // 3
        column, row = uv[:, 0] * side - 0.5, (1 - uv[:, 1]) * side - 0.5
        left, top = column.floor(), row.floor()
        right_share, low_share = (column - left)[:, None], (row - top)[:, None]
        left, top = left.long(), top.long()
        flat = self.texels.flatten(0, 1)
        mask = side - 1

        def texel(dx: int, dy: int) -> Tensor:
            return flat[start + ((top + dy) & mask) * side + ((left + dx) & mask)].float()

        upper = torch.lerp(texel(0, 0), texel(1, 0), right_share)
        lower = torch.lerp(texel(0, 1), texel(1, 1), right_share)
        return torch.lerp(upper, lower, low_share) / 255


def recolored(texel: Tensor, median: Tensor, target: Tensor, keep: Tensor) -> Tensor:
    """Linear colours [N,3] of texels whose median becomes `target`.

    keep [N,1]: 0 takes only the texel's brightness relative to the median's, 1 also its differences in hue.
    """
    weights = texel.new_tensor(LUMINANCE)
    ratio = ((texel @ weights) / (median @ weights).clamp_min(1e-4)).clamp(0.25, 2.2)[:, None]
    return target * torch.lerp(ratio.expand_as(texel), (texel / median.clamp_min(1e-4)).clamp_max(4), keep)


def grain(kind: Tensor, position: Tensor, uv_metres: Tensor, footprint: Tensor) -> tuple[Tensor, Tensor]:
    """The weave of cloth: factors [N] of the colour, and slopes [N,2] of its relief along u and v.

    kind [N] indexes GRAINS; position [N,3] and uv_metres [N,2] in metres; footprint [N], metres per screen
    sample. Patterns finer than the screen fade to their mean.
    """
    u, v = uv_metres.unbind(-1)
    tone, slope = torch.ones_like(u), torch.zeros_like(uv_metres)

    def fading(period: float) -> Tensor:
        return ((period / footprint - 2) / 2).clamp(0, 1)

    def wave(x: Tensor, period: float) -> Tensor:
        return torch.sin(x * (2 * math.pi / period))

    # Small irregularities of every cloth: two octaves.
    for period, strength in ((0.031, 0.020), (0.012, 0.015)):
        noise = wave(position[:, 0] + 0.4 * position[:, 2], period) * wave(
            position[:, 2] - 0.3 * position[:, 0], 1.17 * period
        ) + wave(position[:, 1] + 0.2 * position[:, 2], 0.9 * period)
        tone = tone + strength * fading(period) * noise
    knit = (kind == GRAINS.index("knit")).float()
    rib = wave(u, 0.012)
    tone = tone + knit * fading(0.012) * 0.13 * rib
    slope[:, 0] += knit * fading(0.012) * 0.35 * wave(u + 0.003, 0.012)
    slope[:, 1] += knit * fading(0.008) * 0.20 * wave(v + 0.002 * rib, 0.008)
    twill = (kind == GRAINS.index("twill")).float()
    tone = tone + twill * fading(0.005) * 0.10 * wave(u + v, 0.005)
    slope += (twill * fading(0.005) * 0.12 * wave(u + v + 0.00125, 0.005))[:, None]
    return tone, slope
