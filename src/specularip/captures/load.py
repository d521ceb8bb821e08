"""Posed images from a folder in the layout of NeRF-synthetic, validated on loading.

transforms_train.json and, optionally, transforms_test.json and transforms_val.json, each with `frames` of
`file_path` (with or without suffix) and `transform_matrix` (4x4, camera to world, OpenGL axes), and a focal
length for all frames or each: `camera_angle_x` in radians or `fl_x` (`fl_y`, `cx`, `cy`, `w`, `h`) in pixels.
Optionally, a triangle mesh (body.npz) or a point cloud (points3d.ply) to initialise the Gaussians on.

World: right-handed, of any origin, unit and axes; `scene.settled` moves it. Any defect raises a UserError that
names the file. Nothing is unpickled, and no file_path may lead out of the folder.
"""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from specularip.cameras import Cameras
from specularip.captures.mesh import MAX_DISTANCE, load_body_mesh, points_inside
from specularip.captures.scene import exact_in_float32
from specularip.captures.views import PosedImages, View
from specularip.errors import UserError

Split = Literal["train", "test", "val"]

MIN_VIEWS = 3
"""Minimum number of different training images: two leave the depth of most points undetermined."""
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
"""Tried in this order if `file_path` has none."""
FORMATS = ("PNG", "JPEG", "WEBP")
"""Formats that Pillow may try; its other readers are never reached."""
MIN_SIDE, MAX_PIXELS = 16, 50_000_000
"""Smallest side and largest area of an image; larger ones are rejected by their header."""
MAX_JSON_BYTES = 64 << 20
RIGID_TOLERANCE = 2e-3
"""Tolerance of the rotation's orthonormality: files are rounded, some to three digits."""

# Names of lens distortion coefficients in such files. A pinhole rasteriser cannot render distortion.
DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


