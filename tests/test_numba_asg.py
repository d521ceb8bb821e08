"""The fused fit of ASGs against the greedy fit in float64 tensors."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from specularip.baking.asg import fit_asgs
from specularip.baking.numba_asg import fit_asgs_numba
from specularip.colors import Asgs

Samples = tuple[Tensor, Tensor, Tensor, Tensor]


def problem(
    count: int, directions: int, lobes: int, seed: int, brightness: float = 0.1
) -> tuple[Asgs, Samples]:
    """Random ASGs of a lobe more than will be fitted, and their samples."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    truth = Asgs(
        quats=F.normalize(normal(count, 4), dim=-1),
        smooth=torch.tensor([[0.5]] + 9 * [[0.0]]) + 0.05 * normal(count, 10, 3),
        lights=F.normalize(torch.tensor([0.0, 0.0, 1.0]) + 0.5 * normal(count, lobes + 1, 3), dim=-1),
        shapes=torch.tensor([4.0, 0.0, 4.0]) + normal(count, lobes + 1, 3),
        amplitudes=brightness * normal(count, lobes + 1, 3),
    )
    views = F.normalize(normal(directions, count, 3), dim=-1)
    weights = torch.rand(count, directions, generator=generator)
    return truth, (views.transpose(0, 1), truth(views).transpose(0, 1), weights, truth.quats)


def errors(asgs: Asgs, samples: Samples) -> Tensor:
    """Weighted root mean square error of each Gaussian, [n]."""
    directions, targets, weights, _ = samples
    missing = asgs(directions.transpose(0, 1)).transpose(0, 1) - targets
    return ((missing.square().mean(2) * weights).sum(1) / weights.sum(1)).sqrt()


@pytest.mark.parametrize(
    ("lobes", "directions", "brightness"), [(1, 200, 0.1), (2, 333, 0.1), (4, 320, 0.1), (2, 256, 1.0)]
)
def test_it_fits_as_the_tensors_in_float64_do(seed, lobes, directions, brightness):
    """The last case has values above 1, the second a number of samples that fills no whole vectors."""
    _, samples = problem(48, directions, lobes, seed, brightness)
    if brightness == 1.0:
        assert float((samples[1] > 1.01).float().mean()) > 0.02
    fused = fit_asgs_numba(*samples, lobes=lobes)
    wide = tuple(tensor.double() for tensor in samples)
    tensors = fit_asgs(*wide, lobes=lobes)  # type: ignore[arg-type]
    ratio = errors(fused, samples) / errors(tensors, wide).float()
    # Rounding sometimes decides which lobe is dropped, and then the two end in different minima.
    assert float((ratio.log().abs() < 0.01).float().mean()) > 0.6, ratio
    assert 0.9 < float(ratio.log().mean().exp()) < 1.1, ratio
    same = ratio.log().abs() < 1e-3
    turned = fused.lights.double()[same] @ tensors.lights[same].mT  # lobes may come in another order
    assert float(turned.amax(2).median()) > 0.9999


def test_one_lobe_is_found_exactly(seed):
    truth, samples = problem(32, 400, 0, seed)
    found = fit_asgs_numba(*samples, lobes=1)
    close = errors(found, samples) < 1e-4
    assert float(close.float().mean()) > 0.9
    assert float((found.lights * truth.lights).sum(-1)[close].min()) > 0.999
    assert float((found.amplitudes - truth.amplitudes).abs()[close].median()) < 1e-3


def test_samples_of_no_weight_do_not_matter(seed):
    _, (directions, targets, weights, quats) = problem(16, 300, 2, seed)
    kept = torch.arange(300) < 208  # whole vectors, so that sums are the same
    weights = weights * kept
    noise = torch.where(kept[:, None], targets, targets.flip(0))
    clean = (directions[:, kept], targets[:, kept], weights[:, kept], quats)
    fitted = fit_asgs_numba(directions, noise, weights, quats, lobes=2)
    assert float((errors(fitted, clean) / errors(fit_asgs_numba(*clean, lobes=2), clean)).median()) < 1.02


@pytest.mark.parametrize("factor", [0.0, 1e3, float("nan")])
def test_it_stays_finite(factor):
    _, (directions, targets, weights, quats) = problem(8, 200, 4, 1)
    for bright in (targets * factor, torch.full_like(targets, 0.7)):
        found = fit_asgs_numba(directions, bright.nan_to_num(0.3), weights, quats)
        assert all(bool(tensor.isfinite().all()) for tensor in found.tensors().values())
    assert torch.allclose(found(directions.transpose(0, 1)), torch.tensor(0.7), atol=1e-4)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    _, samples = problem(100, 200, 4, 2)
    found = []
    for threads in ("1", "3"):
        monkeypatch.setenv("SPECULARIP_NUM_THREADS", threads)
        found.append(fit_asgs_numba(*samples))
    pairs = zip(found[0].tensors().values(), found[1].tensors().values())
    assert all(torch.equal(one, other) for one, other in pairs)


def test_the_order_of_the_gaussians_does_not_matter():
    _, samples = problem(40, 200, 4, 3)
    back = fit_asgs_numba(*(tensor.flip(0) for tensor in samples))
    here = fit_asgs_numba(*samples)
    pairs = zip(here.tensors().values(), back.tensors().values())
    assert all(torch.equal(one, other.flip(0)) for one, other in pairs)
