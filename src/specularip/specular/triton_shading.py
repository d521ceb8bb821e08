"""Shading on CUDA: `shading.specular_reference` as one forward and one backward kernel.

Each lane processes one Gaussian and loops over the lights, whose values are the same for all lanes. Nothing
of size [B,N,K] is written: the backward kernel recomputes the lobes. The light's gradients are summed over
the Gaussians of each program, then over programs, so that results are reproducible bit for bit.

With a = αx² + spread and c = αy² + spread a lobe costs two reciprocals and an exponential,

    r = 1/√(a c),  1/a = c r²,  1/c = a r²,  E = (h·t)² / (a |h|²) + (h·b)² / (c |h|²)
    weight = max(n·l, 0) r e^(−E) / (π |h|²)

and all its derivatives are products of these numbers. Importing this module needs Triton.
"""
# In kernels, tl's operators determine the types, not the annotations.
# mypy: disable-error-code="operator, assignment, no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.kernels.launch import launch
from specularip.specular import shading
from specularip.specular.shading import Light, Surface

FORWARD_BLOCK, BACKWARD_BLOCK = 64, 32
"""Gaussians per program, which is one warp, so that sums over its Gaussians need no barrier. More than one
per lane hides latency, but the backward kernel needs 120 registers for each."""

_ROUGHNESS = tl.constexpr(shading.ROUGHNESS)
_MIN_ROUGHNESS = tl.constexpr(shading.MIN_ROUGHNESS)
_MAX_ROUGHNESS = tl.constexpr(shading.MAX_ROUGHNESS)
_REFLECTANCE_LOGIT = tl.constexpr(math.log(shading.REFLECTANCE / (1 - shading.REFLECTANCE)))
_VISIBILITY = tl.constexpr(shading.VISIBILITY)
_LATENTS, _RESIDUAL = tl.constexpr(shading.LATENTS), tl.constexpr(shading.RESIDUAL)
_RESIDUAL_SCALE = tl.constexpr(shading.RESIDUAL_SCALE)
_SHOULDER = tl.constexpr(shading.SHOULDER)
_POLE, _MAX_STRETCH = tl.constexpr(shading.POLE), tl.constexpr(shading.MAX_STRETCH)
_SH0 = tl.constexpr(0.28209479177387814)
_SH1 = tl.constexpr(0.4886025119029199)
_SH2 = tl.constexpr(1.0925484305920792)
_SH2_POLAR = tl.constexpr(0.31539156525252005)
_SH2_PLANE = tl.constexpr(0.5462742152960396)


def shade_triton(surface: Surface, light: Light, centres: Tensor, visible: Tensor | None = None) -> Tensor:
    """`shading.specular_reference` for float32 CUDA tensors, [B,N,3]; 0 where `visible` [B,N] bool is False.

    Gradients reach latents, diffuse, normals and the light; means and centres count as constants. No second
    derivatives.
    """
    latents, diffuse, normals, means = surface
    inputs = (latents, diffuse, normals, means.detach(), centres.detach(), *light)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _Shade.apply(*inputs, visible)
    return _launch_forward([tensor.contiguous() for tensor in inputs], _bytes(visible), keep=False)[0]