def load_posed_images(folder: str | os.PathLike[str], split: Split = "train") -> PosedImages:
    """Read one split. A test or val split that is missing or has no frames returns 0 views.

    Colours are taken as premultiplied if the file's "colour" (or "color") says so, otherwise as straight
    alpha, as in NeRF-synthetic; images without alpha are taken as opaque. `notes` lists these assumptions.

    Raises UserError for: a missing, unreadable or malformed file; fewer than MIN_VIEWS different training
    images; images that are missing, damaged, too small, too large or of differing size; paths that leave the
    folder; transforms that are not rigid; cameras inside the mesh of body.npz; lens distortion.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder: give the one with transforms_train.json")
    path = folder / f"transforms_{split}.json"
    if split != "train" and not path.exists():
        return _no_views(f"there is no {path.name} in {folder}: nothing to evaluate on")
    table = _read_json(path)
    frames = table.get("frames")
    if not isinstance(frames, list):
        raise UserError(f"{path}: 'frames' must be a list of objects with file_path and transform_matrix")
    if split != "train" and not frames:
        return _no_views(f"{path} has no frames: nothing to evaluate on")

    files = [_image_file(folder, path, index, frame) for index, frame in enumerate(frames)]
    if split == "train" and len(set(files)) < MIN_VIEWS:
        raise UserError(
            f"{path} has {len(set(files))} different images: at least {MIN_VIEWS} views are needed"
        )
    poses = np.stack([_pose(path, index, frame) for index, frame in enumerate(frames)])
    width, height = _common_size(path, files)
    Ks = np.stack(
        [_intrinsics(path, index, {**table, **frame}, width, height) for index, frame in enumerate(frames)]
    )
    names = [os.path.relpath(file, folder).replace(os.sep, "/") for file in files]
    mesh = load_body_mesh(folder)
    if mesh is not None:
        inside = points_inside(poses[:, :3, 3], mesh[0].numpy(), mesh[1].numpy())
        if inside.any():
            first = names[int(inside.argmax())]
            raise UserError(
                f"{path}: the camera of {_show(first)} is inside the body of {folder / 'body.npz'}: "
                "convert both to the same axes and units, or remove body.npz"
            )

    premultiplied = _says_premultiplied(table)
    placement = exact_in_float32(poses[:, :3, 3])
    viewmats = placement.inverse().viewmats(torch.from_numpy(_world_to_camera(poses))).float()
    intrinsics = torch.from_numpy(Ks).float()
    cameras = Cameras(viewmats, intrinsics, width, height)
    views = []
    opaque = visible = 0
    for index, file in enumerate(files):
        pixels = _decode(file)
        opaque += int(pixels[..., 3].min()) == 255
        visible += int(pixels[..., 3].max()) > 127
        views.append(View(cameras[index], torch.from_numpy(pixels), premultiplied, names[index]))
    if split == "train" and not visible:
        raise UserError(f"{path}: all images are fully transparent: there is nothing to fit")
    return PosedImages(tuple(views), _notes(path, opaque, len(files), premultiplied), placement)


def _no_views(note: str) -> PosedImages:
    return PosedImages((), (note,))


def _notes(path: Path, opaque: int, count: int, premultiplied: bool) -> tuple[str, ...]:
    notes = []
    if opaque:
        share = "the images have" if opaque == count else f"{opaque} of {count} images have"
        notes.append(
            f"{path.name}: {share} no alpha (or none below 1): taken as opaque, "
            "so their background is fitted too"
        )
    if opaque < count and not premultiplied:
        notes.append(
            f"{path.name} does not say whether colours are premultiplied: taken as straight alpha, as in "
            'NeRF-synthetic (add "colour": "premultiplied" if they are)'
        )
    return tuple(notes)


def _says_premultiplied(table: dict[str, Any]) -> bool:
    words = " ".join(str(table.get(key, "")) for key in ("colour", "color")).lower()
    return re.search(r"(?<!un)(?<!not )(?<!non)(?<!non[- ])pre-?multiplied", words) is not None


def _show(value: object) -> str:
    """A value from a file as at most 60 printable characters on one line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read_json(path: Path) -> dict[str, Any]:
    try:
        if not path.exists():
            raise UserError(f"{path} is missing: give a folder in the layout of NeRF-synthetic, see --help")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file")
        if path.stat().st_size > MAX_JSON_BYTES:
            raise UserError(f"{path} is over {MAX_JSON_BYTES >> 20} MiB: too large for a list of cameras")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is not text in UTF-8: export it again") from None
    try:
        table = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not valid JSON (line {error.lineno}: {error.msg}): export it again"
        ) from None
    except (RecursionError, ValueError):  # thousands of nested levels or digits
        raise UserError(f"{path} is not valid JSON: export it again") from None
    if not isinstance(table, dict):
        raise UserError(f"{path} must hold a JSON object with 'frames', got {_show(table)}")
    return table


def _image_file(folder: Path, path: Path, index: int, frame: object) -> Path:
    """The existing file of a frame, as a path inside `folder`."""
    if not isinstance(frame, dict):
        raise UserError(f"{path}: frame {index} must be an object, got {_show(frame)}")
    name = frame.get("file_path")
    if not isinstance(name, str) or not name.strip():
        raise UserError(f"{path}: frame {index} has no file_path (got {_show(name)})")
    # Tools on Windows write backslashes. Symbolic links in the folder are the user's and may lead anywhere.
    base = os.path.normpath(folder)
    joined = os.path.normpath(os.path.join(base, name.replace("\\", "/")))
    try:
        if os.path.commonpath([os.path.abspath(base), os.path.abspath(joined)]) != os.path.abspath(base):
            raise UserError(f"{path}: frame {index} leads out of the folder: {_show(name)}")
        candidates = [Path(joined + suffix) for suffix in ("", *SUFFIXES)]
        for candidate in candidates:
            if candidate.is_file():
                return candidate
            if candidate.exists() and not candidate.is_dir():
                raise UserError(f"{path}: frame {index}: {_show(name)} is not a regular file")
    except (OSError, ValueError):
        raise UserError(f"{path}: frame {index}: {_show(name)} is not a usable file name") from None
    raise UserError(
        f"{path}: frame {index}: there is no image {_show(name)} in {folder} "
        f"(also tried {', '.join(SUFFIXES)})"
    )


