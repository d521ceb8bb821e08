"""Properties of every scene: invariances of the image, and gradients against finite differences."""

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scenes import NAMES, scene, sure_pixels

from specularip.raster import rasterize, rasterize_reference

SPLATS = ("means", "quats", "scales", "opacities", "colors")

scenes = st.builds(
    lambda seed, n, channels, cameras, width, height: scene(
        seed, n=n, channels=channels, cameras=cameras, width=width, height=height
    ),
    seed=st.integers(0, 2**31),
    n=st.integers(1, 80),
    channels=st.integers(1, 5),
    cameras=st.integers(1, 3),
    width=st.integers(1, 50),
    height=st.integers(1, 50),
)
modes = st.booleans()
pytestmark = pytest.mark.usefixtures("seed")  # examples are drawn again for each fresh seed
few = settings(max_examples=25)


def outputs(raster):
    return raster.image, raster.alpha, raster.depth


def smooth_scene(seed, n=8, cameras=2, width=14, height=11):
    """Large faint splats: alpha stays above its threshold at every pixel, so that there are no jumps."""
    arguments = scene(seed, n=n, cameras=cameras, width=width, height=height)
    arguments["means"] = arguments["means"] * 0.3
    arguments["scales"] = arguments["scales"].clamp(0.6, 0.8)
    arguments["opacities"] = arguments["opacities"] * 0.2 + 0.3
    return arguments


def random_like(tensors, seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tensor.shape, generator=generator) for tensor in tensors]


@few
@given(scenes, modes, st.randoms(use_true_random=False))
def test_image_is_invariant_to_the_order_of_splats(arguments, antialiased, random):
    order = list(range(len(arguments["means"])))
    random.shuffle(order)
    shuffled = {k: v[order] if k in SPLATS else v for k, v in arguments.items()}
    one = rasterize(**arguments, antialiased=antialiased)
    other = rasterize(**shuffled, antialiased=antialiased)
    for a, b in zip(outputs(one), outputs(other)):
        assert torch.equal(a, b)
    assert torch.equal(one.radii[:, order], other.radii)


@few
@given(scenes, modes, st.integers(0, 2**31))
def test_image_is_invariant_to_rigid_motions(arguments, antialiased, seed):
    g = torch.Generator().manual_seed(seed)
    q = torch.nn.functional.normalize(torch.randn(4, generator=g, dtype=torch.float64), dim=0)
    w, x, y, z = q.tolist()
    turn = torch.tensor([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ], dtype=torch.float64)  # fmt: skip
    shift = torch.randn(3, generator=g, dtype=torch.float64)
    a, b, c, d = arguments["quats"].double().unbind(-1)
    turned = [w * a - x * b - y * c - z * d, w * b + x * a + y * d - z * c,
              w * c - x * d + y * a + z * b, w * d + x * c - y * b + z * a]  # fmt: skip
    views = arguments["viewmats"].double()
    moved_views = views.clone()
    moved_views[:, :3, :3] = views[:, :3, :3] @ turn.T
    moved_views[:, :3, 3] = views[:, :3, 3] - (moved_views[:, :3, :3] @ shift)
    moved = dict(
        arguments,
        means=(arguments["means"].double() @ turn.T + shift).float(),
        quats=torch.stack(turned, -1).float(),
        viewmats=moved_views.float(),
    )
    sure = sure_pixels(arguments, antialiased)
    still = rasterize(**arguments, antialiased=antialiased)
    for one, other in zip(outputs(still), outputs(rasterize(**moved, antialiased=antialiased))):
        assert ((one - other).abs() * sure).max() < 2e-3


@few
@given(scenes, modes, st.floats(-2, 2), st.integers(0, 2**31))
def test_image_is_linear_in_colours_and_background(arguments, antialiased, factor, seed):
    colors, background = random_like((arguments["colors"], arguments["background"]), seed)

    def draw(colors, background):
        changed = dict(arguments, colors=colors, background=background)
        return rasterize(**changed, antialiased=antialiased).image

    mixed = draw(arguments["colors"] + factor * colors, arguments["background"] + factor * background)
    apart = draw(arguments["colors"], arguments["background"]) + factor * draw(colors, background)
    torch.testing.assert_close(mixed, apart, rtol=1e-4, atol=2e-5)


