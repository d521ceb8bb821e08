"""Shading on the CPU: `shading.specular_reference` in numba, sixteen Gaussians at a time.

Only visible Gaussians are processed: they are given as a list of indices, sixteen at a time are gathered into
a structure of arrays, and all arithmetic is on the vectors of kernels/simd.py. With a = αx² + spread and c =
αy² + spread

    d = 1 / (a c |h|²),  E = (c (h·t)² + a (h·b)²) d,  weight = max(n·l, 0) √(a c) d e^(−E) / π

so that a lobe takes one division, one square root and one exponential. The backward kernel recomputes the
lobes and sums the light's gradients chunk by chunk, so that no sum depends on the number of threads.
"""
# numba's stubs show the intrinsics of simd.py with the typing context, which numba supplies.
# mypy: disable-error-code="call-arg, operator, assignment, var-annotated, no-untyped-def"

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor
from torch.autograd.function import once_differentiable

from specularip.kernels.compiling import cached
from specularip.kernels.simd import (
    choose,
    exp2,
    fill,
    keep_above,
    load,
    log2,
    maximum,
    minimum,
    nearest,
    sqrt,
    store,
)
from specularip.kernels.threads import share_out
from specularip.specular import shading
from specularip.specular.shading import Light, Surface

LANES = 16
CHUNK = 256
"""Gaussians per work item. Fixed, so that sums over chunks do not depend on the number of threads."""

_f32 = np.float32
_LOG2E = _f32(math.log2(math.e))
_INV_PI = _f32(1 / math.pi)
_TURN, _TURN_HIGH = _f32(1 / math.tau), _f32(6.28125)
_TURN_LOW = _f32(math.tau - 6.28125)
_SINE = tuple(_f32((-1) ** k / math.factorial(2 * k + 1)) for k in range(6))
_COSINE = tuple(_f32((-1) ** k / math.factorial(2 * k)) for k in range(7))
_ROUGHNESS, _VISIBILITY = _f32(shading.ROUGHNESS), _f32(shading.VISIBILITY)
_MIN_ROUGHNESS, _MAX_ROUGHNESS = _f32(shading.MIN_ROUGHNESS), _f32(shading.MAX_ROUGHNESS)
_BELOW_MIN = np.nextafter(_MIN_ROUGHNESS, _f32(0))
_ABOVE_MAX = np.nextafter(_MAX_ROUGHNESS, _f32(9))
_REFLECTANCE_LOGIT = _f32(math.log(shading.REFLECTANCE / (1 - shading.REFLECTANCE)))
_RESIDUAL_SCALE, _SHOULDER, _POLE = (
    _f32(shading.RESIDUAL_SCALE),
    _f32(shading.SHOULDER),
    _f32(shading.POLE),
)
_MIN_COSINE, _BELOW_MIN_COSINE = _f32(1e-3), np.nextafter(_f32(1e-3), _f32(0))
_MIN_H2, _BELOW_MIN_H2 = _f32(1e-4), np.nextafter(_f32(1e-4), _f32(0))
_MAX_STRETCH = _f32(shading.MAX_STRETCH)
_BELOW_ZERO, _ABOVE_ONE = _f32(-1e-37), np.nextafter(_f32(1), _f32(2))
_SH0, _SH1, _SH2 = _f32(0.28209479177387814), _f32(0.4886025119029199), _f32(1.0925484305920792)
_SH2_POLAR, _SH2_PLANE = _f32(0.31539156525252005), _f32(0.5462742152960396)

# Rows of the scratch of sixteen Gaussians, one vector each.
_LATENTS, _RESIDUAL = shading.LATENTS, shading.RESIDUAL
_DIFFUSE, _NORMAL, _MEAN = _LATENTS, _LATENTS + 3, _LATENTS + 6
_ROWS = _LATENTS + 9
_LIGHT = 8
"""Floats per light: axis, width, colour, padding."""
_LIGHT_SUMS = 7


def shade_numba(surface: Surface, light: Light, centres: Tensor, visible: Tensor | None = None) -> Tensor:
    """`shading.specular_reference` for float32 CPU tensors, [B,N,3]; 0 where `visible` [B,N] bool is False.

    Gradients reach latents, diffuse, normals and the light; means and centres count as constants. No second
    derivatives. The same bits for any number of threads.
    """
    latents, diffuse, normals, means = surface
    return _Shade.apply(latents, diffuse, normals, means.detach(), centres.detach(), *light, visible)