def _pose(path: Path, index: int, frame: dict[str, Any]) -> np.ndarray:
    """Camera to world [4,4] float64, OpenGL axes, its rotation projected to exactly orthonormal."""
    where = f"{path}: frame {index} ({_show(frame['file_path'])}): transform_matrix"
    rows = frame.get("transform_matrix")
    if not (
        isinstance(rows, list)
        and len(rows) == 4
        and all(isinstance(row, list) and len(row) == 4 for row in rows)
        and all(type(number) in (int, float) for row in rows for number in row)
    ):
        raise UserError(f"{where} must be four rows of four numbers, got {_show(rows)}")
    try:
        matrix = np.array([[float(number) for number in row] for row in rows])
    except OverflowError:
        matrix = np.full((4, 4), np.inf)
    if not np.isfinite(matrix).all():
        raise UserError(f"{where} holds NaN or infinite numbers")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-4:
        raise UserError(f"{where} must end in the row 0 0 0 1: it is not a rigid camera-to-world transform")
    if np.abs(matrix[:3]).max() > MAX_DISTANCE:
        raise UserError(f"{where} holds numbers beyond {MAX_DISTANCE:g}: export it again")
    rotation = matrix[:3, :3]
    lengths = np.linalg.norm(rotation, axis=0)
    if np.abs(lengths - 1).max() > RIGID_TOLERANCE:
        found = ", ".join(f"{length:.4g}" for length in lengths)
        raise UserError(
            f"{where} is not rigid: it scales (axes of length {found}); apply the scale to the positions"
        )
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > RIGID_TOLERANCE:
        raise UserError(f"{where} is not rigid: it shears (the axes are not orthogonal)")
    if np.linalg.det(rotation) < 0:
        raise UserError(
            f"{where} is not rigid: it mirrors (determinant -1); flip one axis, OpenGL's are "
            "x right, y up, z backwards"
        )
    u, _, vh = np.linalg.svd(rotation)
    matrix[:3, :3] = u @ vh
    return matrix


def _world_to_camera(poses: np.ndarray) -> np.ndarray:
    """OpenCV world-to-camera [V,4,4] of OpenGL camera-to-world [V,4,4]: flips y and z, then inverts."""
    rotation = np.swapaxes(poses[:, :3, :3] * (1, -1, -1), 1, 2)
    matrices = np.tile(np.eye(4), (len(poses), 1, 1))
    matrices[:, :3, :3] = rotation
    matrices[:, :3, 3:] = -rotation @ poses[:, :3, 3:]
    return matrices


def _intrinsics(path: Path, index: int, values: dict[str, Any], width: int, height: int) -> np.ndarray:
    """K [3,3] in pixels of an image of width x height. values: the file's keys, overridden by the frame's."""
    where = f"{path}: frame {index}"

    def number(key: str) -> float | None:
        value = values.get(key)
        if value is None:
            return None
        if type(value) not in (int, float):
            raise UserError(f"{where}: {key} must be a number, got {_show(value)}")
        try:
            found = float(value)
        except OverflowError:
            found = math.inf
        if not abs(found) < 1e9:
            raise UserError(f"{where}: {key} must be a number below 1e9, got {_show(value)}")
        return found

    model = values.get("camera_model")
    if isinstance(model, str) and "fisheye" in model.lower():
        raise UserError(f"{where}: fisheye images cannot be fitted: undistort them to pinhole images first")
    for key in DISTORTION:
        if abs(number(key) or 0.0) > 1e-6:
            raise UserError(
                f"{where}: the lens distorts ({key} is {values[key]:.4g}): undistort the images first "
                "and remove the coefficients"
            )

    # w and h may be the size before downscaling: then K is scaled too.
    given_width, given_height = number("w"), number("h")
    scale_x = scale_y = 1.0
    if given_width is not None and given_height is not None:
        if min(given_width, given_height) < 1:
            raise UserError(f"{where}: w and h must be positive, got {given_width:g} and {given_height:g}")
        scale_x, scale_y = width / given_width, height / given_height
        if abs(scale_x / scale_y - 1) > 2 / min(width, height):
            raise UserError(
                f"{where}: w and h are {given_width:g}x{given_height:g}, "
                f"but the image is {width}x{height}, of another aspect ratio"
            )

    angle_x, angle_y = number("camera_angle_x"), number("camera_angle_y")
    for key, angle in (("camera_angle_x", angle_x), ("camera_angle_y", angle_y)):
        if angle is not None and not 0.002 < angle < 3.1:
            raise UserError(f"{where}: {key} must be an angle in radians between 0 and pi, got {angle:.6g}")
    fx, fy = number("fl_x"), number("fl_y")
    if fx is not None:
        fx *= scale_x
    elif angle_x is not None:
        fx = 0.5 * width / math.tan(0.5 * angle_x)
    else:
        raise UserError(f"{where}: no focal length: the file needs camera_angle_x (radians) or fl_x (pixels)")
    if fy is not None:
        fy *= scale_y
    elif angle_y is not None and values.get("fl_x") is None:
        fy = 0.5 * height / math.tan(0.5 * angle_y)
    else:
        fy = fx  # square pixels
    if not 0.02 * width < fx < 1000 * width or not 0.02 * height < fy < 1000 * height:
        raise UserError(
            f"{where}: focal lengths of {fx:.4g} and {fy:.4g} pixels do not fit a {width}x{height} image"
        )
    cx, cy = number("cx"), number("cy")
    cx = 0.5 * width if cx is None else cx * scale_x
    cy = 0.5 * height if cy is None else cy * scale_y
    if not -width < cx < 2 * width or not -height < cy < 2 * height:
        raise UserError(f"{where}: cx and cy ({cx:.4g}, {cy:.4g}) are far outside a {width}x{height} image")
    return np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])


