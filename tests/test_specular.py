"""The specular branch: a highlight appears where a mirror would reflect the light."""

import math

import pytest
import torch
from torch.nn import functional as F

from specularip.avatar import Avatar, shade
from specularip.cameras import Cameras
from specularip.gaussians import Gaussians
from specularip.specular import (
    LATENTS,
    Light,
    SpecularConfig,
    SpecularHead,
    Surface,
    facing,
    fibonacci_directions,
    shading_normals,
    specular_reference,
)
from specularip.specular import head as head_module
from specularip.specular.shading import tangent_frames
from specularip.specular.tokens import GROUPS

RADIUS = 0.5


def sphere(count: int) -> Gaussians:
    """Flat, grey, nearly opaque Gaussians on a sphere of RADIUS around the origin."""
    normals = fibonacci_directions(count)
    # The quaternion that rotates +z, the shortest axis, to the normal.
    quats = torch.cat([1 + normals[:, 2:], -normals[:, 1:2], normals[:, :1], torch.zeros(count, 1)], 1)
    size = math.log(0.6 * math.sqrt(4 * math.pi / count) * RADIUS)
    return Gaussians(
        means=RADIUS * normals,
        quats=quats,
        log_scales=torch.tensor([size, size, size - 3]).repeat(count, 1),
        opacity_logits=torch.full((count,), 4.0),
        color_logits=torch.full((count, 3), -1.0),
        latents=torch.zeros(count, LATENTS),
        normal_residuals=torch.zeros(count, 3),
        regions=torch.zeros(count, dtype=torch.int64),
        bind_joints=torch.zeros(count, 4, dtype=torch.int64),
        bind_weights=torch.tensor([1.0, 0, 0, 0]).repeat(count, 1),
    )


@torch.no_grad()
def one_light(direction: torch.Tensor, radiance: float = 0.2) -> SpecularHead:
    """A head whose only light is a narrow lobe from `direction`."""
    head = SpecularHead(SpecularConfig(lights=1))
    head.axes.copy_(direction)
    head.raw_widths.fill_(math.log(1e-3) / head_module.PACE)
    head.raw_colors.fill_(math.log(radiance) / head_module.PACE)
    head.raw_ambient.zero_()
    return head


def reflect(view_dirs: torch.Tensor, normals: torch.Tensor) -> torch.Tensor:
    """Mirror directions ω_r = 2(ω_o·n)n − ω_o."""
    return 2 * (view_dirs * normals).sum(-1, keepdim=True) * normals - view_dirs


def published_mistake(surface: Surface, light: Light, centres, visible=None):
    """The method's published lobe: its axis is built in the frame of the reflected direction itself, so that
    the light moves with the reflection. Our formula, evaluated in that frame."""
    view = F.normalize(centres[:, None] - surface.means, dim=-1)
    z = reflect(view, surface.normals)
    x = F.normalize(torch.linalg.cross(torch.tensor([0.0, 0.0, 1.0]).expand_as(z), z), dim=-1)
    frame = torch.stack([x, torch.linalg.cross(z, x), z], -2)
    flat = [(frame @ v.expand_as(z)[..., None])[..., 0].flatten(0, 1) for v in (surface.normals, view)]
    count = len(centres)
    repeated = Surface(surface.latents.repeat(count, 1), surface.diffuse.repeat(count, 1), flat[0], -flat[1])
    shaded = specular_reference(repeated, light, centres.new_zeros(1, 3))
    return shaded.reshape(count, -1, 3)


