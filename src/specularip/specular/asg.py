"""Explicit anisotropic spherical Gaussians: colours from the view direction alone, and how they are fitted.

    colour(ω) = base + slope·ω + Σ_k amplitude_k · max(ω·z_k, 0) · exp(−λ_k (ω·x_k)² − μ_k (ω·y_k)²)

with ω the unit direction from the surface to the camera (Xu et al., "Anisotropic Spherical Gaussians",
SIGGRAPH Asia 2013). Amplitudes may be negative.

`fit_asgs` is variable projection (Golub and Pereyra 1973; Kaufman 1975): base, slope and amplitudes enter
linearly and are solved for exactly, so that Gauss-Newton, damped as by Levenberg and Marquardt, has to find
the axes and sharpnesses alone. One Gram matrix a step holds all that is needed, of every Gaussian at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional as F

from ..gaussians import rotation_matrices, turned_to

LOBES = 4
"""K, unless another number is asked for."""
SMOOTH = 4
"""Columns that are no lobes: the base and the slope's three."""
SHARPEST, BLUNTEST = 1600.0, 0.1
"""Limits of λ and μ: a standard deviation of one degree, and next to nothing."""
STEPS, LAST_STEPS = 8, 16
"""Of Gauss-Newton after each new lobe, and after the last one went."""
START_SHARPNESS = (0.5, 2.0, 8.0, 32.0, 128.0)
"""What each lobe starts as the best of."""
RIDGE = 1e-4
"""Weight of the squares of slope and amplitudes: keeps lobes from growing large against each other."""
LONGEST_STEP = 0.5
"""In radians and in logarithms of a lobe's width."""


@dataclass(frozen=True)
class Asgs:
    """N colours as functions of the view direction, K lobes each, in the shown colour space (sRGB).

    base [N,3]; slope [N,3,3], [:, c, j] is colour c along world axis j; quats [N,K,4] wxyz, unit, turn x, y
    and z to a lobe's axes; sharpness [N,K,2], λ along x and μ along y; amplitudes [N,K,3].
    """

    base: Tensor
    slope: Tensor
    quats: Tensor
    sharpness: Tensor
    amplitudes: Tensor

    def __call__(self, view_dirs: Tensor) -> Tensor:
        """Colours [B,N,3] seen along view_dirs [B,N,3], unit, from surface to camera. Not clamped."""
        count, lobes = self.quats.shape[:2]
        axes = rotation_matrices(self.quats.reshape(-1, 4)).reshape(count, lobes, 3, 3)
        x, y, z = torch.einsum("bni,nkij->jbnk", view_dirs, axes)
        along, across = self.sharpness.unbind(-1)
        lobe = z.clamp_min(0) * torch.exp(-along * x * x - across * y * y)
        smooth = self.base + torch.einsum("bni,nci->bnc", view_dirs, self.slope)
        return smooth + torch.einsum("bnk,nkc->bnc", lobe, self.amplitudes)

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def fit_asgs(directions: Tensor, targets: Tensor, weights: Tensor, lobes: int = LOBES) -> Asgs:
    """The `Asgs` that come closest to targets [n,M,3] at unit directions [n,M,3], squares weighted by
    weights [n,M] ≥ 0. Deterministic; memory grows with n · M · lobes.

    Lobes come one by one, each where most is left to explain, and all settle after each. One more than wanted
    comes, and the least useful one goes: as good as four times the steps.
    """
    samples = _Samples.of(directions, targets, weights)
    state = samples.state(
        directions.new_zeros(len(directions), 0, 3, 3), directions.new_zeros(len(directions), 0, 3)
    )
    for _ in range(lobes + 1):
        state = _settled(samples, _with_lobe(samples, state), STEPS)
    state = _settled(samples, _without_lobe(samples, state), LAST_STEPS)
    return samples.asgs(state)


def _settled(samples: _Samples, state: _State, steps: int) -> _State:
    damping = torch.full_like(state.error, 1e-2)
    for _ in range(steps):
        trial = samples.state(*_moved(state, damping))
        better = trial.error < state.error
        damping = torch.where(better, 0.3 * damping, 4 * damping).clamp(1e-6, 1e4)
        state = _chosen(better, trial, state)
    return state


