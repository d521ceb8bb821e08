"""What files say about lenses, in the keys and names of many tools, as one `Lens`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specularip.captures.frames import Lens
from specularip.errors import UserError, quoted

MAX_SIDE = 1_000_000
NEGLIGIBLE = 1e-6
"""Distortion coefficients up to here move no pixel visibly."""
MAX_SHIFT = 0.1
"""In pixels, between a lens and the model that is used for it."""

_ALIASES = {
    "w": "w", "width": "w", "image_width": "w", "h": "h", "height": "h", "image_height": "h",
    "fl_x": "fl_x", "fx": "fl_x", "focal_x": "fl_x", "focal_length_x": "fl_x",
    "fl_y": "fl_y", "fy": "fl_y", "focal_y": "fl_y", "focal_length_y": "fl_y",
    "cx": "cx", "principal_point_x": "cx", "cy": "cy", "principal_point_y": "cy",
    "camera_angle_x": "camera_angle_x", "camera_angle_y": "camera_angle_y",
    "x_fov": "x_fov", "y_fov": "y_fov",
    "k1": "k1", "k2": "k2", "k3": "k3", "k4": "k4", "k5": "k5", "k6": "k6", "p1": "p1", "p2": "p2",
    "k_1": "k1", "k_2": "k2", "k_3": "k3", "k_4": "k4", "k_5": "k5", "k_6": "k6", "p_1": "p1", "p_2": "p2",
}  # fmt: skip
FOCAL = ("fl_x", "fl_y", "camera_angle_x", "camera_angle_y", "x_fov", "y_fov")
COEFFICIENTS = ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
"""In OpenCV's order."""
OTHERS = ("omega", "k", "alpha", "sx1", "sy1", "s1", "s2", "s3", "s4")
"""Of COLMAP's other models: what is read only where it is zero."""

_MODEL_KEYS = (
    "camera_model", "camera_type", "projection", "projection_type", "projection_model", "distortion_model",
)  # fmt: skip
_MAYBE_MODEL_KEYS = ("model", "type", "lens", "lens_model", "lens_type")
"""Also of a phone, or of what else a table may be about."""
_PANORAMA_FLAGS = (
    "equirectangular",
    "latlong",
    "panorama",
    "panoramic",
    "spherical",
    "is_panorama",
    "is_360",
)
_NESTED = ("camera", "cam", "lens", "intrinsics", "intrinsic", "camera_intrinsics", "intrinsic_parameters")
_MATRICES = ("intrinsics", "intrinsic", "k", "camera_matrix", "intrinsic_matrix", "intrinsics_matrix")
_LISTS = (
    "distortion_params", "distortion_parameters", "distortion", "distortion_coeffs",
    "distortion_coefficients", "dist_coeffs", "dist", "d",
)  # fmt: skip
_LENS_LIKE = re.compile(
    r"[kpsb]_?\d+|sx\d|sy\d|tau_?[xy]|.*(distort|fisheye|radial|tangential|prism|ftheta|shutter|skew|orthographic).*"
    r"|(lens_?)?shift_?[xy]|xi|omega|alpha|beta|k",
    re.I,
)
"""Keys that change where pixels look."""
_GREEK = ("xi", "omega", "alpha", "beta", "k")
"""Those that mean other things too: "alpha": true is a channel."""

_PINHOLE = ("PINHOLE", "SIMPLEPINHOLE", "PERSPECTIVE", "PERSP", "NONE", "NODISTORTION")
_OPENCV = ("OPENCV", "SIMPLERADIAL", "RADIAL", "RADIALTANGENTIAL", "RADTAN", "PLUMBBOB", "BROWN",
           "BROWNCONRADY", "FULLOPENCV", "RATIONALPOLYNOMIAL")  # fmt: skip
_RATIONAL = ("FULLOPENCV", "RATIONALPOLYNOMIAL")
_FISHEYE = ("OPENCVFISHEYE", "FISHEYE", "SIMPLEFISHEYE", "SIMPLERADIALFISHEYE", "RADIALFISHEYE",
            "EQUIDISTANT", "KANNALABRANDT", "KANNALABRANDT4", "THINPRISMFISHEYE",
            "RADTANTHINPRISMFISHEYE")  # fmt: skip
