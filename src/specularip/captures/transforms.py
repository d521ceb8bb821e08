"""Captures in transforms.json: of nerfstudio and instant-ngp, and the pairs of NeRF-synthetic.

Each has `frames` of `file_path` and `transform_matrix` (camera to world, OpenGL axes: x right, y up, z
backwards), and lenses for all frames or each, see `intrinsics`. nerfstudio's `applied_transform` and
`applied_scale` have been applied to the cameras and to the cloud of `ply_file_path` by the tool that wrote
them; instant-ngp's `scale`, `offset` and `aabb_scale` place the scene in its own volume. None of them changes
where the cameras are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from specularip.captures import colmap
from specularip.captures.frames import Capture, Frame, PointCloud, Split
from specularip.captures.intrinsics import Said, as_number, lens_of, said_in
from specularip.captures.names import Finder, cloud_in, relative_name
from specularip.captures.pixels import read_header
from specularip.captures.splits import rule_of
from specularip.errors import DamagedFile, UserError, quoted
from specularip.json_reading import MOST_BYTES, parse_object

MAX_DISTANCE = 1e7
"""Of cameras from the origin. Larger coordinates are treated as errors; even those of maps are smaller."""
RIGID_TOLERANCE = 2e-3
"""Tolerance of the rotation's orthonormality: files are rounded, some to three digits."""
_MASK_KEYS = ("mask_path", "mask_file_path", "mask")
_KEYS = frozenset(
    "frames file_path transform_matrix mask_path mask_file_path mask depth_file_path depth_path colour color "
    "ply_file_path train_filenames val_filenames test_filenames applied_transform applied_scale "
    "orientation_override aabb_scale aabb scale offset sharpness n_frames fps timestamp time colmap_im_id "
    "camera_id rotation integer_depth_scale enable_depth_loading enable_ray_loading "
    "depth_unit_scale_factor auto_scale_poses_override render_aabb up centroid totp avglen from_na "
    "white_transparent black_transparent cameras scene name title description comment author date device "
    "software version generator id uuid".split()
)
"""What is read elsewhere, and what says nothing about images and cameras."""


def read_pair(folder: Path, split: Split) -> Capture:
    """A split of NeRF-synthetic's layout: transforms_train.json and, optionally, transforms_test.json and
    transforms_val.json. A test or val split that is missing or has no frames has none here.

    Raises UserError as `read_table` does.
    """
    layout = "NeRF-synthetic"
    path = folder / f"transforms_{split}.json"
    if split != "train" and not path.exists():
        note = f"there is no {path.name} in {folder}: nothing to evaluate on"
        return Capture(layout, path, (), notes=(note,))
    table = read_json(path)
    frames = _frames_of(table, path)
    if split != "train" and not frames:
        return Capture(layout, path, (), notes=(f"{path} has no frames: nothing to evaluate on",))
    return read_table(folder, path, table, range(len(frames)), layout)


def read_single(folder: Path, split: Split) -> Capture:
    """A split of the one file of nerfstudio or instant-ngp: as its lists train_filenames, val_filenames and
    test_filenames say, or else every eighth image is for testing. A file transforms_test.json beside it is
    the test split, and then all of the first is fitted.

    Raises UserError as `read_table` does, and for lists that name no frame.
    """
    path = folder / "transforms.json"
    if any((folder / f"transforms_{other}.json").exists() for other in ("test", "val")):
        if split != "train":
            return read_pair(folder, split)
        table = read_json(path)
        return read_table(folder, path, table, range(len(_frames_of(table, path))), "nerfstudio")
    return read_split(folder, path, read_json(path), split, "nerfstudio")


