"""The specular head: the light that all Gaussians share, and the material that each latent encodes.

`prepare` runs once per step and needs no camera: it activates the light's parameters and, if configured,
applies *mutual attention* between the diffuse colour and the material to the latents. `shade` runs per view.
It is one formula (see `shading`) in a fused kernel, without a network, so that few training views suffice and
a shader can evaluate it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from specularip.gaussians import Gaussians
from specularip.specular.dispatch import shade_fused
from specularip.specular.mutual_attention import MutualAttention
from specularip.specular.shading import LATENTS, REFLECTANCE, Light, Surface, harmonics

PACE = 3.0
"""Log widths and log colours are parameters times PACE. So one learning rate suits all parameters: where it
turns an axis by half a degree a step, a lobe can become twenty times as bright in a hundred steps."""
WIDTH = 0.64
"""Sum of all initial lobe widths: K evenly spaced lobes just overlap, as mirrored by a surface of
ROUGHNESS."""
AMBIENT_PACE = 2.5
"""The ambient is parameters times this times the initial radiance, so that a dim one changes slowly."""
AMBIENT_SHARE = 0.25
"""Initial radiance of the ambient, relative to the lobes'."""


@dataclass(frozen=True)
class SpecularConfig:
    """Sizes of the head's tensors, and the initial light."""

    lights: int = 64
    """K, the number of lobes of the light."""
    attention: bool = False
    """Mutual attention between the diffuse colour and the latent."""
    token: int = 8
    """Width of the attention's tokens."""
    radiance: float = 0.4
    """Initial radiance, the same from all directions; zero latents reflect 8 % of it at normal incidence."""

    def __post_init__(self) -> None:
        if not all(1 <= size <= 1024 for size in (self.lights, self.token)):
            raise ValueError(f"lights and token must be 1 to 1024, got {self.lights} and {self.token}")
        if not 0 < self.radiance < math.inf:
            raise ValueError(f"radiance must be above 0, got {self.radiance}")


@dataclass(frozen=True)
class PreparedShading:
    """The inputs of shading that depend on no camera: latents [N,34] after mutual attention, diffuse [N,3],
    and the light."""

    latents: Tensor
    diffuse: Tensor
    light: Light

    @property
    def reflectance(self) -> Tensor:
        """Specular reflectance at normal incidence, [N,3] in 0..1."""
        return torch.sigmoid(self.latents[:, 3:6] + math.log(REFLECTANCE / (1 - REFLECTANCE)))


class SpecularHead(nn.Module):
    """Maps latents to specular colour; one head, and so one light, for all Gaussians of an avatar.

    The light starts white and uniform. One learning rate suits all parameters, about 1e-2 with Adam. The same
    `seed` gives the same head; the global random state is not touched.
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

    def prepare(self, latents: Tensor, diffuse: Tensor) -> PreparedShading:
        """Everything independent of the view. latents [N,34], see `shading.LATENTS`; diffuse [N,3] in 0..1.

        Raises ValueError for other shapes.
        """
        if latents.ndim != 2 or latents.shape[1] != LATENTS:
            raise ValueError(f"latents must be [N,{LATENTS}], got {list(latents.shape)}")
        if diffuse.shape != (len(latents), 3):
            raise ValueError(f"diffuse must be [{len(latents)},3], got {list(diffuse.shape)}")
        if self.attention is not None:
            latents = latents + self.attention(latents, diffuse)
        light = Light(
            axes=F.normalize(self.axes, dim=-1),
            widths=(PACE * self.raw_widths).exp(),
            colors=(PACE * self.raw_colors).exp(),
            ambient=AMBIENT_PACE * self.config.radiance * self.raw_ambient,
        )
        return PreparedShading(latents, diffuse, light)

    def without_attention(self) -> SpecularHead:
        """A head with the same light, for latents that `prepare` has already changed."""
        head = SpecularHead(replace(self.config, attention=False)).to(self.axes.device)
        head.load_state_dict({name: self.state_dict()[name] for name in head.state_dict()})
        return head

    def forward(
        self,
        latents: Tensor,
        diffuse: Tensor,
        normals: Tensor,
        means: Tensor,
        centres: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """`prepare` followed by `shade`."""
        return self.shade(self.prepare(latents, diffuse), normals, means, centres, visible)

    def shade(
        self,
        prepared: PreparedShading,
        normals: Tensor,
        means: Tensor,
        centres: Tensor,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The specular colour, which is added to the diffuse one, [B,N,3]; the residual can make it negative.

        normals [N,3]: unit, of either orientation. means [N,3], centres [B,3]: positions of Gaussians and
        cameras. visible [B,N] bool: where False, the colour is not computed but 0. Gradients reach all but
        the positions.
        """
        surface = Surface(prepared.latents, prepared.diffuse, normals, means)
        return shade_fused(surface, prepared.light, centres, visible)


def fibonacci_directions(count: int) -> Tensor:
    """`count` unit directions [K,3], evenly spread over the sphere: the spherical Fibonacci spiral about the
    world's vertical. Deterministic."""
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    index = torch.arange(count, dtype=torch.float64)
    height = 1 - (2 * index + 1) / count
    angle = index * math.pi * (3 - math.sqrt(5))
    radius = (1 - height.square()).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], -1).float()


def shading_normals(gaussians: Gaussians) -> Tensor:
    """Unit normals [N,3] in world space: each Gaussian's shortest axis plus its learned residual. Their
    orientation is arbitrary; `facing` flips them towards a camera."""
    shortest = gaussians.log_scales.argmin(-1)
    axis = gaussians.rotations.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    return F.normalize(axis + gaussians.normal_residuals, dim=-1)


def facing(normals: Tensor, view_dirs: Tensor) -> Tensor:
    """normals [...,3], flipped towards the camera. view_dirs [...,3]: ω_o, from surface to camera."""
    return torch.where((normals * view_dirs).sum(-1, keepdim=True) < 0, -normals, normals)
