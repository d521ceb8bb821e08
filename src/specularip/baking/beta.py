"""The fit of Spherical Betas (see `colors.betas`) to colours in sampled directions.

As in `asg`, the linear part is solved for, and Levenberg-Marquardt moves only what is not linear: two angles
and the exponent of each lobe. Base and amplitudes cannot be negative, so they come from coordinate descent on
the normal equations (Franc, Hlaváč and Navara 2005), for all Gaussians at once.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors.betas import SphericalBetas, lobes_of
from specularip.colors.harmonics import SH_0
from specularip.gaussians import rotation_matrices, turned_to

LOBES = 4
"""The default of K."""
BLUNTEST, SHARPEST = -2.0, 4.5
"""Limits of β. At the upper one a lobe has half its height 3.6° from its middle."""
START = (0.0, 1.0, 2.0, 3.0, 4.0)
"""Candidates for β of a new lobe."""
STEPS, LAST_STEPS, SWEEPS = 4, 10, 10
"""Steps after each new lobe and at the end, and passes of coordinate descent in each."""
RIDGE = 1e-5
LONGEST_STEP = 0.5
"""Limit of a step, in radians and in β."""


def fit_betas(directions: Tensor, targets: Tensor, weights: Tensor, lobes: int = LOBES) -> SphericalBetas:
    """The `SphericalBetas` with a constant base that fit targets [n,M,3] at unit directions [n,M,3], from
    surface to camera, in least squares with weights [n,M] ≥ 0. Deterministic.

    Greedy: lobes are added one by one where most light is missing, and all are refined after each.
    """
    roots = (weights / weights.sum(1, keepdim=True).clamp_min(1e-30) + 1e-12).sqrt()
    samples = _Samples(directions, targets, roots)
    state = samples.state(
        directions.new_zeros(len(directions), 0, 3), directions.new_zeros(len(directions), 0)
    )
    for _ in range(lobes):
        state = _refined(samples, _with_lobe(samples, state), STEPS)
    state = _refined(samples, state, LAST_STEPS)
    base, amplitudes = state.linear.to(targets).split([1, lobes], 1)
    return SphericalBetas((base - 0.5) / SH_0, lobes_of(amplitudes, -state.axes, state.betas))


@dataclass(frozen=True)
class _State:
    """axes [n,K,3], towards the camera, and betas [n,K] of the lobes. linear [n,1+K,3]: base and amplitudes.
    error [n]. left [n,M,3]: residual times the roots of the weights. hessian [n,3K,3K] and descent [n,3K]:
    Gauss-Newton matrix and negative gradient for rotations about two tangents and β of each lobe."""

    axes: Tensor
    betas: Tensor
    linear: Tensor
    error: Tensor
    left: Tensor
    hessian: Tensor
    descent: Tensor


@dataclass(frozen=True)
class _Samples:
    """The data to fit, as in `fit_betas`; roots [n,M]: square roots of the weights."""

    directions: Tensor
    targets: Tensor
    roots: Tensor

    def state(self, axes: Tensor, betas: Tensor) -> _State:
        lobes = axes.shape[1]
        values, slopes = self.lobes(axes, betas)
        columns = torch.cat([self.roots[..., None], values, slopes, self.roots[..., None] * self.targets], 2)
        gram = (columns.mT @ columns).double()
        own, cross, aim = gram[:, : 1 + lobes].split([1 + lobes, 3 * lobes, 3], 2)
        own = own + RIDGE * torch.eye(1 + lobes, dtype=own.dtype, device=own.device)
        linear = _nonnegative(own, aim)
        left = self.roots[..., None] * self.targets - columns[..., : 1 + lobes] @ linear.to(columns)
        error = left.double().square().sum((1, 2)) + RIDGE * linear.square().sum((1, 2))
        amplitudes = linear[:, 1:].repeat_interleave(3, 1)
        descent = ((slopes.mT @ left).double() * amplitudes).sum(2)
        eliminated = torch.linalg.solve_ex(own, cross)[0]
        inner = gram[:, 1 + lobes : -3, 1 + lobes : -3] - cross.mT @ eliminated
        hessian = inner * (amplitudes @ amplitudes.mT)
        return _State(axes, betas, linear, error.nan_to_num(torch.inf), left, hessian, descent)

    def lobes(self, axes: Tensor, betas: Tensor) -> tuple[Tensor, Tensor]:
        """Values [n,M,K] and slopes [n,M,3K] of lobes, times the roots of the weights."""
        exponents = 4 * betas.exp()[:, None]
        cosines = self.directions @ axes.mT
        logs = cosines.clamp_min(1e-6).log()
        values = self.roots[..., None] * torch.where(cosines > 0, (exponents * logs).exp(), 0)
        steep = values * exponents / cosines.clamp_min(1e-6)
        first, second = (self.directions @ tangent.mT for tangent in _tangents(axes))
        slopes = torch.stack([steep * first, steep * second, values * exponents * logs], -1)
        return values, slopes.flatten(2)


def _refined(samples: _Samples, state: _State, steps: int) -> _State:
    """After `steps` of Levenberg-Marquardt; steps that raise a Gaussian's error are rejected."""
    damping = torch.full_like(state.error, 1e-2)
    for _ in range(steps):
        trial = samples.state(*_moved(state, damping))
        better = trial.error < state.error
        damping = torch.where(better, 0.3 * damping, 4 * damping).clamp(1e-6, 1e4)
        state = _chosen(better, trial, state)
    return state


