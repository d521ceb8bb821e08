"""The CPU rasteriser against the float64 reference, on random scenes."""

import os
import subprocess
import sys
import tracemalloc

import pytest
import torch
from scenes import (
    assert_same,
    assert_same_radii,
    check_that_depth_changes_nothing_else,
    draw,
    scene,
    sure_pixels,
)

from specularip.errors import UserError
from specularip.kernels import threads
from specularip.kernels.compiling import in_background
from specularip.raster import rasterize, rasterize_reference, warm_up


@pytest.mark.parametrize(
    "options",
    [
        {"channels": 1, "cameras": 1},
        {"channels": 3},
        {"channels": 7, "per_camera": True},
        {"channels": 12, "width": 16, "height": 16},
        {"channels": 33, "cameras": 1, "n": 20},
        {"behind": 0.5, "cameras": 3},
        {"n": 1, "cameras": 1, "width": 1, "height": 1},
        {"n": 400, "cameras": 1, "width": 70, "height": 33},
    ],
    ids=lambda options: "-".join(f"{k}{v}" for k, v in options.items()),
)
@pytest.mark.parametrize("antialiased", [False, True], ids=["plain", "antialiased"])
def test_matches_reference(options, antialiased, seed):
    arguments = scene(seed, **options)
    sure = sure_pixels(arguments, antialiased)
    fast = draw(rasterize, arguments, seed, antialiased, sure=sure)
    slow = draw(rasterize_reference, arguments, seed, antialiased, dtype=torch.float64, sure=sure)
    assert_same(*fast, *slow, sure, seed)


def test_opaque_layers_stop_like_the_reference(seed):
    """Many nearly opaque splats on top of each other: the limits of alpha and transmittance matter."""
    arguments = scene(seed, n=150, cameras=1)
    arguments["opacities"] = 1.0 - 0.01 * arguments["opacities"] ** 4
    arguments["scales"] = arguments["scales"] * 3
    sure = sure_pixels(arguments)
    fast = draw(rasterize, arguments, seed, sure=sure)
    slow = draw(rasterize_reference, arguments, seed, dtype=torch.float64, sure=sure)
    assert slow[0].alpha.max() > 0.999
    assert_same(*fast, *slow, sure, seed)


def test_behind_scene_culls_about_half_of_the_splats(seed):
    raster = rasterize(**scene(seed, n=200, behind=0.5))
    share = (raster.radii > 0).float().mean()
    assert 0.2 < share < 0.8


def test_needles_and_discs_lose_no_pixels(seed):
    """Long thin splats at all angles: tile and block masks must not cut off their tips."""
    arguments = scene(seed, n=40, cameras=1, width=90, height=75)
    g = torch.Generator().manual_seed(seed)
    long_axis = torch.rand(40, 3, generator=g).argsort(-1)
    arguments["scales"] = torch.tensor([0.5, 0.004, 0.004])[long_axis]
    arguments["opacities"] = torch.rand(40, generator=g) * 0.9 + 0.1
    sure = sure_pixels(arguments)
    error = (rasterize(**arguments).image.double() - rasterize_reference(**arguments).image).abs() * sure
    # A needle's exponent is a small difference of large float32 numbers, hence a few larger errors; a single
    # lost 4x4 block would raise the mean above this.
    assert error.max() < 2e-2 and error.mean() < 4e-6, f"{error.max()}, mean {error.mean()}, seed {seed}"


def test_means2d_gradient_is_the_slope_of_a_shift(seed):
    """Moving a camera's principal point moves all its splats in the image by as much."""
    arguments = scene(seed, n=8, cameras=2, width=14, height=11)
    # Large faint splats: alpha stays above its threshold at every pixel, so that the loss has no jumps.
    arguments["means"] = arguments["means"] * 0.3
    arguments["scales"] = arguments["scales"].clamp(0.6, 0.8)
    arguments["opacities"] = arguments["opacities"] * 0.2 + 0.3
    _, gradients = draw(rasterize, arguments, seed)
    weights = torch.Generator().manual_seed(seed)

    def loss(shift, axis, camera):
        moved = dict(arguments, Ks=arguments["Ks"].double().clone())
        moved["Ks"][camera, axis, 2] += shift
        raster = rasterize_reference(**moved)
        weights.manual_seed(seed)
        outputs = (raster.image, raster.alpha, raster.depth)
        return float(sum((o * torch.randn(o.shape, generator=weights).double()).sum() for o in outputs))

    for axis in (0, 1):
        slope = (loss(1e-3, axis, 1) - loss(-1e-3, axis, 1)) / 2e-3
        summed = float(gradients["means2d"][1, :, axis].sum())
        scale = float(gradients["means2d"][1, :, axis].abs().sum())
        assert abs(slope - summed) < 0.01 * scale, f"{slope} against {summed}, seed {seed}"


