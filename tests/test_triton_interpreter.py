"""The Triton kernels on machines without a GPU: Triton's interpreter against plain tensors, in small shapes.

conftest.py switches the interpreter on before Triton loads, where there is no GPU. Where there is one, the
tests of each kernel run it compiled.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import pytest
import torch
from avatars import random_avatar
from closeness import relative
from torch import Tensor
from torch.nn import functional as F

from specularip.body import AnnyModel, skeleton
from specularip.cameras import Cameras
from specularip.diffusion.fast import ops
from specularip.diffusion.fast.features import Features, Part
from specularip.motion.posing import Rest, pose_reference
from specularip.motion.quaternions import about
from specularip.motion.skinning import Blend, bone_table, joint_transforms
from specularip.specular import culling
from specularip.specular.mutual_attention import MutualAttention, attend
from specularip.specular.shading import LATENTS, Light, Surface, specular_reference

pytestmark = [
    pytest.mark.usefixtures("seed"),
    pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels run compiled: there is a GPU"),
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton"),
]


def derived(function: Callable[..., Tensor], inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """The value, and the gradients of all inputs."""
    leaves = [tensor.clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    return [value, *torch.autograd.grad(value, leaves, upstream.to(value.dtype))]


def assert_same(function: Callable[..., Tensor], plain: Callable[..., Tensor], inputs: list[Tensor]) -> None:
    """The kernel's value and gradients in float32 against the plain ones in float64: within 1e-4 of the
    largest number or, where float32 cannot do that, within sixteen times the plain function's own error."""
    upstream = torch.randn_like(plain(*inputs))
    results = [
        derived(function, inputs, upstream),
        derived(plain, inputs, upstream),
        derived(plain, [tensor.double() for tensor in inputs], upstream),
    ]
    for index, (found, excuse, wanted) in enumerate(zip(*results, strict=True)):
        assert found.shape == wanted.shape
        error, allowed = ((some.double() - wanted).abs().max() for some in (found, excuse))
        assert error <= max(1e-4 * wanted.abs().max(), 16 * allowed), (index, float(error))


