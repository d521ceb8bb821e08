"""The motions that a page offers."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from specularip.errors import UserError
from specularip.gaussians import Binding
from specularip.motion.clip import Clip
from specularip.motion.clips import CLIPS, built_in
from specularip.motion.load import load_clip


def clips_for(binding: Binding | None, motions: Sequence[str] = ()) -> list[Clip]:
    """Motions for a skeleton, files first: those named by `motions` (see `motion.load.load_clip`), and all
    built-in ones. None for an avatar without Anny's skeleton.

    Raises UserError for `motions` that cannot be read, and for any without a skeleton.
    """
    if binding is None:
        if motions:
            raise UserError("this avatar has no skeleton: --motion needs one that `generate` made")
        return []
    files = [
        load_clip(motion, binding, log=lambda line: print(line, file=sys.stderr))
        for motion in motions
        if motion not in CLIPS
    ]
    try:
        return [*files, *(built_in(name, binding) for name in CLIPS)]
    except UserError:
        return files  # another skeleton, which the built-in clips do not know