def test_means2d_is_a_tensor_of_the_graph(seed):
    arguments = scene(seed, n=10)
    arguments["means"].requires_grad_()
    raster = rasterize(**arguments)
    raster.means2d.retain_grad()
    raster.image.sum().backward()
    assert raster.means2d.grad.shape == (2, 10, 2)
    assert raster.means2d.grad.abs().sum() > 0


def test_no_gradient_without_requires_grad(seed):
    arguments = scene(seed)
    assert not rasterize(**arguments).image.requires_grad
    arguments["opacities"].requires_grad_()
    rasterize(**arguments).alpha.sum().backward()
    assert arguments["opacities"].grad is not None and arguments["means"].grad is None


@pytest.mark.parametrize("n, cameras", [(0, 2), (5, 0), (0, 0)])
def test_no_splats_or_no_cameras(n, cameras, seed):
    arguments = scene(seed, n=max(n, 1), cameras=max(cameras, 1))
    for name in ("means", "quats", "scales", "opacities", "colors"):
        arguments[name] = arguments[name][:n].requires_grad_()
    for name in ("viewmats", "Ks", "background"):
        arguments[name] = arguments[name][:cameras]
    raster = rasterize(**arguments)
    assert raster.image.shape == (cameras, 37, 45, 3)
    assert torch.equal(raster.image, arguments["background"][:, None, None].expand(raster.image.shape))
    assert raster.alpha.shape == raster.depth.shape == (cameras, 37, 45, 1)
    assert raster.means2d.shape == (cameras, n, 2) and raster.radii.shape == (cameras, n)
    assert rasterize(**arguments, depth=False).depth.shape == (cameras, 37, 45, 0)
    (raster.image.sum() + raster.depth.sum()).backward()
    assert arguments["means"].grad.shape == (n, 3)


@pytest.mark.parametrize("antialiased", [False, True])
def test_depth_changes_nothing_else(antialiased, seed):
    check_that_depth_changes_nothing_else("cpu", seed, antialiased)


def test_all_behind_the_camera(seed):
    arguments = scene(seed)
    arguments["means"][:, 2] -= 50
    arguments["means"].requires_grad_()
    raster = rasterize(**arguments)
    assert not raster.radii.any() and not raster.alpha.any()
    raster.image.sum().backward()
    assert not arguments["means"].grad.any()


def test_background_is_optional_and_may_be_shared(seed):
    arguments = scene(seed)
    shared = arguments.pop("background")[0]
    black = rasterize(**arguments)
    tinted = rasterize(**arguments, background=shared)
    torch.testing.assert_close(tinted.image, black.image + (1 - black.alpha) * shared)


def test_same_bits_from_run_to_run_and_for_any_number_of_threads(monkeypatch, seed):
    arguments = scene(seed, n=3000, cameras=3, width=100, height=80)
    results = []
    for count in ("1", "2", "3", "1"):
        monkeypatch.setenv("SPECULARIP_NUM_THREADS", count)
        raster, gradients = draw(rasterize, arguments, seed)
        results.append([raster.image, raster.alpha, raster.depth, *gradients.values()])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other)), f"seed {seed}"


@pytest.mark.parametrize("wanted", ["0", "-2", "two", "1.5"])
def test_invalid_thread_counts_raise_one_clear_line(monkeypatch, wanted):
    monkeypatch.setenv("SPECULARIP_NUM_THREADS", wanted)
    with pytest.raises(UserError, match="SPECULARIP_NUM_THREADS must be"):
        rasterize(**scene(0))


