"""The fit of ASGs (see `colors.asgs`) to colours in sampled directions.

`fit_asgs` uses variable projection (Golub and Pereyra 1973; Kaufman 1975): the smooth part and the amplitudes
are linear and solved for, so that Levenberg-Marquardt only has to optimise lights and shapes. Each step needs
one Gram matrix per Gaussian, for all Gaussians at once. The shoulder is linearised: where values exceed 1 is
taken from the previous step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.colors.asgs import NEAREST, SMOOTH, Asgs, shown, smooth_basis
from specularip.gaussians import rotation_matrices, turned_to

LOBES = 4
"""The default of K."""
SHARPEST, BLUNTEST = 80.0, 0.3
"""Limits of a and b: from a standard deviation of one degree of view direction to a nearly constant lobe."""
STEPS, TRIAL_STEPS, LAST_STEPS = 3, 2, 16
"""Gauss-Newton steps after each new lobe, per trial of leaving out a lobe, and at the end."""
START_SHARPNESS = (2.0, 8.0, 32.0, 128.0, 512.0)
"""Candidates for the initial a² = b² of a new lobe."""
RIDGE = 3e-5
"""Ridge weight on all linear coefficients but the constant: keeps lobes from growing large with opposite
signs."""
LONGEST_STEP = 0.5
"""Limit of a step, in radians and in the log of a lobe's width."""


def fit_asgs(directions: Tensor, targets: Tensor, weights: Tensor, quats: Tensor, lobes: int = LOBES) -> Asgs:
    """The `Asgs` that fit targets [n,M,3] at unit directions [n,M,3] best, in least squares with weights
    [n,M] ≥ 0.
    quats [n,4]: the Gaussians' frames. Deterministic; memory grows with n · M · lobes.

    Greedy: lobes are added one by one where the residual is largest, and all are refined after each. One lobe
    too many is added; then the one is removed whose absence, after refinement, costs least.
    """
    samples = _Samples.of(directions @ rotation_matrices(quats), targets, weights)
    no_lobes = directions.new_zeros(len(directions), 0, 3)
    ones = torch.ones_like(samples.roots)
    state = samples.state(no_lobes[..., None].expand(-1, -1, -1, 3), no_lobes, samples.targets, ones)
    for _ in range(lobes + 1):
        state = _refined(samples, _with_lobe(samples, state), STEPS)
    state = _refined(samples, _without_lobe(samples, state), LAST_STEPS)
    linear = state.linear.to(targets)
    log_a, q, log_b = state.shapes.unbind(-1)
    return Asgs(
        quats=quats,
        smooth=linear[:, :SMOOTH].contiguous(),
        lights=state.frames[:, :, 2].contiguous(),
        shapes=torch.stack([log_a.exp(), q, log_b.exp()], -1),
        amplitudes=linear[:, SMOOTH:].contiguous(),
    )


def _refined(samples: _Samples, state: _State, steps: int) -> _State:
    """After `steps` of Levenberg-Marquardt; steps that raise a Gaussian's error are rejected."""
    damping = torch.full_like(state.error, 1e-2)
    for _ in range(steps):
        trial = samples.state(*_moved(state, damping), state.aim, state.steep)
        better = trial.error < state.error
        damping = torch.where(better, 0.3 * damping, 4 * damping).clamp(1e-6, 1e4)
        state = _chosen(better, trial, state)
    return state


def _with_lobe(samples: _Samples, state: _State) -> _State:
    """With one lobe more: isotropic, mirrored at the largest residual, of the candidate width that reduces it
    most."""
    peak = state.left.square().sum(1).argmax(1)
    seen = samples.directions.gather(2, peak[:, None, None].expand(-1, 3, 1))[..., 0]
    light = seen * seen.new_tensor([-1.0, -1.0, 1.0])
    frame = rotation_matrices(turned_to(light)).mT[:, None]
    widths = 0.5 * seen.new_tensor(START_SHARPNESS).log()
    shapes = torch.stack([widths, torch.zeros_like(widths), widths], -1).expand(len(seen), -1, 3)
    tries = seen.new_empty(*shapes.shape[:2], samples.roots.shape[1])
    samples.write_lobes(frame.expand(-1, len(widths), 3, 3), shapes, samples.roots, tries)
    gain = (tries @ state.left.mT).square().sum(2) / tries.square().sum(2).clamp_min(1e-12)
    shape = shapes.gather(1, gain.argmax(1)[:, None, None].expand(-1, 1, 3))
    frames, shapes = torch.cat([state.frames, frame], 1), torch.cat([state.shapes, shape], 1)
    return samples.state(frames, shapes, state.aim, state.steep)


