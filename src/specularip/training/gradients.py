"""Screen-space gradients: the loss gradient with respect to each Gaussian's projected mean, accumulated."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from specularip.training.parallel import SINGLE_RANK, Ranks


@dataclass
class ScreenGradients:
    """Since the last change of the Gaussians: the summed length of their screen-space gradients [N] and the
    number of views that rendered them [N]."""

    grad_sum: Tensor
    views: Tensor

    @classmethod
    def zeros(cls, count: int, device: torch.device | str = "cpu") -> ScreenGradients:
        return cls(torch.zeros(count, device=device), torch.zeros(count, device=device))

    def mean(self) -> Tensor:
        """Mean length [N] over the views that rendered each Gaussian; 0 where none did."""
        return self.grad_sum / self.views.clamp_min(1)

    @torch.no_grad()
    def accumulate(
        self,
        means2d_grad: Tensor,
        radii: Tensor,
        size: tuple[int, int] | None = None,
        ranks: Ranks = SINGLE_RANK,
    ) -> None:
        """Add the gradients of one step, in place, with those of all ranks.

        means2d_grad [B,N,2]: the gradient of the loss with respect to positions in pixels, the `.grad` of
        `Raster.means2d`. radii [B,N]: 0 where a Gaussian is culled. size (width, height): lengths count
        per half image, as in 3DGS, so that render sizes compare; None: per pixel. Gradients that are not
        finite do not count. Raises ValueError for shapes that do not match.
        """
        count = len(self.grad_sum)
        if means2d_grad.ndim != 3 or means2d_grad.shape[1:] != (count, 2):
            raise ValueError(f"means2d_grad must be [B,{count},2], got {list(means2d_grad.shape)}")
        if radii.shape != means2d_grad.shape[:2]:
            raise ValueError(f"radii must be {list(means2d_grad.shape[:2])}, got {list(radii.shape)}")
        if ranks.world_size > 1:
            # A rank's loss is the mean over its own views; the step's loss is the mean over all views.
            own = ScreenGradients.zeros(count, radii.device)
            own.accumulate(means2d_grad / ranks.world_size, radii, size)
            ranks.average([own.grad_sum, own.views])
            self.grad_sum += own.grad_sum * ranks.world_size
            self.views += own.views * ranks.world_size
            return
        if size is not None:
            # Scalars, not a tensor of `size`: copying one to the GPU would synchronise.
            x, y = (part * side for part, side in zip(means2d_grad.unbind(-1), size))
            means2d_grad = torch.stack([x, y], -1) / 2
        length = means2d_grad.norm(dim=-1)
        seen = (radii > 0) & length.isfinite()
        self.grad_sum += torch.where(seen, length, 0.0).sum(0)
        self.views += seen.sum(0)