_ONLY_PLAIN = ("FOV", "DIVISION", "SIMPLEDIVISION", "EUCM")
"""Of COLMAP: read where their parameters are zero, which leaves a pinhole."""
_PANORAMAS = ("EQUIRECTANGULAR", "SPHERICAL", "LATLONG", "PANORAMA", "OMNIDIRECTIONAL",
              "OMNIDIRECTIONALSTEREO", "OMNIDIRECTIONALSTEREOL", "OMNIDIRECTIONALSTEREOR", "VR180", "VR180L",
              "VR180R")  # fmt: skip
_ALL_MODELS = (
    *_PINHOLE,
    *_OPENCV,
    *_FISHEYE,
    *_ONLY_PLAIN,
    *_PANORAMAS,
    "ORTHOGRAPHIC",
    "ORTHO",
    "ORTHOPHOTO",
)
_UNDISTORT = "undistort the images to those of a pinhole camera (`colmap image_undistorter` does)"


@dataclass
class Said:
    """What a table says about a lens. values: under the names of nerfstudio. unread: keys that mean nothing
    here."""

    values: dict[str, Any] = field(default_factory=dict)
    unread: set[str] = field(default_factory=set)

    def over(self, general: Said) -> Said:
        """`self`, and what `general` says besides. Focal lengths, and lists of coefficients, are taken from
        one of them only."""
        replaced: set[str] = set()
        if any(key in self.values for key in FOCAL):
            replaced.update(FOCAL)
        if any(key in self.values for key in COEFFICIENTS):
            replaced.add("lists")
        if "lists" in self.values:
            replaced.update(COEFFICIENTS)
        rest = {key: value for key, value in general.values.items() if key not in replaced}
        return Said({**rest, **self.values}, self.unread | general.unread)


def said_in(table: Mapping[str, Any], where: str, known: Callable[[str], bool] = lambda key: False) -> Said:
    """What a table says about its lens, in any notation. known: keys of other meanings.

    Raises UserError if it says something that changes where pixels look and that is not supported.
    """
    said = Said()
    for key, value in table.items():
        small = str(key).lower()
        name = _ALIASES.get(small)
        if value is None:
            continue
        if name is not None:
            _put(said, name, value, where)
        elif small in _MODEL_KEYS:
            if not isinstance(value, str):
                raise UserError(f"{where}: {key} must be the name of a lens model, got {quoted(value)}")
            _put(said, "camera_model", value, where)
        elif small in _MAYBE_MODEL_KEYS and isinstance(value, str) and _capitals(value) in _ALL_MODELS:
            _put(said, "camera_model", value, where)
        elif small in ("is_fisheye", "fisheye"):
            if _truth(value):
                said.values["camera_model"] = "FISHEYE"
        elif small in _PANORAMA_FLAGS:
            if _truth(value):
                said.values["camera_model"] = "EQUIRECTANGULAR"
        elif small in _NESTED and isinstance(value, dict):
            inner = said_in(value, f"{where}: {key}", known)
            for name, each in inner.values.items():
                _put(said, name, each, where)
            said.unread |= inner.unread
        elif small in _MATRICES and isinstance(value, list):
            for name, each in _matrix(value, f"{where}: {key}").items():
                _put(said, name, each, where)
        elif small in _LISTS and isinstance(value, list):
            said.values.setdefault("lists", []).append((small, value))
        elif small in _LISTS and isinstance(value, dict):
            inner = said_in(value, f"{where}: {key}")
            for name, each in inner.values.items():
                _put(said, name, each, where)
        elif small == "radial_distortion" and isinstance(value, list):  # Nerfies
            for name, each in zip(("k1", "k2", "k3"), value):
                _put(said, name, each, where)
        elif small == "tangential_distortion" and isinstance(value, list):
            for name, each in zip(("p1", "p2"), value):
                _put(said, name, each, where)
        elif known(str(key)):
            continue
        elif isinstance(value, bool) and small in _GREEK:
            said.unread.add(str(key))
        elif _LENS_LIKE.fullmatch(small):
            if not _neutral(value):
                raise UserError(
                    f"{where}: {quoted(key)} is {quoted(value)}, which is not supported: {_UNDISTORT}, "
                    "or remove it if it does not apply"
                )
        elif isinstance(value, dict) and _is_about_a_lens(inner := said_in(value, f"{where}: {key}", known)):
            for name, each in inner.values.items():
                _put(said, name, each, where)
            said.unread |= inner.unread
        else:
            said.unread.add(str(key))
    return said


