"""The fused shading kernels against plain tensors in float64: values and every gradient."""

import pytest
import torch
from torch.nn import functional as F

from specularip.errors import UserError
from specularip.specular.dispatch import shade_fused
from specularip.specular.shading import LATENTS, Light, Surface, specular_reference

NAMES = "latents diffuse normals means centres light_axes light_widths light_colors ambient".split()
CONSTANT = ("means", "centres")
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu(needs="triton"))]


def scene(seed, n, cameras=1, lights=64, spread=1.0):
    """The tensors of a surface, cameras and a light by name: float64 tensors of float32 values. `spread`
    scales the latents."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    def uniform(*size):
        return torch.rand(*size, generator=generator, dtype=torch.float64)

    values = (
        spread * normal(n, LATENTS),
        uniform(n, 3),
        F.normalize(normal(n, 3), dim=-1),
        normal(n, 3),
        4 * F.normalize(normal(cameras, 3), dim=-1) + 0.5 * normal(cameras, 3),
        F.normalize(normal(lights, 3), dim=-1),
        0.003 + 0.1 * uniform(lights),
        4 * uniform(lights, 3) / max(lights, 1) ** 0.5,
        0.3 * normal(9, 3),
    )
    return {name: value.float().double() for name, value in zip(NAMES, values)}


def call(shade, tensors, **options):
    """`shade` of tensors in the order of NAMES."""
    return shade(Surface(*tensors[:4]), Light(*tensors[5:]), tensors[4], **options)


def run(shade, arguments, upstream, visible=None, dtype=torch.float32, device="cpu", scattered=False):
    """Colours, and gradients by name. `scattered`: inputs that are not contiguous."""
    leaves, inputs = {}, []
    for name, value in arguments.items():
        leaf = value.to(device, dtype, copy=True).requires_grad_(name not in CONSTANT)
        leaves[name] = leaf
        inputs.append(torch.stack([leaf, leaf], -1)[..., 0] if scattered else leaf)
    shown = call(shade, inputs, **({} if visible is None else {"visible": visible.to(device)}))
    (shown * upstream.to(device, dtype)).sum().backward()
    zero = torch.zeros((), device=device)
    grads = {name: zero.expand_as(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return shown.detach(), {name: grad for name, grad in grads.items() if name not in CONSTANT}


def assert_close(found, wanted, plain, tolerance, what):
    """Within `tolerance` of the largest value or, where float32 cannot reach that (sharp lobes; back lighting
    at grazing angles), within sixteen times the error of plain tensors in float32."""
    assert found.shape == wanted.shape, what
    if wanted.numel():
        error, rounding = ((part.cpu().double() - wanted).abs().max() for part in (found, plain))
        assert error <= max(tolerance * max(wanted.abs().max(), 1e-3), 16 * rounding), f"{what}: {error:.2e}"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [
        {"n": 0},
        {"n": 0, "cameras": 2, "masked": True},
        {"n": 1},
        {"n": 1, "cameras": 3, "masked": True},
        {"n": 17, "cameras": 2},
        {"n": 17, "cameras": 2, "masked": True, "scattered": True},
        {"n": 40, "lights": 0},
        {"n": 300, "lights": 1, "scattered": True},
        {"n": 700, "cameras": 3, "masked": True},
        {"n": 700, "spread": 3.0},
    ],
    ids=str,
)
def test_matches_the_reference(options, device, seed):
    options = dict(options)
    masked, scattered = options.pop("masked", False), options.pop("scattered", False)
    arguments = scene(seed, **options)
    count, n = len(arguments["centres"]), len(arguments["means"])
    generator = torch.Generator().manual_seed(seed + 1)
    upstream = torch.randn(count, n, 3, generator=generator)
    visible = torch.rand(count, n, generator=generator) < 0.5 if masked else None
    shown, grads = run(shade_fused, arguments, upstream, visible, device=device, scattered=scattered)
    seen = torch.ones(count, n, 1) if visible is None else visible[..., None]
    wanted, wanted_grads = run(specular_reference, arguments, upstream * seen, dtype=torch.float64)
    plain, plain_grads = run(specular_reference, arguments, upstream * seen)
    assert_close(shown, wanted * seen, plain * seen, 1e-5, "colours")
    for name, grad in wanted_grads.items():
        assert_close(grads[name], grad, plain_grads[name], 1e-4, name)


@pytest.mark.parametrize("device", DEVICES)
def test_extreme_inputs_stay_finite(device, seed):
    arguments = scene(seed, n=200, cameras=2, lights=16)
    latents, normals = arguments["latents"], arguments["normals"]
    for i, size in enumerate((30.0, 100.0, 1e4, 1e9, -1e9, 3e30)):
        latents[i * 10 : i * 10 + 10] *= size
    arguments["diffuse"][:20] = torch.tensor([0.0, 1.0, 0.5])
    normals[20:30] = torch.tensor([0.0, 0.0, 1.0])
    normals[30:40] = torch.tensor([-1e-3, 0.0, -1.0])  # where the tangent is undefined
    arguments["means"][40:50] = arguments["centres"][0]
    arguments["light_axes"][0] = -F.normalize(arguments["centres"][0], dim=0)
    arguments["light_widths"][1:3] = torch.tensor([1e-6, 1e6], dtype=torch.float64)
    arguments["light_colors"][3] = 1e6
    shown, grads = run(shade_fused, arguments, torch.ones(2, 200, 3), device=device)
    assert shown.isfinite().all()
    for name, grad in grads.items():
        assert grad.isfinite().all(), name


@pytest.mark.parametrize("device", DEVICES)
def test_invisible_gaussians_have_no_effect(device, seed):
    arguments = scene(seed, n=100, cameras=2)
    visible = torch.rand(2, 100) < 0.6
    visible[:, :20] = False
    upstream = torch.randn(2, 100, 3)
    shown, grads = run(shade_fused, arguments, upstream, visible, device=device)
    for name in NAMES[:4]:
        arguments[name][:20] = torch.nan
    upstream[~visible] = torch.nan
    again, grads_again = run(shade_fused, arguments, upstream, visible, device=device)
    assert torch.equal(shown, again)
    assert (again[~visible.to(device)] == 0).all()
    for name, grad in grads.items():
        assert torch.equal(grad, grads_again[name]), name
        if name in NAMES[:3]:
            assert (grad[:20] == 0).all()


def test_same_bits_for_any_number_of_threads(monkeypatch, seed):
    arguments = scene(seed, n=2000, cameras=2, lights=8)
    upstream, visible = torch.randn(2, 2000, 3), torch.rand(2, 2000) < 0.7
    results = []
    for threads in ("1", "2", "5"):
        monkeypatch.setenv("SPECULARIP_NUM_THREADS", threads)
        results.append(run(shade_fused, arguments, upstream, visible))
    for shown, grads in results[1:]:
        assert torch.equal(shown, results[0][0])
        for name, grad in grads.items():
            assert torch.equal(grad, results[0][1][name]), name


@pytest.mark.gpu(needs="triton")
def test_cuda_is_deterministic(seed):
    arguments, upstream = scene(seed, n=5000), torch.randn(1, 5000, 3)
    (shown, grads), (again, grads_again) = (
        run(shade_fused, arguments, upstream, device="cuda") for _ in range(2)
    )
    assert torch.equal(shown, again)
    assert all(torch.equal(grads[name], grads_again[name]) for name in grads)


def test_float64_takes_the_plain_path(seed):
    arguments = scene(seed, n=30, cameras=2, lights=5)
    visible = torch.rand(2, 30) < 0.5
    upstream = torch.randn(2, 30, 3)
    shown, _ = run(shade_fused, arguments, upstream, visible, dtype=torch.float64)
    assert shown.dtype == torch.float64
    wanted = call(specular_reference, list(arguments.values()))
    assert torch.equal(shown, torch.where(visible[..., None], wanted, 0))


def test_in_place_changes_of_inputs_are_detected():
    arguments = [value.float().requires_grad_(name not in CONSTANT) for name, value in scene(1, 5).items()]
    copy = arguments[0] * 1
    shown = call(shade_fused, [copy, *arguments[1:]])
    copy.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        shown.sum().backward()


def test_other_devices_raise():
    with pytest.raises(UserError, match="meta"):
        call(shade_fused, [value.float().to("meta") for value in scene(1, 5).values()])
