"""Programs of other people read our files: viewers in headless Chromium, and PlayCanvas's splat-transform."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from browser import Browser, find_chromium
from node_packages import node_packages
from torch.nn import functional as F

import specularip as sip
from specularip.colors import HarmonicColors
from specularip.export import read_ply
from specularip.export.glb import read_glb
from specularip.gaussians import Gaussians
from specularip.metrics import psnr

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import third_party

CASES = {
    "spark": (".ply", ".spz", ".sog"),
    "three": (".ply", ".spz", ".glb"),
    "babylon": (".glb",),
    "playcanvas": (".ply", ".sog", ".glb"),
}
LEAST_DB = 32.0
"""Viewers sort by bins or on a worker, cut Gaussians off at other radii and keep harmonics in eight bits. A
wrong axis, sign or scale costs ten decibels and more."""


def figure() -> sip.Avatar:
    """Fifteen hundred Gaussians in the shape of an L with a bar to the front: no mirror image of itself.
    Colours change with the view."""
    count = 500
    corners = torch.tensor([[-0.1, -0.1, -0.8], [0.0, -0.1, -0.8], [-0.1, -0.7, 0.4]])
    sizes = torch.tensor([[0.15, 0.2, 1.6], [0.7, 0.2, 0.2], [0.15, 0.6, 0.15]])
    means = torch.cat(
        [corner + size * torch.rand(count, 3) for corner, size in zip(corners, sizes, strict=True)]
    )
    base = torch.tensor([[0.9, 0.1, -1.0], [-1.0, 0.8, -0.4], [-0.8, -0.4, 1.2]]).repeat_interleave(count, 0)
    coefficients = torch.cat([base[:, None], 0.15 * torch.randn(3, 15, 3).repeat_interleave(count, 0)], 1)
    everything = 3 * count
    gaussians = Gaussians(
        means=means,
        quats=F.normalize(torch.randn(everything, 4), dim=-1),
        log_scales=torch.log(torch.tensor([0.05, 0.03, 0.01])).repeat(everything, 1),
        opacity_logits=torch.full((everything,), 3.0),
        color_logits=torch.logit((base * 0.28209 + 0.5).clamp(0.01, 0.99)),
        latents=torch.zeros(everything, 0),
        normal_residuals=torch.zeros(everything, 3),
        regions=torch.zeros(everything, dtype=torch.int64),
        bind_joints=torch.zeros(everything, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0, 0, 0]).repeat(everything, 1),
    )
    return sip.Avatar(gaussians, colors=HarmonicColors(coefficients))


def test_viewers_show_our_files(seed, tmp_path):
    if find_chromium() is None:
        pytest.skip("needs Chromium")
    node_packages()
    third_party.build(tmp_path)
    avatar = figure()
    for suffix in (".ply", ".spz", ".sog", ".glb"):
        avatar.export(tmp_path / f"avatar{suffix}")
    view = third_party.VIEWS[0]
    ours = avatar.render(view.cameras(), third_party.GREY / 255).image
    mirrored = psnr(ours.flip(2), ours)
    assert mirrored < LEAST_DB - 10, f"seed {seed}: the figure is too symmetric"
    size = third_party.SIZE
    with third_party.served(tmp_path) as address, Browser(size, size, timeout=300) as browser:
        for viewer, suffixes in CASES.items():
            for suffix in suffixes:
                picture = third_party.shown(browser, address, viewer, f"avatar{suffix}", view)
                found = float(psnr(picture[None], ours))
                assert found > LEAST_DB, f"seed {seed}: {viewer} shows {suffix} with {found:.1f} dB"
        assert not browser.outside_requests()


def transform(packages: Path, *arguments: str | Path) -> None:
    program = packages / "node_modules" / "@playcanvas" / "splat-transform" / "bin" / "cli.mjs"
    command = ["node", program, "-q", "-w", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_splat_transform_reads_and_writes_what_we_do(seed, tmp_path):
    """It takes a PLY for y-down, as captures are, and its .glb is y-up: half a turn about z."""
    packages, avatar = node_packages(), figure()
    avatar.export(tmp_path / "a.ply")
    transform(packages, tmp_path / "a.ply", tmp_path / "b.glb")
    found = read_glb(tmp_path / "b.glb")  # z-up, from y-up
    turn = torch.tensor([[-1.0, 0, 0], [0, 0, -1], [0, -1, 0]])
    assert torch.allclose(found.gaussians.means, avatar.gaussians.means @ turn.T, atol=1e-5), seed
    assert torch.allclose(found.gaussians.scales, avatar.gaussians.scales, atol=1e-5)
    axes = turn @ avatar.gaussians.rotations
    assert torch.allclose(found.gaussians.rotations, axes, atol=1e-4), seed
    directions = F.normalize(torch.randn(8, len(axes), 3), dim=-1)
    assert torch.allclose(found.colors(directions @ turn.T), avatar.colors(directions), atol=1e-3), seed
    avatar.export(tmp_path / "a.spz")
    transform(packages, tmp_path / "a.spz", tmp_path / "c.ply")
    again = read_ply(tmp_path / "c.ply")  # in the axes of the .spz: y-up
    turn = torch.tensor([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    assert torch.allclose(again.gaussians.means, avatar.gaussians.means @ turn.T, atol=1e-3), seed
    error = again.colors(directions @ turn.T) - avatar.colors(directions)
    assert float(error.square().mean().sqrt()) < 0.05, seed  # bytes
