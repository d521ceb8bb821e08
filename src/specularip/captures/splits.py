"""Which images of a capture are kept for testing if its folder does not say so."""

from __future__ import annotations

from collections.abc import Sequence

from specularip.captures.frames import Split

EVERY = 8
"""As mip-NeRF 360, nerfstudio and 3DGS do."""
MIN_IMAGES = EVERY
"""With fewer, none is held out: each is needed for the fit."""


def rule_of(names: Sequence[str], split: Split) -> tuple[list[int], str]:
    """The indices of `names` in this split, in the order of names: every eighth is held out; and a line that
    says so. Equal names are one image."""
    order = sorted(range(len(names)), key=lambda index: names[index])
    different = {name: rank for rank, name in enumerate(sorted(set(names)))}
    if len(different) < MIN_IMAGES:
        line = (
            f"{len(different)} images are too few to hold some out: all are fitted, none is left to test on"
        )
        return (order if split == "train" else []), line
    held_out = {name for name, rank in different.items() if rank % EVERY == 0}
    line = f"every {EVERY}th image in the order of names is held out for testing"
    chosen = [index for index in order if (names[index] in held_out) == (split != "train")]
    return chosen, f"{line}: {len(held_out)} of {len(different)}"
