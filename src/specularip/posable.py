"""An avatar ready to be posed and rendered many times, as in a viewer or a video."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from specularip.avatar import Avatar, Prepared
from specularip.motion.clip import Clip
from specularip.motion.colors import posed_colors
from specularip.motion.dispatch import pose
from specularip.motion.posing import Rest
from specularip.motion.skinning import Blend, expressed, joint_transforms


class Posable:
    """All of an avatar that no pose and no camera changes, computed once. A snapshot, without gradients.

    blend: see `motion.skinning`. Raises UserError for an avatar without binding.
    """

    @torch.no_grad()
    def __init__(self, avatar: Avatar, blend: Blend = "linear") -> None:
        self.binding = avatar.skeleton()
        self.expressions = avatar.expressions
        self.blend = blend
        self.prepared = avatar.prepare()
        shading = self.prepared.shading
        latents = avatar.gaussians.latents[:, :0] if shading is None else shading.latents
        self.rest = Rest.of(avatar.gaussians, latents)

    def transforms(self, clip: Clip) -> Tensor:
        """Skin matrices [T,J,4,4] of all frames of a clip, for `posed`, on the avatar's device."""
        on = clip.on(self.binding)
        return joint_transforms(self.binding, on.rotations, on.translation).to(self.rest.means)

    def strengths(self, clip: Clip) -> Tensor | None:
        """Strengths [T,E] of the avatar's facial actions in all frames of a clip; None if it has none."""
        if self.expressions is None:
            return None
        return clip.expression_weights(self.expressions.names).to(self.rest.means)

    @torch.no_grad()
    def posed(self, transforms: Tensor, strengths: Tensor | None = None) -> Prepared:
        """One frame to render: transforms [J,4,4], and strengths [E] of the facial actions."""
        means = self.rest.means
        if strengths is not None and self.expressions is not None:
            means = expressed(means, self.expressions, strengths)
        posed = pose(self.rest, transforms, self.blend, means)
        shading, colors = self.prepared.shading, self.prepared.colors
        return replace(
            self.prepared,
            means=posed.means,
            quats=posed.quats,
            normals=posed.normals,
            shading=None if shading is None else replace(shading, latents=posed.latents),
            colors=None if colors is None else posed_colors(colors, posed.turns),
        )
