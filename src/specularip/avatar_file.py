"""avatar.safetensors: the file of an avatar, written and read. The header is JSON in the file's metadata."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from specularip.colors import Asgs, Colors, HarmonicColors, SphericalBetas
from specularip.colors.asgs import SMOOTH
from specularip.errors import DamagedFile, UserError, first_line, quoted
from specularip.files import atomic_path, utf8_name
from specularip.gaussians import Binding, Expressions, Gaussians, field_specs
from specularip.json_reading import parse_json
from specularip.placement import Placement
from specularip.specular import LATENTS, SpecularConfig, SpecularHead

FORMAT = 5
"""Version of avatar.safetensors; incremented when an older reader would misread a file."""
FILE_NAME = "avatar.safetensors"
HEADER = "specularip"
"""The key of the metadata that holds the header."""
OLD_BAKED_HEADER = "specularip_baked"
COLORS: dict[str, type] = {"asg": Asgs, "harmonics": HarmonicColors, "betas": SphericalBetas}
"""Names of the kinds of explicit colours."""


@dataclass(frozen=True)
class AvatarContents:
    """What the file holds; the fields of `Avatar`, which documents them."""

    gaussians: Gaussians
    head: SpecularHead | None
    provenance: dict[str, Any]
    binding: Binding | None
    antialiased: bool
    colors: Colors | None = None
    expressions: Expressions | None = None
    placement: Placement | None = None


def write_avatar(path: Path, contents: AvatarContents) -> None:
    """Write the avatar to `path`, atomically. Raises UserError where nothing can be written."""
    # Older readers would misread a stance, and nothing else of this version.
    stands = contents.binding is not None and contents.binding.stance is not None
    tensors = {f"gaussians.{name}": tensor for name, tensor in contents.gaussians.tensors().items()}
    header: dict[str, Any] = {
        "format": FORMAT if stands else 4,
        "provenance": contents.provenance,
        "head": None,
        "binding": None,
        "antialiased": contents.antialiased,
        "colors": None,
        "placement": None if contents.placement is None else contents.placement.pack(),
    }
    if contents.head is not None:
        header["head"] = asdict(contents.head.config)
        tensors |= {f"head.{name}": tensor for name, tensor in contents.head.state_dict().items()}
    if contents.binding is not None:
        header["binding"] = {
            "joint_names": contents.binding.joint_names,
            "joint_parents": contents.binding.joint_parents,
        }
        tensors["binding.joints"] = contents.binding.joints
        if contents.binding.stance is not None:
            tensors["binding.stance"] = contents.binding.stance
    if contents.colors is not None:
        header["colors"] = next(name for name, kind in COLORS.items() if isinstance(contents.colors, kind))
        tensors |= {f"colors.{name}": tensor for name, tensor in contents.colors.tensors().items()}
    if contents.expressions is not None:
        header["expressions"] = list(contents.expressions.names)
        tensors["expressions.index"] = contents.expressions.index
        tensors["expressions.offsets"] = contents.expressions.offsets.half()  # exact to 0.02 mm
    _save_tensors(path, tensors, {HEADER: json.dumps(header)})


def read_avatar(path: Path) -> AvatarContents:
    """Read what `write_avatar` wrote.

    Raises UserError with one line when the file is damaged, of another kind, or contradicts itself.
    """
    metadata, tensors = _open_tensors(path)
    try:
        return _parse(metadata, tensors)
    except DamagedFile as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """Write a safetensors file, atomically. Raises UserError where nothing can be written."""
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        try:
            save_file(plain, temporary, metadata)
        except SafetensorError as error:
            if number := re.search(r"\(os error (\d+)\)", str(error)):
                raise OSError(int(number[1]), os.strerror(int(number[1]))) from error
            raise OSError(str(error)) from error


def _open_tensors(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of a safetensors file. Raises UserError for a damaged one."""
    try:
        with utf8_name(path) as name, safe_open(name, framework="pt") as file:
            # Copies are aligned as the saved tensors were; otherwise matrix products differ in the last bit.
            tensors = {key: file.get_tensor(key).clone() for key in file.keys()}
            return file.metadata() or {}, tensors
    except (OSError, SafetensorError, RuntimeError, ValueError, OverflowError) as error:
        raise UserError(f"{path} is damaged or cut short: {first_line(error)[:200]}") from error


