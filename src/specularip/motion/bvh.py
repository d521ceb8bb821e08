"""BVH, Biovision's motion files: a skeleton as text, then a line of numbers a frame.

Meredith and Maddock, "Motion Capture File Formats Explained" (University of Sheffield, 2001). An OFFSET is a
joint's rest position relative to its parent; the CHANNELS of a joint are Euler angles in degrees, applied
from the last to the first, and a position that replaces the offset. Rest frames are the file's axes. Neither
unit nor up axis is stated.
"""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from specularip.errors import UserError, escaped, first_line, quoted
from specularip.motion.capture import Capture, upright
from specularip.motion.quaternions import about, multiply

HEADER = 1 << 20
"""Largest skeleton, in bytes of text."""
JOINTS = 1000
MOST = 1e7
"""Largest number, degrees or the file's unit of length."""
BLOCK = 16 << 20
"""Bytes of text whose numbers are read at once."""

_MOTION = re.compile(rb"^[ \t]*MOTION[ \t\r]*$", re.MULTILINE | re.IGNORECASE)
_TIMING = re.compile(rb"\s*MOTION\s+Frames\s*:\s*(\S{1,40})\s+Frame\s+Time\s*:\s*(\S{1,40})", re.IGNORECASE)
_AXES = {"x": 0, "y": 1, "z": 2}


@dataclass
class _Joint:
    name: str
    parent: int
    offset: list[float] = field(default_factory=list)
    channels: list[tuple[str, int]] = field(default_factory=list)
    """(kind, axis): "position" or "rotation", and 0 to 2."""


def read_bvh(path: Path, fps: float | None = None) -> Capture:
    """The motion in a BVH file of a skeleton that `skeletons` knows. fps: used if the file gives no frame
    time.

    Raises UserError, one line, for damaged files: unbalanced skeletons, another count of numbers than frames
    and channels make, numbers that are not finite.
    """
    try:
        text = path.read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"no motion file {path}") from error
    except (OSError, MemoryError) as error:
        raise UserError(f"cannot read {path}: {first_line(error)}") from error
    start = _MOTION.search(text)
    timing = _TIMING.match(text, start.start()) if start else None
    if start is None or timing is None or start.start() > HEADER:
        raise UserError(f"{path} is not a BVH file, or cut short: no MOTION with Frames and Frame Time")
    joints = _hierarchy(path, text[: start.start()].decode("utf-8", "replace"))
    columns = sum(len(joint.channels) for joint in joints)
    frames, seconds = _timing(path, timing[1], timing[2])
    if seconds > 0:
        fps = 1 / seconds
    if fps is None:
        raise UserError(f"{path} has no frame rate (Frame Time is 0): give it, such as --file-fps 30")
    values = _values(path, text, timing.end(), frames, columns)
    del text

    rotations = torch.zeros(frames, len(joints), 4)
    rotations[..., 0] = 1
    translation = torch.zeros(frames, 3)
    notes, column = [], 0
    for index, joint in enumerate(joints):
        position = torch.tensor(joint.offset).expand(frames, 3).clone()
        turn = None
        for kind, axis in joint.channels:
            if kind == "position":
                position[:, axis] = values[:, column]
            else:
                step = about(torch.eye(3)[axis], values[:, column].deg2rad())
                turn = step if turn is None else multiply(turn, step)
            column += 1
        if turn is not None:
            rotations[:, index] = turn
        moved = position - torch.tensor(joint.offset)
        if index == 0:
            translation = moved
        elif float((position - position[:1]).abs().max()) > 0.01 * math.hypot(*joint.offset):
            notes.append(joint.name)
    places = torch.zeros(len(joints), 3)
    for index, joint in enumerate(joints):
        above = places[joint.parent] if joint.parent >= 0 else torch.zeros(3)
        places[index] = above + torch.tensor(joint.offset)
    shown = ", ".join(quoted(name).strip("'") for name in notes[:4])
    capture = Capture(
        name=escaped(path.stem),
        fps=fps,
        joint_names=tuple(joint.name for joint in joints),
        joint_parents=tuple(joint.parent for joint in joints),
        joints=places,
        rotations=rotations,
        translation=translation,
        notes=(f"joints keep their rest distance: {shown} move",) if notes else (),
    )
    return upright(capture, str(path))