class _Shade(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, latents, diffuse, normals, means, centres, light_axes, light_widths, light_colors, ambient,
        visible,
    ):  # fmt: skip
        gaussians = [_flat(tensor) for tensor in (latents, diffuse, normals, means)]
        lights = np.zeros((len(light_widths), _LIGHT), np.float32)
        lights[:, :3], lights[:, 3], lights[:, 4:7] = map(_array, (light_axes, light_widths, light_colors))
        n, count = len(means), len(centres)
        keep = any(ctx.needs_input_grad)
        shown = np.zeros((count, n, 3), np.float32)
        lobes = np.zeros((count, n, 6), np.float32) if keep else shown
        places = _array(centres)
        if visible is None:
            indices_of = [np.arange(n)] * count
        else:
            indices_of = [np.flatnonzero(row) for row in visible.detach().numpy()]
        inputs = (*gaussians, lights.reshape(-1), _flat(ambient))
        for b in range(count):
            outputs = (shown[b].reshape(-1), lobes[b].reshape(-1))
            share_out(
                _forward, indices_of[b], places[b], *inputs, keep, *outputs, most=_chunks(indices_of[b])
            )
        if keep:
            ctx.plan = (indices_of, places, inputs, lobes)
            ctx.save_for_backward(latents, diffuse, normals, light_axes, light_widths, light_colors, ambient)
        return torch.from_numpy(shown)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_shown):
        ctx.saved_tensors  # noqa: B018  (raises if an input was changed in place since the forward pass)
        indices_of, places, inputs, lobes = ctx.plan
        upstream = _array(g_shown)
        n, lights = lobes.shape[1], len(inputs[4]) // _LIGHT
        grads = [np.zeros((n, size), np.float32) for size in (_LATENTS, 3, 3)]
        g_lights = np.zeros((lights, _LIGHT_SUMS))
        g_ambient = np.zeros((9, 3))
        for b, indices in enumerate(indices_of):
            partials = np.zeros((_chunks(indices), lights * _LIGHT_SUMS + 27), np.float32)
            share_out(
                _backward, indices, places[b], *inputs, upstream[b].reshape(-1), lobes[b].reshape(-1),
                *(grad.reshape(-1) for grad in grads), partials, most=len(partials),
            )  # fmt: skip
            total = partials.sum(0, dtype=np.float64)
            g_lights += total[:-27].reshape(-1, _LIGHT_SUMS)
            g_ambient += total[-27:].reshape(9, 3)
        light = (g_lights[:, :3], g_lights[:, 3], g_lights[:, 4:], g_ambient)
        tensors = [torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in light]
        return *map(torch.from_numpy, grads), None, None, *tensors, None


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.detach().contiguous().numpy()


def _flat(tensor: Tensor) -> np.ndarray:
    return _array(tensor).reshape(-1)


