"""The specular head: the light that all Gaussians share, and the material that each one's latent says.

`prepare` runs once per step and knows no camera: it reads the light and, where asked for, lets *mutual
attention* between the diffuse colour and the material change the latents. `shade` runs per view and is one
formula (see `shading`), by a fused kernel: nothing is left to a network there, so that a few views are enough
and a shader can repeat it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specularip.gaussians import Gaussians
from specularip.specular.attention import MutualAttention
from specularip.specular.dispatch import shade_fused
from specularip.specular.shading import LATENTS, REFLECTANCE, harmonics

PACE = 3.0
"""Logarithms of widths and colours are parameters times PACE: with the learning rate that turns an axis by
half a degree a step, a lobe gets twenty times as bright within a hundred."""
WIDTH = 0.64
"""Widths of all lobes at the start, added up: K even ones just overlap, as seen in a surface of ROUGHNESS."""
AMBIENT_PACE = 2.5
"""The ambient is parameters times this times the radiance of the start: a dim one changes slowly."""
AMBIENT_SHARE = 0.25
"""The ambient's radiance at the start, relative to the lobes'."""


@dataclass(frozen=True)
class SpecularConfig:
    """Sizes of the head's tensors, and where its light starts."""

    lights: int = 64
    """K, lobes of the light."""
    attention: bool = False
    """Mutual attention between the diffuse colour and the latent."""
    token: int = 8
    """Width of the attention's tokens."""
    radiance: float = 0.4
    """Of the light at the start, the same from everywhere; the latents' zeros reflect 8 % of it head on."""

    def __post_init__(self) -> None:
        if not all(1 <= size <= 1024 for size in (self.lights, self.token)):
            raise ValueError(f"lights and token must be 1 to 1024, got {self.lights} and {self.token}")
        if not 0 < self.radiance < math.inf:
            raise ValueError(f"radiance must be above 0, got {self.radiance}")


@dataclass(frozen=True)
class Lobes:
    """What `prepare` knows of N Gaussians and K lobes of the light before any camera; the inputs of
    `specular_reference` by their names there."""

    latents: Tensor
    diffuse: Tensor
    light_axes: Tensor
    light_widths: Tensor
    light_colors: Tensor
    ambient: Tensor

    @property
    def reflectance(self) -> Tensor:
        """Share of the light that is mirrored head on, [N,3] in 0..1."""
        return torch.sigmoid(self.latents[:, 3:6] + math.log(REFLECTANCE / (1 - REFLECTANCE)))


class SpecularHead(nn.Module):
    """Latents to highlights; one head, and so one light, for all Gaussians of an avatar.

    The light starts white and equally bright from everywhere. One learning rate suits all parameters, about
    1e-2 under Adam. The same `seed` gives the same head; the global random state is not touched.
    """

    def __init__(self, config: SpecularConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config = config or SpecularConfig()
        lights = config.lights
        color = math.log(config.radiance * 4 * math.pi / lights)
        ambient = torch.zeros(9, 3)
        ambient[0] = AMBIENT_SHARE / AMBIENT_PACE / harmonics(torch.zeros(3))[0]
        self.axes = nn.Parameter(fibonacci_directions(lights))
        self.raw_widths = nn.Parameter(torch.full((lights,), math.log(WIDTH / lights) / PACE))
        self.raw_colors = nn.Parameter(torch.full((lights, 3), color / PACE))
        self.raw_ambient = nn.Parameter(ambient)
        self.attention = None
        if config.attention:
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(seed)
                self.attention = MutualAttention(config.token)

    def prepare(self, latents: Tensor, diffuse: Tensor) -> Lobes:
        """All that depends on no view. latents [N,34], see `shading.LATENTS`; diffuse [N,3] in 0..1."""
        if latents.ndim != 2 or latents.shape[1] != LATENTS:
            raise ValueError(f"latents must be [N,{LATENTS}], got {list(latents.shape)}")
        if diffuse.shape != (len(latents), 3):
            raise ValueError(f"diffuse must be [{len(latents)},3], got {list(diffuse.shape)}")
        if self.attention is not None:
            latents = latents + self.attention(latents, diffuse)
        return Lobes(
            latents=latents,
            diffuse=diffuse,
            light_axes=F.normalize(self.axes, dim=-1),
            light_widths=(PACE * self.raw_widths).exp(),
            light_colors=(PACE * self.raw_colors).exp(),
            ambient=AMBIENT_PACE * self.config.radiance * self.raw_ambient,
        )

    def forward(
        self,
        latents: Tensor,
        diffuse: Tensor,
        normals: Tensor,
        means: Tensor,
        centres: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """`prepare` and `shade` in one."""
        return self.shade(self.prepare(latents, diffuse), normals, means, centres, visible)

    def shade(
        self, lobes: Lobes, normals: Tensor, means: Tensor, centres: Tensor, visible: Tensor | None = None
    ) -> Tensor:
        """What the highlight adds to the diffuse colour, [B,N,3]; the residual makes it negative at times.

        normals [N,3]: unit, either side. means [N,3], centres [B,3]: positions of Gaussians and cameras.
        visible [B,N] bool: where False, the colour is not wanted and comes out as 0. Gradients reach all but
        the positions.
        """
        return shade_fused(
            lobes.latents,
            lobes.diffuse,
            normals,
            means,
            centres,
            lobes.light_axes,
            lobes.light_widths,
            lobes.light_colors,
            lobes.ambient,
            visible,
        )


def fibonacci_directions(count: int) -> Tensor:
    """`count` unit directions [K,3] that cover the sphere evenly: the spherical Fibonacci spiral about the
    world's vertical. Deterministic."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    index = torch.arange(count, dtype=torch.float64)
    height = 1 - (2 * index + 1) / count
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1).float()


def shading_normals(gaussians: Gaussians) -> Tensor:
    """Unit normals [N,3] in the world: each Gaussian's shortest axis plus its learned residual. Either side:
    one normal line for all cameras, turned to each by who needs it (`facing`)."""
    shortest = gaussians.log_scales.argmin(-1)
    axis = gaussians.rotations.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    return F.normalize(axis + gaussians.normal_residuals, dim=-1)


def facing(normals: Tensor, view_dirs: Tensor) -> Tensor:
    """normals [...,3] turned to the side of the camera. view_dirs [...,3]: ω_o, from surface to camera."""
    return torch.where((normals * view_dirs).sum(-1, keepdim=True) < 0, -normals, normals)
