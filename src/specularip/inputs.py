"""The inputs of `generate`, checked within a few seconds, before the models load."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from specularip.bounds import as_option, check_settings
from specularip.diffusion.vocabulary import KNOWN_WORDS, SYNONYMS, Vocabulary
from specularip.errors import UserError
from specularip.faces.hair import names_hair
from specularip.faces.photo import Photo, clearest, read_photo
from specularip.ffmpeg import find_ffmpeg
from specularip.options import VIDEO_BYTES
from specularip.resources import RUN_ADDRESSES, check_address_space, check_memory, check_space
from specularip.run_folder import AVATAR, TRAINING_BYTES, RunFolder, run_bytes
from specularip.sentences import normalized, words
from specularip.stages.settings import Config

MAX_PHOTOS = 8
OPTIONS = ("seed", "photo_weight")
"""Settings that are options of the command."""
PIXEL_BYTES = 50
"""Of memory that a rendered pixel takes, at least: the layers of the image, and their gradients."""


@dataclass(frozen=True)
class Inputs:
    """text: on one line, without surplus white space. photos: 1 to MAX_PHOTOS of one person, in the user's
    order. identity: the one of them that the person is recognised by. out: may not exist yet. notes: lines
    for the user, such as the number of faces. init: a file to start from, or None."""

    text: str
    photos: tuple[Photo, ...]
    identity: Photo
    out: Path
    notes: tuple[str, ...]
    init: Path | None = None


def check_run(config: Config, out: str | Path) -> None:
    """Check, in a second, the settings of a run and what it will need at its end; changes nothing.

    Raises UserError for settings out of bounds, for views that do not divide among torchrun's processes, for
    an ffmpeg that does not run, and for a disk with too little room for the run's files.
    """
    check_settings(config, lambda name: as_option(name) if name in OPTIONS else name)
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    for part, views in (
        ("seid", config.seid.views_per_step),
        ("start.fit", config.start.fit.views_per_step),
        ("scr", config.scr.views_per_step),
    ):
        if views % processes:
            raise UserError(
                f"{part}.views_per_step must be a multiple of the {processes} processes, got {views}: "
                f"add --set {part}.views_per_step={processes * -(-views // processes)}"
            )
    find_ffmpeg()
    check_address_space(RUN_ADDRESSES, "a run")
    points = config.seid.points
    if config.device == "cpu":
        check_memory(TRAINING_BYTES * points, f"seid.points={points}")
        pixels = config.seid.views_per_step * config.seid.render_size**2
        check_memory(PIXEL_BYTES * pixels, f"seid.render_size={config.seid.render_size}")
        check_memory(PIXEL_BYTES * config.turntable_size**2, f"turntable_size={config.turntable_size}")
    video = config.turntable_frames * config.turntable_size**2 * VIDEO_BYTES
    check_space(
        out, run_bytes(max(points, config.seid.max_points), config.scr.target_pixels) + video, "the run"
    )


def check_inputs(
    text: str,
    image: str | Path | Sequence[str | Path],
    out: str | Path,
    resume: bool = False,
    overwrite: bool = False,
    look_for_face: bool = True,
    init: str | Path | None = None,
    prior: str = "compact",
    force: bool = False,
) -> Inputs:
    """Read the photos, find the faces and check that `out` may be used; writes nothing.

    image: one photo or several of the same person. look_for_face: False if insightface will detect the face
    later (`faces.insightface`). prior: as in `PriorConfig.path`. force: accept a text of which no word is
    understood, as a resumed run already did. Raises UserError for an empty or such a text, no photo or more
    than MAX_PHOTOS, the same one twice, a photo without a usable face (see `faces.photo`), or an output
    folder that cannot be used (see `RunFolder.check`).
    """
    text = " ".join(text.split())
    if not text:
        raise UserError("the text is empty: describe the person, as in 'A woman in a red satin dress'")
    if not (force or resume):
        check_words(text, prior)
    paths = [Path(image)] if isinstance(image, str | os.PathLike) else [Path(path) for path in image]
    if not 1 <= len(paths) <= MAX_PHOTOS:
        raise UserError(f"{len(paths)} photos given: give 1 to {MAX_PHOTOS} of one person with --image")
    folder = RunFolder.check(out, resume, overwrite)  # the cheapest checks first
    start = None if init is None else file_to_start_from(Path(init))
    files: dict[tuple[int, ...], Path] = {}
    for path in paths:
        version = file_version(path)
        if version and version in files:
            raise UserError(f"{files[version]} and {path} are the same photo: give each only once")
        files[version] = path
    photos = tuple(_read_photo(path, file_version(path), look_for_face) for path in paths)
    identity = clearest(photos)
    notes = [note for photo in photos for note in photo.notes]
    if identity is not photos[0]:
        notes.append(f"the face is read from {identity.path}: it shows more of it than {photos[0].path}")
    return Inputs(text, photos, identity, folder, tuple(notes), start)


def file_to_start_from(path: Path) -> Path:
    """The avatar's file; of a run folder, that in it. Raises UserError if there is none."""
    file = path / AVATAR if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"--init {path}: no avatar there: give a .ply or other avatar file, or a run folder")
    return file


def check_words(text: str, prior: str) -> None:
    """Raise UserError for a text of which no word is understood.

    A prior with a list of its words is held to that list and to the words that shape the body. One without,
    such as Stable Diffusion, was trained on English captions, and with them on some of other languages of
    Latin script: so a text has to have a word in that.
    """
    shipped = Path(str(files("specularip") / "assets" / "compact"))
    folder = shipped if prior == "compact" else Path(prior)
    vocabulary = _read_vocabulary(folder, file_version(folder / KNOWN_WORDS), file_version(folder / SYNONYMS))
    if vocabulary is None:
        understood = bool(re.search(r"[a-z]{2}", normalized(text).lower()))
    else:
        understood = vocabulary.understands(text) or any(word.thing for word in words(text))
        understood = understood or names_hair(text)
        if not understood:
            from specularip.body.phenotype import phenotype_from_text  # loads torch

            understood = bool(phenotype_from_text(text).matched)
    if not understood:
        raise UserError(
            f"no word of '{text}' is understood: describe in English the person, clothes, their colours and "
            "materials, and the hair, as in 'A woman in a red satin dress', or go on anyway with --force"
        )


@lru_cache(maxsize=4)
def _read_vocabulary(folder: Path, *versions: tuple[int, ...]) -> Vocabulary | None:
    """Cached: a batch checks thousands of texts."""
    return Vocabulary.read(folder)


@lru_cache(maxsize=MAX_PHOTOS)
def _read_photo(path: Path, version: tuple[int, ...], look_for_face: bool) -> Photo:
    """Cached: the command line checks the inputs before all else loads, and `generate` checks them again."""
    return read_photo(path, look_for_face)


def forget_photos() -> None:
    """Free the memory of the photos that were read: eight of a camera take 300 MB."""
    _read_photo.cache_clear()


def file_version(path: Path) -> tuple[int, ...]:
    """Cache key that changes with the file's content, and is the same for links to a file; () if there is
    none."""
    try:
        status = path.stat()
    except OSError:
        return ()  # reading the photo raises the error
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
