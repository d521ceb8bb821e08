"""The specular head: a latent per Gaussian becomes lobes, lobes seen from a camera become a highlight.

`prepare` runs once per step and knows no camera: latents become the amplitude ξ and the sharpness λ, μ of K
lobes, and *mutual attention* between the Gaussian's diffuse colour and its lobes gates the amplitudes and
tints the highlight. `shade` runs per view: ASG responses at the mirrored view direction, and a small MLP on
(responses, n·ω_o, ω_o) that turns them to RGB.

    specular = tint ⊙ (responses · C) ⊙ softplus(MLP(responses, n·ω_o, ω_o))

The factor (responses · C), with C ≥ 0 the colour of the light from each lobe, keeps the MLP honest: it can
shape and colour a highlight (Fresnel, saturation), but where no lobe answers there is none.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..gaussians import Gaussians
from .lobes import asg, fibonacci_frames, lobe_spacing

MAX_SHARPNESS = 512.0
"""Upper bound of λ and μ: a lobe about 2.5° wide (half width at 1/e)."""


@dataclass(frozen=True)
class SpecularConfig:
    """Sizes of the head's tensors."""

    lobes: int = 16
    latents: int = 8
    """F, the length of each Gaussian's latent."""
    hidden: int = 24
    """Width of the MLP."""
    token: int = 8
    """Width of the attention's tokens."""


@dataclass(frozen=True)
class Lobes:
    """What `prepare` knows of N Gaussians before any camera: frames [K,3,3] shared by all (rows x, y, z);
    lam, mu, xi [N,K]; tints [N,3] ≥ 0."""

    frames: Tensor
    lam: Tensor
    mu: Tensor
    xi: Tensor
    tints: Tensor