def highlight(avatar: Avatar, azimuth: float) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Normal [3] and view direction [3] at the centre of the highlight that a camera sees on the sphere; None
    when the specular layer has no highlight (it is nowhere three times its median)."""
    camera = Cameras.orbit(azimuth, 10.0, 2.5, 30.0, 160, 160)
    frame = avatar.render(camera, 0.0)
    inside = frame.alpha[0, ..., 0] > 0.9
    light = frame.specular[0].sum(-1) * inside
    if light.max() < 3 * light[inside].median() + 1e-3:
        return None
    weight = torch.where(light > 0.6 * light.max(), light, 0.0)
    rows, columns = torch.meshgrid(torch.arange(160) + 0.5, torch.arange(160) + 0.5, indexing="ij")
    u, v = ((weight * grid).sum() / weight.sum() for grid in (columns, rows))
    K, world_to_camera, origin = camera.Ks[0], camera.viewmats[0], camera.positions[0]
    ray = torch.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], torch.tensor(1.0)])
    ray = F.normalize(world_to_camera[:3, :3].T @ ray, dim=0)
    along = -(origin @ ray) - ((origin @ ray) ** 2 - origin @ origin + RADIUS**2).clamp_min(0).sqrt()
    point = origin + along * ray
    return F.normalize(point, dim=0), F.normalize(origin - point, dim=0)


def degrees_between(a: torch.Tensor, b: torch.Tensor) -> float:
    return math.degrees(float(torch.acos((F.normalize(a, dim=-1) @ F.normalize(b, dim=-1)).clamp(-1, 1))))


def mirror_errors(avatar: Avatar, light: torch.Tensor, azimuths: list[float]) -> list[float]:
    """Degrees between the normal under the highlight and the half vector, for each view; 180 without
    highlight."""
    errors = []
    for azimuth in azimuths:
        found = highlight(avatar, azimuth)
        errors.append(180.0 if found is None else degrees_between(found[0], light + found[1]))
    return errors


def test_highlight_moves_as_mirror_reflection_predicts(seed, monkeypatch):
    light = F.normalize(torch.tensor([0.2, -1.0, 0.5]) + 0.8 * (torch.rand(3) - 0.5), dim=0)
    avatar = Avatar(sphere(3000), one_light(light))
    first = float(torch.rand(()) * 60 - 60)
    azimuths = [first, first + 60]

    errors = mirror_errors(avatar, light, azimuths)
    assert max(errors) < 3.0, f"seed {seed}: highlight {errors} degrees off the mirror point"
    normals = [highlight(avatar, azimuth)[0] for azimuth in azimuths]
    assert degrees_between(*normals) > 15, f"seed {seed}: the highlight did not move"

    monkeypatch.setattr(head_module, "shade_fused", published_mistake)
    assert min(mirror_errors(avatar, light, azimuths)) > 10, f"seed {seed}: the published formula passed"


def fit_one_light(seed: int) -> float:
    """Fit latents and head to a shiny ball under one light, 8 of 100 views per step. Returns the relative
    error on held-out views. The target, a Phong lobe, is not of our formula."""
    generator = torch.Generator().manual_seed(seed)
    ball, views = sphere(120), 100
    light = F.normalize(torch.randn(3, generator=generator), dim=0)
    azimuth, elevation = torch.rand(2, views + 20, generator=generator)
    cameras = Cameras.orbit(azimuth * 360, elevation * 60 - 20, 2.5)
    view_dirs = F.normalize(cameras.positions[:, None] - ball.means, dim=-1)
    mirrored = reflect(view_dirs, shading_normals(ball))
    target = (mirrored @ light).clamp_min(0)[..., None] ** 24 * torch.tensor([0.9, 0.7, 0.6])
    seen = (view_dirs * F.normalize(ball.means, dim=-1)).sum(-1, keepdim=True) > 0

    head = SpecularHead(SpecularConfig(lights=24, attention=True), seed=seed % 9999)
    latents = ball.latents.requires_grad_()
    groups = [{"params": [latents], "lr": 1e-2}, {"params": head.parameters(), "lr": 2e-2}]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    for _ in range(250):
        batch = torch.randint(views, (8,), generator=generator)
        _, specular = shade(ball, head, cameras[batch])
        loss = ((specular - target[batch]).square() * seen[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        _, specular = shade(ball, head, cameras[views:])
    error = (specular - target[views:]).square() * seen[views:]
    return float((error.sum() / (target[views:].square() * seen[views:]).sum()).sqrt())


@pytest.fixture
def one_thread():
    """One torch thread: in hundreds of steps on tiny tensors, more would only synchronise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_our_formula_fits_a_ball_better_than_the_published_one(seed, monkeypatch, one_thread):
    """Over 120 seeds, our error was at most 0.52, and that of the published formula at least 1.5 times
    ours."""
    ours = fit_one_light(seed)
    assert ours < 0.6, f"seed {seed}: relative error {ours:.3f} on held-out views"
    monkeypatch.setattr(head_module, "shade_fused", published_mistake)
    published = fit_one_light(seed)
    assert published > 1.3 * ours, f"seed {seed}: published {published:.3f}, ours {ours:.3f}"