def read_split(folder: Path, path: Path, table: dict[str, Any], split: Split, layout: str) -> Capture:
    """A split of a table that has all frames."""
    frames = _frames_of(table, path)
    images = Finder(folder, under=("images",))
    files = _image_files(folder, path, frames, images)
    names = [relative_name(file, folder) for file in files]
    lists = {key: table.get(f"{key}_filenames") for key in ("train", "test", "val")}
    listed = {key: names for key, names in lists.items() if names is not None}
    if listed:
        indices, line = _listed(folder, path, files, listed, split)
    else:
        indices, line = rule_of(names, split)
    note = f"{path.name}: {line}"
    if not indices and split != "train":
        return Capture(layout, path, (), notes=(f"{note}: nothing to evaluate on",))
    capture = read_table(folder, path, table, indices, layout, images)
    return replace(capture, notes=(note, *capture.notes))


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError if it is missing, too large, or no such file."""
    try:
        if not path.exists():
            raise UserError(f"{path} is missing: give the folder of a capture, see docs/captures.md")
        if not path.is_file():
            raise UserError(f"{path} is not a regular file")
        if path.stat().st_size > MOST_BYTES:
            raise UserError(f"{path} is over {MOST_BYTES >> 20} MiB: too large for a list of cameras")
        return parse_object(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except DamagedFile as error:
        raise UserError(f"{path} is not a JSON object with 'frames' ({error}): export it again") from None


def read_table(
    folder: Path,
    path: Path,
    table: dict[str, Any],
    indices: Sequence[int],
    layout: str,
    images: Finder | None = None,
) -> Capture:
    """The frames at `indices` of a table that was read from `path`. images: a finder that has looked before.

    Raises UserError for: images and masks that are missing, ambiguous or outside the folder; transforms that
    are not rigid; lenses that are not supported; numbers that cannot be.
    """
    frames = _frames_of(table, path)
    images, masks = images or Finder(folder, under=("images",)), Finder(folder, masks=True)
    chosen = [frames[index] for index in indices]
    files = _image_files(folder, path, chosen, images, indices)
    poses, scale = _poses(path, indices, chosen)
    general = said_in(table, str(path), _KEYS.__contains__)
    unread, depth, shared_used = set(general.unread), 0, "cameras" not in table
    result = []
    for index, frame, file, pose in zip(indices, chosen, files, poses):
        where = f"{path}: frame {index}"
        own: Said = said_in(frame, where, _KEYS.__contains__)
        if (shared := _shared_camera(table, frame, where)) is not None:
            own = own.over(said_in(shared, f"{where}: its camera", _KEYS.__contains__))
            shared_used = True
        unread |= own.unread
        depth += bool(frame.get("depth_file_path") or frame.get("depth_path"))
        lens = lens_of(own.over(general), where, lambda file=file: read_header(file).upright)  # type: ignore[misc]
        mask = _mask({**table, **frame}, masks, where)
        result.append(Frame(file, relative_name(file, folder), lens, pose, mask))
    unread |= set() if shared_used else {"cameras"}
    points, notes = _points(folder, path, table)
    notes = [*images.moved_note(), *masks.moved_note(), *notes]
    if abs(scale - 1) > RIGID_TOLERANCE:
        notes.append(f"{path.name}: all transform_matrix scale by {scale:.4g}: only their rotations are used")
    if depth:
        notes.append(f"{path.name}: depth maps (depth_file_path) are not used")
    if unread:
        shown = ", ".join(quoted(key).strip("'") for key in sorted(unread)[:8])
        notes.append(f"{path.name}: not used: {shown}{' and more' if len(unread) > 8 else ''}")
    return Capture(layout, path, tuple(result), points, _premultiplied(table), notes=tuple(notes))


def _frames_of(table: dict[str, Any], path: Path) -> list[Any]:
    frames = table.get("frames")
    if not isinstance(frames, list):
        raise UserError(f"{path}: 'frames' must be a list of objects with file_path and transform_matrix")
    return frames


def _image_files(
    folder: Path, path: Path, frames: Sequence[Any], finder: Finder, indices: Sequence[int] | None = None
) -> list[Path]:
    files = []
    for index, frame in zip(range(len(frames)) if indices is None else indices, frames):
        if not isinstance(frame, dict):
            raise UserError(f"{path}: frame {index} must be an object, got {quoted(frame)}")
        name = frame.get("file_path")
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: frame {index} has no file_path (got {quoted(name)})")
        files.append(finder.find(name, f"{path}: frame {index}"))
    return files


def _mask(table: dict[str, Any], masks: Finder, where: str) -> Path | None:
    for key in _MASK_KEYS:
        if (name := table.get(key)) is None:
            continue
        if not isinstance(name, str):
            raise UserError(f"{where}: {key} must be the name of an image, got {quoted(name)}")
        if name.strip():
            return masks.find(name, f"{where}: {key}")
    return None


def _shared_camera(table: dict[str, Any], frame: dict[str, Any], where: str) -> dict[str, Any] | None:
    """The entry of the file's `cameras` that a frame refers to, or the only one; None if there are none."""
    cameras = table.get("cameras")
    if isinstance(cameras, list):
        ids = (entry.get("id", k) if isinstance(entry, dict) else k for k, entry in enumerate(cameras))
        entries = {str(key): entry for key, entry in zip(ids, cameras)}
    else:
        entries = {str(key): entry for key, entry in cameras.items()} if isinstance(cameras, dict) else {}
    if not entries:
        return None
    keys = ("camera_id", "camera")
    name = next((frame[key] for key in keys if isinstance(frame.get(key), str | int)), None)
    if name is None:
        entry = next(iter(entries.values())) if len(entries) == 1 else None
        return entry if isinstance(entry, dict) else None
    entry = entries.get(str(name))
    if not isinstance(entry, dict):
        raise UserError(f"{where}: its camera_id is {quoted(name)}, which is none of the file's cameras")
    return entry