def _chunks(indices: np.ndarray) -> int:
    return -(-len(indices) // CHUNK)


@njit(error_model="numpy", forceinline=True)
def _triple(rows, first):
    """Three rows of the scratch."""
    at = first * LANES
    return load(rows, at), load(rows, at + LANES), load(rows, at + 2 * LANES)


@njit(error_model="numpy", forceinline=True)
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit(error_model="numpy", forceinline=True)
def _times(s, a):
    return s * a[0], s * a[1], s * a[2]


@njit(error_model="numpy", forceinline=True)
def _sum(a, b):
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


@njit(error_model="numpy", forceinline=True)
def _mix(s, a, t, b):
    return s * a[0] + t * b[0], s * a[1] + t * b[1], s * a[2] + t * b[2]


@njit(error_model="numpy", forceinline=True)
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@njit(error_model="numpy", forceinline=True)
def _over_length(a):
    """The reciprocal of the length, at most 1e12."""
    return fill(_f32(1)) / maximum(sqrt(_dot(a, a)), fill(_f32(1e-12)))


@njit(error_model="numpy", forceinline=True)
def _exp(a):
    """e**a, at most 2**126."""
    return exp2(minimum(a * fill(_LOG2E), fill(_f32(126))))


@njit(error_model="numpy", forceinline=True)
def _sigmoid(a):
    one = fill(_f32(1))
    return one / (one + _exp(a * fill(_f32(-1))))


@njit(error_model="numpy", forceinline=True)
def _cos_sin(angle):
    """Range reduction to within half a turn, Taylor series of half that angle, double-angle formulas."""
    turns = nearest(angle * fill(_TURN))
    half = (angle - turns * fill(_TURN_HIGH) - turns * fill(_TURN_LOW)) * fill(_f32(0.5))
    # For huge angles the reduction loses all digits; the series must not overflow then.
    half = maximum(minimum(half, fill(_f32(1.6))), fill(_f32(-1.6)))
    x = half * half
    s = fill(_SINE[4]) + x * fill(_SINE[5])
    s = fill(_SINE[2]) + x * (fill(_SINE[3]) + x * s)
    s = half * (fill(_SINE[0]) + x * (fill(_SINE[1]) + x * s))
    c = fill(_COSINE[5]) + x * fill(_COSINE[6])
    c = fill(_COSINE[3]) + x * (fill(_COSINE[4]) + x * c)
    c = fill(_COSINE[0]) + x * (fill(_COSINE[1]) + x * (fill(_COSINE[2]) + x * c))
    two = fill(_f32(2))
    return fill(_f32(1)) - two * s * s, two * s * c


@njit(error_model="numpy", forceinline=True)
def _gather(indices, start, size, latents, diffuse, normals, means, rows):
    """Gather sixteen Gaussians into `rows`; lanes beyond `size` repeat the last one."""
    for lane in range(LANES):
        i = np.uint64(indices[start + min(lane, size - 1)])
        at = np.uint64(lane)
        for k in range(_LATENTS):
            rows[at] = latents[i * np.uint64(_LATENTS) + np.uint64(k)]
            at += np.uint64(LANES)
        three = i * np.uint64(3)
        for k in range(3):
            rows[at] = diffuse[three + np.uint64(k)]
            rows[at + np.uint64(3 * LANES)] = normals[three + np.uint64(k)]
            rows[at + np.uint64(6 * LANES)] = means[three + np.uint64(k)]
            at += np.uint64(LANES)


@njit(error_model="numpy", forceinline=True)
def _tangents(normal, angle):
    """Tangent and bitangent; and for their gradient the cosine and sine, the horizontal vector's component
    along the normal, and the reciprocal length of what remains without it."""
    x, y = normal[0], normal[1]
    ahead = x + fill(_POLE)
    along = ahead * y - y * x
    level = (y * fill(_f32(-1)) - along * x, ahead - along * y, along * normal[2] * fill(_f32(-1)))
    inverse = _over_length(level)
    level = _times(inverse, level)
    up = _cross(normal, level)
    cos, sin = _cos_sin(angle)
    return _mix(cos, level, sin, up), _mix(cos, up, sin * fill(_f32(-1)), level), cos, sin, along, inverse


@njit(error_model="numpy", forceinline=True)
def _view(rows, centre):
    mean = _triple(rows, _MEAN)
    offset = (fill(centre[0]) - mean[0], fill(centre[1]) - mean[1], fill(centre[2]) - mean[2])
    return _times(_over_length(offset), offset)


@njit(error_model="numpy", forceinline=True)
def _facing(normal, view):
    """-1 for normals that face away, the cosine to the viewer raw and clamped, the flipped normal, ω_r."""
    signed = _dot(normal, view)
    side = choose(signed, fill(_BELOW_ZERO), fill(_f32(1)), fill(_f32(-1)))
    raw = signed * side
    cosine = maximum(raw, fill(_MIN_COSINE))
    n = _times(side, normal)
    return side, raw, cosine, n, _mix(fill(_f32(2)) * cosine, n, fill(_f32(-1)), view)


@njit(error_model="numpy", forceinline=True)
def _roughness(logarithm):
    """Roughness before and after clamping."""
    raw = fill(_ROUGHNESS) * _exp(logarithm)
    return raw, minimum(maximum(raw, fill(_MIN_ROUGHNESS)), fill(_MAX_ROUGHNESS))


@njit(error_model="numpy", forceinline=True)
def _harmonics(d):
    x, y, z = d
    first, second = fill(_SH1), fill(_SH2)
    return (
        fill(_SH0),
        first * y,
        first * z,
        first * x,
        second * x * y,
        second * y * z,
        fill(_SH2_POLAR) * (fill(_f32(3)) * z * z - fill(_f32(1))),
        second * x * z,
        fill(_SH2_PLANE) * (x * x - y * y),
    )


@njit(error_model="numpy", forceinline=True)
def _radiance(h, ambient, c):
    """Ambient light of one channel, before clamping at 0."""
    total = h[0] * fill(ambient[c]) + h[1] * fill(ambient[3 + c]) + h[2] * fill(ambient[6 + c])
    total = total + h[3] * fill(ambient[9 + c]) + h[4] * fill(ambient[12 + c]) + h[5] * fill(ambient[15 + c])
    return total + h[6] * fill(ambient[18 + c]) + h[7] * fill(ambient[21 + c]) + h[8] * fill(ambient[24 + c])


@njit(error_model="numpy", forceinline=True)
def _to_linear(shown):
    """Linear light and its derivative."""
    base = maximum((shown + fill(_f32(0.055))) * fill(_f32(1 / 1.055)), fill(_f32(1e-5)))
    slope = exp2(fill(_f32(1.4)) * log2(base))
    limit = fill(_f32(0.04045))
    linear = choose(shown, limit, base * slope, shown * fill(_f32(1 / 12.92)))
    return linear, choose(shown, limit, fill(_f32(2.4 / 1.055)) * slope, fill(_f32(1 / 12.92)))


@njit(error_model="numpy", forceinline=True)
def _to_shown(linear):
    """sRGB with its shoulder above 1, and the derivative of both."""
    base = maximum(linear, fill(_f32(1e-5)))
    power = fill(_f32(1.055)) * exp2(log2(base) * fill(_f32(1 / 2.4)))
    limit, one, shoulder = fill(_f32(0.0031308)), fill(_f32(1)), fill(_SHOULDER)
    shown = choose(linear, limit, power - fill(_f32(0.055)), fill(_f32(12.92)) * linear)
    slope = choose(linear, limit, power / (fill(_f32(2.4)) * base), fill(_f32(12.92)))
    above = one + shoulder * (shown - one)
    return choose(shown, one, above, shown), choose(shown, one, shoulder * slope, slope)


@njit(error_model="numpy", forceinline=True)
def _surface(rows, mirrored, cosine, smoothness):
    """Visibility and Schlick's fifth power; per channel the reflectance at normal incidence and its gain."""
    tilt = _dot(_triple(rows, 7), mirrored)
    unshadowed = _sigmoid(fill(_VISIBILITY) + load(rows, 6 * LANES) + tilt)
    rest = fill(_f32(1)) - cosine
    square = rest * rest
    schlick = square * square * rest
    zero, offset = fill(_f32(0)), fill(_REFLECTANCE_LOGIT)
    free = _triple(rows, 3)
    head = (_sigmoid(free[0] + offset), _sigmoid(free[1] + offset), _sigmoid(free[2] + offset))
    gain = (
        maximum(smoothness - head[0], zero),
        maximum(smoothness - head[1], zero),
        maximum(smoothness - head[2], zero),
    )
    return unshadowed, schlick, head, gain


@njit(error_model="numpy", forceinline=True)
def _axis(lights, at):
    return fill(lights[at]), fill(lights[at + 1]), fill(lights[at + 2])


@njit(error_model="numpy", forceinline=True)
def _grazing(h_2):
    """(1 - |h| / 2)^4, the cosine |h| / 2 itself, and Schlick's (1 - |h| / 2)^5."""
    one = fill(_f32(1))
    cosine = sqrt(h_2) * fill(_f32(0.5))
    rest = maximum(one - cosine, fill(_f32(0)))
    square = rest * rest
    return square * square, cosine, square * square * rest


@njit(error_model="numpy", forceinline=True)
def _light_sum(lights, n, view, tangent, bitangent, square_along, square_across):
    """Sums over lights of colour times lobe, and of that times Schlick's fifth power."""
    zero, one, two, smallest = fill(_f32(0)), fill(_f32(1)), fill(_f32(2)), fill(_MIN_H2)
    four, most = fill(_f32(4)), fill(_MAX_STRETCH)
    view_tangent, view_bitangent = _dot(view, tangent), _dot(view, bitangent)
    steady, rising = (zero, zero, zero), (zero, zero, zero)
    for at in range(0, len(lights), _LIGHT):
        axis = _axis(lights, at)
        h_x, h_y = view_tangent + _dot(tangent, axis), view_bitangent + _dot(bitangent, axis)
        h_2 = maximum(two + two * _dot(view, axis), smallest)
        inverse = one / h_2
        spread = fill(lights[at + 3]) * minimum(four * inverse, most)
        a, c = square_along + spread, square_across + spread
        product = a * c
        d = inverse / product
        falloff = exp2((c * h_x * h_x + a * h_y * h_y) * d * fill(-_LOG2E))
        weight = maximum(_dot(n, axis), zero) * sqrt(product) * d * falloff
        color = _axis(lights, at + 4)
        _, _, grazing = _grazing(h_2)
        steady = _sum(steady, _times(weight, color))
        rising = _sum(rising, _times(weight * grazing, color))
    return _times(fill(_INV_PI), steady), _times(fill(_INV_PI), rising)


@njit(error_model="numpy", forceinline=True)
def _residual(rows, c, view, slow):
    """The residual of one channel; slow: harmonics of the view direction."""
    at = (_RESIDUAL + 8 * c) * LANES
    total = load(rows, at) * view[0] + load(rows, at + LANES) * view[1] + load(rows, at + 2 * LANES) * view[2]
    total = total + load(rows, at + 3 * LANES) * slow[4] + load(rows, at + 4 * LANES) * slow[5]
    total = total + load(rows, at + 5 * LANES) * slow[6] + load(rows, at + 6 * LANES) * slow[7]
    return fill(_RESIDUAL_SCALE) * (total + load(rows, at + 7 * LANES) * slow[8])


@njit(error_model="numpy", forceinline=True)
def _residual_backward(out, c, view, slow, g):
    at = (_RESIDUAL + 8 * c) * LANES
    store(out, at, g * view[0])
    store(out, at + LANES, g * view[1])
    store(out, at + 2 * LANES, g * view[2])
    store(out, at + 3 * LANES, g * slow[4])
    store(out, at + 4 * LANES, g * slow[5])
    store(out, at + 5 * LANES, g * slow[6])
    store(out, at + 6 * LANES, g * slow[7])
    store(out, at + 7 * LANES, g * slow[8])


@njit(error_model="numpy", forceinline=True)
def _reflected(head, gain, steady, rising, sky, schlick):
    """One channel of the reflected light: the Fresnel term times lobes and ambient."""
    return head * (steady + sky) + gain * (rising + schlick * sky)


@njit(error_model="numpy", forceinline=True)
def _color(rows, c, light):
    """One channel of what reflected light adds to the diffuse colour."""
    base = load(rows, (_DIFFUSE + c) * LANES)
    linear, _ = _to_linear(base)
    shown, _ = _to_shown(linear + light)
    return shown - base


@njit(error_model="numpy", forceinline=True)
def _sky(harmonics, ambient):
    """Ambient light, before clamping at 0."""
    return (
        _radiance(harmonics, ambient, 0),
        _radiance(harmonics, ambient, 1),
        _radiance(harmonics, ambient, 2),
    )


@njit(error_model="numpy", forceinline=True)
def _positive(a):
    zero = fill(_f32(0))
    return maximum(a[0], zero), maximum(a[1], zero), maximum(a[2], zero)


@njit(error_model="numpy", forceinline=True)
def _all_reflected(head, gain, steady, rising, sky, schlick):
    return (
        _reflected(head[0], gain[0], steady[0], rising[0], sky[0], schlick),
        _reflected(head[1], gain[1], steady[1], rising[1], sky[1], schlick),
        _reflected(head[2], gain[2], steady[2], rising[2], sky[2], schlick),
    )


@njit(error_model="numpy", forceinline=True)
def _scatter(rows, first, width, indices, start, size, target):
    """Add `width` rows of the scratch to the Gaussians' rows of `target`."""
    for lane in range(size):
        at = np.uint64(indices[start + lane]) * np.uint64(width)
        for k in range(width):
            target[at + np.uint64(k)] += rows[np.uint64((first + k) * LANES + lane)]


@cached
@njit(nogil=True, error_model="numpy")
def _forward(
    share, shares, indices, centre, latents, diffuse, normals, means, lights, ambient, keep, shown, lobes
):
    """Shade the Gaussians in `indices` for one camera. All arrays are flat; lights: _LIGHT floats each; shown
    [N 3]; with `keep`, lobes [N 6] receives the sums over lights."""
    rows = np.empty(_ROWS * LANES, np.float32)
    out = np.empty(6 * LANES, np.float32)
    count = len(indices)
    one = fill(_f32(1))
    for chunk in range(share, (count + CHUNK - 1) // CHUNK, shares):
        for start in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK), LANES):
            size = min(LANES, count - start)
            _gather(indices, start, size, latents, diffuse, normals, means, rows)
            normal = _triple(rows, _NORMAL)
            tangent, bitangent, _, _, _, _ = _tangents(normal, load(rows, 2 * LANES))
            view = _view(rows, centre)
            _, _, cosine, n, mirrored = _facing(normal, view)
            _, rough_along = _roughness(load(rows, 0))
            _, rough_across = _roughness(load(rows, LANES))
            steady, rising = _light_sum(
                lights, n, view, tangent, bitangent, rough_along * rough_along, rough_across * rough_across
            )
            smoothness = one - minimum(sqrt(rough_along * rough_across), one)
            unshadowed, schlick, head, gain = _surface(rows, mirrored, cosine, smoothness)
            sky, slow = _positive(_sky(_harmonics(mirrored), ambient)), _harmonics(view)
            light = _times(unshadowed, _all_reflected(head, gain, steady, rising, sky, schlick))
            store(out, 0, _color(rows, 0, light[0]) + _residual(rows, 0, view, slow))
            store(out, LANES, _color(rows, 1, light[1]) + _residual(rows, 1, view, slow))
            store(out, 2 * LANES, _color(rows, 2, light[2]) + _residual(rows, 2, view, slow))
            _scatter(out, 0, 3, indices, start, size, shown)
            if keep:
                _store_triple(out, 0, steady)
                _store_triple(out, 3, rising)
                _scatter(out, 0, 6, indices, start, size, lobes)