class SpecularHead(nn.Module):
    """Latents to highlights; one head for all Gaussians of an avatar.

    The frames start as even cover of the sphere and may turn as a whole room: `frame_quats` [K,4] is shared
    by all Gaussians, because the light is the same for every point. Latents of zero are a good start; there
    the specular colour is about 0.01. The same `seed` gives the same head; the global random state is not
    touched.
    """

    def __init__(self, config: SpecularConfig | None = None, seed: int = 0) -> None:
        super().__init__()
        self.config = config or SpecularConfig()
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            self._build(self.config)
            self._start_small()

    def _build(self, config: SpecularConfig) -> None:
        lobes, token = config.lobes, config.token
        self.register_buffer("base_frames", fibonacci_frames(lobes), persistent=False)
        self.frame_quats = nn.Parameter(torch.tensor([1.0, 0, 0, 0]).repeat(lobes, 1))
        self.to_lobes = nn.Linear(config.latents, 3 * lobes)
        self.to_tint = nn.Linear(config.latents, 3)
        # Tokens of the attention: the diffuse colour is one, each lobe is one. A lobe's token says which lobe
        # it is (embedding) and what it looks like (its three raw numbers).
        self.diffuse_token = nn.Linear(3, token)
        self.lobe_token = nn.Linear(3, token, bias=False)
        self.lobe_embedding = nn.Parameter(0.5 * torch.randn(lobes, token))
        self.qkv = nn.Linear(token, 3 * token, bias=False)
        self.to_gate = nn.Linear(token, 1)
        self.attended_tint = nn.Linear(token, 3)
        self.light_color = nn.Parameter(torch.full((lobes, 3), math.log(math.e - 1)))  # softplus gives 1
        self.mlp_in = nn.Linear(lobes, config.hidden, bias=False)
        self.mlp_view = nn.Linear(4, config.hidden)
        self.mlp_out = nn.Linear(config.hidden, 3)

    @torch.no_grad()
    def _start_small(self) -> None:
        lobes = self.config.lobes
        # Large weights on the latents: Adam moves each latent by about its learning rate, and a highlight has
        # to go from 0.01 to 1, and from as wide as the lobes' spacing to needle-sharp, within a hundred
        # steps.
        for layer in (self.to_lobes, self.to_tint):
            nn.init.normal_(layer.weight, std=2 / math.sqrt(self.config.latents))
        # Neighbouring lobes meet at half their height.
        sharpness = math.log(2) / math.sin(min(lobe_spacing(lobes) / 2, math.pi / 2)) ** 2
        ratio = min(sharpness / MAX_SHARPNESS, 0.5)
        self.to_lobes.bias[:lobes] = -2.0
        self.to_lobes.bias[lobes:] = math.log(ratio / (1 - ratio))
        self.to_tint.bias.fill_(-2.2)
        for layer in (self.to_gate, self.attended_tint, self.mlp_out):
            nn.init.normal_(layer.weight, std=0.05)
            layer.weight[:] = layer.weight[:1].clone()  # red, green and blue alike: a highlight starts white
            nn.init.zeros_(layer.bias)
        self.mlp_out.bias.fill_(math.log(math.e - 1))  # softplus gives 1: the MLP starts as no change

    @property
    def frames(self) -> Tensor:
        """The lobes' frames in the world, [K,3,3]: rows x, y, z."""
        w, *xyz = F.normalize(self.frame_quats, dim=-1).unbind(-1)
        axis = torch.stack(xyz, -1)[:, None].expand(-1, 3, -1)
        base = self.base_frames
        # Rotation of each row v by a unit quaternion: v + 2w(q×v) + 2q×(q×v).
        turned = torch.linalg.cross(axis, base)
        return base + 2 * w[:, None, None] * turned + 2 * torch.linalg.cross(axis, turned)

    def prepare(self, latents: Tensor, diffuse: Tensor) -> Lobes:
        """The lobes of N Gaussians, independent of the view. latents [N,F]; diffuse [N,3] in 0..1."""
        if latents.ndim != 2 or latents.shape[1] != self.config.latents:
            raise ValueError(f"latents must be [N,{self.config.latents}], got {list(latents.shape)}")
        if diffuse.shape != (len(latents), 3):
            raise ValueError(f"diffuse must be [{len(latents)},3], got {list(diffuse.shape)}")
        raw = self.to_lobes(latents).reshape(len(latents), 3, self.config.lobes)
        gates, attended = self._mutual_attention(raw, diffuse)
        sharpness = MAX_SHARPNESS * raw[:, 1:].sigmoid()
        return Lobes(
            frames=self.frames,
            lam=sharpness[:, 0],
            mu=sharpness[:, 1],
            xi=F.softplus(raw[:, 0]) * gates,
            tints=F.softplus(self.to_tint(latents) + self.attended_tint(attended)),
        )

    def _mutual_attention(self, raw: Tensor, diffuse: Tensor) -> tuple[Tensor, Tensor]:
        """Diffuse and specular look at each other: gates [N,K] in 0..2 and the diffuse token's answer [N,T].

        The diffuse token attends to itself and all lobes (softmax over K+1); each lobe attends to the diffuse
        token and itself (softmax over two, its own score being 0). raw [N,3,K].
        """
        token = self.diffuse_token(2 * diffuse - 1)
        query, key, value = self.qkv(token).chunk(3, -1)
        to_query, to_key, to_value = self.qkv.weight.chunk(3)
        scale = 1 / math.sqrt(self.config.token)
        # A lobe's token A·r + E is linear in its three numbers r, so products with it need no [N,K,T] tensor.
        A, E = self.lobe_token.weight, self.lobe_embedding

        def times_lobes(vectors: Tensor) -> Tensor:
            """vectors [N,T] or [T] · every lobe token, [N,K]."""
            parts = (vectors @ A)[..., None]
            return (parts * raw).sum(-2) + vectors @ E.T

        own = (query * key).sum(-1, keepdim=True)
        weights = torch.softmax(scale * torch.cat([own, times_lobes(query @ to_key)], -1), -1)
        weight_own, weight_lobes = weights[:, :1], weights[:, 1:]
        seen = (raw * weight_lobes[:, None]).sum(-1) @ A.T + weight_lobes @ E
        answer = token + weight_own * value + seen @ to_value.T

        to_diffuse = torch.sigmoid(scale * times_lobes(key @ to_query))
        gate = self.to_gate.weight[0]
        own_value = times_lobes(gate @ to_value)
        gates = times_lobes(gate) + torch.lerp(
            own_value, (value @ gate)[:, None].expand_as(own_value), to_diffuse
        )
        return 2 * torch.sigmoid(gates + self.to_gate.bias), answer

    def shade(self, lobes: Lobes, normals: Tensor, view_dirs: Tensor) -> Tensor:
        """Specular colour [B,N,3] ≥ 0.

        normals [B,N,3] (or [N,3]): unit, either side. view_dirs [B,N,3]: unit ω_o, surface to camera.
        """
        cosine = (normals * view_dirs).sum(-1, keepdim=True)
        mirrored = 2 * cosine * normals - view_dirs  # `reflect`, with the cosine kept
        responses = asg(mirrored, lobes.frames, lobes.lam, lobes.mu, lobes.xi)
        view = torch.cat([cosine.abs(), view_dirs], -1)
        modulation = self.mlp_out(F.relu(self.mlp_in(responses) + self.mlp_view(view)))
        return lobes.tints * (responses @ F.softplus(self.light_color)) * F.softplus(modulation)


def shading_normals(gaussians: Gaussians, view_dirs: Tensor) -> Tensor:
    """Unit normals [B,N,3] in the world: each Gaussian's shortest axis plus its learned residual, on the side
    of the camera. view_dirs [B,N,3]: ω_o, from the Gaussian to the camera.

    The residual is added before the turn, so that a Gaussian has one normal line for all cameras; the turn
    then changes neither the mirrored direction nor |n·ω_o|, and shading is smooth across it.
    """
    shortest = gaussians.log_scales.argmin(-1)
    axis = gaussians.rotations.gather(2, shortest[:, None, None].expand(-1, 3, 1))[..., 0]
    normals = F.normalize(axis + gaussians.normal_residuals, dim=-1)
    facing = (normals * view_dirs).sum(-1, keepdim=True)
    return torch.where(facing < 0, -normals, normals)
