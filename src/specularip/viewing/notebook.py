"""`specularip.view`: an avatar in a notebook, with its motions."""

from __future__ import annotations

import os
from collections.abc import Sequence

from specularip.avatar import Avatar, load
from specularip.viewer.notebook import Framed
from specularip.viewing.clips import clips_for


def view(
    avatar: Avatar | str | os.PathLike[str], *, motions: Sequence[str] = (), height: int = 480
) -> Framed:
    """The avatar, or the one in a file or run folder, as the last value of a notebook's cell shows it.

    With a head, its highlights are approximate; those of `bake(avatar)` are exact. motions: see `clips_for`.
    height: in pixels. Raises UserError for files that cannot be read.
    """
    shown = avatar if isinstance(avatar, Avatar) else load(avatar)
    return Framed(shown.packed(clips=clips_for(shown.binding, motions)), shown.title, height)