def lens_of(said: Said, where: str, image_size: Callable[[], tuple[int, int]]) -> Lens:
    """The lens of one image. image_size: its width and height, for files that do not say these.

    Raises UserError for lens models that are not supported and numbers that cannot be.
    """
    values = said.values

    def number(key: str) -> float | None:
        return None if key not in values else as_number(values[key], key, where)

    model = _model(values.get("camera_model"), where)
    width, height = number("w"), number("h")
    if width is None or height is None:
        own = image_size()
        if width is None and height is None:
            width, height = own
        else:
            scale = width / own[0] if width is not None else (height or 0.0) / own[1]
            width, height = own[0] * scale, own[1] * scale
    if min(width, height) < 1:
        raise UserError(f"{where}: w and h must be positive, got {width:g} and {height:g}")
    if max(width, height) > MAX_SIDE:
        raise UserError(f"{where}: w and h must be below {MAX_SIDE}, got {width:g} and {height:g}")
    width, height = round(width), round(height)

    fx, fy = _focal_lengths(number, width, height, where)
    if not 0.02 * width < fx < 1000 * width or not 0.02 * height < fy < 1000 * height:
        raise UserError(
            f"{where}: focal lengths of {fx:.4g} and {fy:.4g} pixels do not fit a {width}x{height} image"
        )
    cx, cy = number("cx"), number("cy")
    cx = 0.5 * width if cx is None else cx
    cy = 0.5 * height if cy is None else cy
    if not -width < cx < 2 * width or not -height < cy < 2 * height:
        raise UserError(f"{where}: cx and cy ({cx:.4g}, {cy:.4g}) are far outside a {width}x{height} image")

    coefficients = {name: found for name in COEFFICIENTS if (found := number(name)) is not None}
    for key, numbers in values.get("lists", ()):
        for name, found in _listed(key, numbers, model in _FISHEYE, where).items():
            if coefficients.setdefault(name, found) != found:
                raise UserError(
                    f"{where}: {name} is {coefficients[name]:.6g}, but {found:.6g} in {key}: remove one"
                )
    k1, k2, p1, p2, k3, k4, k5, k6 = (coefficients.get(name, 0.0) for name in COEFFICIENTS)
    _refuse_others({name: number(name) or 0.0 for name in OTHERS}, (), values.get("camera_model"), where)
    if model in _FISHEYE:
        _refuse_others(coefficients, ("k1", "k2", "k3", "k4"), values["camera_model"], where)
        return Lens("fisheye", width, height, fx, fy, cx, cy, (k1, k2, k3, k4))
    if all(abs(value) <= NEGLIGIBLE for value in coefficients.values()):
        return Lens("pinhole", width, height, fx, fy, cx, cy)
    if model in _ONLY_PLAIN:
        _refuse_others(coefficients, (), values["camera_model"], where)
    if model not in _RATIONAL:
        _refuse_others(coefficients, ("k1", "k2", "k3", "k4", "p1", "p2"), values.get("camera_model"), where)
        if abs(k4) > NEGLIGIBLE:
            corner = math.hypot(max(cx, width - cx) / fx, max(cy, height - cy) / fy)
            k1, k2, k3, k4, k5, k6 = _rational((k1, k2, k3, k4), corner, fx, where)
    return Lens("opencv", width, height, fx, fy, cx, cy, (k1, k2, p1, p2, k3, k4, k5, k6))


def as_number(value: object, key: str, where: str) -> float:
    """A finite number below 1e9. Numbers as text are read too: some exporters copy them from tables."""
    found = math.nan
    if type(value) in (int, float) or (isinstance(value, str) and len(value) < 50):
        try:
            found = float(value)  # type: ignore[arg-type]
        except OverflowError:
            found = math.inf
        except ValueError:
            raise UserError(f"{where}: {key} must be a number, got {quoted(value)}") from None
    else:
        raise UserError(f"{where}: {key} must be a number, got {quoted(value)}")
    if not abs(found) < 1e9:
        raise UserError(f"{where}: {key} must be a number below 1e9, got {quoted(value)}")
    return found