def _without_lobe(samples: _Samples, state: _State) -> _State:
    """With one lobe less: the one whose removal costs least."""
    lobes = state.frames.shape[1]
    best: _State | None = None
    for gone in range(lobes):
        kept = [lobe for lobe in range(lobes) if lobe != gone]
        trial = samples.state(state.frames[:, kept], state.shapes[:, kept], state.aim, state.steep)
        trial = _refined(samples, trial, TRIAL_STEPS)
        best = trial if best is None else _chosen(trial.error < best.error, trial, best)
    assert best is not None
    return best


@dataclass(frozen=True)
class _State:
    """Lobes of n Gaussians, K each, and the quantities derived from them; solved quantities are float64.

    frames [n,K,3,3]: rows are two tangent directions of the light and the light. shapes [n,K,3]: (log a, q,
    log b). A lobe's five parameters are rotations of the light in the two tangent directions and these three.
    error [n]: weighted squared error, with the ridge. linear [n,10+K,3]: the best smooth part and amplitudes.
    left [n,3,M]: residual, times the shoulder's slope and the square roots of the weights. aim [n,3,M] and
    steep [n,M]: linearisation of the shoulder for the next step, as target values and slope. hessian
    [n,5K,5K] and descent [n,5K]: Gauss-Newton matrix and negative gradient of the five parameters of each
    lobe, with the linear part eliminated.
    """

    frames: Tensor
    shapes: Tensor
    error: Tensor
    linear: Tensor
    left: Tensor
    aim: Tensor
    steep: Tensor
    hessian: Tensor
    descent: Tensor