@pytest.mark.parametrize("text, most", [("150000 100000\n", 2), ("20000 100000\n", 1), ("max 100000\n", 8)])
def test_thread_count_respects_container_quotas(monkeypatch, tmp_path, text, most):
    (tmp_path / "cpu.max").write_text(text)
    monkeypatch.setattr(threads, "CGROUP_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert threads.available_cores.__wrapped__() == most


def test_compilation_is_logged_once(tmp_path):
    """With an empty cache the line appears once; with a filled one it does not."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    code = (
        "import torch; from specularip.raster import rasterize;"
        "one = torch.ones(1, 3); eye = torch.eye(4)[None];"
        "[rasterize(one, eye[0, :1], one, one[:, 0], one, eye, eye[:, :3, :3], 8, 8) for _ in range(2)]"
    )
    logs = [
        subprocess.run(
            [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
        ).stderr
        for _ in range(2)
    ]
    assert logs[0].count("compiling the CPU kernels") == 1
    assert "compiling" not in logs[1]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["means", "quats", "scales", "opacities", "colors"])
def test_splats_with_bad_values_are_culled(name, bad, seed):
    arguments = scene(seed, n=40)
    arguments[name].view(40, -1)[::2, 0] = bad
    kept = {k: v[1::2] if isinstance(v, torch.Tensor) and len(v) == 40 else v for k, v in arguments.items()}
    raster, gradients = draw(rasterize, arguments, seed)
    wanted, wanted_gradients = draw(rasterize, kept, seed)
    assert torch.equal(raster.image, wanted.image), f"seed {seed}"
    assert not raster.radii[:, ::2].any()
    for key in ("means", "colors"):
        assert torch.equal(gradients[key][1::2], wanted_gradients[key]) and not gradients[key][::2].any()


def test_pixels_at_the_alpha_threshold_are_not_sure():
    """A scene in which a splat's alpha at one pixel is 1/255 to 1.5e-6, within float32 rounding."""
    arguments = scene(1492067928, n=40)
    arguments = {
        k: v[1::2] if isinstance(v, torch.Tensor) and len(v) == 40 else v for k, v in arguments.items()
    }
    assert (~sure_pixels(arguments)).nonzero().tolist() == [[1, 1, 4, 0]]
    below, above = (
        rasterize_reference(**dict(arguments, opacities=arguments["opacities"].double() * (1 + change))).image
        for change in (-3e-6, 3e-6)
    )
    assert (above - below).abs().amax() > 1e-3


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1e3, 1e9, 1e18])
def test_extreme_sizes_and_distances_stay_finite(scale, seed):
    arguments = scene(seed, n=50)
    arguments["scales"] = arguments["scales"] * scale
    arguments["means"][::3] *= min(scale, 1e6)
    raster, _ = draw(rasterize, arguments, seed)
    assert all(torch.isfinite(t).all() for t in (raster.image, raster.alpha, raster.depth)), f"seed {seed}"
    assert raster.alpha.min() >= 0 and raster.alpha.max() <= 1 + 1e-6


def test_degenerate_splats_match_the_reference(seed):
    """Zero scales and quats, opacity 0 and 1, splats on both sides of the near plane, in one scene."""
    arguments = scene(seed, n=70, cameras=1)
    for k, (name, value) in enumerate(
        [("scales", 0.0), ("quats", 0.0), ("opacities", 0.0), ("opacities", 1.0)]
    ):
        arguments[name][10 * k : 10 * (k + 1)] = value
    rotation, translation = arguments["viewmats"][0, :3, :3], arguments["viewmats"][0, :3, 3]
    in_camera = arguments["means"] @ rotation.T + translation
    in_camera[40:60, 2] = torch.tensor([0.0, -1.0, 0.0099, 0.0101, 0.02] * 4)
    in_camera[40:60, 2] *= 1 + 0.001 * torch.arange(20) / 20  # no ties: rounding would decide their order
    in_camera[40:60, :2] *= in_camera[40:60, 2:]
    arguments["means"] = (in_camera - translation) @ rotation
    for antialiased in (False, True):
        sure = sure_pixels(arguments, antialiased)
        fast = rasterize(**arguments, antialiased=antialiased)
        slow = rasterize_reference(**arguments, antialiased=antialiased)
        assert_same_radii(fast.radii, slow.radii, seed)
        assert not fast.radii[0, 10:30].any() and not fast.radii[0, 40:60:5].any()
        for name in ("image", "alpha", "depth"):
            error = ((getattr(fast, name) - getattr(slow, name)).abs() * sure).max()
            assert error < 1e-3, f"{name} off by {error}, seed {seed}"


