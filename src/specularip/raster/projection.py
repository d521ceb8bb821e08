"""EWA projection of 3D Gaussians to 2D splats, and its hand-written gradient, in numba.

Formulas: Zwicker et al. 2002; Kerbl et al. 2023; the clamped Jacobian, the opacity-aware extent (Radl et al.
2024, section B.2) and all thresholds as in gsplat 1.5.3. Every array is C-contiguous float32.
"""
# numba types the scalars, not the annotations of math, min and max.
# mypy: disable-error-code="operator, assignment"

from __future__ import annotations

import math

import numpy as np
from numba import njit

from specularip.kernels.compiling import cached

TILE = 16
NEAR = np.float32(0.01)
BLUR = np.float32(0.3)
ALPHA_MIN = np.float32(1.0 / 255.0)
EXTENT_MAX = np.float32(3.33)
RADIUS_MAX = np.float32(1e9)
CHUNK = 512
"""Splats per work item. Fixed, so that sums over chunks do not depend on the number of threads."""

_f32 = np.float32
_HUGE, _FAR = _f32(1e30), _f32(1e10)
_ZERO, _ONE, _TWO, _HALF = _f32(0), _f32(1), _f32(2), _f32(0.5)


def camera_table(viewmats, Ks, width, height):
    """[B,20] float32: what the kernels read of each camera, see `_camera`."""
    fx, fy, cx, cy = Ks[:, 0, 0], Ks[:, 1, 1], Ks[:, 0, 2], Ks[:, 1, 2]
    with np.errstate(all="ignore"):  # an invalid camera sees nothing
        margin_x, margin_y = _f32(0.15) * width / fx, _f32(0.15) * height / fy
        x_limits = (-cx / fx - margin_x, (width - cx) / fx + margin_x)
        y_limits = (-cy / fy - margin_y, (height - cy) / fy + margin_y)
    intrinsics = np.stack((fx, fy, cx, cy, *x_limits, *y_limits), 1)
    parts = (viewmats[:, :3, :3].reshape(-1, 9), viewmats[:, :3, 3], intrinsics)
    return np.ascontiguousarray(np.concatenate(parts, 1), dtype=np.float32)


@njit(error_model="numpy", forceinline=True)
def _camera(cameras, b):
    """Row b of `camera_table`: rotation rows, translation, (fx, fy, cx, cy), limits of x/z and of y/z."""
    c = cameras[b]
    return (
        (c[0], c[1], c[2]),
        (c[3], c[4], c[5]),
        (c[6], c[7], c[8]),
        (c[9], c[10], c[11]),
        (c[12], c[13], c[14], c[15]),
        (c[16], c[17]),
        (c[18], c[19]),
    )


@njit(error_model="numpy", forceinline=True)
def _dot(a, x, y, z):
    return a[0] * x + a[1] * y + a[2] * z


@njit(error_model="numpy", forceinline=True)
def _mix(a, u, b, v):
    return (a * u[0] + b * v[0], a * u[1] + b * v[1], a * u[2] + b * v[2])


@njit(error_model="numpy", forceinline=True)
def _rotation(w, x, y, z):
    """Rows of the rotation matrix of a unit quaternion."""
    return (
        (_ONE - _TWO * (y * y + z * z), _TWO * (x * y - w * z), _TWO * (x * z + w * y)),
        (_TWO * (x * y + w * z), _ONE - _TWO * (x * x + z * z), _TWO * (y * z - w * x)),
        (_TWO * (x * z - w * y), _TWO * (y * z + w * x), _ONE - _TWO * (x * x + y * y)),
    )