def _with_lobe(samples: _Samples, state: _State) -> _State:
    """One lobe more: where most is left, round, as wide as explains most of that."""
    columns = torch.cat([samples.rows[:, :SMOOTH], samples.lobes(state.frames, state.shapes)], 1)
    left = samples.rows[:, SMOOTH:] - state.linear.float().mT @ columns
    peak = left.square().sum(1).argmax(1)
    axis = samples.directions.gather(2, peak[:, None, None].expand(-1, 3, 1))[..., 0]
    frame = rotation_matrices(turned_to(axis)).mT[:, None]
    widths = 0.5 * left.new_tensor(START_SHARPNESS).log()
    shapes = torch.stack([widths, torch.zeros_like(widths), widths], -1).expand(len(left), -1, 3)
    tries = samples.lobes(frame.expand(-1, len(widths), 3, 3), shapes)
    gain = (tries @ left.mT).square().sum(2) / tries.square().sum(2).clamp_min(1e-12)
    shape = shapes.gather(1, gain.argmax(1)[:, None, None].expand(-1, 1, 3))
    return samples.state(torch.cat([state.frames, frame], 1), torch.cat([state.shapes, shape], 1))


def _without_lobe(samples: _Samples, state: _State) -> _State:
    """One lobe less: the one that the others miss least."""
    lobes = state.frames.shape[1]
    best: _State | None = None
    for gone in range(lobes):
        kept = [lobe for lobe in range(lobes) if lobe != gone]
        trial = samples.state(state.frames[:, kept], state.shapes[:, kept])
        best = trial if best is None else _chosen(trial.error < best.error, trial, best)
    assert best is not None
    return best


@dataclass(frozen=True)
class _State:
    """Lobes of n Gaussians, K each, and what their Gram matrix says of them, in float64.

    frames [n,K,3,3]: rows x, y, z. shapes [n,K,3]: (log a, q, log b); the exponent is −(a x + q y)² − (b y)²,
    which has no special direction where a lobe is round. These are a lobe's five numbers: turns of z towards
    x and y, and the shape.
    error [n]: weighted squares that are left (with the ridge). linear [n,4+K,3]: the best base, slope and
    amplitudes. hessian [n,5K,5K] and descent [n,5K]: of the five numbers each, less what a change of the
    linear part would make up for.
    """

    frames: Tensor
    shapes: Tensor
    error: Tensor
    linear: Tensor
    hessian: Tensor
    descent: Tensor


@dataclass(frozen=True)
class _Samples:
    """What to fit. directions [n,3,M]; rows [n,7,M]: the smooth columns and the targets less their mean, all
    times roots [n,M], the roots of the weights; mean [n,3]."""

    directions: Tensor
    rows: Tensor
    roots: Tensor
    mean: Tensor

    @staticmethod
    def of(directions: Tensor, targets: Tensor, weights: Tensor) -> _Samples:
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-30)
        mean = (weights[..., None] * targets).sum(1)
        roots = weights.sqrt()
        smooth = torch.cat([torch.ones_like(directions[..., :1]), directions], -1)
        rows = torch.cat([smooth, targets - mean[:, None]], -1).mT * roots[:, None]
        return _Samples(directions.mT.contiguous(), rows, roots, mean)

    def lobes(self, frames: Tensor, shapes: Tensor) -> Tensor:
        """Values [n,K,M] of the lobes, times the roots."""
        x, y, z = self._local(frames)
        a, q, b = shapes[..., None].unbind(2)
        u, v = a.exp() * x + q * y, b.exp() * y
        return z.clamp_min(0) * torch.exp(-u * u - v * v) * self.roots[:, None]

    def _local(self, frames: Tensor) -> tuple[Tensor, ...]:
        """The directions in each lobe's frame: x, y, z, [n,K,M] each."""
        return (frames.flatten(1, 2) @ self.directions).unflatten(1, (frames.shape[1], 3)).unbind(2)

    def state(self, frames: Tensor, shapes: Tensor) -> _State:
        count, lobes = frames.shape[:2]
        linear, turning = SMOOTH + lobes, 5 * lobes
        columns = self.rows.new_empty(count, linear + turning + 3, self.roots.shape[1])
        columns[:, :SMOOTH], columns[:, -3:] = self.rows[:, :SMOOTH], self.rows[:, SMOOTH:]
        self._write_lobes(
            frames, shapes, columns[:, SMOOTH:linear], columns[:, linear:-3].unflatten(1, (lobes, 5))
        )
        gram = (columns @ columns.mT).double()
        own, cross, target = gram[:, :linear].split([linear, turning, 3], 2)
        ridge = torch.full((linear,), RIDGE, dtype=own.dtype, device=own.device)
        ridge[0] = 1e-3 * RIDGE
        solved = torch.linalg.solve_ex(own + torch.diag(ridge), torch.cat([target, cross], 2))[0]
        best, made_up_for = solved.split([3, turning], 2)
        error = gram[:, -3:, -3:].diagonal(dim1=1, dim2=2).sum(1) - (best * target).sum((1, 2))
        amplitudes = best[:, SMOOTH:].repeat_interleave(5, 1)  # [n,5K,3]
        descent = ((gram[:, linear:-3, -3:] - cross.mT @ best) * amplitudes).sum(2)
        hessian = (gram[:, linear:-3, linear:-3] - cross.mT @ made_up_for) * (amplitudes @ amplitudes.mT)
        error = error.nan_to_num(torch.inf, torch.inf, torch.inf)
        return _State(frames, shapes, error, best, hessian, descent)

    def _write_lobes(self, frames: Tensor, shapes: Tensor, lobes: Tensor, slopes: Tensor) -> None:
        """Write values into lobes [n,K,M] and derivatives by the five numbers into slopes [n,K,5,M], both
        times the roots."""
        x, y, z = self._local(frames)
        a, q, b = shapes[..., None].unbind(2)
        a, b = a.exp(), b.exp()
        u, v = a * x + q * y, b * y
        bell = torch.exp(-u * u - v * v).mul_(z > 0).mul_(self.roots[:, None])
        torch.mul(bell, z, out=lobes)
        minus_u, minus_v = -2 * lobes * u, -2 * lobes * v
        torch.addcmul(bell * x, a * z, minus_u, value=-1, out=slopes[:, :, 0])
        torch.addcmul(bell * y, z, q * minus_u + b * minus_v, value=-1, out=slopes[:, :, 1])
        torch.mul(minus_u, a * x, out=slopes[:, :, 2])
        torch.mul(minus_u, y, out=slopes[:, :, 3])
        torch.mul(minus_v, v, out=slopes[:, :, 4])

    def asgs(self, state: _State) -> Asgs:
        quats, sharpness = _as_numbers(state.frames, state.shapes)
        linear = state.linear.to(self.mean)
        return Asgs(
            base=self.mean + linear[:, 0],
            slope=linear[:, 1:SMOOTH].mT.contiguous(),
            quats=quats,
            sharpness=sharpness,
            amplitudes=linear[:, SMOOTH:].contiguous(),
        )