def _hierarchy(path: Path, text: str) -> list[_Joint]:
    """The joints, parents before children."""
    lines = (line.split() for line in text.splitlines())
    rows = [words for words in lines if words]
    if not rows or rows[0][0].upper() != "HIERARCHY":
        raise UserError(f"{path} is not a BVH file: it does not start with HIERARCHY")
    joints: list[_Joint] = []
    open_joints: list[int | None] = []  # those whose braces are open; None for an end site
    pending: list[int | None] = []  # one that is named, before its brace
    for words in rows[1:]:
        if words[-1] == "{" and len(words) > 1:  # on the same line as the name
            rows_of = [words[:-1], ["{"]]
        else:
            rows_of = [words]
        for row in rows_of:
            key, rest = row[0].upper(), row[1:]
            if key in ("ROOT", "JOINT") and rest and not pending:
                if (key == "ROOT") != (not joints) or (
                    joints and (not open_joints or open_joints[-1] is None)
                ):
                    raise UserError(
                        f"{path}: {quoted(' '.join(row))} is out of place: one ROOT with JOINTs inside"
                    )
                parent = open_joints[-1] if open_joints else -1
                joints.append(_Joint(" ".join(rest), -1 if parent is None else parent))
                if len(joints) > JOINTS:
                    raise UserError(f"{path}: more than {JOINTS} joints")
                pending.append(len(joints) - 1)
            elif key == "END" and open_joints and not pending:
                pending.append(None)
            elif key == "{" and pending:
                open_joints.append(pending.pop())
            elif key == "}" and open_joints and not pending:
                open_joints.pop()
            elif key == "OFFSET" and open_joints and len(rest) == 3:
                offset = [_number(path, word) for word in rest]
                if (joint := open_joints[-1]) is not None:
                    joints[joint].offset = offset
            elif key == "CHANNELS" and open_joints and (joint := open_joints[-1]) is not None:
                joints[joint].channels = _channels(path, rest)
            else:
                raise UserError(f"{path}: cannot make sense of {quoted(' '.join(row))} in the skeleton")
    if open_joints or pending or not joints:
        raise UserError(f"{path}: braces of the skeleton do not match: damaged file")
    if lacking := [joint.name for joint in joints if not joint.offset]:
        raise UserError(f"{path}: {quoted(lacking[0])} has no OFFSET")
    return joints


def _channels(path: Path, words: list[str]) -> list[tuple[str, int]]:
    found = []
    for word in words[1:]:
        axis, kind = word[:1].lower(), word[1:].lower()
        if axis not in _AXES or kind not in ("position", "rotation") or (kind, _AXES[axis]) in found:
            raise UserError(
                f"{path}: {quoted(word)} is no channel; they are Xposition, Zrotation and so on, once each"
            )
        found.append((kind, _AXES[axis]))
    if not words or words[0] != str(len(found)):
        raise UserError(f"{path}: CHANNELS says {quoted(' '.join(words))}: another number than follows")
    return found


def _number(path: Path, word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not abs(value) < MOST:
        raise UserError(f"{path}: {quoted(word)} in the skeleton is not a number")
    return value


def _timing(path: Path, frames: bytes, seconds: bytes) -> tuple[int, float]:
    try:
        count, step = int(frames), float(seconds)
    except ValueError:
        count, step = 0, math.nan
    if count < 1 or not (step == 0 or 1e-4 <= step <= 10):
        said = f"{frames.decode('latin-1')} frames of {seconds.decode('latin-1')} s"
        raise UserError(f"{path}: {said} cannot be: damaged file")
    return count, step


def _values(path: Path, text: bytes, start: int, frames: int, columns: int) -> Tensor:
    """The numbers [frames, columns] after `start`, read in blocks: as float64, all at once, they would take
    more memory than their text."""
    total = frames * columns
    if columns == 0 or 2 * total > len(text) - start + 1:  # a digit and a space each
        raise UserError(
            f"{path}: {frames} frames of {columns} numbers are more than the file holds: cut short"
        )
    values = np.empty(total, np.float32)
    done = 0
    while start < len(text):
        end = min(start + BLOCK, len(text))
        while end < len(text) and text[end] > 32:  # to the end of a number
            end += 1
        block, start = text[start:end], end
        if not block.strip():
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                numbers = np.fromstring(block, sep=" ")
        except (ValueError, DeprecationWarning) as error:
            raise UserError(f"{path}: something among the frames' numbers is not a number") from error
        if done + len(numbers) > total:
            raise UserError(f"{path}: more numbers than {frames} frames of {columns} have: damaged file")
        with np.errstate(over="ignore"):
            values[done : done + len(numbers)] = numbers
        done += len(numbers)
    if done < total:
        raise UserError(f"{path}: {done // columns} of {frames} frames are there: cut short")
    table = torch.from_numpy(values).reshape(frames, columns)
    bad = (~(table.abs() < MOST).all(1)).nonzero()[:, 0]
    if len(bad):
        which = f"{len(bad)} of {frames} frames, the first is {int(bad[0])}"
        raise UserError(f"{path}: numbers are not finite, or huge, in {which}: cut them out")
    return table