@njit(error_model="numpy", forceinline=True)
def _add(sums, row, value):
    store(sums, row * LANES, load(sums, row * LANES) + value)


@njit(error_model="numpy", forceinline=True)
def _store_triple(rows, first, a):
    at = first * LANES
    store(rows, at, a[0])
    store(rows, at + LANES, a[1])
    store(rows, at + 2 * LANES, a[2])


@njit(error_model="numpy", forceinline=True)
def _color_backward(rows, c, specular, g):
    """From the gradient `g` of one output channel, those of the linear light and of the diffuse colour."""
    linear, base_slope = _to_linear(load(rows, (_DIFFUSE + c) * LANES))
    _, slope = _to_shown(linear + specular)
    g_linear = g * slope
    return g_linear, g_linear * base_slope - g


@njit(error_model="numpy", forceinline=True)
def _fresnel_backward(head, gain, schlick, steady, rising, sky, g):
    """Backward through `_reflected`: gradients of the reflectance's logit, the smoothness and Schlick's
    power."""
    g_gain = keep_above(g * (rising + schlick * sky), gain, fill(_f32(0)))
    return (g * (steady + sky) - g_gain) * head * (fill(_f32(1)) - head), g_gain, g * gain * sky


@njit(error_model="numpy", forceinline=True)
def _ambient_backward(h, d, ambient, g, sums, first):
    """Add the ambient's gradient to 27 rows of `sums`; return that of the direction `d`."""
    _ambient_row(h[0], g, sums, first)
    _ambient_row(h[1], g, sums, first + 3)
    _ambient_row(h[2], g, sums, first + 6)
    _ambient_row(h[3], g, sums, first + 9)
    _ambient_row(h[4], g, sums, first + 12)
    _ambient_row(h[5], g, sums, first + 15)
    _ambient_row(h[6], g, sums, first + 18)
    _ambient_row(h[7], g, sums, first + 21)
    _ambient_row(h[8], g, sums, first + 24)
    x, y, z = d
    first_order, second = fill(_SH1), fill(_SH2)
    p_1 = first_order * _dot(g, _axis(ambient, 3))
    p_2 = first_order * _dot(g, _axis(ambient, 6))
    p_3 = first_order * _dot(g, _axis(ambient, 9))
    p_4 = second * _dot(g, _axis(ambient, 12))
    p_5 = second * _dot(g, _axis(ambient, 15))
    p_6 = fill(_f32(6) * _SH2_POLAR) * _dot(g, _axis(ambient, 18))
    p_7 = second * _dot(g, _axis(ambient, 21))
    p_8 = fill(_f32(2) * _SH2_PLANE) * _dot(g, _axis(ambient, 24))
    return (
        p_3 + p_4 * y + p_7 * z + p_8 * x,
        p_1 + p_4 * x + p_5 * z - p_8 * y,
        p_2 + p_5 * y + p_7 * x + p_6 * z,
    )