@few
@given(scenes, modes)
def test_alpha_and_depth_are_within_their_ranges(arguments, antialiased):
    raster = rasterize(**arguments, antialiased=antialiased)
    assert raster.alpha.min() >= 0 and raster.alpha.max() <= 1
    for b, viewmat in enumerate(arguments["viewmats"]):
        z = (arguments["means"] @ viewmat[2, :3] + viewmat[2, 3])[raster.radii[b] > 0]
        hit = raster.alpha[b] > 0
        if hit.any():
            depth = raster.depth[b][hit]
            assert depth.min() >= z.min() * (1 - 1e-5) and depth.max() <= z.max() * (1 + 1e-5)
        assert not raster.depth[b][~hit].any()


@few
@given(st.integers(0, 2**31), st.integers(40, 70), st.integers(0, 30), modes)
def test_two_halves_make_the_image(seed, width, offset, antialiased):
    """With small splats: the affine projection is clamped near the image's edges, which differ in the
    halves."""
    left = 24 + offset % (width - 39)
    arguments = scene(seed, n=200, width=width, height=33)
    arguments["scales"] = arguments["scales"].clamp_max(0.01)
    whole = rasterize(**arguments, antialiased=antialiased)
    shifted = arguments["Ks"].clone()
    shifted[:, 0, 2] -= left
    halves = [
        rasterize(**dict(arguments, width=left), antialiased=antialiased),
        rasterize(**dict(arguments, width=width - left, Ks=shifted), antialiased=antialiased),
    ]
    sure = sure_pixels(arguments, antialiased)
    for name in ("image", "alpha", "depth"):
        joined = torch.cat([getattr(half, name) for half in halves], 2)
        assert ((joined - getattr(whole, name)).abs() * sure).max() < 1e-3, name


@few
@given(scenes, modes, st.integers(0, 2**31))
def test_gradients_are_linear_in_the_loss(arguments, antialiased, seed):
    inputs = {k: arguments[k].requires_grad_() for k in NAMES}
    raster = rasterize(**dict(arguments, **inputs), antialiased=antialiased)
    parts = [
        sum((o * w).sum() for o, w in zip(outputs(raster), random_like(outputs(raster), seed + k)))
        for k in (0, 1)
    ]
    tensors = list(inputs.values())
    one, other, both = (
        torch.autograd.grad(loss, tensors, retain_graph=True) for loss in (*parts, parts[0] + parts[1])
    )
    for name, a, b, c in zip(NAMES, one, other, both):
        # Where alpha is near 0.999, the kernels divide a small difference by 1 - alpha.
        assert (a + b - c).norm() <= 3e-3 * (a.norm() + b.norm()) + 1e-6, name


@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**31))
def test_gradients_match_finite_differences(name, antialiased, seed):
    """Along a random direction of one input: the gradient against a central difference in float64."""
    arguments = smooth_scene(seed)
    (direction,) = random_like((arguments[name],), seed + 1)
    if name == "viewmats":
        direction[:, 3] = 0  # the last row, 0 0 0 1, is not read

    def drawn(step):
        moved = dict(arguments, **{name: arguments[name].double() + step * direction.double()})
        return outputs(rasterize_reference(**moved, antialiased=antialiased))

    below, here, above = drawn(-1e-4), drawn(0.0), drawn(1e-4)
    # No slope where some alpha crosses its threshold of 1/255 in between, or where two splats change order.
    bends = [(a + c - 2 * b).abs().amax(-1, keepdim=True) for a, b, c in zip(below, here, above)]
    smooth = torch.stack(bends).amax(0) < 1e-5
    assume(smooth.double().mean() > 0.8)
    inputs = dict(arguments, **{name: arguments[name].clone().requires_grad_()})
    raster = rasterize(**inputs, antialiased=antialiased)
    weights = [weight * smooth for weight in random_like(outputs(raster), seed)]
    sum((o * w).sum() for o, w in zip(outputs(raster), weights)).backward()
    slope = float(sum(((c - a) * w.double()).sum() for a, c, w in zip(below, above, weights))) / 2e-4
    gradient = inputs[name].grad
    expected = float((gradient * direction).sum())
    scale = float(gradient.norm() * direction.norm() / max(direction.numel(), 1) ** 0.5)
    assert abs(slope - expected) < 0.01 * max(scale, 1e-3), f"{slope} against {expected}"