def with_plain_constants(module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """constexpr times tensor is a tensor where kernels are compiled, but a constexpr in the interpreter."""
    for name, value in list(vars(module).items()):
        if type(value).__name__ == "constexpr":
            monkeypatch.setattr(module, name, value.value)


@pytest.mark.parametrize("masked", [False, True])
def test_shading(masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from specularip.specular import triton_shading

    with_plain_constants(triton_shading, monkeypatch)
    cameras, n, lights = 2, 70, 3  # more Gaussians than a program has
    means, centres = torch.randn(n, 3), 4 * F.normalize(torch.randn(cameras, 3), dim=-1)
    visible = torch.rand(cameras, n) < 0.5 if masked else None
    inputs = [
        torch.randn(n, LATENTS),
        torch.rand(n, 3),
        F.normalize(torch.randn(n, 3), dim=-1),
        F.normalize(torch.randn(lights, 3), dim=-1),
        0.003 + 0.1 * torch.rand(lights),
        2 * torch.rand(lights, 3),
        0.3 * torch.randn(9, 3),
    ]

    def kernel(latents: Tensor, diffuse: Tensor, normals: Tensor, *light: Tensor) -> Tensor:
        surface = Surface(latents, diffuse, normals, means)
        return triton_shading.shade_triton(surface, Light(*light), centres, visible)

    def plain(latents: Tensor, diffuse: Tensor, normals: Tensor, *light: Tensor) -> Tensor:
        surface = Surface(latents, diffuse, normals, means.to(latents))
        shown = specular_reference(surface, Light(*light), centres.to(latents))
        return shown if visible is None else torch.where(visible[..., None], shown, 0)

    assert_same(kernel, plain, inputs)
    with torch.no_grad():
        assert torch.equal(kernel(*inputs), kernel(*(tensor.requires_grad_() for tensor in inputs)))


@pytest.mark.parametrize("width", [3, 8])
def test_mutual_attention(width: int) -> None:
    from specularip.specular.triton_mutual_attention import attend_triton

    projection = MutualAttention(width)._projection().detach()
    assert_same(attend_triton, attend, [torch.randn(40, LATENTS), torch.rand(40, 3), projection])


def test_culling() -> None:
    from specularip.specular.triton_culling import in_view_triton

    azimuths, elevations = [0.0, 130.0, 250.0], [10.0, -60.0, 0.0]
    cameras = Cameras.orbit(azimuths, elevations, 1.5, 60.0, 160, 90, target=(0.4, -0.3, 0.2))
    means, scales = 2 * torch.randn(300, 3), 0.5 * torch.rand(300, 3) ** 4 + 1e-3
    found = in_view_triton(means, scales, cameras, culling.REACH, culling.NEAR, culling.BORDER)
    # Rounding decides at the very border.
    assert 0 < found.float().mean() < 1 and (found != culling.in_view(means, scales, cameras)).sum() <= 1


@pytest.mark.parametrize("blend", ["linear", "dual"])
def test_posing(blend: Blend, monkeypatch: pytest.MonkeyPatch) -> None:
    from specularip.motion import triton_posing

    with_plain_constants(triton_posing, monkeypatch)
    avatar = random_avatar()
    rest = Rest.of(avatar.gaussians, avatar.gaussians.latents)
    axes = F.normalize(torch.randn(3, 3), dim=-1)
    bones = bone_table(joint_transforms(avatar.skeleton(), about(axes, torch.rand(3)), torch.randn(3)))
    found = triton_posing.pose_triton(rest, rest.means, bones, blend)
    wide = Rest(**{k: v.double() if v.is_floating_point() else v for k, v in vars(rest).items()})
    for some, truth in zip(found, pose_reference(wide, bones.double(), blend, wide.means)):
        close(some.double(), truth)


def test_ellipses(seed: int) -> None:
    from specularip.body.triton_ellipses import draw_ellipses

    body = AnnyModel.load()
    keypoints = body.keypoints(body.vertices(torch.rand(1, 11)))[0]
    xy = Cameras.orbit([0.0, 100.0], 5, 2.4, 45, 40, 40).project(keypoints)[0]
    visible = torch.rand(2, 18) < 0.8
    found = draw_ellipses(skeleton._shapes(xy, visible, 40), 40)
    assert (found - skeleton._draw(xy, visible, 40)).abs().max() < 1e-3


def close(found: Tensor | None, wanted: Tensor | None) -> None:
    assert found is not None and wanted is not None and found.shape == wanted.shape
    assert found.dtype == wanted.dtype and relative(found, wanted) < 1e-5


SHAPE = (4, 6, 5, 40)
"""Images, rows, columns, channels: fewer than tiles have."""


def test_group_norm_and_its_gradient() -> None:
    from specularip.diffusion.fast import triton_ops

    x, grad, residual = torch.randn(SHAPE), torch.randn(SHAPE), torch.randn(SHAPE)
    weight, bias, shift = torch.randn(40), torch.randn(40), torch.randn(2, 40)
    parts = [Part(x, grad[:2], bias), Part(grad[:2])]
    joined, (made, sums) = ops.join(parts), triton_ops.join(parts, True)
    assert joined.sums is not None and sums is not None
    close(made, joined.x)
    close(sums.sum(1), joined.sums.sum(1))
    norm = ops.coefficients(Features(x), weight, bias, 8, 1e-5, shift)
    _, sums = triton_ops.join([Part(x)], True)
    assert sums is not None
    close(triton_ops.coefficients(sums, 30, weight, bias, 8, 1e-5, shift), norm.values)
    for silu in (False, True):
        close(triton_ops.normalize(x, norm.values, silu), ops.normalize(x, norm, silu=silu))
        for some in (None, residual):
            wanted = ops.normalize_backward(x, grad, norm, silu=silu, residual=some)
            close(triton_ops.normalize_backward(x, grad, norm.values, weight, 8, silu, some), wanted)


def test_layer_norm_and_geglu() -> None:
    from specularip.diffusion.fast import triton_ops

    tokens, weight, bias = torch.randn(4, 30, 40), torch.randn(40), torch.randn(40)
    for x, delta in ((tokens, None), (tokens[:2], tokens)):
        found = triton_ops.add_layer_norm(x, delta, weight, bias, 1e-5)
        for some, wanted in zip(found, ops.add_layer_norm(x, delta, weight, bias, 1e-5)):
            close(some, wanted)
    wide, offset = torch.randn(2 * 72, 40) / 6, torch.randn(2 * 72)
    assert relative(triton_ops.geglu(tokens, wide, offset), ops.geglu(tokens, wide, offset)) < 1e-4


@pytest.mark.parametrize("face", [False, True])
def test_cross_attention(face: bool) -> None:
    from specularip.diffusion.fast import triton_ops

    query, wide = torch.randn(2, 70, 48), torch.randn(4, 13, 96)
    faces = torch.randn(4, 5, 96)
    extra = (faces[..., :48], faces[..., 48:], torch.rand(4)) if face else (None, None, None)
    given = query, wide[..., :48], wide[..., 48:], 2, *extra
    close(triton_ops.cross_attention(*given), ops.cross_attention(*given))


def test_softmax_and_its_gradient() -> None:
    from specularip.diffusion.fast import triton_ops

    scores, grad = 3 * torch.randn(2, 9, 37), torch.randn(2, 9, 37)
    probabilities = ops.softmax(scores, torch.float32)
    close(triton_ops.softmax(scores, torch.float32), probabilities)
    found = triton_ops.softmax_backward(probabilities, grad, 0.3)
    close(found, ops.softmax_backward(probabilities, grad, 0.3))


def test_patches_and_pixels() -> None:
    from specularip.diffusion.fast import triton_ops

    x, grad = torch.randn(2, 3, 6, 5), torch.randn(2, 6, 5, 32)
    for images in (x, x.contiguous(memory_format=torch.channels_last)):
        found = triton_ops.patches(images, 32, 2.0, -1.0, torch.float32)
        close(found, ops.patches(x, 32, 2.0, -1.0, torch.float32))
    close(triton_ops.patches_backward(grad, 3), ops.patches_backward(grad, 3))
    for bias in (None, torch.randn(8)):
        close(triton_ops.spread(grad, 5, 4, 1, bias), ops.spread(grad, 5, 4, 1, bias))