def _listed(
    folder: Path, path: Path, files: Sequence[Path], listed: dict[str, Any], split: Split
) -> tuple[list[int], str]:
    """The indices of the files in the file's own list, and a line that says so."""
    members: dict[str, set[Path]] = {}
    finder, known = Finder(folder, under=("images",)), set(files)
    for key, names in listed.items():
        where = f"{path}: {key}_filenames"
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise UserError(f"{where} must be a list of file names, got {quoted(names)}")
        members[key] = {finder.find(name, where) for name in names}
        if not members[key] <= known:
            first = min(members[key] - known)
            raise UserError(
                f"{where} has {quoted(relative_name(first, folder))}, which is no frame: correct the list"
            )
    if split in members:
        chosen, line = members[split], f"the images of {split}_filenames"
    elif split == "train":
        chosen, line = (
            known - set().union(*members.values()),
            "the images that are in none of its lists are fitted",
        )
    else:
        other = "val" if split == "test" else "test"
        chosen, line = members.get(other, set()), f"it has no {split}_filenames"
        if other in members:
            line += f": the images of {other}_filenames are used"
    return [index for index, file in enumerate(files) if file in chosen], line


def _poses(
    path: Path, indices: Sequence[int], frames: Sequence[dict[str, Any]]
) -> tuple[list[np.ndarray], float]:
    """World to camera [4,4] float64, OpenCV axes, of each frame; and the factor by which all of their
    matrices scale."""
    matrices, lengths = [], []
    for index, frame in zip(indices, frames):
        matrix = _matrix(f"{path}: frame {index} ({quoted(frame['file_path'])}): transform_matrix", frame)
        matrices.append(matrix)
        lengths.append(np.linalg.norm(matrix[:3, :3], axis=0))
    # Some exporters leave the scale of the scene in the rotations. It is the same in all of them then.
    scale = float(np.median(lengths)) if lengths else 1.0
    if abs(scale - 1) <= RIGID_TOLERANCE or not 1e-6 < scale < 1e6:
        scale = 1.0
    found = []
    for index, frame, matrix in zip(indices, frames, matrices):
        matrix[:3, :3] /= scale
        found.append(
            _world_to_camera(
                f"{path}: frame {index} ({quoted(frame['file_path'])}): transform_matrix", matrix
            )
        )
    return found, scale