@njit(error_model="numpy", forceinline=True)
def _ambient_row(h, g, sums, first):
    _add(sums, first, h * g[0])
    _add(sums, first + 1, h * g[1])
    _add(sums, first + 2, h * g[2])


@njit(error_model="numpy", forceinline=True)
def _lights_backward(
    lights, n, view, tangent, bitangent, square_along, square_across, g_steady, g_rising, sums
):
    """Gradients of n, tangent, bitangent and the two squared roughnesses; adds seven rows per light to
    `sums`."""
    zero, one, two, smallest = fill(_f32(0)), fill(_f32(1)), fill(_f32(2)), fill(_MIN_H2)
    half, below_smallest, below_zero = fill(_f32(0.5)), fill(_BELOW_MIN_H2), fill(_BELOW_ZERO)
    minus_two, minus_log2e = fill(_f32(-2)), fill(-_LOG2E)
    view_tangent, view_bitangent = _dot(view, tangent), _dot(view, bitangent)
    g_steady, g_rising = _times(fill(_INV_PI), g_steady), _times(fill(_INV_PI), g_rising)
    four, most, steep = fill(_f32(4)), fill(_MAX_STRETCH), fill(_f32(0.625))
    nothing = (zero, zero, zero)
    g_n, g_tangent, g_bitangent = nothing, nothing, nothing
    total_x, total_y, g_a, g_c = zero, zero, zero, zero
    row = 0
    for at in range(0, len(lights), _LIGHT):
        axis = _axis(lights, at)
        width = fill(lights[at + 3])
        h_x, h_y = view_tangent + _dot(tangent, axis), view_bitangent + _dot(bitangent, axis)
        raw = two + two * _dot(view, axis)
        h_2 = maximum(raw, smallest)
        inverse = one / h_2
        stretch = minimum(four * inverse, most)
        a, c = square_along + width * stretch, square_across + width * stretch
        product = a * c
        d = inverse / product
        u_x, u_y = c * h_x * d, a * h_y * d
        e_x, e_y = h_x * u_x, h_y * u_y
        falloff = exp2((e_x + e_y) * minus_log2e)
        per_facing = sqrt(product) * d * falloff
        facing = _dot(n, axis)
        weight = maximum(facing, zero) * per_facing
        color = _axis(lights, at + 4)
        rest_4, cosine, grazing = _grazing(h_2)
        g_grazing = _dot(g_rising, color)
        g_weight = _dot(g_steady, color) + grazing * g_grazing
        g_log = g_weight * weight
        g_facing = keep_above(g_weight * per_facing, facing, below_zero)
        doubled = minus_two * g_log
        g_x, g_y = doubled * u_x, doubled * u_y
        g_inverse = g_log * d * h_2  # over the product, that is
        lobe_a, lobe_c = g_inverse * c * (e_x - half), g_inverse * a * (e_y - half)
        lobe = lobe_a + lobe_c
        # |h|² enters the lobe, its spread where that is not clamped, and the Fresnel term.
        g_h_2 = (
            g_log * inverse * (e_x + e_y - one) - keep_above(lobe * width * stretch, most, stretch) * inverse
        )
        g_h_2 = g_h_2 - steep * rest_4 * weight * g_grazing / cosine
        g_view = keep_above(two * g_h_2, raw, below_smallest)
        g_n = _sum(g_n, _times(g_facing, axis))
        g_tangent = _sum(g_tangent, _times(g_x, axis))
        g_bitangent = _sum(g_bitangent, _times(g_y, axis))
        total_x, total_y = total_x + g_x, total_y + g_y
        g_a, g_c = g_a + lobe_a, g_c + lobe_c
        g_axis = _sum(_mix(g_facing, n, g_view, view), _mix(g_x, tangent, g_y, bitangent))
        _add(sums, row, g_axis[0])
        _add(sums, row + 1, g_axis[1])
        _add(sums, row + 2, g_axis[2])
        _add(sums, row + 3, lobe * stretch)
        _add(sums, row + 4, weight * (g_steady[0] + grazing * g_rising[0]))
        _add(sums, row + 5, weight * (g_steady[1] + grazing * g_rising[1]))
        _add(sums, row + 6, weight * (g_steady[2] + grazing * g_rising[2]))
        row += _LIGHT_SUMS
    g_tangent = _sum(g_tangent, _times(total_x, view))
    return g_n, g_tangent, _sum(g_bitangent, _times(total_y, view)), g_a, g_c


