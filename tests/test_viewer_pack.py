"""Packed avatars: small, close to what was packed, and read by the page whatever is in them."""

from __future__ import annotations

import base64
import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from browser import Browser, find_chromium
from torch.nn import functional as F

from specularip.avatar import Avatar
from specularip.cameras import Cameras
from specularip.colors import Asgs
from specularip.errors import UserError
from specularip.gaussians import Binding, Expressions, Gaussians, morton_order, rotation_matrices, turned_to
from specularip.metrics import psnr
from specularip.motion.clip import Clip
from specularip.viewer.pack import Columns, pack, unpack

BUNDLE = Path(__file__).parents[1] / "src" / "specularip" / "assets" / "viewer" / "viewer.js"
COUNT = 4000
SEED = 0


def ball(seed: int, count: int = COUNT) -> Avatar:
    """A ball with a pattern, shining: neighbours are alike, as on an avatar."""
    generator = torch.Generator().manual_seed(seed)
    outward = F.normalize(torch.randn(count, 3, generator=generator), dim=-1)
    pattern = torch.sin(9 * outward + torch.arange(3))
    gaussians = Gaussians(
        means=0.5 * outward,
        quats=turned_to(outward),
        log_scales=torch.tensor([0.02, 0.014, 0.003]).log()
        + 0.2 * torch.randn(count, 3, generator=generator),
        opacity_logits=2 + torch.randn(count, generator=generator),
        color_logits=pattern,
        latents=torch.zeros(count, 0),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.randint(0, 3, (count, 4), generator=generator),
        bind_weights=torch.rand(count, 4, generator=generator),
    )
    smooth = 0.04 * torch.randn(count, 10, 3, generator=generator)
    smooth[:, 0] += 0.5 + 0.3 * pattern
    lights = F.normalize(torch.tensor([[1.0, 0, 1], [-1, 0, 1], [0, 1, 0.5], [0, -1, 2]]), dim=-1)
    lights = lights[None] @ rotation_matrices(turned_to(outward))
    shapes = torch.tensor([6.0, 0.5, 9.0]).expand(count, 4, 3)
    asgs = Asgs(
        turned_to(outward), smooth, lights, shapes, 0.2 * torch.rand(count, 4, 3, generator=generator)
    )
    binding = Binding(["a", "b", "c"], [-1, 0, 1], torch.randn(3, 3, generator=generator))
    return Avatar(gaussians, colors=asgs, binding=binding)


def packed(avatar: Avatar) -> bytes:
    assert not avatar.head
    return pack(avatar.gaussians, avatar.colors)  # type: ignore[arg-type]


def rotations(sections: dict[str, np.ndarray], name: str) -> torch.Tensor:
    rest, largest = sections[f"{name}.rest"], sections[f"{name}.largest"][:, 0].round().astype(int)
    quats = [np.insert(row, at, np.sqrt(1 - (row**2).sum())) for row, at in zip(rest, largest)]
    return torch.tensor(np.array(quats)).float()


def vectors(flat: np.ndarray) -> torch.Tensor:
    """Unit vectors of octahedral coordinates."""
    pairs = torch.tensor(flat).unflatten(1, (-1, 2))
    z = 1 - pairs.abs().sum(-1, keepdim=True)
    fold = (-z).clamp_min(0)
    return F.normalize(torch.cat([pairs + torch.where(pairs < 0, fold, -fold), z], -1), dim=-1).float()


def restored(data: bytes, like: Avatar) -> Avatar:
    """The avatar, with ASGs, as the page gets it."""
    _, sections = unpack(data)
    real = {name: torch.tensor(values).float() for name, values in sections.items()}
    gaussians = replace(
        like.gaussians,
        means=real["means"],
        quats=rotations(sections, "quats"),
        log_scales=real["log_scales"],
        opacity_logits=real["opacities"][:, 0].logit(),
        color_logits=real["diffuse"].logit(),
    )
    widths, skews = real["asg.widths"].unflatten(1, (4, 2)), real["asg.skews"]
    colors = Asgs(
        rotations(sections, "asg.quats"),
        real["asg.smooth"].unflatten(1, (10, 3)),
        vectors(sections["asg.lights"]),
        torch.stack([widths[..., 0], skews, widths[..., 1]], -1),
        real["asg.amplitudes"].unflatten(1, (4, 3)),
    )
    return replace(like, gaussians=gaussians, colors=colors)


def test_pictures_keep_their_quality(seed: int) -> None:
    avatar = ball(seed)
    data = packed(avatar)
    camera = Cameras.orbit([30, 200], [10, -30], 1.6, 40, 256, 256)
    before, after = avatar.render(camera).image, restored(data, avatar).render(camera).image
    assert float(psnr(before, after).min()) > 55


def test_a_gaussian_takes_less_than_110_bytes(seed: int) -> None:
    assert len(packed(ball(seed))) < 110 * COUNT
    assert len(packed(replace(ball(seed), colors=None))) < 35 * COUNT


def test_packing_is_deterministic(seed: int) -> None:
    assert packed(ball(seed, 100)) == packed(ball(seed, 100))


