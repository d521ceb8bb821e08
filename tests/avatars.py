"""A random avatar."""

import torch

from specularip.avatar import Avatar
from specularip.gaussians import Binding, Gaussians
from specularip.specular import LATENTS, SpecularConfig, SpecularHead

COUNT = 150


def random_avatar(with_head: bool = True) -> Avatar:
    gaussians = Gaussians(
        means=torch.randn(COUNT, 3) * 0.2,
        quats=torch.randn(COUNT, 4),
        log_scales=-3 + 0.4 * torch.randn(COUNT, 3),
        opacity_logits=2 * torch.randn(COUNT),
        color_logits=torch.randn(COUNT, 3),
        latents=0.5 * torch.randn(COUNT, LATENTS),
        normal_residuals=0.2 * torch.randn(COUNT, 3),
        regions=torch.randint(0, 5, (COUNT,)),
        bind_joints=torch.randint(0, 3, (COUNT, 4)),
        bind_weights=torch.rand(COUNT, 4),
    )
    head = SpecularHead(SpecularConfig(lights=9, attention=True, radiance=1.5)) if with_head else None
    if head is not None:
        with torch.no_grad():
            head.attention.answer.weight.normal_()  # zeros would give the rest of the attention no gradient
    binding = Binding(["root", "hip", "knee"], [-1, 0, 1], torch.randn(3, 3))
    return Avatar(gaussians, head, {"prompt": "a test — ünïcode", "seed": 3}, binding)
