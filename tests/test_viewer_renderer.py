"""The browser's pictures are those of the package's own renderer: colours, layers, poses, and odd devices."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from browser import Browser, BrowserError, find_chromium
from torch import Tensor
from torch.nn import functional as F

from specularip.avatar import Avatar
from specularip.cameras import Cameras
from specularip.colors import Asgs, Colors, HarmonicColors, SphericalBetas
from specularip.colors.betas import lobes_of
from specularip.gaussians import Binding, Expressions, Gaussians, turned_to
from specularip.metrics import psnr
from specularip.motion.clip import Clip
from specularip.viewer.pack import pack

pytestmark = pytest.mark.skipif(find_chromium() is None, reason="needs Chromium")

BUNDLE = Path(__file__).parents[1] / "src" / "specularip" / "assets" / "viewer" / "viewer.js"
COUNT, SIZE = 600, 96
SEED = 0
HELPERS = """
const bytes = text => Uint8Array.from(atob(text), letter => letter.charCodeAt(0));
const text = bytes => btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
const canvas = document.getElementById('canvas'), notes = [];
let renderer = null, avatar = null;
async function show(packed) {
  avatar = await specularip.unpack(bytes(packed));
  renderer ??= new specularip.Renderer(canvas, {onNote: note => notes.push(note)});
  renderer.setAvatar(avatar);
}
function picture(view, settings, pose) {
  if (pose) for (const name in pose) pose[name] = Float32Array.from(pose[name]);
  renderer.setPose(pose ?? null);
  renderer.draw(view, settings);
  return text(renderer.readPixels());
}
"""


@dataclass
class Stage:
    """A page with a renderer."""

    browser: Browser

    def show(self, avatar: Avatar, **more: Any) -> None:
        data = pack(
            avatar.gaussians, avatar.colors, binding=avatar.binding, antialiased=avatar.antialiased, **more
        )
        self.browser.evaluate("show", base64.b64encode(data).decode())

    def picture(self, camera: Cameras, pose: dict[str, list[float]] | None = None, **settings: Any) -> Tensor:
        """[1,H,W,4] in 0..1; black background unless stated."""
        settings = {"background": [0, 0, 0], **settings}
        data = self.browser.evaluate("picture", view_of(camera), settings, pose)
        pixels = np.frombuffer(base64.b64decode(data), np.uint8)
        return torch.from_numpy(pixels.reshape(1, camera.height, camera.width, 4) / 255).float()


def view_of(camera: Cameras) -> dict[str, Any]:
    K = camera.Ks[0].tolist()
    return {
        **{"viewmat": camera.viewmats[0].flatten().tolist(), "width": camera.width, "height": camera.height},
        **{"fx": K[0][0], "fy": K[1][1], "cx": K[0][2], "cy": K[1][2]},
    }


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    page = tmp_path_factory.mktemp("stage") / "index.html"
    page.write_text(
        f"<!doctype html><canvas id=canvas></canvas><script>{BUNDLE.read_text()}</script>"
        f"<script>{HELPERS}</script>"
    )
    with Browser(300, 200) as browser:
        browser.goto(page)
        assert not browser.errors
        yield Stage(browser)
        assert browser.evaluate("renderer.gl.getError()") == 0
        assert not browser.outside_requests()


def directions(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, 3), dim=-1)


def some_avatar(kind: str = "asg", antialiased: bool = False, joints: int = 0) -> Avatar:
    """Gaussians of all shapes in a ball of 0.6 m, bright enough that colours exceed 1."""
    gaussians = Gaussians(
        means=0.2 * torch.randn(COUNT, 3),
        quats=torch.randn(COUNT, 4),
        log_scales=-3.7 + 0.8 * torch.randn(COUNT, 3),
        opacity_logits=2 * torch.randn(COUNT),
        color_logits=torch.randn(COUNT, 3),
        latents=torch.zeros(COUNT, 0),
        normal_residuals=0.2 * torch.randn(COUNT, 3),
        regions=torch.zeros(COUNT, dtype=torch.int64),
        bind_joints=torch.randint(0, max(joints, 1), (COUNT, 4)),
        bind_weights=F.normalize(torch.rand(COUNT, 4) ** 3, p=1, dim=1),
    )
    colors: Colors | None = None
    if kind == "asg":
        smooth = 0.15 * torch.randn(COUNT, 10, 3)
        smooth[:, 0] += 0.5
        widths = torch.exp(torch.rand(COUNT, 4, 2) * 3)
        shapes = torch.stack([widths[..., 0], torch.randn(COUNT, 4), widths[..., 1]], -1)
        quats = F.normalize(torch.randn(COUNT, 4), dim=-1)
        colors = Asgs(quats, smooth, directions(COUNT, 4), shapes, 0.2 * torch.randn(COUNT, 4, 3))
    elif kind == "sh3":
        colors = HarmonicColors(0.2 * torch.randn(COUNT, 16, 3))
    elif kind == "betas":
        lobes = lobes_of(0.4 * torch.rand(COUNT, 3, 3), directions(COUNT, 3), 2 * torch.rand(COUNT, 3))
        colors = SphericalBetas(0.2 * torch.randn(COUNT, 9, 3), lobes)
    binding = None
    if joints:
        names, parents = [f"joint{j}" for j in range(joints)], [-1, *range(joints - 1)]
        binding = Binding(names, parents, 0.2 * torch.randn(joints, 3))
    return Avatar(gaussians, colors=colors, binding=binding, antialiased=antialiased)


FAR = Cameras.orbit(40, 20, 1.6, 45, SIZE, SIZE)
WITHIN = Cameras.orbit(-100, -15, 0.35, 70, SIZE + 40, SIZE, [0.05, 0.0, 0.1])
"""Among the Gaussians: some are behind the camera, and some beyond the limits of the Jacobian."""


def from_here(shown: Tensor, picture: Tensor) -> float:
    """PSNR in dB of a picture of the browser against one of ours [1,H,W,3], rounded to bytes too."""
    return float(psnr(shown[..., :3], (picture.clamp(0, 1) * 255).round() / 255))


@pytest.mark.parametrize("kind", ["asg", "sh3", "betas", "diffuse"])
@pytest.mark.parametrize("antialiased", [False, True])
def test_pictures_agree(stage: Stage, seed: int, kind: str, antialiased: bool) -> None:
    avatar = some_avatar(kind, antialiased)
    stage.show(avatar)
    # Within, one Gaussian may fill the image, and a rounded frame may switch off a lobe at its horizon.
    for camera, least in ((FAR, 50), (WITHIN, 42)):
        ours = avatar.render(camera, (0.1, 0.5, 0.9)).image
        assert from_here(stage.picture(camera, background=[0.1, 0.5, 0.9]), ours) > least


def test_highlights_differ_as_ours(stage: Stage, seed: int) -> None:
    avatar = some_avatar()
    stage.show(avatar)
    plain = replace(avatar, colors=None)
    ours = avatar.render(FAR, 0.0).image - plain.render(FAR, 0.0).image
    off = stage.picture(FAR, specular=0)
    assert float(psnr(stage.picture(FAR)[..., :3] - off[..., :3], ours)) > 45
    assert torch.equal(off, stage.picture(FAR, layer="diffuse"))
    half = replace(avatar, colors=lambda dirs: 0.5 * (avatar.colors(dirs) + avatar.gaussians.diffuse))  # type: ignore[misc, arg-type]
    assert from_here(stage.picture(FAR, specular=0.5), half.render(FAR, 0.0).image) > 50


def test_layers_agree(stage: Stage, seed: int) -> None:
    avatar = some_avatar("sh3")
    # A ball's surface: opposite normals would cancel in a pixel.
    cloud = avatar.gaussians
    outward = F.normalize(cloud.means, dim=-1)
    flat = torch.tensor([0.03, 0.03, 0.002]).log().expand(COUNT, 3)
    cloud = replace(cloud, means=0.4 * outward, quats=turned_to(outward), log_scales=flat)
    avatar = replace(avatar, gaussians=cloud)
    stage.show(avatar)
    frame = avatar.render(FAR, 0.0)
    assert from_here(stage.picture(FAR, layer="alpha"), frame.alpha.expand(-1, -1, -1, 3)) > 50
    assert from_here(stage.picture(FAR, layer="specular"), frame.specular) > 50
    assert from_here(stage.picture(FAR, layer="normal"), (0.5 + 0.5 * frame.normal) * frame.alpha) > 33
    centre, radius = stage.browser.evaluate("[avatar.bounds.centre, avatar.bounds.radius]")
    middle = float((FAR.viewmats[0, 2, :3] @ torch.tensor(centre)) + FAR.viewmats[0, 2, 3])
    share = ((frame.depth - middle + radius) / (2 * radius)).clamp(0, 1)
    depth = ((1 - 0.85 * share) * frame.alpha).expand(-1, -1, -1, 3)
    assert from_here(stage.picture(FAR, layer="depth"), depth) > 45


def test_transparent_background_is_premultiplied(stage: Stage, seed: int) -> None:
    avatar = some_avatar()
    stage.show(avatar)
    frame, shown = avatar.render(FAR, 0.0), stage.picture(FAR, background=None)
    assert from_here(shown, torch.minimum(frame.image, frame.alpha)) > 50
    assert float((shown[..., 3:] - frame.alpha).abs().mean()) < 0.002
    assert bool((shown[..., :3] <= shown[..., 3:]).all())


def test_size_scales_the_gaussians(stage: Stage, seed: int) -> None:
    avatar = some_avatar("diffuse")
    stage.show(avatar)
    small = replace(avatar.gaussians, log_scales=avatar.gaussians.log_scales + torch.tensor(0.5).log())
    ours = replace(avatar, gaussians=small).render(FAR, 0.0).image
    assert from_here(stage.picture(FAR, size=0.5), ours) > 50


@pytest.mark.parametrize("kind", ["asg", "sh3", "betas", "diffuse"])
def test_poses_agree(stage: Stage, seed: int, kind: str) -> None:
    avatar = some_avatar(kind, joints=5)
    stage.show(avatar)
    rotations = F.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.3 * torch.randn(5, 4), dim=-1)
    translation = torch.tensor([0.05, -0.1, 0.02])
    pose = {"rotations": rotations.flatten().tolist(), "translation": translation.tolist()}
    ours = avatar.posed(rotations, translation, blend="linear").render(FAR, 0.0).image
    assert from_here(stage.picture(FAR, pose), ours) > 45
    resting = {"rotations": [1.0, 0, 0, 0] * 5}
    assert from_here(stage.picture(FAR, resting), stage.picture(FAR)[..., :3]) > 55


def test_poses_agree_from_a_stance(stage: Stage, seed: int) -> None:
    avatar = some_avatar("asg", joints=5)
    some = [F.normalize(torch.tensor([1.0, 0, 0, 0]) + 0.3 * torch.randn(5, 4), dim=-1) for _ in range(2)]
    avatar = replace(avatar, binding=replace(avatar.binding, stance=some[0]))  # type: ignore[type-var]
    stage.show(avatar)
    pose = {"rotations": some[1].flatten().tolist()}
    ours = avatar.posed(some[1], blend="linear").render(FAR, 0.0).image
    assert from_here(stage.picture(FAR, pose), ours) > 45
    standing = {"rotations": some[0].flatten().tolist()}
    assert from_here(stage.picture(FAR, standing), stage.picture(FAR)[..., :3]) > 55


def test_expressions_move_the_means_at_rest(stage: Stage, seed: int) -> None:
    avatar = some_avatar("diffuse", joints=2)
    moved = torch.randperm(COUNT)[:200].sort().values
    expressions = Expressions(("smile", "blink"), moved, 0.1 * torch.randn(2, 200, 3))
    stage.show(avatar, expressions=expressions)
    avatar = replace(avatar, expressions=expressions)
    still, strengths = torch.tensor([[1.0, 0, 0, 0]] * 2), torch.tensor([0.0, 0.7])
    ours = avatar.posed(still, expressions=strengths).render(FAR, 0.0).image
    assert from_here(stage.picture(FAR, {"expressions": [0.0, 0.7]}), ours) > 48
    assert torch.equal(stage.picture(FAR, {"expressions": [0.0, 0.0]}), stage.picture(FAR))
    turned = F.normalize(torch.tensor([[1.0, 0.2, 0, 0], [1.0, 0, 0.3, 0]]), dim=-1)
    pose = {"rotations": turned.flatten().tolist(), "expressions": [0.0, 0.7]}
    ours = avatar.posed(turned, expressions=strengths, blend="linear").render(FAR, 0.0).image
    assert from_here(stage.picture(FAR, pose), ours) > 45


def test_clips_reach_the_page(stage: Stage, seed: int) -> None:
    motion = Clip(
        "nod", 24.0, ("joint1", "unknown"), F.normalize(torch.randn(7, 2, 4), dim=-1), torch.randn(7, 3),
        ("blink", "unknown"), torch.rand(7, 2), loops=True,
    )  # fmt: skip
    expressions = Expressions(("smile", "blink"), torch.arange(3), torch.randn(2, 3, 3))
    stage.show(some_avatar("diffuse", joints=3), expressions=expressions, clips=[motion])
    clip = stage.browser.evaluate(
        "({...avatar.clips[0], rotations: [...avatar.clips[0].rotations],"
        " translation: [...avatar.clips[0].translation], expressions: [...avatar.clips[0].expressions]})"
    )
    assert (clip["name"], clip["fps"], clip["loops"], clip["frames"]) == ("nod", 24, True, 7)
    rotations = torch.tensor(clip["rotations"]).reshape(7, 3, 4)
    assert torch.allclose(rotations[:, 1], motion.rotations[:, 0], atol=1e-4)
    assert torch.equal(rotations[:, [0, 2]], torch.tensor([1.0, 0, 0, 0]).expand(7, 2, 4))
    assert torch.allclose(torch.tensor(clip["translation"]).reshape(7, 3), motion.translation, atol=1e-4)
    tracks = torch.tensor(clip["expressions"]).reshape(7, 2)
    assert torch.allclose(tracks[:, 1], motion.expressions[:, 0], atol=3e-3)
    assert not tracks[:, 0].any()


def test_drawn_back_to_front(stage: Stage, seed: int) -> None:
    avatar = some_avatar("diffuse")
    stage.show(avatar)
    stage.picture(WITHIN)
    order = stage.browser.evaluate("[...renderer.data.sort.order.subarray(0, renderer.data.drawn)]")
    means = torch.tensor(stage.browser.evaluate("[...avatar.means]")).reshape(-1, 3)
    depths = means @ WITHIN.viewmats[0, 2, :3] + WITHIN.viewmats[0, 2, 3]
    assert sorted(order) == (depths >= 0.01).nonzero()[:, 0].tolist()
    assert 0 < len(order) < COUNT
    assert float(depths[order].diff().max()) < 1e-6


def test_nothing_is_computed_again_without_a_change(stage: Stage, seed: int) -> None:
    stage.show(some_avatar())
    stage.picture(FAR)
    passes = stage.browser.evaluate(
        """view => {
          const done = [], prototype = specularip.Renderer.prototype;
          const names = ['_shade', '_sort', '_splat', '_resolve'];
          for (const name of names) {
            renderer[name] = view => {
              done.push(name);
              prototype[name].call(renderer, view, renderer._last.settings);
            };
          }
          const draw = (view, settings) => {
            renderer.setPose(null);
            renderer.draw(view, {background: [0, 0, 0], ...settings});
            return done.splice(0).join('');
          };
          const moved = {...view, viewmat: view.viewmat.map((value, k) => k == 3 ? value + 0.1 : value)};
          const passes = [{}, {background: [1, 1, 1]}, {specular: 0}].map(settings => draw(view, settings));
          passes.push(draw(moved));
          for (const name of names) delete renderer[name];
          return passes;
        }""",
        view_of(FAR),
    )
    assert passes == ["_resolve", "_resolve", "_shade_splat_resolve", "_sort_shade_splat_resolve"]


def test_picks_the_point_under_a_pixel(stage: Stage) -> None:
    avatar = some_avatar("diffuse")
    one = avatar.gaussians.select(torch.arange(1))
    ball = replace(
        one, means=torch.tensor([[0.1, -0.2, 0.3]]), log_scales=torch.full((1, 3), -4.0),
        opacity_logits=torch.full((1,), 8.0),
    )  # fmt: skip
    stage.show(replace(avatar, gaussians=ball))
    stage.picture(FAR)
    x, y = FAR.project(ball.means)[0][0, 0].tolist()
    found = stage.browser.evaluate(f"renderer.pick({x}, {y})")
    assert np.allclose(found, ball.means[0], atol=0.01)
    assert stage.browser.evaluate("renderer.pick(2, 3)") is None
    assert stage.browser.evaluate("renderer.pick(-1, 1e9)") is None


def test_a_lost_context_comes_back(stage: Stage, seed: int) -> None:
    stage.show(some_avatar(joints=2))
    before = stage.picture(FAR)
    again = stage.browser.evaluate(
        """new Promise(resolve => {
          const extension = renderer.gl.getExtension('WEBGL_lose_context');
          canvas.addEventListener('webglcontextlost', () => {
            renderer.draw(renderer._last.view, renderer._last.settings);
            setTimeout(() => extension.restoreContext());
          }, {once: true});
          canvas.addEventListener(
            'webglcontextrestored', () => resolve(text(renderer.readPixels())), {once: true});
          extension.loseContext();
        })"""
    )
    assert base64.b64decode(again) == (before * 255).round().byte().numpy().tobytes()


def test_eight_bits_where_floats_cannot_be_drawn(stage: Stage, seed: int) -> None:
    avatar = some_avatar("diffuse")
    stage.show(avatar)
    data = stage.browser.evaluate(
        """view => {
          const usual = WebGL2RenderingContext.prototype.getExtension;
          WebGL2RenderingContext.prototype.getExtension = () => null;
          const notes = [], simple = new specularip.Renderer(
            document.createElement('canvas'), {onNote: note => notes.push(note)});
          WebGL2RenderingContext.prototype.getExtension = usual;
          simple.setAvatar(avatar);
          simple.draw(view, {background: [0, 0, 0]});
          const pixels = text(simple.readPixels()), picked = simple.pick(48, 48);
          simple.dispose();
          return [notes, pixels, picked];
        }""",
        view_of(FAR),
    )
    assert len(data[0]) == 1 and "8 bits" in data[0][0]
    pixels = np.frombuffer(base64.b64decode(data[1]), np.uint8).reshape(1, SIZE, SIZE, 4) / 255
    assert from_here(torch.from_numpy(pixels), avatar.render(FAR, 0.0).image) > 38
    stage.picture(FAR)
    exact = stage.browser.evaluate("renderer.pick(48, 48)")
    assert exact is not None and np.allclose(data[2], exact, atol=0.05)
    assert stage.browser.evaluate("notes") == []


def test_says_what_is_missing_without_webgl2(stage: Stage) -> None:
    with pytest.raises(BrowserError, match="WebGL2"):
        stage.browser.evaluate("new specularip.Renderer({getContext: () => null})")


def test_nothing_to_draw(stage: Stage) -> None:
    avatar = some_avatar("diffuse")
    nothing = avatar.gaussians.select(torch.arange(0))
    stage.show(replace(avatar, gaussians=nothing))
    shown = stage.picture(FAR, background=[1, 0, 0])
    assert torch.equal(shown, torch.tensor([1.0, 0, 0, 1]).expand_as(shown))


def test_orbit_camera_has_the_conventions_of_cameras(stage: Stage) -> None:
    for azimuth, elevation, distance in ((0, 5, 2.2), (70, -30, 0.8), (-120, 88, 3.0)):
        ours = Cameras.orbit(azimuth, elevation, distance, 40, 200, 100, [0.1, 0.2, -0.3])
        view = stage.browser.evaluate(
            """options => {
              const view = new specularip.OrbitCamera(options).view(200, 100);
              return {...view, viewmat: [...view.viewmat]};
            }""",
            {"azimuth": azimuth, "elevation": elevation, "distance": distance, "fovY": 40,
             "target": [0.1, 0.2, -0.3]},
        )  # fmt: skip
        expected = view_of(ours)
        assert np.allclose(view.pop("viewmat"), expected.pop("viewmat"), atol=1e-6)
        assert view == pytest.approx(expected)
