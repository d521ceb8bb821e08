"""The motions that a page offers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specularip.errors import UserError
from specularip.gaussians import Binding


def clips_for(binding: Binding | None, motions: Sequence[str] = ()) -> list[Any]:
    """The built-in clips, and those named by `motions`. None without a skeleton.

    Raises UserError for `motions` that cannot be read, or without a skeleton.
    """
    if motions and binding is None:
        raise UserError("this avatar has no skeleton to move: it was not made by specularip, or fitted")
    return []