def _focal_lengths(
    number: Callable[[str], float | None], width: int, height: int, where: str
) -> tuple[float, float]:
    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    for axis, angle in (("x", angle_x), ("y", angle_y)):
        if angle is not None and not 0.002 < angle < 3.1:
            raise UserError(
                f"{where}: camera_angle_{axis} must be an angle in radians between 0 and pi, got {angle:.6g}"
            )
    degrees = [number("x_fov"), number("y_fov")]  # of instant-ngp
    for axis, angle in zip("xy", degrees):
        if angle is not None and not 0.1 < angle < 178:
            raise UserError(
                f"{where}: {axis}_fov must be an angle in degrees between 0 and 180, got {angle:.6g}"
            )
    if angle_x is None and degrees[0] is not None:
        angle_x = math.radians(degrees[0])
    if angle_y is None and degrees[1] is not None:
        angle_y = math.radians(degrees[1])
    fx, fy = number("fl_x"), number("fl_y")
    in_pixels = fx is not None
    if fx is None and angle_x is not None:
        fx = 0.5 * width / math.tan(0.5 * angle_x)
    if fy is None and angle_y is not None and not in_pixels:
        fy = 0.5 * height / math.tan(0.5 * angle_y)
    if fx is None and fy is None:
        raise UserError(f"{where}: no focal length: the file needs camera_angle_x (radians) or fl_x (pixels)")
    square = fy if fx is None else fx  # pixels, where only one is given
    assert square is not None
    return square if fx is None else fx, square if fy is None else fy


def _model(said: object, where: str) -> str:
    """The name of the lens model in capitals without separators; "" if the file names none."""
    if said is None:
        return ""
    name = _capitals(said)
    if name in ("", *_PINHOLE, *_OPENCV, *_FISHEYE, *_ONLY_PLAIN):
        return name
    if name in _PANORAMAS:
        raise UserError(
            f"{where}: panoramas ({quoted(said)}) are not supported: cut them into perspective images "
            "first (nerfstudio's `ns-process-data images --camera-type equirectangular` does)"
        )
    if name.startswith("ORTHO"):
        raise UserError(
            f"{where}: orthographic cameras ({quoted(said)}) are not supported: render perspective images"
        )
    raise UserError(
        f"{where}: the lens model {quoted(said)} is not supported (OPENCV, FULL_OPENCV, OPENCV_FISHEYE and "
        f"PINHOLE are): {_UNDISTORT}"
    )


def _listed(key: str, values: list[Any], fisheye: bool, where: str) -> dict[str, float]:
    """The coefficients of a list. "distortion_params" is nerfstudio's k1 k2 k3 k4 p1 p2; others are OpenCV's
    k1 k2 p1 p2 k3 k4 k5 k6, or k1 k2 k3 k4 for fisheye lenses."""
    if len(values) == 1 and isinstance(values[0], list):  # [[k1, ...]], as OpenCV's matrices are
        values = values[0]
    if len(values) > 14:
        raise UserError(f"{where}: {key} must be a list of up to 14 numbers, got {len(values)}")
    numbers = [as_number(value, key, where) for value in values]
    kept = (4,) if fisheye else (4, 5, 6, 8)
    while len(numbers) > 4 and abs(numbers[-1]) <= NEGLIGIBLE and len(numbers) not in kept:
        numbers.pop()
    count = len(numbers)
    if fisheye and count <= 4:
        names: tuple[str, ...] = ("k1", "k2", "k3", "k4")
    elif count == 6 and (key == "distortion_params" or not any(numbers[2:])):
        names = ("k1", "k2", "k3", "k4", "p1", "p2")
    elif not fisheye and (count in (0, 1, 2, 4, 5, 8) or not any(numbers[2:])):
        names = COEFFICIENTS
    else:
        raise UserError(
            f"{where}: it is not clear which coefficients {key} lists ({quoted(values)}): "
            "write them as k1, k2, p1, p2 and so on"
        )
    return dict(zip(names, numbers))