def test_fit_recovers_the_direction_of_the_light(seed, one_thread):
    ball = sphere(120)
    light = F.normalize(torch.randn(3), dim=0)
    cameras = Cameras.orbit(360 * torch.rand(60), 140 * torch.rand(60) - 70, 2.5)
    outward = F.normalize(ball.means, dim=-1)
    seen = ((cameras.positions[:, None] - ball.means) * outward).sum(-1, keepdim=True) > 0
    with torch.no_grad():
        _, target = shade(ball, one_light(light, 0.4), cameras)
    head = SpecularHead(SpecularConfig(lights=24))
    optimizer = torch.optim.Adam(head.parameters(), lr=2e-2, betas=(0.9, 0.99))
    for _ in range(120):
        batch = torch.randint(60, (8,))
        _, specular = shade(ball, head, cameras[batch])
        loss = ((specular - target[batch]).square() * seen[batch]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    light_of_head = head.prepare(ball.latents, ball.diffuse).light
    found = light_of_head.axes[light_of_head.colors.sum(-1).argmax()].detach()
    assert degrees_between(found, light) < 8, f"seed {seed}: {degrees_between(found, light):.1f} degrees off"


def attended(p, latents, diffuse):
    """One Gaussian's latent after mutual attention, token by token."""
    groups, start = [], 0
    for size in GROUPS:
        groups.append(latents[start : start + size])
        start += size
    tokens = [
        p["attention.diffuse_token.weight"] @ (2 * diffuse - 1) + p["attention.diffuse_token.bias"],
        *(
            p[f"attention.latent_tokens.{i}.weight"] @ group + p[f"attention.latent_tokens.{i}.bias"]
            for i, group in enumerate(groups)
        ),
    ]
    Wq, Wk, Wv = p["attention.qkv.weight"].chunk(3)
    outputs = []
    for token in tokens:
        others = tokens if token is tokens[0] else [tokens[0], token]
        scores = torch.stack([(Wq @ token) @ (Wk @ t) for t in others]) / math.sqrt(len(token))
        weights = scores.softmax(0)
        outputs.append(token + sum(weight * (Wv @ t) for weight, t in zip(weights, others)))
    residual = p["attention.answer.weight"] @ torch.cat(outputs) + p["attention.answer.bias"]
    return latents + residual / (len(tokens) * len(tokens[0]))


def linear(shown):
    return ((shown + 0.055) / 1.055) ** 2.4 if shown > 0.04045 else shown / 12.92


def twin(head: SpecularHead, latents, diffuse, normals, means, centres):
    """`prepare` and `shade` as loops over views, Gaussians and lobes."""
    p = dict(head.named_parameters())
    pace, out = head_module.PACE, []
    ambient = head_module.AMBIENT_PACE * head.config.radiance * p["raw_ambient"]
    for centre in centres:
        for z, color, normal, mean in zip(latents, diffuse, normals, means):
            z = attended(p, z, color)
            v = (centre - mean) / (centre - mean).norm()
            n = normal if normal @ v >= 0 else -normal
            cosine = (n @ v).clamp_min(1e-3)
            ax, ay = (0.12 * z[:2].exp()).clamp(0.01, 1.5)
            level = torch.stack([-normal[1], normal[0] + 1e-3, 0 * normal[0]])
            level = F.normalize(level - (level @ normal) * normal, dim=0)
            up = torch.linalg.cross(normal, level)
            t = z[2].cos() * level + z[2].sin() * up
            b = z[2].cos() * up - z[2].sin() * level
            f0 = torch.sigmoid(z[3:6] + math.log(0.08 / 0.92))
            f90 = torch.maximum(1 - (ax * ay).sqrt(), f0)
            sent = 0
            for axis, width, light in zip(p["axes"], p["raw_widths"], p["raw_colors"]):
                l, width = axis / axis.norm(), (pace * width).exp()
                h = l + v
                half = h.norm() / 2  # the cosine between h and v
                spread = width * (1 / half**2).clamp_max(20)
                ia, ib = 1 / (ax**2 + spread), 1 / (ay**2 + spread)
                lobe = (ia * ib).sqrt() / math.pi * (-(ia * (h @ t) ** 2 + ib * (h @ b) ** 2) / (h @ h)).exp()
                fresnel = f0 + (f90 - f0) * (1 - half) ** 5
                sent = sent + fresnel * (pace * light).exp() * (n @ l).clamp_min(0) / (h @ h) * lobe
            r = 2 * cosine * n - v
            harmonics = head_module.harmonics(r)
            sky = sum(harmonics[i] * ambient[i] for i in range(9)).clamp_min(0)
            sent = sent + (f0 + (f90 - f0) * (1 - cosine) ** 5) * sky
            visibility = torch.sigmoid(3 + z[6] + z[7:10] @ r)
            lit = visibility * sent
            slow = torch.cat([v, head_module.harmonics(v)[4:]])
            for c in range(3):
                shown = 1.055 * (linear(color[c]) + lit[c]) ** (1 / 2.4) - 0.055
                shown = 1 + 0.05 * (shown - 1) if shown > 1 else shown
                out.append(shown - color[c] + 0.03 * (z[10 + 8 * c : 18 + 8 * c] @ slow))
    return torch.stack(out).reshape(len(centres), len(latents), 3)


def random_head(config: SpecularConfig) -> SpecularHead:
    """A head with random parameters rather than the initial ones."""
    head = SpecularHead(config)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
        head.raw_widths.copy_(math.log(0.1) / head_module.PACE + 0.1 * torch.randn_like(head.raw_widths))
    return head


def random_inputs(count: int) -> list[torch.Tensor]:
    """latents, diffuse, normals, means, and two centres."""
    return [
        0.5 * torch.randn(count, LATENTS),
        0.1 + 0.8 * torch.rand(count, 3),
        F.normalize(torch.randn(count, 3), dim=-1),
        0.3 * torch.randn(count, 3),
        2 * F.normalize(torch.randn(2, 3), dim=-1),
    ]


def test_values_and_gradients_match_float64_loops(seed):
    config = SpecularConfig(lights=5, token=4, attention=True)
    head, inputs, weight = random_head(config), random_inputs(4), torch.randn(2, 4, 3)

    def run(dtype, forward):
        copy = SpecularHead(config).to(dtype)
        copy.load_state_dict(head.state_dict())
        leaves = [tensor.detach().clone().to(dtype).requires_grad_() for tensor in inputs]
        out = forward(copy, *leaves)
        (out * weight.to(dtype)).sum().backward()
        grads = {name: parameter.grad for name, parameter in copy.named_parameters()}
        return out, grads | dict(zip(("latents", "diffuse", "normals"), (x.grad for x in leaves)))

    fast, fast_grads = run(torch.float32, lambda h, z, d, *rest: h.shade(h.prepare(z, d), *rest))
    slow, slow_grads = run(torch.float64, twin)
    assert torch.allclose(fast.double(), slow, rtol=1e-3, atol=1e-5), f"seed {seed}"
    for name, expected in slow_grads.items():
        error = (fast_grads[name].double() - expected).norm() / expected.norm().clamp_min(1e-6)
        assert error < 1e-3, f"seed {seed}: gradient of {name} is {error:.2e} off"


def test_gradcheck(seed):
    head = random_head(SpecularConfig(lights=3, token=4, attention=True)).double()
    inputs = [tensor.double().requires_grad_() for tensor in random_inputs(3)]
    parameters = dict(head.named_parameters())

    def run(z, d, n, *values):
        """Light and attention as inputs, too; positions get no gradient."""
        named = dict(zip(parameters, values))
        named = {f"head.{k}": v for k, v in named.items()}
        prepared = torch.func.functional_call(_Prepare(head), named, (z, d))
        return head.shade(prepared, n, inputs[3].detach(), inputs[4].detach())

    assert torch.autograd.gradcheck(
        run, (*inputs[:3], *parameters.values()), atol=1e-5, rtol=1e-3, fast_mode=True
    ), seed


class _Prepare(torch.nn.Module):
    def __init__(self, head: SpecularHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, latents, diffuse):
        return self.head.prepare(latents, diffuse)


def test_attention_starts_at_zero_and_then_acts_both_ways(seed):
    plain, attending = (SpecularHead(SpecularConfig(lights=4, attention=on)) for on in (False, True))
    latents, diffuse, *rest = random_inputs(6)
    assert torch.equal(plain.prepare(latents, diffuse).latents, latents)
    assert torch.equal(attending.prepare(latents, diffuse).latents, latents), "attention is not zero at first"
    assert torch.equal(
        plain.shade(plain.prepare(latents, diffuse), *rest),
        attending.shade(attending.prepare(latents, diffuse), *rest),
    )
    with torch.no_grad():
        attending.attention.answer.weight.normal_(std=9.0)
    before = attending.prepare(latents, diffuse).latents
    assert ((attending.prepare(latents, 1 - diffuse).latents - before).abs() > 1e-4).any(0).all(), seed
    # The residual's token affects the other groups.
    changed = latents.clone()
    changed[:, 10:] += 1
    effect = attending.prepare(changed, diffuse).latents - changed - (before - latents)
    assert (effect[:, :10].abs() > 1e-4).any(0).all(), seed
    # Gaussians do not affect each other.
    assert torch.allclose(attending.prepare(latents[:2], diffuse[:2]).latents, before[:2], atol=1e-6), seed


@pytest.mark.parametrize("angle", [0.0, 90.0])
def test_anisotropic_roughness_stretches_the_highlight(angle):
    light = F.normalize(torch.tensor([0.3, -1.0, 0.2]), dim=0)
    ball = Avatar(sphere(3000), one_light(light, 0.03))
    ball.gaussians.latents[:, 1] = 1.2  # rougher across the tangent, which is horizontal at angle 0 …
    ball.gaussians.latents[:, 2] = math.radians(angle)  # … and vertical at 90
    camera = Cameras.orbit(-10.0, 0.0, 2.5, 30.0, 96, 96)
    shown = ball.render(camera)
    weight, normal = shown.specular[0].sum(-1), shown.normal[0]
    weight = torch.where(weight > 0.3 * weight.max(), weight, 0.0)
    half = F.normalize(light + F.normalize(camera.positions[0] - RADIUS * normal, dim=-1), dim=-1)
    level, up = tangent_frames(normal.reshape(-1, 3), torch.zeros(normal[..., 0].numel(), 1))
    spread = [
        float((weight.flatten() * (half.reshape(-1, 3) * axis).sum(-1) ** 2).sum() / weight.sum())
        for axis in (level, up)
    ]
    across, along = spread if angle == 0 else reversed(spread)
    assert along > 3 * across, f"along {along}, across {across}"


@pytest.mark.parametrize("count", [1, 2, 7, 16, 64])
def test_fibonacci_directions_are_unit_and_evenly_spread(count, seed):
    axes = fibonacci_directions(count)
    assert torch.allclose(axes.norm(dim=-1), torch.ones(count), atol=1e-6)
    assert torch.equal(axes, fibonacci_directions(count))
    if count >= 7:
        directions = F.normalize(torch.randn(2000, 3), dim=-1)
        nearest = torch.acos((directions @ axes.T).amax(-1).clamp(-1, 1))
        assert float(nearest.max()) < 4 / math.sqrt(count), f"seed {seed}: a gap"


def test_normals_face_the_camera_and_follow_the_residual(seed):
    ball = sphere(200).requires_grad_()
    view_dirs = F.normalize(torch.randn(3, 200, 3), dim=-1)
    normals = shading_normals(ball)
    outward = F.normalize(ball.means.detach(), dim=-1)
    assert torch.allclose((normals * outward).sum(-1).abs(), torch.ones(200), atol=1e-4), seed
    turned = facing(normals, view_dirs)
    assert ((turned * view_dirs).sum(-1) >= 0).all(), seed
    assert torch.allclose((turned * normals).sum(-1).abs(), torch.ones(3, 200), atol=1e-5), seed
    normals.sum().backward()
    assert ball.quats.grad.abs().sum() > 0 and ball.normal_residuals.grad.abs().sum() > 0
    tilted = ball.select(torch.arange(200))
    tilted.normal_residuals = 0.3 * torch.randn(200, 3)
    moved = shading_normals(tilted)
    assert torch.allclose(moved.norm(dim=-1), torch.ones(200), atol=1e-5), seed
    assert float((moved * outward).sum(-1).abs().min()) < 0.99, seed


def test_shading_does_not_depend_on_the_orientation_of_normals(seed):
    head = random_head(SpecularConfig(lights=5))
    latents, diffuse, normals, means, centres = random_inputs(50)
    normals = F.normalize(normals * torch.tensor([1.0, 1.0, 0.3]), dim=-1)  # vertical normals have no tangent
    turned = latents.clone()
    turned[:, 2] *= -1  # the angle's sense of rotation flips with the normal
    there = head.shade(head.prepare(latents, diffuse), normals, means, centres)
    back = head.shade(head.prepare(turned, diffuse), -normals, means, centres)
    error = ((there - back).abs() / (there.abs() + 0.1)).detach()
    assert float(error.median()) < 0.01 and float(error.max()) < 0.3, (
        f"seed {seed}: {error.median()}, {error.max()}"
    )


def test_invisible_gaussians_are_zero(seed):
    head, (latents, diffuse, *rest) = random_head(SpecularConfig(lights=5)), random_inputs(30)
    prepared, visible = head.prepare(latents, diffuse), torch.rand(2, 30) < 0.5
    every, some = head.shade(prepared, *rest), head.shade(prepared, *rest, visible=visible)
    assert torch.equal(some, torch.where(visible[..., None], every, 0.0)), seed


@pytest.mark.parametrize("lights", [1, 24, 64])
def test_initial_light_is_dim_uniform_and_reproducible(lights, seed):
    state = torch.random.get_rng_state()
    config = SpecularConfig(lights, attention=True, radiance=0.1)
    head, again = (SpecularHead(config, seed=seed % 9999) for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state()), (
        "building a head must not draw from the global state"
    )
    assert all(torch.equal(a, b) for a, b in zip(head.parameters(), again.parameters()))
    assert not torch.equal(again.attention.qkv.weight, SpecularHead(config, seed=10_000).attention.qkv.weight)
    normals, means = F.normalize(torch.randn(500, 3), dim=-1), torch.zeros(500, 3)
    prepared = head.prepare(torch.zeros(500, LATENTS), torch.full((500, 3), 0.5))
    centres = 3 * F.normalize(torch.randn(4, 3), dim=-1)
    specular = head.shade(prepared, normals, means, centres).detach()
    assert (specular >= 0).all() and 1e-3 < float(specular.mean()) < 0.05, f"seed {seed}: {specular.mean()}"
    if lights > 1:
        steep = (centres / 3) @ normals.T  # Fresnel: grazing angles reflect more
        assert float(specular[steep.abs() > 0.4].max()) < 0.1, f"seed {seed}: {specular.max()}"


def test_invalid_values_are_named():
    head = SpecularHead()
    with pytest.raises(ValueError, match="latents must be"):
        head.prepare(torch.zeros(5, 3), torch.zeros(5, 3))
    with pytest.raises(ValueError, match="diffuse must be"):
        head.prepare(torch.zeros(5, LATENTS), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="count"):
        fibonacci_directions(0)
    with pytest.raises(ValueError, match="lights"):
        SpecularConfig(lights=0)
    for radiance in (0.0, math.inf, math.nan):
        with pytest.raises(ValueError, match="radiance"):
            SpecularConfig(radiance=radiance)