def test_columns_round_to_the_nearest_step(generator: torch.Generator) -> None:
    values = 3 * torch.randn(500, 2, generator=generator)
    for bits in (1, 7, 8, 9, 16, 20):
        columns = Columns.of(values, bits)
        step = (values.amax(0) - values.amin(0)).double().numpy() / (2**bits - 1)
        assert (np.abs(columns.values - values.double().numpy()) <= 0.5001 * step).all()
    for warp, numbers in (("root", values), ("log", values.abs() + 1e-3)):
        assert np.allclose(Columns.of(numbers, 16, warp).values, numbers, atol=1e-3, rtol=1e-3)


def test_a_constant_column_is_exact() -> None:
    assert (Columns.of(torch.full((5, 1), -3.25), 8).values == -3.25).all()


def test_neighbours_on_the_morton_curve_are_near(seed: int) -> None:
    means = ball(seed).gaussians.means
    order = morton_order(means)
    assert torch.equal(order.sort().values, torch.arange(COUNT))
    apart = means[order].diff(dim=0).norm(dim=-1).median()
    assert float(apart) < 0.2 * float(means.diff(dim=0).norm(dim=-1).median())


def test_says_what_cannot_be_packed(seed: int) -> None:
    avatar = ball(seed, 10)
    broken = avatar.gaussians.select(torch.arange(10))
    broken.means[3, 1] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        packed(replace(avatar, gaussians=broken))
    assert isinstance(avatar.colors, Asgs)
    more = torch.cat([avatar.colors.lights] * 2, 1)
    with pytest.raises(UserError, match="4 lobes"):
        packed(replace(avatar, colors=replace(avatar.colors, lights=more)))


def test_says_what_cannot_be_read(seed: int) -> None:
    data = packed(ball(seed, 50))
    for damaged in (
        b"",
        b"SIPV",
        data[:-20],
        gzip.compress(b"SIPX" + bytes(40)),
        gzip.compress(bytes(2**27)),
    ):
        with pytest.raises(UserError):
            unpack(damaged)


MUTATIONS = """
async (packed, count, seed) => {
  const good = Uint8Array.from(atob(packed), letter => letter.charCodeAt(0));
  let state = seed >>> 0;
  const random = most => ((state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32 * most) | 0;
  const counts = {read: 0, refused: 0, other: []};
  const inflate = async data => new Uint8Array(
    await new Response(new Blob([data]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer());
  const deflate = async data => new Uint8Array(
    await new Response(new Blob([data]).stream().pipeThrough(new CompressionStream('gzip'))).arrayBuffer());
  const raw = await inflate(good);
  const header = 12 + new DataView(raw.buffer).getUint32(8, true);
  for (let k = 0; k < count; ++k) {
    let data;
    if (k % 4 == 0) {  // the file itself
      data = good.slice(0, random(2) ? good.length : random(good.length));
      for (let n = random(8); n >= 0 && data.length; --n) data[random(data.length)] = random(256);
    } else {  // what is in it
      let inside = raw.slice(0, random(4) ? raw.length : random(raw.length));
      const where = Math.min(inside.length, k % 4 == 1 ? inside.length : header);
      for (let n = random(4); n >= 0 && where; --n) {
        const digits = '0123456789-eE.,[]{}"naulset';
        inside[random(where)] = k % 4 == 3 ? digits.charCodeAt(random(digits.length)) : random(256);
      }
      data = await deflate(inside);
    }
    try {
      await specularip.unpack(data);
      ++counts.read;
    } catch (error) {
      const clear = error.constructor === Error && error.message.startsWith('This avatar cannot be read');
      if (clear) ++counts.refused;
      else counts.other.push(String(error.stack));
    }
  }
  return counts;
}
"""


@pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")
def test_the_page_survives_damaged_avatars(seed: int, tmp_path: Path) -> None:
    """Mutations of the file and of its decompressed bytes either read or say that they cannot be read."""
    avatar = ball(seed, 60)
    still = torch.tensor([1.0, 0, 0, 0]).expand(4, 3, 4)
    data = pack(
        avatar.gaussians,
        avatar.colors,  # type: ignore[arg-type]
        binding=avatar.binding,
        expressions=Expressions(("smile",), torch.arange(9), torch.randn(1, 9, 3)),
        clips=[Clip("still", 30.0, ("a", "b", "c"), still, torch.zeros(4, 3), ("smile",), torch.rand(4, 1))],
    )
    page = tmp_path / "page.html"
    page.write_text(f"<!doctype html><script>{BUNDLE.read_text()}</script>")
    with Browser() as browser:
        browser.goto(page)
        counts = browser.evaluate(MUTATIONS, base64.b64encode(data).decode(), 300, seed)
        bomb = base64.b64encode(gzip.compress(bytes(2**28))).decode()
        refusal = browser.evaluate(
            "text => specularip.unpack(Uint8Array.from(atob(text), letter => letter.charCodeAt(0)))"
            ".catch(error => error.message)",
            bomb,
        )
    assert counts["other"] == []
    assert counts["refused"] > 100 and counts["read"] > 20
    assert "too large" in refusal