def _moved(state: _State, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Frames and shapes after one damped step of Gauss and Newton."""
    diagonal = state.hessian.diagonal(dim1=1, dim2=2)
    damp = damping[:, None] * (diagonal.clamp_min(0) + 1e-3 * diagonal.amax(1, keepdim=True)) + 1e-12
    step = torch.linalg.solve_ex(state.hessian + torch.diag_embed(damp), state.descent)[0]
    step = step.nan_to_num(0, 0, 0).clamp(-LONGEST_STEP, LONGEST_STEP).to(state.shapes)
    step = step.unflatten(1, (*state.shapes.shape[1:2], 5))
    x, y, z = state.frames.unbind(2)
    z = F.normalize(z + step[..., 0:1] * x + step[..., 1:2] * y, dim=-1)
    x = F.normalize(x - (x * z).sum(-1, keepdim=True) * z, dim=-1)
    low, high = BLUNTEST**0.5, SHARPEST**0.5
    log_a, q, log_b = (state.shapes + step[..., 2:]).unbind(-1)
    log_a, log_b = (log.clamp(math.log(low), math.log(high)) for log in (log_a, log_b))
    frames = torch.stack([x, torch.linalg.cross(z, x), z], 2)
    return frames, torch.stack([log_a, q.clamp(-high, high), log_b], -1)


def _chosen(chosen: Tensor, a: _State, b: _State) -> _State:
    """a or b, Gaussian by Gaussian."""
    pairs = ((getattr(a, field.name), getattr(b, field.name)) for field in fields(_State))
    return _State(*(torch.where(chosen.view(-1, *(1,) * (x.ndim - 1)), x, y) for x, y in pairs))


def _as_numbers(frames: Tensor, shapes: Tensor) -> tuple[Tensor, Tensor]:
    """Quaternions [n,K,4] and sharpnesses [n,K,2], λ ≥ μ: the principal axes of the exponent's matrix
    [[a², aq], [aq, q² + b²]]."""
    log_a, q, log_b = shapes.unbind(-1)
    a, b = log_a.exp(), log_b.exp()
    xx, xy, yy = a * a, a * q, q * q + b * b
    angle = 0.5 * torch.atan2(2 * xy, xx - yy)
    reach = torch.hypot(0.5 * (xx - yy), xy)
    middle = 0.5 * (xx + yy)
    # λμ is the determinant; as middle - reach, μ would lose its digits.
    sharpness = torch.stack([middle + reach, (a * b).square() / (middle + reach)], -1)
    x, y, z = frames.unbind(2)
    along = angle.cos()[..., None] * x + angle.sin()[..., None] * y
    quats = turned_to(z.flatten(0, 1), along.flatten(0, 1))
    return quats.reshape(*z.shape[:2], 4), sharpness