def _common_size(path: Path, files: Sequence[Path]) -> tuple[int, int]:
    """Width and height of all files, from the headers, before anything is decoded."""
    sizes: dict[Path, tuple[int, int]] = {}
    for file in files:
        if file in sizes:
            continue
        with _open_image(file) as image:
            width, height = sizes[file] = image.size
        if width * height > MAX_PIXELS:
            raise UserError(
                f"{file} is {width}x{height}: {MAX_PIXELS // 1_000_000} megapixels is the limit; scale it"
            )
        if min(width, height) < MIN_SIDE:
            raise UserError(f"{file} is only {width}x{height} pixels: at least {MIN_SIDE} a side are needed")
        first, expected = next(iter(sizes.items()))
        if (width, height) != expected:
            raise UserError(
                f"{file} is {width}x{height}, but {first.name} is {expected[0]}x{expected[1]}: "
                "all images of a split must have one size"
            )
    width, height = sizes[files[0]]
    need, have = 4 * width * height * len(files), _memory_bytes()
    if need > 0.7 * have:
        raise UserError(
            f"{path}: {len(files)} images of {width}x{height} take {need / 2**30:.1f} GiB of memory, "
            f"of {have / 2**30:.1f}: scale them down or use fewer"
        )
    return width, height


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 32 << 30  # unknown on this system: assume enough


def _open_image(file: Path) -> Image.Image:
    """Parse the header only."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's warning for large images: MAX_PIXELS is stricter
        try:
            return Image.open(file, formats=FORMATS)
        except Image.DecompressionBombError:
            raise UserError(
                f"{file} is far too large: the limit is {MAX_PIXELS // 1_000_000} megapixels, scale it down"
            ) from None
        except OSError as error:
            if error.errno is not None:
                raise UserError(f"{file} cannot be read: {error.strerror or error}") from None
            raise UserError(f"{file} is damaged or not a PNG, JPEG or WebP image: export it again") from None
        except Exception:  # struct.error, SyntaxError, ValueError on malformed headers
            raise UserError(f"{file} is damaged or not a PNG, JPEG or WebP image: export it again") from None


def _decode(file: Path) -> np.ndarray:
    """uint8 [H,W,4]; alpha is 255 where the image has none."""
    with warnings.catch_warnings(), _open_image(file) as image:
        warnings.simplefilter("ignore")
        try:
            image.load()
            if image.mode.startswith("I"):  # 16-bit greyscale: Pillow's own conversion clips at 255
                image = Image.fromarray(
                    (np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                )
            return np.array(image.convert("RGBA"))
        except Exception as error:  # Pillow's decoders raise all kinds of exceptions on damaged data
            reason = "cut short" if "truncated" in str(error) else "damaged"
            raise UserError(f"{file} is {reason} and cannot be decoded: export it again") from None