def _launch_forward(inputs: list[Tensor], visible: Tensor | None, keep: bool) -> tuple[Tensor, Tensor]:
    """Colours [B,N,3] and, with `keep`, the sums over lights [B,N,6]. Takes and returns contiguous
    tensors."""
    means, centres, light_widths = inputs[3], inputs[4], inputs[6]
    n, count = len(means), len(centres)
    shown = means.new_empty(count, n, 3)
    lobes = means.new_empty(count, n, 6) if keep else shown
    if n and count:
        launch(
            _forward,
            (-(-n // FORWARD_BLOCK), count, 1),
            (*inputs, shown if visible is None else visible, shown, lobes, n, len(light_widths)),
            (visible is not None, keep, FORWARD_BLOCK),
        )
    return shown, lobes


def _bytes(visible: Tensor | None) -> Tensor | None:
    return None if visible is None else visible.contiguous().view(torch.uint8)


class _Shade(torch.autograd.Function):
    """The four tensors of the surface, centres, the four of the light, and `visible` -> colours."""

    @staticmethod
    def forward(ctx: Any, *arguments):
        inputs, visible = [tensor.contiguous() for tensor in arguments[:9]], _bytes(arguments[9])
        shown, lobes = _launch_forward(inputs, visible, keep=True)
        ctx.has_visible = visible is not None
        ctx.save_for_backward(*inputs, lobes, *([] if visible is None else [visible]))
        return shown

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_shown):
        saved = ctx.saved_tensors
        *inputs, lobes = saved[:10]
        means, centres, light_widths = inputs[3], inputs[4], inputs[6]
        n, count, lights = len(means), len(centres), len(light_widths)
        lit = any(ctx.needs_input_grad[5:9])
        programs = -(-n // BACKWARD_BLOCK)
        grads = [means.new_empty(n, size) for size in (shading.LATENTS, 3, 3)]
        new = means.new_zeros if ctx.has_visible else means.new_empty
        partials = new(count * programs if lit else 0, lights * 7 + 27)
        if n and count:
            launch(
                _backward,
                (programs, 1, 1),
                (*inputs, saved[-1], g_shown.contiguous(), lobes, *grads, partials, n, count, lights),
                (ctx.has_visible, lit, BACKWARD_BLOCK),
            )
        else:
            grads = [torch.zeros_like(grad) for grad in grads]
        light_grads: list[Tensor | None] = [None] * 4
        if lit:
            axes, widths, colors, ambient = partials.sum(0).split([lights * 3, lights, lights * 3, 27])
            light_grads = [axes.view(-1, 3), widths, colors.view(-1, 3), ambient.view(9, 3)]
        return *grads, None, None, *light_grads, None


@triton.jit
def _triple(pointer, at, mask):
    return (
        tl.load(pointer + at, mask=mask, other=0.0),
        tl.load(pointer + at + 1, mask=mask, other=0.0),
        tl.load(pointer + at + 2, mask=mask, other=0.0),
    )


@triton.jit
def _store_triple(pointer, at, x, y, z, mask):
    tl.store(pointer + at, x, mask=mask)
    tl.store(pointer + at + 1, y, mask=mask)
    tl.store(pointer + at + 2, z, mask=mask)


@triton.jit
def _tangents(x, y, z, angle):
    """Tangent and bitangent; and for their gradient the cosine and sine, the horizontal vector's component
    along the normal, and the reciprocal length of what remains without it."""
    level_x, level_y = -y, x + _POLE
    along = level_x * x + level_y * y
    level_x, level_y, level_z = level_x - along * x, level_y - along * y, -along * z
    inverse = 1.0 / tl.maximum(tl.sqrt(level_x * level_x + level_y * level_y + level_z * level_z), 1e-12)
    level_x, level_y, level_z = level_x * inverse, level_y * inverse, level_z * inverse
    up_x, up_y, up_z = y * level_z - z * level_y, z * level_x - x * level_z, x * level_y - y * level_x
    cos, sin = tl.cos(angle), tl.sin(angle)
    return (
        cos * level_x + sin * up_x,
        cos * level_y + sin * up_y,
        cos * level_z + sin * up_z,
        cos * up_x - sin * level_x,
        cos * up_y - sin * level_y,
        cos * up_z - sin * level_z,
        cos,
        sin,
        along,
        inverse,
    )


@triton.jit
def _view(means, centres, b, i, live):
    mean_x, mean_y, mean_z = _triple(means, i * 3, live)
    x = tl.load(centres + b * 3) - mean_x
    y = tl.load(centres + b * 3 + 1) - mean_y
    z = tl.load(centres + b * 3 + 2) - mean_z
    inverse = 1.0 / tl.maximum(tl.sqrt(x * x + y * y + z * z), 1e-12)
    return x * inverse, y * inverse, z * inverse


@triton.jit
def _roughness(logarithm):
    return tl.minimum(tl.maximum(_ROUGHNESS * tl.exp(logarithm), _MIN_ROUGHNESS), _MAX_ROUGHNESS)


@triton.jit
def _sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _ambient(ambient, x, y, z):
    """Ambient light of one channel, whose column starts at `ambient`, before clamping at 0."""
    return (
        _SH0 * tl.load(ambient)
        + _SH1 * (tl.load(ambient + 3) * y + tl.load(ambient + 6) * z + tl.load(ambient + 9) * x)
        + _SH2 * (tl.load(ambient + 12) * x * y + tl.load(ambient + 15) * y * z)
        + _SH2_POLAR * (tl.load(ambient + 18) * (3.0 * z * z - 1.0))
        + _SH2 * (tl.load(ambient + 21) * x * z)
        + _SH2_PLANE * (tl.load(ambient + 24) * (x * x - y * y))
    )


@triton.jit
def _to_linear(shown):
    """Linear light and its derivative."""
    base = tl.maximum((shown + 0.055) / 1.055, 1e-5)
    slope = tl.exp2(1.4 * tl.log2(base))
    low = shown <= 0.04045
    return tl.where(low, shown / 12.92, base * slope), tl.where(low, 1 / 12.92, 2.4 / 1.055 * slope)


@triton.jit
def _to_shown(linear):
    """sRGB with its shoulder above 1, and the derivative of both."""
    base = tl.maximum(linear, 1e-5)
    power = 1.055 * tl.exp2(tl.log2(base) * (1 / 2.4))
    low = linear <= 0.0031308
    shown = tl.where(low, 12.92 * linear, power - 0.055)
    slope = tl.where(low, 12.92, power / (2.4 * base))
    over = shown > 1.0
    return tl.where(over, 1.0 + _SHOULDER * (shown - 1.0), shown), tl.where(over, _SHOULDER * slope, slope)


@triton.jit
def _residual(latents, at, x, y, z, live):
    a, b, c = _triple(latents, at, live)
    total = a * x + b * y + c * z
    a, b, c = _triple(latents, at + 3, live)
    total += _SH2 * (a * x * y + b * y * z) + _SH2_POLAR * (c * (3.0 * z * z - 1.0))
    d = tl.load(latents + at + 6, mask=live, other=0.0)
    e = tl.load(latents + at + 7, mask=live, other=0.0)
    return _RESIDUAL_SCALE * (total + _SH2 * (d * x * z) + _SH2_PLANE * (e * (x * x - y * y)))


@triton.jit
def _slow(j: tl.constexpr, x, y, z):
    """The residual's j-th basis function of the view direction."""
    if j == 0:
        value = x
    elif j == 1:
        value = y
    elif j == 2:
        value = z
    elif j == 3:
        value = _SH2 * x * y
    elif j == 4:
        value = _SH2 * y * z
    elif j == 5:
        value = _SH2_POLAR * (3.0 * z * z - 1.0)
    elif j == 6:
        value = _SH2 * x * z
    else:
        value = _SH2_PLANE * (x * x - y * y)
    return value


@triton.jit
def _grazing(h_2):
    """The cosine |h| / 2, and Schlick's (1 - |h| / 2)^5."""
    cosine = 0.5 * tl.sqrt(h_2)
    rest = tl.maximum(1.0 - cosine, 0.0)
    square = rest * rest
    return cosine, square * square * rest


@triton.jit
def _reflected(head, smoothness, steady, rising, sky, schlick):
    """One channel of the reflected light: the Fresnel term times lobes and ambient."""
    return head * (steady + sky) + tl.maximum(smoothness - head, 0.0) * (rising + schlick * sky)


@triton.jit
def _fresnel(logit, smoothness, schlick, steady, rising, sky, gradient):
    """Backward through `_reflected`: gradients of the logit, the smoothness and `schlick`."""
    head = _sigmoid(logit + _REFLECTANCE_LOGIT)
    gain = smoothness - head
    g_gain = tl.where(gain > 0.0, gradient * (rising + schlick * sky), 0.0)
    return (
        (gradient * (steady + sky) - g_gain) * head * (1.0 - head),
        g_gain,
        gradient * tl.maximum(gain, 0.0) * sky,
    )


@triton.jit(do_not_specialize=list(range(14)))
def _forward(
    latents, diffuse, normals, means, centres, light_axes, light_widths, light_colors, ambient, visible,
    shown, lobes, n, lights,
    HAS_VISIBLE: tl.constexpr, KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Shade a block of Gaussians for one camera; KEEP also stores the sums over lights in `lobes`."""
    b = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    live = inside
    some = True
    if HAS_VISIBLE:
        live = inside & (tl.load(visible + b * n + i, mask=inside, other=0) != 0)
        some = tl.max(live.to(tl.int32), 0) > 0
    zero = tl.zeros([BLOCK], tl.float32)
    out_0, out_1, out_2 = zero, zero, zero
    if some:
        x, y, z = _triple(normals, i * 3, live)
        log_along, log_across, angle = _triple(latents, i * _LATENTS, live)
        tangent_x, tangent_y, tangent_z, bitangent_x, bitangent_y, bitangent_z, _, _, _, _ = _tangents(
            x, y, z, angle
        )
        view_x, view_y, view_z = _view(means, centres, b, i, live)
        signed = x * view_x + y * view_y + z * view_z
        side = tl.where(signed < 0, -1.0, 1.0)
        cosine = tl.maximum(signed * side, 1e-3)
        x, y, z = x * side, y * side, z * side
        rough_along, rough_across = _roughness(log_along), _roughness(log_across)
        square_along, square_across = rough_along * rough_along, rough_across * rough_across
        view_tangent = view_x * tangent_x + view_y * tangent_y + view_z * tangent_z
        view_bitangent = view_x * bitangent_x + view_y * bitangent_y + view_z * bitangent_z
        steady_0, steady_1, steady_2 = zero, zero, zero
        rising_0, rising_1, rising_2 = zero, zero, zero
        for k in range(lights):
            axis_x = tl.load(light_axes + k * 3)
            axis_y = tl.load(light_axes + k * 3 + 1)
            axis_z = tl.load(light_axes + k * 3 + 2)
            width = tl.load(light_widths + k)
            facing = tl.maximum(x * axis_x + y * axis_y + z * axis_z, 0.0)
            h_x = view_tangent + tangent_x * axis_x + tangent_y * axis_y + tangent_z * axis_z
            h_y = view_bitangent + bitangent_x * axis_x + bitangent_y * axis_y + bitangent_z * axis_z
            h_2 = tl.maximum(2.0 + 2.0 * (view_x * axis_x + view_y * axis_y + view_z * axis_z), 1e-4)
            inverse = 1.0 / h_2
            spread = width * tl.minimum(4.0 * inverse, _MAX_STRETCH)
            a, c = square_along + spread, square_across + spread
            r = tl.rsqrt(a * c)
            r_2 = r * r
            # The constants: -log2 e and 1/π.
            exponent = (c * h_x * h_x + a * h_y * h_y) * (r_2 * inverse * -1.4426950408889634)
            weight = facing * (inverse * 0.3183098861837907) * r * tl.exp2(exponent)
            color_0 = tl.load(light_colors + k * 3)
            color_1 = tl.load(light_colors + k * 3 + 1)
            color_2 = tl.load(light_colors + k * 3 + 2)
            steady_0 += weight * color_0
            steady_1 += weight * color_1
            steady_2 += weight * color_2
            _, grazing = _grazing(h_2)
            weight *= grazing
            rising_0 += weight * color_0
            rising_1 += weight * color_1
            rising_2 += weight * color_2
        if KEEP:
            _store_triple(lobes, (b * n + i) * 6, steady_0, steady_1, steady_2, live)
            _store_triple(lobes, (b * n + i) * 6 + 3, rising_0, rising_1, rising_2, live)
        mirror_x = 2.0 * cosine * x - view_x
        mirror_y = 2.0 * cosine * y - view_y
        mirror_z = 2.0 * cosine * z - view_z
        sky_0 = tl.maximum(_ambient(ambient, mirror_x, mirror_y, mirror_z), 0.0)
        sky_1 = tl.maximum(_ambient(ambient + 1, mirror_x, mirror_y, mirror_z), 0.0)
        sky_2 = tl.maximum(_ambient(ambient + 2, mirror_x, mirror_y, mirror_z), 0.0)
        constant = tl.load(latents + i * _LATENTS + 6, mask=live, other=0.0)
        tilt_x, tilt_y, tilt_z = _triple(latents, i * _LATENTS + 7, live)
        unshadowed = _sigmoid(
            _VISIBILITY + constant + tilt_x * mirror_x + tilt_y * mirror_y + tilt_z * mirror_z
        )
        smoothness = 1.0 - tl.minimum(tl.sqrt(rough_along * rough_across), 1.0)
        rest = 1.0 - cosine
        schlick = rest * rest * rest * rest * rest
        logit_0, logit_1, logit_2 = _triple(latents, i * _LATENTS + 3, live)
        head_0 = _sigmoid(logit_0 + _REFLECTANCE_LOGIT)
        head_1 = _sigmoid(logit_1 + _REFLECTANCE_LOGIT)
        head_2 = _sigmoid(logit_2 + _REFLECTANCE_LOGIT)
        light_0 = _reflected(head_0, smoothness, steady_0, rising_0, sky_0, schlick)
        light_1 = _reflected(head_1, smoothness, steady_1, rising_1, sky_1, schlick)
        light_2 = _reflected(head_2, smoothness, steady_2, rising_2, sky_2, schlick)
        base_0, base_1, base_2 = _triple(diffuse, i * 3, live)
        linear_0, _ = _to_linear(base_0)
        linear_1, _ = _to_linear(base_1)
        linear_2, _ = _to_linear(base_2)
        shown_0, _ = _to_shown(linear_0 + unshadowed * light_0)
        shown_1, _ = _to_shown(linear_1 + unshadowed * light_1)
        shown_2, _ = _to_shown(linear_2 + unshadowed * light_2)
        at = i * _LATENTS + _RESIDUAL
        out_0 = shown_0 - base_0 + _residual(latents, at, view_x, view_y, view_z, live)
        out_1 = shown_1 - base_1 + _residual(latents, at + 8, view_x, view_y, view_z, live)
        out_2 = shown_2 - base_2 + _residual(latents, at + 16, view_x, view_y, view_z, live)
        if HAS_VISIBLE:
            out_0 = tl.where(live, out_0, 0.0)
            out_1 = tl.where(live, out_1, 0.0)
            out_2 = tl.where(live, out_2, 0.0)
    _store_triple(shown, (b * n + i) * 3, out_0, out_1, out_2, inside)


@triton.jit
def _ambient_slope(ambient, j, g_0, g_1, g_2):
    """Gradient of the loss along harmonic j of one Gaussian."""
    at = ambient + j * 3
    return g_0 * tl.load(at) + g_1 * tl.load(at + 1) + g_2 * tl.load(at + 2)


@triton.jit
def _store_ambient(pointer, j, harmonic, g_0, g_1, g_2):
    tl.store(pointer + j * 3, tl.sum(harmonic * g_0, 0))
    tl.store(pointer + j * 3 + 1, tl.sum(harmonic * g_1, 0))
    tl.store(pointer + j * 3 + 2, tl.sum(harmonic * g_2, 0))


@triton.jit(do_not_specialize=list(range(19)))
def _backward(
    latents, diffuse, normals, means, centres, light_axes, light_widths, light_colors, ambient, visible,
    g_shown, lobes, g_latents, g_diffuse, g_normals, partials,
    n, count, lights,
    HAS_VISIBLE: tl.constexpr, LIT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of Gaussians, for all cameras. With LIT, `partials` receives for each block and
    camera a row of gradients of axes [K,3], widths [K], colours [K,3] and ambient [9,3]."""
    program = tl.program_id(0)
    i = program * BLOCK + tl.arange(0, BLOCK)
    inside = i < n
    seen = inside
    zero = tl.zeros([BLOCK], tl.float32)
    if HAS_VISIBLE:
        seen = inside & (i < 0)
        for b in range(count):
            seen = seen | (tl.load(visible + b * n + i, mask=inside, other=0) != 0)
    normal_x, normal_y, normal_z = _triple(normals, i * 3, seen)
    log_along, log_across, angle = _triple(latents, i * _LATENTS, seen)
    (
        tangent_x, tangent_y, tangent_z, bitangent_x, bitangent_y, bitangent_z,
        cos, sin, along, inverse_level,
    ) = _tangents(normal_x, normal_y, normal_z, angle)  # fmt: skip
    rough_along, rough_across = _roughness(log_along), _roughness(log_across)
    square_along, square_across = rough_along * rough_along, rough_across * rough_across
    geometric = tl.sqrt(rough_along * rough_across)
    smoothness = 1.0 - tl.minimum(geometric, 1.0)

    # Sums over cameras.
    normal_0, normal_1, normal_2 = zero, zero, zero
    tangent_0, tangent_1, tangent_2 = zero, zero, zero
    bitangent_0, bitangent_1, bitangent_2 = zero, zero, zero
    g_a, g_c, g_smoothness = zero, zero, zero
    diffuse_0, diffuse_1, diffuse_2 = zero, zero, zero
    logit_0, logit_1, logit_2 = zero, zero, zero
    shadow_0, shadow_1, shadow_2, shadow_3 = zero, zero, zero, zero

    for b in range(count):
        live = inside
        some = True
        if HAS_VISIBLE:
            live = inside & (tl.load(visible + b * n + i, mask=inside, other=0) != 0)
            some = tl.max(live.to(tl.int32), 0) > 0
        if some:
            g_0, g_1, g_2 = _triple(g_shown, (b * n + i) * 3, live)
            view_x, view_y, view_z = _view(means, centres, b, i, live)
            signed = normal_x * view_x + normal_y * view_y + normal_z * view_z
            side = tl.where(signed < 0, -1.0, 1.0)
            cosine = tl.maximum(signed * side, 1e-3)
            x, y, z = normal_x * side, normal_y * side, normal_z * side
            mirror_x = 2.0 * cosine * x - view_x
            mirror_y = 2.0 * cosine * y - view_y
            mirror_z = 2.0 * cosine * z - view_z

            # From the output colour back to linear light.
            ambient_0 = _ambient(ambient, mirror_x, mirror_y, mirror_z)
            ambient_1 = _ambient(ambient + 1, mirror_x, mirror_y, mirror_z)
            ambient_2 = _ambient(ambient + 2, mirror_x, mirror_y, mirror_z)
            sky_0 = tl.maximum(ambient_0, 0.0)
            sky_1 = tl.maximum(ambient_1, 0.0)
            sky_2 = tl.maximum(ambient_2, 0.0)
            steady_0, steady_1, steady_2 = _triple(lobes, (b * n + i) * 6, live)
            rising_0, rising_1, rising_2 = _triple(lobes, (b * n + i) * 6 + 3, live)
            constant = tl.load(latents + i * _LATENTS + 6, mask=live, other=0.0)
            tilt_x, tilt_y, tilt_z = _triple(latents, i * _LATENTS + 7, live)
            unshadowed = _sigmoid(
                _VISIBILITY + constant + tilt_x * mirror_x + tilt_y * mirror_y + tilt_z * mirror_z
            )
            rest = 1.0 - cosine
            rest_4 = rest * rest * rest * rest
            schlick = rest_4 * rest
            free_0, free_1, free_2 = _triple(latents, i * _LATENTS + 3, live)
            head_0 = _sigmoid(free_0 + _REFLECTANCE_LOGIT)
            head_1 = _sigmoid(free_1 + _REFLECTANCE_LOGIT)
            head_2 = _sigmoid(free_2 + _REFLECTANCE_LOGIT)
            gain_0 = tl.maximum(smoothness - head_0, 0.0)
            gain_1 = tl.maximum(smoothness - head_1, 0.0)
            gain_2 = tl.maximum(smoothness - head_2, 0.0)
            light_0 = _reflected(head_0, smoothness, steady_0, rising_0, sky_0, schlick)
            light_1 = _reflected(head_1, smoothness, steady_1, rising_1, sky_1, schlick)
            light_2 = _reflected(head_2, smoothness, steady_2, rising_2, sky_2, schlick)
            base_0, base_1, base_2 = _triple(diffuse, i * 3, live)
            linear_0, base_slope_0 = _to_linear(base_0)
            linear_1, base_slope_1 = _to_linear(base_1)
            linear_2, base_slope_2 = _to_linear(base_2)
            _, slope_0 = _to_shown(linear_0 + unshadowed * light_0)
            _, slope_1 = _to_shown(linear_1 + unshadowed * light_1)
            _, slope_2 = _to_shown(linear_2 + unshadowed * light_2)
            linear_g_0, linear_g_1, linear_g_2 = g_0 * slope_0, g_1 * slope_1, g_2 * slope_2
            diffuse_0 += linear_g_0 * base_slope_0 - g_0
            diffuse_1 += linear_g_1 * base_slope_1 - g_1
            diffuse_2 += linear_g_2 * base_slope_2 - g_2

            # Visibility and Fresnel.
            g_shadow = linear_g_0 * light_0
            g_shadow += linear_g_1 * light_1
            g_shadow += linear_g_2 * light_2
            g_shadow *= unshadowed * (1.0 - unshadowed)
            shadow_0 += g_shadow
            shadow_1 += g_shadow * mirror_x
            shadow_2 += g_shadow * mirror_y
            shadow_3 += g_shadow * mirror_z
            add_0, smooth_0, schlick_0 = _fresnel(
                free_0, smoothness, schlick, steady_0, rising_0, sky_0, linear_g_0 * unshadowed
            )
            add_1, smooth_1, schlick_1 = _fresnel(
                free_1, smoothness, schlick, steady_1, rising_1, sky_1, linear_g_1 * unshadowed
            )
            add_2, smooth_2, schlick_2 = _fresnel(
                free_2, smoothness, schlick, steady_2, rising_2, sky_2, linear_g_2 * unshadowed
            )
            logit_0 += add_0
            logit_1 += add_1
            logit_2 += add_2
            g_smoothness += smooth_0 + smooth_1 + smooth_2
            g_cosine = -5.0 * rest_4 * (schlick_0 + schlick_1 + schlick_2)

            # Gradients of the light's terms.
            light_g_0 = linear_g_0 * unshadowed
            light_g_1 = linear_g_1 * unshadowed
            light_g_2 = linear_g_2 * unshadowed
            ambient_g_0 = tl.where(ambient_0 >= 0.0, light_g_0 * (head_0 + gain_0 * schlick), 0.0)
            ambient_g_1 = tl.where(ambient_1 >= 0.0, light_g_1 * (head_1 + gain_1 * schlick), 0.0)
            ambient_g_2 = tl.where(ambient_2 >= 0.0, light_g_2 * (head_2 + gain_2 * schlick), 0.0)
            steady_g_0, steady_g_1, steady_g_2 = light_g_0 * head_0, light_g_1 * head_1, light_g_2 * head_2
            rising_g_0, rising_g_1, rising_g_2 = light_g_0 * gain_0, light_g_1 * gain_1, light_g_2 * gain_2
            row = partials + (b * tl.num_programs(0) + program) * (lights * 7 + 27)
            if LIT:
                end = row + lights * 7
                _store_ambient(end, 0, zero + _SH0, ambient_g_0, ambient_g_1, ambient_g_2)
                _store_ambient(end, 1, mirror_y * _SH1, ambient_g_0, ambient_g_1, ambient_g_2)
                _store_ambient(end, 2, mirror_z * _SH1, ambient_g_0, ambient_g_1, ambient_g_2)
                _store_ambient(end, 3, mirror_x * _SH1, ambient_g_0, ambient_g_1, ambient_g_2)
                _store_ambient(end, 4, mirror_x * mirror_y * _SH2, ambient_g_0, ambient_g_1, ambient_g_2)
                _store_ambient(end, 5, mirror_y * mirror_z * _SH2, ambient_g_0, ambient_g_1, ambient_g_2)
                polar = (3.0 * mirror_z * mirror_z - 1.0) * _SH2_POLAR
                _store_ambient(end, 6, polar, ambient_g_0, ambient_g_1, ambient_g_2)
                _store_ambient(end, 7, mirror_x * mirror_z * _SH2, ambient_g_0, ambient_g_1, ambient_g_2)
                plane = (mirror_x * mirror_x - mirror_y * mirror_y) * _SH2_PLANE
                _store_ambient(end, 8, plane, ambient_g_0, ambient_g_1, ambient_g_2)
            p_1 = _SH1 * _ambient_slope(ambient, 1, ambient_g_0, ambient_g_1, ambient_g_2)
            p_2 = _SH1 * _ambient_slope(ambient, 2, ambient_g_0, ambient_g_1, ambient_g_2)
            p_3 = _SH1 * _ambient_slope(ambient, 3, ambient_g_0, ambient_g_1, ambient_g_2)
            p_4 = _SH2 * _ambient_slope(ambient, 4, ambient_g_0, ambient_g_1, ambient_g_2)
            p_5 = _SH2 * _ambient_slope(ambient, 5, ambient_g_0, ambient_g_1, ambient_g_2)
            p_6 = 6.0 * _SH2_POLAR * _ambient_slope(ambient, 6, ambient_g_0, ambient_g_1, ambient_g_2)
            p_7 = _SH2 * _ambient_slope(ambient, 7, ambient_g_0, ambient_g_1, ambient_g_2)
            p_8 = 2.0 * _SH2_PLANE * _ambient_slope(ambient, 8, ambient_g_0, ambient_g_1, ambient_g_2)
            mirror_g_x = g_shadow * tilt_x + p_3 + p_4 * mirror_y + p_7 * mirror_z + p_8 * mirror_x
            mirror_g_y = g_shadow * tilt_y + p_1 + p_4 * mirror_x + p_5 * mirror_z - p_8 * mirror_y
            mirror_g_z = g_shadow * tilt_z + p_2 + p_5 * mirror_y + p_7 * mirror_x + p_6 * mirror_z

            # Recompute the lobes.
            view_tangent = view_x * tangent_x + view_y * tangent_y + view_z * tangent_z
            view_bitangent = view_x * bitangent_x + view_y * bitangent_y + view_z * bitangent_z
            facing_x, facing_y, facing_z = zero, zero, zero
            along_x, along_y, along_z, along_sum = zero, zero, zero, zero
            across_x, across_y, across_z, across_sum = zero, zero, zero, zero
            for k in range(lights):
                axis_x = tl.load(light_axes + k * 3)
                axis_y = tl.load(light_axes + k * 3 + 1)
                axis_z = tl.load(light_axes + k * 3 + 2)
                width = tl.load(light_widths + k)
                color_0 = tl.load(light_colors + k * 3)
                color_1 = tl.load(light_colors + k * 3 + 1)
                color_2 = tl.load(light_colors + k * 3 + 2)
                facing = x * axis_x + y * axis_y + z * axis_z
                h_x = view_tangent + tangent_x * axis_x + tangent_y * axis_y + tangent_z * axis_z
                h_y = view_bitangent + bitangent_x * axis_x + bitangent_y * axis_y + bitangent_z * axis_z
                h_2 = 2.0 + 2.0 * (view_x * axis_x + view_y * axis_y + view_z * axis_z)
                bounded = tl.maximum(h_2, 1e-4)
                inverse = 1.0 / bounded
                stretch = tl.minimum(4.0 * inverse, _MAX_STRETCH)
                a, c = square_along + width * stretch, square_across + width * stretch
                r = tl.rsqrt(a * c)
                r_2 = r * r
                inverse_a, inverse_c = c * r_2, a * r_2
                u_x, u_y = h_x * inverse_a * inverse, h_y * inverse_c * inverse
                e_x, e_y = h_x * u_x, h_y * u_y
                per_facing = (inverse * 0.3183098861837907) * r * tl.exp2(-1.4426950408889634 * (e_x + e_y))
                weight = tl.maximum(facing, 0.0) * per_facing
                half, grazing = _grazing(bounded)
                g_grazing = rising_g_0 * color_0 + rising_g_1 * color_1 + rising_g_2 * color_2
                g_weight = steady_g_0 * color_0 + steady_g_1 * color_1 + steady_g_2 * color_2
                g_weight += grazing * g_grazing
                g_log = g_weight * weight
                g_facing = tl.where(facing >= 0.0, g_weight * per_facing, 0.0)
                g_x, g_y = -2.0 * g_log * u_x, -2.0 * g_log * u_y
                lobe_a = g_log * inverse_a * (e_x - 0.5)
                lobe_c = g_log * inverse_c * (e_y - 0.5)
                facing_x += g_facing * axis_x
                facing_y += g_facing * axis_y
                facing_z += g_facing * axis_z
                along_x += g_x * axis_x
                along_y += g_x * axis_y
                along_z += g_x * axis_z
                along_sum += g_x
                across_x += g_y * axis_x
                across_y += g_y * axis_y
                across_z += g_y * axis_z
                across_sum += g_y
                g_a += lobe_a
                g_c += lobe_c
                if LIT:
                    # |h|² enters the lobe, its spread where that is not clamped, and the Fresnel term.
                    g_h_2 = g_log * inverse * (e_x + e_y - 1.0)
                    g_spread = tl.where(stretch < _MAX_STRETCH, (lobe_a + lobe_c) * width * stretch, 0.0)
                    rest = tl.maximum(1.0 - half, 0.0)
                    rest *= rest
                    g_h_2 -= inverse * g_spread + 0.625 * rest * rest / half * weight * g_grazing
                    g_view = tl.where(h_2 >= 1e-4, 2.0 * g_h_2, 0.0)
                    axis_g_x = g_facing * x + g_x * tangent_x + g_y * bitangent_x + g_view * view_x
                    axis_g_y = g_facing * y + g_x * tangent_y + g_y * bitangent_y + g_view * view_y
                    axis_g_z = g_facing * z + g_x * tangent_z + g_y * bitangent_z + g_view * view_z
                    tl.store(row + k * 3, tl.sum(axis_g_x, 0))
                    tl.store(row + k * 3 + 1, tl.sum(axis_g_y, 0))
                    tl.store(row + k * 3 + 2, tl.sum(axis_g_z, 0))
                    tl.store(row + lights * 3 + k, tl.sum((lobe_a + lobe_c) * stretch, 0))
                    color_g = weight * (steady_g_0 + grazing * rising_g_0)
                    tl.store(row + lights * 4 + k * 3, tl.sum(color_g, 0))
                    color_g = weight * (steady_g_1 + grazing * rising_g_1)
                    tl.store(row + lights * 4 + k * 3 + 1, tl.sum(color_g, 0))
                    color_g = weight * (steady_g_2 + grazing * rising_g_2)
                    tl.store(row + lights * 4 + k * 3 + 2, tl.sum(color_g, 0))
            tangent_0 += along_x + along_sum * view_x
            tangent_1 += along_y + along_sum * view_y
            tangent_2 += along_z + along_sum * view_z
            bitangent_0 += across_x + across_sum * view_x
            bitangent_1 += across_y + across_sum * view_y
            bitangent_2 += across_z + across_sum * view_z
            g_cosine += 2.0 * (x * mirror_g_x + y * mirror_g_y + z * mirror_g_z)
            g_cosine = tl.where(signed * side >= 1e-3, g_cosine, 0.0)
            normal_0 += side * (facing_x + 2.0 * cosine * mirror_g_x + g_cosine * view_x)
            normal_1 += side * (facing_y + 2.0 * cosine * mirror_g_y + g_cosine * view_y)
            normal_2 += side * (facing_z + 2.0 * cosine * mirror_g_z + g_cosine * view_z)

    # Roughness: its square enters the lobes, itself the smoothness.
    shared = tl.where(geometric <= 1.0, -0.5 * geometric * g_smoothness, 0.0)
    raw_along, raw_across = _ROUGHNESS * tl.exp(log_along), _ROUGHNESS * tl.exp(log_across)
    free_along = (raw_along >= _MIN_ROUGHNESS) & (raw_along <= _MAX_ROUGHNESS)
    free_across = (raw_across >= _MIN_ROUGHNESS) & (raw_across <= _MAX_ROUGHNESS)
    at = i * _LATENTS
    tl.store(g_latents + at, tl.where(free_along, 2.0 * square_along * g_a + shared, 0.0), mask=inside)
    tl.store(g_latents + at + 1, tl.where(free_across, 2.0 * square_across * g_c + shared, 0.0), mask=inside)

    # The frame: back through the rotation, up = normal x level, and the orthonormalised horizontal vector.
    turn = (
        tangent_0 * bitangent_x + tangent_1 * bitangent_y + tangent_2 * bitangent_z
        - bitangent_0 * tangent_x - bitangent_1 * tangent_y - bitangent_2 * tangent_z
    )  # fmt: skip
    tl.store(g_latents + at + 2, turn, mask=inside)
    level_x = cos * tangent_x - sin * bitangent_x
    level_y = cos * tangent_y - sin * bitangent_y
    level_z = cos * tangent_z - sin * bitangent_z
    level_0 = cos * tangent_0 - sin * bitangent_0
    level_1 = cos * tangent_1 - sin * bitangent_1
    level_2 = cos * tangent_2 - sin * bitangent_2
    up_0 = sin * tangent_0 + cos * bitangent_0
    up_1 = sin * tangent_1 + cos * bitangent_1
    up_2 = sin * tangent_2 + cos * bitangent_2
    normal_0 += level_y * up_2 - level_z * up_1
    normal_1 += level_z * up_0 - level_x * up_2
    normal_2 += level_x * up_1 - level_y * up_0
    level_0 += up_1 * normal_z - up_2 * normal_y
    level_1 += up_2 * normal_x - up_0 * normal_z
    level_2 += up_0 * normal_y - up_1 * normal_x
    radial = level_0 * level_x + level_1 * level_y + level_2 * level_z
    level_0 = (level_0 - radial * level_x) * inverse_level
    level_1 = (level_1 - radial * level_y) * inverse_level
    level_2 = (level_2 - radial * level_z) * inverse_level
    # Most terms of the horizontal vector (-y, x + POLE, 0) minus its component along the normal cancel.
    g_along = level_0 * normal_x + level_1 * normal_y + level_2 * normal_z
    normal_0 += level_1 - along * level_0
    normal_1 += -level_0 - along * level_1 - _POLE * g_along
    normal_2 += -along * level_2
    _store_triple(g_normals, i * 3, normal_0, normal_1, normal_2, inside)

    _store_triple(g_diffuse, i * 3, diffuse_0, diffuse_1, diffuse_2, inside)
    _store_triple(g_latents, at + 3, logit_0, logit_1, logit_2, inside)
    tl.store(g_latents + at + 6, shadow_0, mask=inside)
    _store_triple(g_latents, at + 7, shadow_1, shadow_2, shadow_3, inside)
    # The residual's eight basis functions one after the other: together they would spill registers.
    for j in tl.static_range(8):
        residual_0, residual_1, residual_2 = zero, zero, zero
        for b in range(count):
            live = inside
            if HAS_VISIBLE:
                live = inside & (tl.load(visible + b * n + i, mask=inside, other=0) != 0)
            view_x, view_y, view_z = _view(means, centres, b, i, live)
            slow = _slow(j, view_x, view_y, view_z)
            g_0, g_1, g_2 = _triple(g_shown, (b * n + i) * 3, live)
            residual_0 += g_0 * slow
            residual_1 += g_1 * slow
            residual_2 += g_2 * slow
        tl.store(g_latents + at + (_RESIDUAL + j), _RESIDUAL_SCALE * residual_0, mask=inside)
        tl.store(g_latents + at + (_RESIDUAL + 8 + j), _RESIDUAL_SCALE * residual_1, mask=inside)
        tl.store(g_latents + at + (_RESIDUAL + 16 + j), _RESIDUAL_SCALE * residual_2, mask=inside)