def _matrix(where: str, frame: dict[str, Any]) -> np.ndarray:
    rows = frame.get("transform_matrix")
    if not (
        isinstance(rows, list)
        and len(rows) in (3, 4)
        and all(isinstance(row, list) and len(row) == 4 for row in rows)
        and all(type(number) in (int, float) for row in rows for number in row)
    ):
        raise UserError(f"{where} must be three or four rows of four numbers, got {quoted(rows)}")
    try:
        matrix = np.array([[float(number) for number in row] for row in (*rows, [0, 0, 0, 1])[:4]])
    except OverflowError:
        matrix = np.full((4, 4), np.inf)
    if not np.isfinite(matrix).all():
        raise UserError(f"{where} holds NaN or infinite numbers")
    if np.abs(matrix[3] - (0, 0, 0, 1)).max() > 1e-4:
        raise UserError(f"{where} must end in the row 0 0 0 1: it is not a rigid camera-to-world transform")
    if np.abs(matrix[:3]).max() > MAX_DISTANCE:
        raise UserError(f"{where} holds numbers beyond {MAX_DISTANCE:g}: scale the scene")
    return matrix


def _world_to_camera(where: str, matrix: np.ndarray) -> np.ndarray:
    """The inverse [4,4] with OpenCV axes, its rotation exactly orthonormal. matrix: camera to world, OpenGL
    axes."""
    rotation = matrix[:3, :3]
    lengths = np.linalg.norm(rotation, axis=0)
    if np.abs(lengths - 1).max() > RIGID_TOLERANCE:
        found = ", ".join(f"{length:.4g}" for length in lengths)
        raise UserError(
            f"{where} is not rigid: it scales (axes of length {found}), and not as the others do; "
            "export the cameras without scale"
        )
    if np.abs(rotation.T @ rotation - np.eye(3)).max() > RIGID_TOLERANCE:
        raise UserError(f"{where} is not rigid: it shears (the axes are not orthogonal)")
    if np.linalg.det(rotation) < 0:
        raise UserError(
            f"{where} is not rigid: it mirrors (determinant -1); flip one axis, OpenGL's are "
            "x right, y up, z backwards"
        )
    u, _, vh = np.linalg.svd(rotation)
    inverse = np.eye(4)
    inverse[:3, :3] = (u @ vh * (1, -1, -1)).T
    inverse[:3, 3] = -inverse[:3, :3] @ matrix[:3, 3]
    return inverse


def _premultiplied(table: dict[str, Any]) -> bool | None:
    words = " ".join(str(table.get(key, "")) for key in ("colour", "color")).lower()
    if re.search(r"(?<!un)(?<!not )(?<!non)(?<!non[- ])pre-?multiplied", words):
        return True
    return False if re.search(r"pre-?multiplied|straight", words) else None


def _points(folder: Path, path: Path, table: dict[str, Any]) -> tuple[Path | PointCloud | None, list[str]]:
    """The cloud that the file names, or one beside it, or the one that nerfstudio made the file from."""
    name = table.get("ply_file_path")
    if name is not None:
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{path}: ply_file_path must be the name of a file, got {quoted(name)}")
        finder = Finder(folder, suffixes=(".ply",))
        try:
            return finder.find(name, f"{path}: ply_file_path"), []
        except UserError:
            if (beside := cloud_in(folder)) is not None:
                return beside, [f"{path.name}: there is no {quoted(name)}: {beside.name} is used"]
            return None, [f"{path.name}: ply_file_path is {quoted(name)}, which is not in {folder}: not used"]
    if (beside := cloud_in(folder)) is not None:
        return beside, []
    model = colmap.find_model(folder)
    if model is None or "applied_transform" not in table:
        return None, []
    cloud = colmap.read_points(model)
    if cloud is None:
        return None, []
    transform = _applied(path, table)
    positions = cloud.positions @ transform[:, :3].T + transform[:, 3]
    where = relative_name(model, folder)
    return PointCloud(positions, cloud.colors), [
        f"the points of {where} are used, moved by applied_transform"
    ]


def _applied(path: Path, table: dict[str, Any]) -> np.ndarray:
    """[3,4], from COLMAP's world to the one of the cameras."""
    rows = table["applied_transform"]
    where = f"{path}: applied_transform"
    if not (
        isinstance(rows, list)
        and len(rows) in (3, 4)
        and all(isinstance(row, list) and len(row) == 4 for row in rows)
    ):
        raise UserError(f"{where} must be three rows of four numbers, got {quoted(rows)}")
    matrix = np.array([[as_number(number, "an entry", where) for number in row] for row in rows[:3]])
    scale = as_number(table.get("applied_scale", 1.0), "applied_scale", str(path))
    return matrix * scale