def _moved(state: _State, damping: Tensor) -> tuple[Tensor, Tensor]:
    diagonal = state.hessian.diagonal(dim1=1, dim2=2)
    held = damping[:, None] * diagonal + 1e-9
    step = torch.linalg.solve_ex(state.hessian + torch.diag_embed(held), state.descent[..., None])[0]
    step = step[..., 0].nan_to_num(0, 0, 0).clamp(-LONGEST_STEP, LONGEST_STEP).to(state.axes)
    first, second, wider = step.unflatten(1, (-1, 3)).unbind(-1)
    one, other = _tangents(state.axes)
    axes = F.normalize(state.axes + first[..., None] * one + second[..., None] * other, dim=-1)
    return axes, (state.betas + wider).clamp(BLUNTEST, SHARPEST)


def _tangents(axes: Tensor) -> tuple[Tensor, Tensor]:
    """Two unit vectors [n,K,3] perpendicular to axes [n,K,3] and to each other."""
    frames = rotation_matrices(turned_to(axes.flatten(0, 1))).unflatten(0, axes.shape[:2])
    return frames[..., 0], frames[..., 1]


def _with_lobe(samples: _Samples, state: _State) -> _State:
    """With one lobe more where most light is missing, of the candidate width that explains most of it."""
    peak = state.left.clamp_min(0).square().sum(2).argmax(1)
    axis = samples.directions.gather(1, peak[:, None, None].expand(-1, 1, 3))
    betas = axis.new_tensor(START).expand(len(axis), -1)
    tries, _ = samples.lobes(axis.expand(-1, len(START), 3), betas)
    gain = (tries.mT @ state.left).clamp_min(0).square().sum(2) / tries.square().sum(1).clamp_min(1e-12)
    beta = betas.gather(1, gain.argmax(1, keepdim=True))
    return samples.state(torch.cat([state.axes, axis], 1), torch.cat([state.betas, beta], 1))


def _chosen(better: Tensor, one: _State, other: _State) -> _State:
    def pick(first: Tensor, second: Tensor) -> Tensor:
        return torch.where(better.reshape(-1, *[1] * (first.ndim - 1)), first, second)

    return _State(**{f.name: pick(getattr(one, f.name), getattr(other, f.name)) for f in fields(_State)})


def _nonnegative(gram: Tensor, aim: Tensor) -> Tensor:
    """The x [n,K,C] ≥ 0 that minimise x·Gx/2 − x·b for G [n,K,K], positive definite, and b [n,K,C]."""
    found = torch.linalg.solve_ex(gram, aim)[0].nan_to_num(0, 0, 0).clamp_min(0)
    for _ in range(SWEEPS):
        for k in range(gram.shape[1]):
            slope = (gram[:, k, :, None] * found).sum(1) - aim[:, k]
            found[:, k] = (found[:, k] - slope / gram[:, k, k, None]).clamp_min(0)
    return found