@njit(error_model="numpy", forceinline=True)
def _tangents_backward(normal, tangent, bitangent, cos, sin, along, inverse, g_tangent, g_bitangent):
    """Gradients of the normal and of the angle: back through the rotation, up = normal x level, and the
    orthonormalised horizontal vector."""
    turn = _dot(g_tangent, bitangent) - _dot(g_bitangent, tangent)
    minus = fill(_f32(-1))
    level = _mix(cos, tangent, sin * minus, bitangent)
    g_level = _mix(cos, g_tangent, sin * minus, g_bitangent)
    g_up = _mix(sin, g_tangent, cos, g_bitangent)
    g_normal = _cross(level, g_up)
    g_level = _sum(g_level, _cross(g_up, normal))
    g_level = _times(inverse, _mix(fill(_f32(1)), g_level, _dot(g_level, level) * minus, level))
    g_normal = _mix(fill(_f32(1)), g_normal, along * minus, g_level)
    # Most terms of the horizontal vector (-y, x + POLE, 0) minus its component along the normal cancel.
    g_along = _dot(g_level, normal)
    return (g_normal[0] + g_level[1], g_normal[1] - g_level[0] - fill(_POLE) * g_along, g_normal[2]), turn


@cached
@njit(nogil=True, error_model="numpy")
def _backward(
    share, shares, indices, centre, latents, diffuse, normals, means, lights, ambient, g_shown, lobes,
    g_latents, g_diffuse, g_normals, partials,
):  # fmt: skip
    """Add the gradients of the Gaussians in `indices` for one camera to g_latents [N 34], g_diffuse and
    g_normals [N 3], all flat; write each chunk's row of partials: axis, width and colour of each light, then
    the ambient."""
    columns = partials.shape[1]
    rows, out = np.empty(_ROWS * LANES, np.float32), np.empty((_LATENTS + 6) * LANES, np.float32)
    upstream, sums = np.empty(9 * LANES, np.float32), np.empty(columns * LANES, np.float32)
    count = len(indices)
    one, two = fill(_f32(1)), fill(_f32(2))
    for chunk in range(share, (count + CHUNK - 1) // CHUNK, shares):
        sums[:] = _f32(0)
        for start in range(chunk * CHUNK, min(count, (chunk + 1) * CHUNK), LANES):
            size = min(LANES, count - start)
            _gather(indices, start, size, latents, diffuse, normals, means, rows)
            for lane in range(LANES):
                i = np.uint64(indices[start + min(lane, size - 1)]) * np.uint64(3)
                for c in range(3):
                    upstream[c * LANES + lane] = g_shown[i + np.uint64(c)] if lane < size else _f32(0)
                for c in range(6):
                    upstream[(c + 3) * LANES + lane] = lobes[np.uint64(2) * i + np.uint64(c)]
            normal = _triple(rows, _NORMAL)
            tangent, bitangent, cos, sin, along, inverse = _tangents(normal, load(rows, 2 * LANES))
            view = _view(rows, centre)
            side, raw, cosine, n, mirrored = _facing(normal, view)
            raw_along, rough_along = _roughness(load(rows, 0))
            raw_across, rough_across = _roughness(load(rows, LANES))
            square_along, square_across = rough_along * rough_along, rough_across * rough_across
            geometric = sqrt(rough_along * rough_across)
            smoothness = one - minimum(geometric, one)
            unshadowed, schlick, head, gain = _surface(rows, mirrored, cosine, smoothness)
            g, steady, rising = _triple(upstream, 0), _triple(upstream, 3), _triple(upstream, 6)

            # From the output colour to the reflected light and its factors.
            harmonics = _harmonics(mirrored)
            raw_sky = _sky(harmonics, ambient)
            sky = _positive(raw_sky)
            light = _all_reflected(head, gain, steady, rising, sky, schlick)
            g_0, diffuse_0 = _color_backward(rows, 0, unshadowed * light[0], g[0])
            g_1, diffuse_1 = _color_backward(rows, 1, unshadowed * light[1], g[1])
            g_2, diffuse_2 = _color_backward(rows, 2, unshadowed * light[2], g[2])
            _store_triple(out, _DIFFUSE, (diffuse_0, diffuse_1, diffuse_2))
            g_shadow = _dot((g_0, g_1, g_2), light) * unshadowed * (one - unshadowed)
            store(out, 6 * LANES, g_shadow)
            _store_triple(out, 7, _times(g_shadow, mirrored))
            g_0, g_1, g_2 = g_0 * unshadowed, g_1 * unshadowed, g_2 * unshadowed
            logit_0, smooth_0, schlick_0 = _fresnel_backward(
                head[0], gain[0], schlick, steady[0], rising[0], sky[0], g_0
            )
            logit_1, smooth_1, schlick_1 = _fresnel_backward(
                head[1], gain[1], schlick, steady[1], rising[1], sky[1], g_1
            )
            logit_2, smooth_2, schlick_2 = _fresnel_backward(
                head[2], gain[2], schlick, steady[2], rising[2], sky[2], g_2
            )
            _store_triple(out, 3, (logit_0, logit_1, logit_2))
            g_steady = (g_0 * head[0], g_1 * head[1], g_2 * head[2])
            g_rising = (g_0 * gain[0], g_1 * gain[1], g_2 * gain[2])
            below_zero, scale = fill(_BELOW_ZERO), fill(_RESIDUAL_SCALE)
            g_sky = (
                keep_above(g_steady[0] + schlick * g_rising[0], raw_sky[0], below_zero),
                keep_above(g_steady[1] + schlick * g_rising[1], raw_sky[1], below_zero),
                keep_above(g_steady[2] + schlick * g_rising[2], raw_sky[2], below_zero),
            )
            g_mirrored = _ambient_backward(harmonics, mirrored, ambient, g_sky, sums, columns - 27)
            g_mirrored = _mix(one, g_mirrored, g_shadow, _triple(rows, 7))
            slow = _harmonics(view)
            _residual_backward(out, 0, view, slow, scale * g[0])
            _residual_backward(out, 1, view, slow, scale * g[1])
            _residual_backward(out, 2, view, slow, scale * g[2])

            # Recompute the lobes, then roughness, normal and angle.
            g_n, g_tangent, g_bitangent, g_a, g_c = _lights_backward(
                lights, n, view, tangent, bitangent, square_along, square_across, g_steady, g_rising, sums
            )
            shared = (smooth_0 + smooth_1 + smooth_2) * geometric * fill(_f32(-0.5))
            shared = keep_above(shared, fill(_ABOVE_ONE), geometric)
            g_along, g_across = two * square_along * g_a + shared, two * square_across * g_c + shared
            below, above = fill(_BELOW_MIN), fill(_ABOVE_MAX)
            store(out, 0, keep_above(keep_above(g_along, raw_along, below), above, raw_along))
            store(out, LANES, keep_above(keep_above(g_across, raw_across, below), above, raw_across))
            rest = one - cosine
            square = rest * rest
            g_cosine = (schlick_0 + schlick_1 + schlick_2) * square * square * fill(_f32(-5))
            g_cosine = keep_above(g_cosine + two * _dot(n, g_mirrored), raw, fill(_BELOW_MIN_COSINE))
            g_n = _sum(g_n, _mix(two * cosine, g_mirrored, g_cosine, view))
            g_normal, turn = _tangents_backward(
                normal, tangent, bitangent, cos, sin, along, inverse, g_tangent, g_bitangent
            )
            store(out, 2 * LANES, turn)
            _store_triple(out, _NORMAL, _mix(one, g_normal, side, g_n))
            _scatter(out, 0, _LATENTS, indices, start, size, g_latents)
            _scatter(out, _DIFFUSE, 3, indices, start, size, g_diffuse)
            _scatter(out, _NORMAL, 3, indices, start, size, g_normals)
        for column in range(columns):
            total = _f32(0)
            for lane in range(LANES):
                total += sums[column * LANES + lane]
            partials[chunk, column] = total