def test_invalid_cameras_see_nothing(seed):
    arguments = scene(seed)
    arguments["viewmats"][0, 0, 0] = float("nan")
    arguments["Ks"][1, 0, 0] = 0.0
    raster = rasterize(**arguments)
    assert torch.isfinite(raster.image).all()
    assert not raster.radii[0].any()


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("means", torch.zeros(60, 2), "means must be"),
        ("quats", torch.zeros(60, 3), "quats must be"),
        ("scales", torch.zeros(59, 3), "scales must be"),
        ("opacities", torch.zeros(60, 1), "opacities must be"),
        ("colors", torch.zeros(3, 60, 3), "colors must be"),
        ("colors", torch.zeros(60, 0), "colors must be"),
        ("colors", torch.zeros(60), "colors must be"),
        ("viewmats", torch.zeros(4, 4), "viewmats must be"),
        ("Ks", torch.zeros(1, 3, 3), "Ks must be"),
        ("background", torch.zeros(2), "background must be"),
        ("means", torch.zeros(60, 3, dtype=torch.float64), "means must be float32"),
        ("quats", [[1, 0, 0, 0]], "quats must be a torch.Tensor"),
        ("scales", torch.zeros(60, 3, device="meta"), "scales is on meta"),
        ("width", 0, "width must be"),
        ("height", 2.5, "height must be"),
    ],
)
def test_invalid_arguments_are_named(name, value, words):
    with pytest.raises(ValueError, match=words):
        rasterize(**dict(scene(0), **{name: value}))


def test_inputs_that_are_not_contiguous(seed):
    arguments = scene(seed)
    strided = dict(arguments)
    for name in ("means", "quats", "scales", "colors", "viewmats"):
        strided[name] = arguments[name].transpose(0, -1).contiguous().transpose(0, -1)
    assert torch.equal(rasterize(**arguments).image, rasterize(**strided).image), f"seed {seed}"


def test_compiling_in_the_background_reports_its_errors_where_the_result_is_needed():
    done = []
    in_background(lambda: done.append(1), lambda: done.append(2)).result(timeout=10)
    assert done == [1, 2]

    def broken() -> None:
        raise UserError("no folder for the cache")

    failing = in_background(broken, lambda: done.append(3))
    with pytest.raises(UserError, match="no folder"):
        failing.result(timeout=10)
    assert done == [1, 2]


def test_warm_up_compiles_everything_that_a_training_step_needs():
    """After it, a step with other sizes must not compile anything."""
    code = (
        "import torch, numba.core.event as event\n"
        "from specularip.raster import warm_up, rasterize\n"
        "warm_up()\n"
        "x = {k: torch.rand(9, d).requires_grad_() for k, d in dict(means=3, quats=4, scales=3).items()}\n"
        "with event.install_recorder('numba:compile') as recorder:\n"
        "    for colors in (torch.rand(9, 6), torch.rand(2, 9, 3)):\n"
        "        V, K = torch.eye(4).repeat(2, 1, 1), torch.eye(3).repeat(2, 1, 1) * 9\n"
        "        out = rasterize(**x, opacities=torch.rand(9), colors=colors, viewmats=V.requires_grad_(),\n"
        "                        Ks=K, width=20, height=30, background=colors[..., 0, :], antialiased=True)\n"
        "        out.image.sum().backward()\n"
        "assert not recorder.buffer, recorder.buffer\n"
    )
    warm_up()
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_memory_is_linear_in_splats_and_pairs():
    """numpy's peak allocation, for four times the splats of the same size in pixels."""

    def peak(n):
        arguments = scene(1, n=n, cameras=1, width=200, height=160)
        arguments["scales"] = torch.full((n, 3), 0.02)
        arguments["means"].requires_grad_()
        tracemalloc.start()
        rasterize(**arguments).image.sum().backward()
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    small, large = peak(5_000), peak(20_000)
    assert large < 4.2 * small
    assert large < 20_000 * 2_000, f"{large / 20_000:.0f} bytes a splat"
