"""The `export` command: an avatar as a file for other programs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from specularip.avatar import SUFFIXES, load
from specularip.avatar_file import FILE_NAME
from specularip.errors import UserError
from specularip.files import check_writable
from specularip.progress import Progress
from specularip.raster.cuda import pick_device
from specularip.resources import check_space
from specularip.run_folder import AVATAR_BYTES
from specularip.viewing.bake_cache import bake_and_keep, file_for, fingerprint, kept
from specularip.viewing.clips import clips_for


def export(
    source: Path,
    out: Path,
    *,
    bake: bool = True,
    motions: Sequence[str] = (),
    spz_version: Literal[3, 4] = 3,
    betas: bool = False,
    device: str | None = None,
    progress: Progress,
) -> None:
    """Export the avatar at `source` to `out`, by its suffix. motions: see `viewing.clips.clips_for`; .html
    and .glb get the built-in ones too. betas: see `Avatar.export`.

    ASGs, for .html and .glb, are taken from an earlier bake, or kept for the next time. Raises UserError for
    another suffix, or files that cannot be read or written.
    """
    suffix = out.suffix.lower()
    if suffix not in (*SUFFIXES, ".safetensors"):
        raise UserError(f"cannot export to {out}: end the name in {', '.join(SUFFIXES)} or .safetensors")
    if out.resolve() == (source / FILE_NAME if source.is_dir() else source).resolve():
        raise UserError(f"{out} is the avatar itself: choose another name")
    moves = suffix in (".glb", ".html")
    if motions and not moves:
        raise UserError(f"cannot write motions to {out}: only .glb and .html hold them")
    if betas and suffix != ".ply":
        raise UserError(f"cannot write Spherical Betas to {out}: only .ply holds them")
    check_writable(out)
    avatar = load(source)
    check_space(out.parent, AVATAR_BYTES * len(avatar.gaussians), str(out))
    clips = clips_for(avatar.binding, motions) if moves else []
    if bake and moves and avatar.head is not None:
        mark = fingerprint(avatar)
        file = file_for(source, mark)
        found = kept(avatar, file, mark)
        if found is None:
            found, problem = bake_and_keep(avatar, file, mark, progress, device)
            if problem:
                progress.log(f"the baked highlights are not kept: {problem}")
        avatar = found
    elif bake and avatar.head is not None and suffix != ".safetensors":
        avatar = avatar.to(pick_device(device)).baked("sb" if betas else "sh3", progress=progress).to("cpu")
    avatar.export(out, bake=bake, clips=clips, spz_version=spz_version, betas=betas)