@njit(error_model="numpy", forceinline=True)
def _covariance(r, s0, s1, s2):
    """Upper triangle xx xy xz yy yz zz of R S S R^T."""
    v0, v1, v2 = s0 * s0, s1 * s1, s2 * s2
    return (
        r[0][0] * r[0][0] * v0 + r[0][1] * r[0][1] * v1 + r[0][2] * r[0][2] * v2,
        r[0][0] * r[1][0] * v0 + r[0][1] * r[1][1] * v1 + r[0][2] * r[1][2] * v2,
        r[0][0] * r[2][0] * v0 + r[0][1] * r[2][1] * v1 + r[0][2] * r[2][2] * v2,
        r[1][0] * r[1][0] * v0 + r[1][1] * r[1][1] * v1 + r[1][2] * r[1][2] * v2,
        r[1][0] * r[2][0] * v0 + r[1][1] * r[2][1] * v1 + r[1][2] * r[2][2] * v2,
        r[2][0] * r[2][0] * v0 + r[2][1] * r[2][1] * v1 + r[2][2] * r[2][2] * v2,
    )


@njit(error_model="numpy", forceinline=True)
def _times(s, x, y, z):
    """Symmetric 3x3 (upper triangle) times a vector."""
    return (s[0] * x + s[1] * y + s[2] * z, s[1] * x + s[3] * y + s[4] * z, s[2] * x + s[4] * y + s[5] * z)


@njit(error_model="numpy", forceinline=True)
def _jacobian(cam, x, y, iz):
    """j00, j02, j11, j12 of the affine approximation, and whether x / z and y / z are within the limits."""
    ux, uy = x * iz, y * iz
    inside_x = cam[5][0] <= ux <= cam[5][1]
    inside_y = cam[6][0] <= uy <= cam[6][1]
    ux = min(max(ux, cam[5][0]), cam[5][1])
    uy = min(max(uy, cam[6][0]), cam[6][1])
    fx, fy = cam[4][0], cam[4][1]
    return fx * iz, -fx * ux * iz, fy * iz, -fy * uy * iz, inside_x, inside_y


@njit(error_model="numpy", forceinline=True)
def _to_pixels(cam, j00, j02, j11, j12):
    """Rows of J W, the 2x3 map from world offsets to pixel offsets."""
    w0, w1, w2 = cam[0], cam[1], cam[2]
    return (
        (j00 * w0[0] + j02 * w2[0], j00 * w0[1] + j02 * w2[1], j00 * w0[2] + j02 * w2[2]),
        (j11 * w1[0] + j12 * w2[0], j11 * w1[1] + j12 * w2[1], j11 * w1[2] + j12 * w2[2]),
    )


@njit(error_model="numpy", forceinline=True)
def _finite(colors, b, i):
    b = min(b, len(colors) - 1)
    total = _ZERO
    for k in range(colors.shape[2]):
        total += abs(colors[b, i, k])
    return total < _HUGE