def _take(
    tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The tensor `name`. Raises DamagedFile if it is missing, of another shape or dtype, or not finite."""
    if name not in tensors:
        raise DamagedFile(f"{name} is missing")
    tensor = tensors[name]
    if tensor.dtype != dtype:
        raise DamagedFile(f"{name} is {tensor.dtype}, not {dtype}")
    if tuple(tensor.shape) != shape:
        raise DamagedFile(f"{name} is {list(tensor.shape)}, not {list(shape)}")
    if not bool(tensor.isfinite().all()):
        raise DamagedFile(f"{name} contains NaN or infinite values")
    return tensor


def _take_gaussians(tensors: Mapping[str, Tensor], latents: int) -> Gaussians:
    """The Gaussians of a file, with latents [N,`latents`]. Raises DamagedFile as `take` does, and for
    none."""
    means = tensors.get("gaussians.means", torch.empty(0))
    count = len(means) if means.ndim else 0
    if count < 1:
        raise DamagedFile("it contains no Gaussians")
    return Gaussians(
        **{
            name: _take(tensors, f"gaussians.{name}", (count, *spec.shape), spec.dtype)
            for name, spec in field_specs(latents).items()
        }
    )


def _parse(metadata: dict[str, str], tensors: dict[str, Tensor]) -> AvatarContents:
    try:
        header = parse_json(metadata.get(HEADER, "null"))
    except DamagedFile as error:
        raise DamagedFile(f"its header is damaged: {error}") from None
    if OLD_BAKED_HEADER in metadata:
        raise DamagedFile("an earlier version baked it: bake the avatar again")
    if not isinstance(header, dict):
        raise DamagedFile("it has no specularip header")
    if header.get("format") in (1, 2):
        raise DamagedFile(
            "it is from an earlier version with another shading model: generate or fit it again"
        )
    if header.get("format") not in (3, 4, FORMAT):
        raise DamagedFile(
            f"format {quoted(header.get('format'))} is not one that this version reads: update specularip if "
            "a newer version wrote it"
        )
    provenance = header.get("provenance", {})
    if not isinstance(provenance, dict):
        raise DamagedFile("its provenance is not a JSON object")
    antialiased = header.get("antialiased", False)
    if type(antialiased) is not bool:
        raise DamagedFile("its antialiased is neither true nor false")
    head = _parse_head(header.get("head"), tensors)
    latents = tensors.get("gaussians.latents", torch.empty(0))
    width = LATENTS if head else (latents.shape[-1] if latents.ndim == 2 else 0)
    gaussians = _take_gaussians(tensors, width)
    binding = _parse_binding(header.get("binding"), tensors, gaussians)
    if binding is not None and header.get("format") == 3:
        from specularip.body.binding import whole_skeleton  # imports scipy, which slows every start

        gaussians, binding = whole_skeleton(gaussians, binding)
    colors = _parse_colors(header.get("colors"), tensors, len(gaussians))
    if head is not None and colors is not None:
        raise DamagedFile("it has both a head and explicit colours")
    expressions = _parse_expressions(header.get("expressions"), tensors, len(gaussians))
    placement = _parse_placement(header.get("placement"))
    return AvatarContents(gaussians, head, provenance, binding, antialiased, colors, expressions, placement)


def _parse_placement(packed: object) -> Placement | None:
    """The place in the capture's world, which files written before there was one lack."""
    try:
        return None if packed is None else Placement.unpack(packed)
    except ValueError as error:
        raise DamagedFile(f"its placement is none: {error}") from None


def _parse_head(config: object, tensors: dict[str, Tensor]) -> SpecularHead | None:
    if config is None:
        return None
    defaults = asdict(SpecularConfig())
    if not isinstance(config, dict) or set(config) != set(defaults):
        raise DamagedFile("its head's configuration is not of this version")
    for name, default in defaults.items():
        if type(config[name]) not in ((int, float) if type(default) is float else (type(default),)):
            raise DamagedFile(f"its head's {name} is not of type {type(default).__name__}")
    try:
        head = SpecularHead(SpecularConfig(**config))
    except ValueError as error:
        raise DamagedFile(f"its head's {error}") from None
    state = head.state_dict()
    head.load_state_dict(
        {name: _take(tensors, f"head.{name}", tuple(tensor.shape)) for name, tensor in state.items()}
    )
    return head


def _parse_binding(header: object, tensors: dict[str, Tensor], gaussians: Gaussians) -> Binding | None:
    if header is None:
        return None
    names = header.get("joint_names") if isinstance(header, dict) else None
    parents = header.get("joint_parents") if isinstance(header, dict) else None
    if not (isinstance(names, list) and isinstance(parents, list) and len(names) == len(parents)):
        raise DamagedFile("its skeleton's names and parents do not match")
    if not all(type(parent) is int and -1 <= parent < len(names) for parent in parents):
        raise DamagedFile("its skeleton has parents that do not exist")
    joints = _take(tensors, "binding.joints", (len(names), 3))
    if bool(((gaussians.bind_joints < 0) | (gaussians.bind_joints >= len(names))).any()):
        raise DamagedFile("Gaussians are bound to joints that its skeleton does not have")
    stance = None
    if "binding.stance" in tensors:
        stance = _take(tensors, "binding.stance", (len(names), 4))
        if bool((stance.norm(dim=1) < 0.5).any()):
            raise DamagedFile("its skeleton stands in rotations that are none")
    return Binding([str(name) for name in names], parents, joints, stance)


def _parse_colors(kind: object, tensors: dict[str, Tensor], count: int) -> Colors | None:
    if kind is None:
        return None
    if kind == "harmonics":
        return HarmonicColors(_take(tensors, "colors.coefficients", (count, 16, 3)))
    if kind not in ("asg", "betas"):
        raise DamagedFile(f"its colours are of an unknown kind, {quoted(kind)}: update specularip")
    counted = "colors.lights" if kind == "asg" else "colors.lobes"
    lobes = tuple(tensors.get(counted, torch.empty(0)).shape[1:2])
    if kind == "betas":
        width = tuple(tensors.get("colors.coefficients", torch.empty(0)).shape[1:2])
        if width not in ((1,), (4,), (9,), (16,)):
            raise DamagedFile("its harmonics are of no degree up to 3")
        return SphericalBetas(
            _take(tensors, "colors.coefficients", (count, *width, 3)),
            _take(tensors, "colors.lobes", (count, *lobes, 6)),
        )
    shapes = {
        **{"quats": (4,), "smooth": (SMOOTH, 3)},
        **{name: (*lobes, 3) for name in ("lights", "shapes", "amplitudes")},
    }
    return Asgs(**{name: _take(tensors, f"colors.{name}", (count, *shape)) for name, shape in shapes.items()})


def _parse_expressions(names: object, tensors: dict[str, Tensor], count: int) -> Expressions | None:
    """Facial actions of `count` Gaussians, which files written before there were any lack."""
    if names is None:
        return None
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise DamagedFile("its facial actions have no names")
    if len(set(names)) != len(names):
        raise DamagedFile("two of its facial actions have the same name")
    index = tensors.get("expressions.index", torch.empty(0))
    moved = len(index) if index.ndim else 0
    index = _take(tensors, "expressions.index", (moved,), torch.int64)
    offsets = _take(tensors, "expressions.offsets", (len(names), moved, 3), torch.float16)
    if bool((index.diff() <= 0).any()) or (moved and not 0 <= int(index[0]) <= int(index[-1]) < count):
        raise DamagedFile("its facial actions move Gaussians that it does not have, or one twice")
    return Expressions(tuple(names), index, offsets.float())