def _matrix(value: list[Any], where: str) -> dict[str, Any]:
    """fx, fy, cx and cy of a list of four, or of a matrix of 3x3, by rows or, flat, by columns. Of one of
    4x4, as ScanNet has it, its first rows and columns count."""
    if len(value) == 4 and not any(isinstance(each, list) for each in value):
        return dict(zip(("fl_x", "fl_y", "cx", "cy"), value))
    rows = value[:3] if len(value) == 4 and value[3] == [0, 0, 0, 1] else value
    if len(value) == 9 and not any(isinstance(each, list) for each in value):
        numbers = [as_number(each, "an entry", where) for each in value]
        by_columns = not any(numbers[2:6:3]) and any(numbers[6:8])
        rows = np.array(numbers).reshape(3, 3, order="F" if by_columns else "C").tolist()
    if not (len(rows) == 3 and all(isinstance(row, list) and len(row) in (3, 4) for row in rows)):
        raise UserError(f"{where} must be fx, fy, cx, cy or a matrix of 3x3, got {quoted(value)}")
    entries = np.array([[as_number(each, "an entry", where) for each in row[:3]] for row in rows])
    if abs(entries[0, 1]) > 1e-3 * abs(entries[0, 0]) or entries[1, 0] or entries[2].tolist() != [0, 0, 1]:
        raise UserError(
            f"{where} must be fx 0 cx, 0 fy cy, 0 0 1 by rows (skew is not supported), got {quoted(value)}"
        )
    fx, fy, cx, cy = (float(entries[at]) for at in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return {"fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy}


def _rational(k: tuple[float, ...], corner: float, focal: float, where: str) -> tuple[float, ...]:
    """k1 k2 k3 k4 k5 k6 of OpenCV's rational model, for the polynomial 1 + k1 r² + k2 r⁴ + k3 r⁶ + k4 r⁸ that
    nerfstudio, Metashape and RealityScan mean by k1 to k4.

    corner: the largest distorted radius in the image. Raises UserError if they differ by MAX_SHIFT.
    """
    radius = np.linspace(0, 3 * corner, 3001)
    moved = radius * np.polynomial.polynomial.polyval(radius**2, (1.0, *k))
    end = int(np.argmax((moved >= corner) | (np.gradient(moved) <= 0))) or len(radius) - 1
    r = np.linspace(0, radius[end], 400)
    s = (r / r[-1]) ** 2
    value = np.polynomial.polynomial.polyval(r**2, (1.0, *k))
    # (1 + a s + b s² + c s³) = value (1 + d s + e s² + f s³), least squares in a to f. Of the many that fit
    # well enough, small ones are taken, whose denominator has no zero nearby: the largest rcond.
    powers = np.stack([s, s**2, s**3], 1)
    system = np.concatenate([powers, -value[:, None] * powers], 1)
    for rcond in (1e-6, 1e-8, 1e-10, 1e-12):
        below = np.ones_like(r)
        for _ in range(4):  # weights for errors in pixels (Sanathanan and Koerner 1963)
            weights = (r / below)[:, None]
            solution = np.linalg.lstsq(weights * system, weights[:, 0] * (value - 1), rcond=rcond)[0]
            above, below = 1 + powers @ solution[:3], 1 + powers @ solution[3:]
            below = np.maximum(below, 0.05)
        if np.abs((above / below - value) * r * focal).max() < MAX_SHIFT:
            scale = r[-1] ** -np.array([2.0, 4.0, 6.0])
            return (*(solution[:3] * scale).tolist(), *(solution[3:] * scale).tolist())
    raise UserError(
        f"{where}: the distortion k1 to k4 ({quoted(k)}) is too strong to be undone: {_UNDISTORT}"
    )


def _refuse_others(
    coefficients: Mapping[str, float], allowed: tuple[str, ...], model: object, where: str
) -> None:
    for key, value in coefficients.items():
        if key not in allowed and abs(value) > NEGLIGIBLE:
            said = f"the lens model {quoted(model or 'OPENCV')} with {key} = {value:.4g}"
            raise UserError(f"{where}: {said} is not supported: {_UNDISTORT}")


def _put(said: Said, name: str, value: object, where: str) -> None:
    """A value that may be said twice, but not differently."""
    if name not in said.values:
        said.values[name] = value
    elif name == "camera_model":
        said.values[name] = max(said.values[name], value, key=_rank)
    elif said.values[name] != value:
        raise UserError(
            f"{where}: {name} is both {quoted(said.values[name])} and {quoted(value)}: remove one"
        )


def _rank(model: object) -> int:
    """Which of two names says more: "perspective" and "OPENCV" are no contradiction."""
    name = _capitals(model)
    return 0 if name in ("", *_PINHOLE) else 1 if name in _OPENCV else 2


def _capitals(model: object) -> str:
    return re.sub(r"[^A-Z0-9]", "", str(model).upper().removeprefix("CAMERATYPE."))


def _is_about_a_lens(said: Said) -> bool:
    return any(key in said.values for key in (*FOCAL, *COEFFICIENTS, "lists", "camera_model"))


def _truth(value: object) -> bool:
    return (
        value is True
        or (isinstance(value, int | float) and value != 0)
        or str(value).lower() in ("true", "yes")
    )


def _neutral(value: object) -> bool:
    """Whether a value says that there is none of it."""
    if isinstance(value, list):
        return all(_neutral(each) for each in value)
    if isinstance(value, dict):
        return all(_neutral(each) for each in value.values())
    if isinstance(value, str):
        try:
            return abs(float(value)) <= NEGLIGIBLE
        except ValueError:
            return value.strip().lower() in ("", "none", "false", "no", "global", "off")
    return not value or (isinstance(value, int | float) and abs(value) <= NEGLIGIBLE)