@cached
@njit(nogil=True, error_model="numpy")
def project(
    share, shares,
    means, quats, scales, opacities, colors, cameras, width, height, antialiased,
    means2d, conics, peaks, depths, radii, extents, boxes,
):  # fmt: skip
    """Fill the outputs, which must be zero: a culled splat keeps radius 0 and an empty box.

    colors, [1,N,C] or [B,N,C], is only tested for values that are not finite; cameras: `camera_table`.

    means2d [B,N,2]; conics [B,N,3], xx xy yy of the inverse covariance; peaks [B,N], opacity after the
    antialiasing factor; depths [B,N]; radii [B,N] int32; extents [B,N,2], half sizes in pixels of the box
    around alpha >= 1/255; boxes [B,N,4] int32, the tiles x0 x1 y0 y1 (ends excluded) that this box overlaps.
    """
    n, count = len(means), len(cameras)
    for chunk in range(share, (n + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            norm = math.sqrt(quats[i, 0] ** 2 + quats[i, 1] ** 2 + quats[i, 2] ** 2 + quats[i, 3] ** 2)
            # Here and below every comparison is written so that NaN fails it.
            if not (norm > _ZERO and norm < _HUGE and opacities[i] >= ALPHA_MIN and opacities[i] < _HUGE):
                continue
            inv = _ONE / norm
            r = _rotation(quats[i, 0] * inv, quats[i, 1] * inv, quats[i, 2] * inv, quats[i, 3] * inv)
            sigma = _covariance(r, scales[i, 0], scales[i, 1], scales[i, 2])
            for b in range(count):
                cam = _camera(cameras, b)
                x = _dot(cam[0], means[i, 0], means[i, 1], means[i, 2]) + cam[3][0]
                y = _dot(cam[1], means[i, 0], means[i, 1], means[i, 2]) + cam[3][1]
                z = _dot(cam[2], means[i, 0], means[i, 1], means[i, 2]) + cam[3][2]
                if not (z >= NEAR and z < _FAR):
                    continue
                iz = _ONE / z
                u, v = cam[4][0] * x * iz + cam[4][2], cam[4][1] * y * iz + cam[4][3]
                j00, j02, j11, j12, _, _ = _jacobian(cam, x, y, iz)
                t = _to_pixels(cam, j00, j02, j11, j12)
                a0, a1, a2 = _times(sigma, t[0][0], t[0][1], t[0][2])
                b0, b1, b2 = _times(sigma, t[1][0], t[1][1], t[1][2])
                cxx, cxy, cyy = _dot(t[0], a0, a1, a2), _dot(t[1], a0, a1, a2), _dot(t[1], b0, b1, b2)
                sharp = cxx * cyy - cxy * cxy
                cxx += BLUR
                cyy += BLUR
                det = cxx * cyy - cxy * cxy
                if not (det > _ZERO and det < _HUGE):
                    continue
                peak = opacities[i]
                if antialiased:
                    peak *= math.sqrt(max(_ZERO, sharp / det))
                if not peak >= ALPHA_MIN:
                    continue
                extent = min(EXTENT_MAX, math.sqrt(_TWO * math.log(peak / ALPHA_MIN)))
                rx, ry = extent * math.sqrt(cxx), extent * math.sqrt(cyy)
                big_x, big_y = np.ceil(rx), np.ceil(ry)
                if not (u + big_x > _ZERO and u - big_x < width and v + big_y > _ZERO and v - big_y < height):
                    continue
                if not max(big_x, big_y) > _ZERO or not _finite(colors, b, i):
                    continue
                radii[b, i] = np.int32(min(max(big_x, big_y), RADIUS_MAX))
                means2d[b, i, 0], means2d[b, i, 1] = u, v
                conics[b, i, 0], conics[b, i, 1], conics[b, i, 2] = cyy / det, -cxy / det, cxx / det
                peaks[b, i], depths[b, i] = peak, z
                # Slightly wider, so that rounding cannot lose a pixel at the edge.
                rx, ry = rx * _f32(1.0001) + _f32(1e-3), ry * _f32(1.0001) + _f32(1e-3)
                extents[b, i, 0], extents[b, i, 1] = rx, ry
                x0, x1 = max(np.ceil(u - rx - _HALF), _ZERO), min(np.floor(u + rx - _HALF), _f32(width - 1))
                y0, y1 = max(np.ceil(v - ry - _HALF), _ZERO), min(np.floor(v + ry - _HALF), _f32(height - 1))
                if x0 <= x1 and y0 <= y1:
                    boxes[b, i, 0], boxes[b, i, 1] = np.int64(x0) // TILE, np.int64(x1) // TILE + 1
                    boxes[b, i, 2], boxes[b, i, 3] = np.int64(y0) // TILE, np.int64(y1) // TILE + 1


@cached
@njit(nogil=True, error_model="numpy")
def project_backward(
    share, shares,
    means, quats, scales, opacities, cameras, antialiased,
    conics, peaks, radii, g_means2d, g_conics, g_peaks, g_depths,
    g_means, g_quats, g_scales, g_opacities, g_viewmats,
):  # fmt: skip
    """Gradients of `project`: g_means [N,3], g_quats [N,4], g_scales [N,3], g_opacities [N], all overwritten.

    g_viewmats [chunks,B,12] float64 receives each chunk's part of d/d(R|t), row by row; empty = not needed.
    """
    n, count = len(means), len(cameras)
    for chunk in range(share, (n + CHUNK - 1) // CHUNK, shares):
        for i in range(chunk * CHUNK, min(n, (chunk + 1) * CHUNK)):
            mx, my, mz = means[i, 0], means[i, 1], means[i, 2]
            gm0, gm1, gm2, g_opacity = _ZERO, _ZERO, _ZERO, _ZERO
            g0, g1, g2, g3, g4, g5 = _ZERO, _ZERO, _ZERO, _ZERO, _ZERO, _ZERO
            norm = math.sqrt(quats[i, 0] ** 2 + quats[i, 1] ** 2 + quats[i, 2] ** 2 + quats[i, 3] ** 2)
            inv = _ONE / norm if norm > _ZERO else _ZERO
            w, p, q, k = quats[i, 0] * inv, quats[i, 1] * inv, quats[i, 2] * inv, quats[i, 3] * inv
            r = _rotation(w, p, q, k)
            sigma = _covariance(r, scales[i, 0], scales[i, 1], scales[i, 2])
            seen = False
            for b in range(count):
                if radii[b, i] <= 0:
                    continue
                seen = True
                cam = _camera(cameras, b)
                x = _dot(cam[0], mx, my, mz) + cam[3][0]
                y = _dot(cam[1], mx, my, mz) + cam[3][1]
                z = _dot(cam[2], mx, my, mz) + cam[3][2]
                iz = _ONE / z
                j00, j02, j11, j12, inside_x, inside_y = _jacobian(cam, x, y, iz)
                t = _to_pixels(cam, j00, j02, j11, j12)
                # d(C^-1) = -C^-1 dC C^-1; hxy is the gradient at one of the two equal off-diagonal entries.
                a, h, c = conics[b, i, 0], conics[b, i, 1], conics[b, i, 2]
                ga, gh, gc = g_conics[b, i, 0], _HALF * g_conics[b, i, 1], g_conics[b, i, 2]
                hxx = -(a * a * ga + _TWO * a * h * gh + h * h * gc)
                hxy = -(a * h * ga + (a * c + h * h) * gh + h * c * gc)
                hyy = -(h * h * ga + _TWO * h * c * gh + c * c * gc)
                if antialiased:
                    factor = peaks[b, i] / opacities[i]
                    g_opacity += factor * g_peaks[b, i]
                    g_square = opacities[i] * g_peaks[b, i] * _HALF / (factor + _f32(1e-6))
                    lost, blur_det = _ONE - factor * factor, BLUR * (a * c - h * h)
                    hxx += g_square * (lost * a - blur_det)
                    hxy += g_square * lost * h
                    hyy += g_square * (lost * c - blur_det)
                else:
                    g_opacity += g_peaks[b, i]
                # C = T Sigma T^T: dSigma += T^T H T, dT = 2 H T Sigma.
                e = _mix(hxx, t[0], hxy, t[1])
                f = _mix(hxy, t[0], hyy, t[1])
                g0 += t[0][0] * e[0] + t[1][0] * f[0]
                g1 += t[0][0] * e[1] + t[1][0] * f[1]
                g2 += t[0][0] * e[2] + t[1][0] * f[2]
                g3 += t[0][1] * e[1] + t[1][1] * f[1]
                g4 += t[0][1] * e[2] + t[1][1] * f[2]
                g5 += t[0][2] * e[2] + t[1][2] * f[2]
                e0, e1, e2 = _times(sigma, e[0], e[1], e[2])
                f0, f1, f2 = _times(sigma, f[0], f[1], f[2])
                # T = J W.
                g_j00 = _TWO * _dot(cam[0], e0, e1, e2)
                g_j02 = _TWO * _dot(cam[2], e0, e1, e2)
                g_j11 = _TWO * _dot(cam[1], f0, f1, f2)
                g_j12 = _TWO * _dot(cam[2], f0, f1, f2)
                gu, gv = g_means2d[b, i, 0], g_means2d[b, i, 1]
                gx, gy = gu * j00, gv * j11
                gz = g_depths[b, i] - (gx * x + gy * y) * iz
                # j00 = fx/z and j02 = -fx clamp(x/z)/z, hence dj02/dz is -2 j02/z where x/z is not clamped.
                gz -= (g_j00 * j00 + g_j11 * j11 + g_j02 * j02 + g_j12 * j12) * iz
                if inside_x:
                    gx -= g_j02 * j00 * iz
                    gz -= g_j02 * j02 * iz
                if inside_y:
                    gy -= g_j12 * j11 * iz
                    gz -= g_j12 * j12 * iz
                gm0 += cam[0][0] * gx + cam[1][0] * gy + cam[2][0] * gz
                gm1 += cam[0][1] * gx + cam[1][1] * gy + cam[2][1] * gz
                gm2 += cam[0][2] * gx + cam[1][2] * gy + cam[2][2] * gz
                if len(g_viewmats) > 0:
                    g = g_viewmats[chunk, b]
                    g[0] += gx * mx + _TWO * j00 * e0
                    g[1] += gx * my + _TWO * j00 * e1
                    g[2] += gx * mz + _TWO * j00 * e2
                    g[3] += gx
                    g[4] += gy * mx + _TWO * j11 * f0
                    g[5] += gy * my + _TWO * j11 * f1
                    g[6] += gy * mz + _TWO * j11 * f2
                    g[7] += gy
                    g[8] += gz * mx + _TWO * (j02 * e0 + j12 * f0)
                    g[9] += gz * my + _TWO * (j02 * e1 + j12 * f1)
                    g[10] += gz * mz + _TWO * (j02 * e2 + j12 * f2)
                    g[11] += gz
            g_means[i, 0], g_means[i, 1], g_means[i, 2] = gm0, gm1, gm2
            g_opacities[i] = g_opacity
            if not seen:
                g_scales[i, 0], g_scales[i, 1], g_scales[i, 2] = _ZERO, _ZERO, _ZERO
                g_quats[i, 0], g_quats[i, 1], g_quats[i, 2], g_quats[i, 3] = _ZERO, _ZERO, _ZERO, _ZERO
                continue
            # Sigma = M M^T with M = R S: dM = 2 G M; column j of dM is s_j * 2 G r_j.
            gs = (g0, g1, g2, g3, g4, g5)
            s0, s1, s2 = scales[i, 0], scales[i, 1], scales[i, 2]
            u0, u1, u2 = _times(gs, r[0][0], r[1][0], r[2][0])
            v0, v1, v2 = _times(gs, r[0][1], r[1][1], r[2][1])
            w0, w1, w2 = _times(gs, r[0][2], r[1][2], r[2][2])
            g_scales[i, 0] = _TWO * s0 * (u0 * r[0][0] + u1 * r[1][0] + u2 * r[2][0])
            g_scales[i, 1] = _TWO * s1 * (v0 * r[0][1] + v1 * r[1][1] + v2 * r[2][1])
            g_scales[i, 2] = _TWO * s2 * (w0 * r[0][2] + w1 * r[1][2] + w2 * r[2][2])
            c0, c1, c2 = _TWO * s0 * s0, _TWO * s1 * s1, _TWO * s2 * s2
            r00, r10, r20 = c0 * u0, c0 * u1, c0 * u2
            r01, r11, r21 = c1 * v0, c1 * v1, c1 * v2
            r02, r12, r22 = c2 * w0, c2 * w1, c2 * w2
            gw = _TWO * (p * (r21 - r12) + q * (r02 - r20) + k * (r10 - r01))
            gp = _TWO * (w * (r21 - r12) + q * (r10 + r01) + k * (r20 + r02) - _TWO * p * (r11 + r22))
            gq = _TWO * (w * (r02 - r20) + p * (r10 + r01) + k * (r21 + r12) - _TWO * q * (r00 + r22))
            gk = _TWO * (w * (r10 - r01) + p * (r20 + r02) + q * (r21 + r12) - _TWO * k * (r00 + r11))
            along = gw * w + gp * p + gq * q + gk * k
            g_quats[i, 0], g_quats[i, 1] = (gw - along * w) * inv, (gp - along * p) * inv
            g_quats[i, 2], g_quats[i, 3] = (gq - along * q) * inv, (gk - along * k) * inv
