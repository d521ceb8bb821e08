"""Spherical Betas: their formula, their fit to the head, and what files keep of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from avatars import random_avatar
from torch.nn import functional as F

from specularip.avatar import Avatar, load
from specularip.baking.bake import harmonics_of
from specularip.baking.beta import _nonnegative, fit_betas
from specularip.colors import HarmonicColors, SphericalBetas
from specularip.colors.betas import DIMMEST, angles_of, lobes_of
from specularip.errors import UserError
from specularip.gaussians import rotation_matrices
from specularip.metrics import agreement
from specularip.motion.colors import posed_colors
from specularip.specular.head import fibonacci_directions

SH_0 = 0.28209479177387814


def random_betas(count: int, lobes: int = 2, width: int = 1) -> SphericalBetas:
    directions = F.normalize(torch.randn(count, lobes, 3), dim=-1)
    betas = torch.empty(count, lobes).uniform_(-1, 3)
    amplitudes = torch.empty(count, lobes, 3).uniform_(0.05, 0.8)
    coefficients = 0.1 * torch.randn(count, width, 3)
    return SphericalBetas(coefficients, lobes_of(amplitudes, directions, betas))


def test_formula_one_number_at_a_time(seed):
    colors = random_betas(5)
    view = F.normalize(torch.randn(3, 5, 3), dim=-1)
    found = colors(view)
    for camera in range(3):
        for n in range(5):
            to_gaussian = [-float(x) for x in view[camera, n]]
            for channel in range(3):
                value = max(SH_0 * float(colors.coefficients[n, 0, channel]) + 0.5, 0)
                for *rgb, theta, phi, beta in colors.lobes[n].double().tolist():
                    axis = (math.sin(theta) * math.cos(phi), math.sin(theta) * math.sin(phi), math.cos(theta))
                    cosine = max(sum(a * b for a, b in zip(axis, to_gaussian)), 0)
                    sharp = 10 * math.log(2)
                    light = math.log1p(math.exp(sharp * rgb[channel])) / sharp
                    value += light * cosine ** (4 * math.exp(beta))
                assert float(found[camera, n, channel]) == pytest.approx(value, abs=2e-5), f"seed {seed}"


def test_amplitudes_and_directions_come_back(seed):
    amplitudes = torch.rand(50, 3, 3) * torch.tensor([1.0, 1e-3, 3.0])
    directions = F.normalize(torch.randn(50, 3, 3), dim=-1)
    directions[0, 0] = torch.tensor([0.0, 0.0, -1.0])
    colors = SphericalBetas(torch.zeros(50, 1, 3), lobes_of(amplitudes, directions, torch.zeros(50, 3)))
    assert torch.allclose(colors.amplitudes, amplitudes.clamp_min(DIMMEST), rtol=1e-4, atol=1e-6), seed
    assert torch.allclose(colors.directions, directions, atol=1e-6), seed
    assert angles_of(directions)[..., 0].min() >= 0


def test_fit_finds_lobes(seed):
    """Colours that are two lobes on a base are fitted nearly exactly."""
    directions = fibonacci_directions(1024)
    true = random_betas(24)
    targets = true(directions[:, None].expand(-1, 24, 3)).transpose(0, 1)
    fitted = fit_betas(directions.expand(24, -1, 3), targets, torch.ones(24, 1024), lobes=2)
    left = fitted(directions[:, None].expand(-1, 24, 3)).transpose(0, 1) - targets
    error = left.square().mean((1, 2)).sqrt()
    assert float(error.median()) < 2e-3 and float(error.max()) < 0.03, f"seed {seed}: {error}"


def test_weights_say_where_the_fit_matters(seed):
    directions = fibonacci_directions(512)
    targets = torch.rand(6, 512, 3)
    weights = torch.where(directions[:, 2] > 0.9, 1.0, 1e-6).expand(6, -1)
    fitted = fit_betas(directions.expand(6, -1, 3), targets, weights, lobes=2)
    left = (fitted(directions[:, None].expand(-1, 6, 3)).transpose(0, 1) - targets).square().mean(2)
    seen = directions[:, 2] > 0.9
    assert float(left[:, seen].mean()) < float((targets[:, seen] - targets[:, seen].mean(1)[:, None]).var())


def test_nonnegative_solution_is_optimal(seed):
    """Karush-Kuhn-Tucker: no slope where x > 0, an upward one where x = 0."""
    columns = torch.randn(40, 30, 4, dtype=torch.float64)
    gram, aim = columns.mT @ columns + 1e-3 * torch.eye(4), columns.mT @ torch.randn(40, 30, 3).double()
    found = _nonnegative(gram, aim)
    slope = gram @ found - aim
    assert bool((found >= 0).all()) and float((slope * (found > 0)).abs().max()) < 0.05
    assert float(slope.min()) > -0.05, f"seed {seed}"
    free = torch.linalg.solve(gram, aim)
    inside = (free > 0).all(1, keepdim=True).expand_as(free)
    assert torch.allclose(found[inside], free[inside], atol=1e-6), seed


def test_baked_avatar_shows_highlights():
    avatar = random_avatar()
    baked = avatar.baked("sb")
    assert isinstance(baked.colors, SphericalBetas) and baked.colors.lobes.shape == (150, 4, 6)
    plain = agreement(avatar, replace(avatar, head=None), 96)
    assert agreement(avatar, baked, 96) > plain + 4


def test_files_keep_betas(seed, tmp_path):
    avatar = random_avatar(with_head=False)
    for width in (1, 16):
        colors = random_betas(150, lobes=3, width=width)
        whole = Avatar(avatar.gaussians, colors=colors, binding=avatar.binding)
        for name in ("a.ply", "a.safetensors"):
            back = load(whole.export(tmp_path / name)).colors
            assert torch.equal(back.coefficients, colors.coefficients), f"seed {seed}: {name}"
            assert torch.equal(back.lobes, colors.lobes), f"seed {seed}: {name}"
    header = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")[0].decode()
    assert [f"sb_params_{k}" in header for k in (0, 17, 18)] == [True, True, False]


def test_columns_are_ordered_as_in_the_authors_files(tmp_path):
    """All r, then all g, b, θ, φ and β."""
    avatar, colors = random_avatar(with_head=False), random_betas(150)
    Avatar(avatar.gaussians, colors=colors).export(tmp_path / "a.ply")
    head, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n", 1)
    names = [line.split()[-1] for line in head.decode().splitlines() if line.startswith("property")]
    row = np.frombuffer(body, "<f4").reshape(150, -1)[7]
    for k, number in enumerate(colors.lobes[7].T.flatten().tolist()):
        assert row[names.index(f"sb_params_{k}")] == np.float32(number)


def test_wrong_columns_are_one_line(tmp_path):
    avatar, colors = random_avatar(with_head=False), random_betas(150)
    Avatar(avatar.gaussians, colors=colors).export(tmp_path / "a.ply")
    whole = (tmp_path / "a.ply").read_bytes()
    (tmp_path / "a.ply").write_bytes(whole.replace(b"sb_params_11", b"sb_paramz_11"))
    with pytest.raises(UserError, match="sb_params"):
        load(tmp_path / "a.ply")


def test_other_formats_get_harmonics(tmp_path):
    avatar = Avatar(random_avatar(with_head=False).gaussians, colors=random_betas(150))
    assert isinstance(load(avatar.export(tmp_path / "a.spz")).colors, HarmonicColors)
    with pytest.raises(UserError, match=r"only \.ply"):
        avatar.export(tmp_path / "a.spz", betas=True)
    harmonic = Avatar(avatar.gaussians, colors=harmonics_of(avatar.colors))
    with pytest.raises(UserError, match="run folder"):
        harmonic.export(tmp_path / "a.ply", betas=True)


@pytest.mark.parametrize("width", [1, 9])
def test_lobes_turn_with_the_bones(seed, width):
    colors = random_betas(20, width=width)
    turns = F.normalize(torch.randn(20, 4), dim=-1)
    view = F.normalize(torch.randn(4, 20, 3), dim=-1)
    turned = torch.einsum("nij,bnj->bni", rotation_matrices(turns), view)
    assert torch.allclose(posed_colors(colors, turns)(turned), colors(view), atol=1e-4), f"seed {seed}"
