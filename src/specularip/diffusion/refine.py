"""The first half of SCR: an orbit of renders is partially denoised, with attention shared between views.

Every render gets the *same* noise and goes through the last k of n DDIM steps. In the self-attention of the
up blocks (see `attention.shares_keys`) views share keys and values (mutual self-attention), so that a detail
invented in front, such as a belt buckle, is the same in the neighbouring views:

1. the key views front, back, left and right attend to themselves;
2. the four diagonals attend to themselves and to front or back, whichever is nearer, in one softmax;
3. every other view adds to a share of its own attention (0.55 in the method) that over its two neighbours
   among those eight, weighted by proximity.

The three groups go through each step together, so keys and values of only one step are held.

A prior whose views attend to each other anyway (`Prior.views_together`) needs none of this: its views go
through in groups from all sides, each with noise of its own, as in its training.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from specularip.diffusion.attention import KeyViews
from specularip.diffusion.conditioning import Condition
from specularip.diffusion.guidance import cfg_noise
from specularip.diffusion.prior import Prior


@dataclass(frozen=True)
class ViewPlan:
    """Which view attends to which, by index into the orbit's V views.

    keys [4]: front, back, left, right. diagonals [d]; joined [d]: the key view each attends to, 0 (front) or
    1 (back). others [m]; neighbours [m,2]: index into keys followed by diagonals; weights [m,2], each row
    sums to 1 − own_share.
    """

    keys: Tensor
    diagonals: Tensor
    joined: Tensor
    others: Tensor
    neighbours: Tensor
    weights: Tensor

    def to(self, device: torch.device) -> ViewPlan:
        return ViewPlan(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Angle between azimuths in degrees, 0..180."""
    return ((a - b + 180.0) % 360.0 - 180.0).abs()


def plan_views(azimuth_deg: Tensor, own_share: float) -> ViewPlan:
    """Assign each view of an orbit its role. azimuth_deg [V], V >= 4, all around, in any order.

    own_share: weight of a view's own attention, for views other than key views and diagonals. With fewer than
    eight views there are no diagonals. Raises ValueError for fewer than four.
    """
    azimuth = azimuth_deg.detach().float().cpu()
    count = len(azimuth)
    free = torch.ones(count, dtype=torch.bool)

    def take(angle: float) -> int:
        best = int(_distance(azimuth, torch.tensor(angle)).masked_fill(~free, 1e9).argmin())
        free[best] = False
        return best

    if count < 4:
        raise ValueError(f"azimuth_deg must hold at least 4 views, got {count}")
    keys = torch.tensor([take(angle) for angle in (0.0, 180.0, 90.0, -90.0)])
    corners = (45.0, -45.0, 135.0, -135.0) if count >= 8 else ()
    diagonals = torch.tensor([take(angle) for angle in corners], dtype=torch.long)
    joined = (_distance(azimuth[diagonals], torch.tensor(0.0)) > 90).long()
    others = torch.nonzero(free)[:, 0]
    stored = azimuth[torch.cat([keys, diagonals])]
    gap, neighbours = _distance(azimuth[others][:, None], stored).topk(2, dim=1, largest=False)
    # Linear interpolation between the two neighbours.
    near = gap.flip(1) / gap.sum(1, keepdim=True).clamp(min=1e-6)
    near = torch.where(gap.sum(1, keepdim=True) < 1e-6, torch.full_like(near, 0.5), near)
    return ViewPlan(keys, diagonals, joined, others, neighbours, (1 - own_share) * near)


Group = tuple[Tensor, KeyViews | None]
"""Indices of views that go through the denoiser together, and what their self-attention shares."""


def _groups_by_key(plan: ViewPlan, batch: int) -> list[Group]:
    """Key views, diagonals and others, for one step."""
    store: dict[str, tuple[Tensor, Tensor]] = {}
    groups: list[Group] = [(views, KeyViews(2, record=True, store=store)) for views in plan.keys.split(batch)]
    for views, joined in zip(plan.diagonals.split(batch), plan.joined.split(batch)):
        groups.append((views, KeyViews(2, record=True, joined=joined, store=store)))
    for rows in torch.arange(len(plan.others), device=plan.others.device).split(batch):
        blend = KeyViews(2, neighbours=plan.neighbours[rows], weights=plan.weights[rows], store=store)
        groups.append((plan.others[rows], blend))
    return groups


def _groups_by_side(count: int, together: int, device: torch.device) -> list[Group]:
    """Groups of at most `together` of an orbit's views, each from all sides."""
    groups = -(-count // together)
    return [(torch.arange(first, count, groups, device=device), None) for first in range(groups)]


@torch.no_grad()
def refine(
    prior: Prior,
    images: Tensor,
    condition: Condition,
    azimuth_deg: Tensor,
    *,
    refine_steps: int,
    ddim_steps: int,
    scale: float,
    rescale: float = 0.0,
    generator: torch.Generator | None = None,
    size: int | None = None,
    own_share: float,
    together: int = 8,
    batch: int = 8,
    vae_batch: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Refined images [V,C,S,S] in 0..1 of an orbit's renders `images` [V,C,H,H], azimuths [V] in degrees.

    Denoises over the last `refine_steps` of `ddim_steps` timesteps with guidance `scale`. size: S, the
    prior's own if None. own_share: see `plan_views`. together: how many views attend to each other, where the
    prior's do. batch: how many go through the denoiser at a time where they do not, key views first.
    vae_batch: batch size of the autoencoder, `batch` if None. Neither batch changes more than rounding.
    `progress(done, total)` is called after each step. Raises ValueError for arguments of different lengths
    and for steps out of range."""
    if len(images) != len(azimuth_deg) or len(images) != len(condition):
        raise ValueError(
            f"images, azimuth_deg and condition must have the same number of views: "
            f"{len(images)}, {len(azimuth_deg)}, {len(condition)}"
        )
    if not 1 <= refine_steps <= ddim_steps:
        raise ValueError(f"refine_steps must lie in 1..ddim_steps, got {refine_steps} of {ddim_steps}")
    device = prior.device
    plan = None if prior.views_together else plan_views(azimuth_deg, own_share).to(device)
    vae_batch = vae_batch or batch
    timesteps = prior.ddim_timesteps(ddim_steps)[-refine_steps:].tolist()
    latents = torch.cat([prior.encode_image(part.to(device), size) for part in images.split(vae_batch)])
    # The pose is the same in all steps.
    condition = replace(condition, pose=prior.encode_pose(condition.pose, latents.shape[-1]))
    noise = torch.randn((1 if plan else len(latents), *latents.shape[1:]), generator=generator).to(device)
    noisy = prior.add_noise(latents, noise, torch.tensor([timesteps[0]], device=device))

    for done, (t, previous) in enumerate(zip(timesteps, [*timesteps[1:], -1])):
        step = torch.empty_like(noisy)
        if plan is None:
            groups = _groups_by_side(len(noisy), together, device)
        else:
            groups = _groups_by_key(plan, batch)
        for views, shared in groups:
            if not len(views):
                continue  # an orbit of eight has only keys and diagonals
            at = torch.full((len(views),), t, device=device)
            guided = cfg_noise(prior, noisy[views], at, condition[views], scale, rescale, shared)
            step[views] = prior.ddim_step(noisy[views], guided, t, previous)
        noisy = step
        if progress is not None:
            progress(done + 1, refine_steps)
    return torch.cat([prior.decode(part) for part in noisy.split(vae_batch)])