@dataclass(frozen=True)
class _Samples:
    """The data to fit. directions [n,3,M], in the Gaussians' frames; smooth [n,10,M], the smooth basis;
    targets [n,3,M]; roots [n,M] > 0, square roots of the weights."""

    directions: Tensor
    smooth: Tensor
    targets: Tensor
    roots: Tensor

    @staticmethod
    def of(directions: Tensor, targets: Tensor, weights: Tensor) -> _Samples:
        roots = (weights / weights.sum(1, keepdim=True).clamp_min(1e-30) + 1e-12).sqrt()
        wide, smooth = directions.mT.contiguous(), smooth_basis(directions).mT.contiguous()
        return _Samples(wide, smooth, targets.mT.contiguous(), roots)

    def state(self, frames: Tensor, shapes: Tensor, aim: Tensor, steep: Tensor) -> _State:
        count, lobes = frames.shape[:2]
        linear, turning = SMOOTH + lobes, 5 * lobes
        columns = self.roots.new_empty(count, linear + turning + 3, self.roots.shape[1])
        roots = self.roots * steep
        torch.mul(self.smooth, roots[:, None], out=columns[:, :SMOOTH])
        torch.mul(aim, roots[:, None], out=columns[:, -3:])
        slopes = columns[:, linear:-3]
        self.write_lobes(frames, shapes, roots, columns[:, SMOOTH:linear], slopes.unflatten(1, (lobes, 5)))
        gram = (columns @ columns.mT).double()
        own, cross, target = gram[:, :linear].split([linear, turning, 3], 2)
        ridge = torch.full((linear,), RIDGE, dtype=own.dtype, device=own.device)
        ridge[0] = 1e-3 * RIDGE
        solved = torch.linalg.solve_ex(own + torch.diag(ridge), torch.cat([target, cross], 2))[0]
        best, eliminated = solved.split([3, turning], 2)
        value = best.to(columns).mT @ columns[:, :linear] / roots[:, None]
        display, tone = shown(value)
        missing = self.targets - display
        error = (self.roots[:, None] * missing).double().square().sum((1, 2))
        error = error + (ridge[:, None] * best.square()).sum((1, 2))
        # One Gram matrix serves all three channels: it uses the steepest slope, and flatter channels a nearer
        # aim.
        steepest = tone.amax(1)
        aim = value + missing * (tone / steepest.square()[:, None])
        left = self.roots[:, None] * tone * missing
        amplitudes = best[:, SMOOTH:].repeat_interleave(5, 1)  # [n,5K,3]
        descent = ((slopes @ (left / steep[:, None]).mT).double() * amplitudes).sum(2)
        hessian = (gram[:, linear:-3, linear:-3] - cross.mT @ eliminated) * (amplitudes @ amplitudes.mT)
        error = error.nan_to_num(torch.inf, torch.inf, torch.inf)
        return _State(frames, shapes, error, best, left, aim, steepest, hessian, descent)

    def write_lobes(
        self, frames: Tensor, shapes: Tensor, roots: Tensor, lobes: Tensor, slopes: Tensor | None = None
    ) -> None:
        """Write values into lobes [n,K,M] and derivatives by the five parameters into slopes [n,K,5,M], both
        times roots [n,M]."""
        # Components of the directions along the light and its two tangent directions.
        turns = (frames.flatten(1, 2) @ self.directions).unflatten(1, (frames.shape[1], 3))
        light = frames[:, :, 2, :, None]
        near = 0.5 + 0.5 * turns[:, :, 2]
        far = near > NEAREST
        inverse = near.clamp_min_(NEAREST).reciprocal_()
        root = inverse.sqrt()
        x, y = (0.5 * root * (self.directions[:, None, axis] + light[:, :, axis]) for axis in (0, 1))
        a, q, b = shapes[..., None].unbind(2)
        a, b = a.exp(), b.exp()
        u, v = a * x + q * y, b * y
        square = u * u + v * v
        bell = torch.exp(-square).mul_(inverse).mul_(roots[:, None])
        torch.mul(bell, self.directions[:, None, 2] * light[:, :, 2] > 0, out=lobes)
        if slopes is None:
            return
        minus_u, minus_v = -2 * lobes * u, -2 * lobes * v
        narrowing = square.sub_(1).mul_(lobes).mul_(inverse).mul_(0.5 * far)  # as m·m grows with the rotation
        root_u, root_v = 0.5 * root * minus_u, 0.5 * root * minus_v
        for turn in (0, 1):
            along, across = frames[:, :, turn, 0, None], frames[:, :, turn, 1, None]
            moved = (a * along + q * across) * root_u + b * across * root_v
            torch.addcmul(moved, narrowing, turns[:, :, turn], out=slopes[:, :, turn])
        torch.mul(minus_u, a * x, out=slopes[:, :, 2])
        torch.mul(minus_u, y, out=slopes[:, :, 3])
        torch.mul(minus_v, v, out=slopes[:, :, 4])


def _moved(state: _State, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Frames and shapes after one damped Gauss-Newton step."""
    diagonal = state.hessian.diagonal(dim1=1, dim2=2)
    damp = damping[:, None] * (diagonal.clamp_min(0) + 1e-3 * diagonal.amax(1, keepdim=True)) + 1e-12
    step = torch.linalg.solve_ex(state.hessian + torch.diag_embed(damp), state.descent)[0]
    step = step.nan_to_num(0, 0, 0).clamp(-LONGEST_STEP, LONGEST_STEP).to(state.shapes)
    step = step.unflatten(1, (*state.shapes.shape[1:2], 5))
    x, y, z = state.frames.unbind(2)
    z = F.normalize(z + step[..., 0:1] * x + step[..., 1:2] * y, dim=-1)
    x = F.normalize(x - (x * z).sum(-1, keepdim=True) * z, dim=-1)
    log_a, q, log_b = (state.shapes + step[..., 2:]).unbind(-1)
    log_a, log_b = (log.clamp(math.log(BLUNTEST), math.log(SHARPEST)) for log in (log_a, log_b))
    frames = torch.stack([x, torch.linalg.cross(z, x), z], 2)
    return frames, torch.stack([log_a, q.clamp(-SHARPEST, SHARPEST), log_b], -1)


def _chosen(chosen: Tensor, a: _State, b: _State) -> _State:
    """a where `chosen` [n] is True, else b, per Gaussian."""
    pairs = ((getattr(a, field.name), getattr(b, field.name)) for field in fields(_State))
    return _State(*(torch.where(chosen.view(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in pairs))
