"""Finding the file in a folder that a name means: names come from other machines, systems and folders.

A name is tried as a path within the folder, with and without a suffix. If there is no such file, the one is
taken whose path ends as the name does, in as many parts as possible: "C:\\Users\\x\\data\\images\\a.JPG" is
images/a.jpg. Letter case, Unicode's normal forms, percent signs of URLs and the suffix may differ. Nothing
outside the folder is ever looked at, except through the user's own symbolic links in it.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from urllib.parse import unquote

from specularip.errors import UserError, quoted

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp", ".avif", ".heic", ".heif")
"""Of images. Tried in this order for names that have none."""
MASK_FOLDERS = ("masks", "mask", "mattes", "silhouettes")
_NO_PICTURES = re.compile(
    r"(masks?|mattes|silhouettes|depths?|depth_maps|normals?|confidence|segmentations?)(_\d+)?", re.I
)
"""Folders of other things than pictures, with the same file names."""
_SMALLER = re.compile(r"(.+)_(\d+)", re.I)
"""images_4: copies at a quarter of the size."""
CLOUDS = ("sparse_pc.ply", "points3d.ply", "point_cloud.ply")
"""Point clouds that are used without being named, in small letters."""
MAX_FILES = 500_000


def relative_name(file: Path, folder: Path) -> str:
    """The path of a file in `folder`, with "/"."""
    return os.path.relpath(file, folder).replace(os.sep, "/")


@dataclass
class Finder:
    """Finds files by name in `folder`.

    suffixes: of the files that are looked for. masks: whether these are masks, which lie in folders of their
    own. under: folders that names may be relative to, besides `folder`.
    """

    folder: Path
    suffixes: tuple[str, ...] = SUFFIXES
    masks: bool = False
    under: tuple[str, ...] = ()
    moved: list[str] = field(default_factory=list)
    """Names that were found elsewhere than they say, as "name: file"."""
    _taken: dict[Path, str] = field(default_factory=dict)

    def find(self, name: str, where: str) -> Path:
        """The file that `name` means. where: begins the error's line.

        Raises UserError if there is none, if several could be meant, or if it is one that another name
        means.
        """
        base = os.path.normpath(self.folder)
        slashed = name.replace("\\", "/")
        leaves = False
        try:
            for spelling in dict.fromkeys((name, slashed)):
                for start in ("", *self.under):
                    joined = os.path.normpath(os.path.join(base, start, spelling))
                    inside = os.path.commonpath([os.path.abspath(base), os.path.abspath(joined)])
                    if inside != os.path.abspath(base):
                        leaves = True
                        continue
                    for suffix in ("", *self.suffixes):
                        candidate = Path(joined + suffix)
                        if candidate.is_file():
                            return candidate
                        if candidate.exists() and not candidate.is_dir():
                            raise UserError(f"{where}: {quoted(name)} is not a regular file")
        except (OSError, ValueError):
            raise UserError(f"{where}: {quoted(name)} is not a usable file name") from None
        wanted = parts_of(slashed)
        found = self.by_tail(wanted, where) if wanted else None
        if found is None and "%" in slashed:
            found = self.by_tail(parts_of(unquote(slashed)), where)
        if found is not None:
            key = "/".join(wanted).casefold()
            if self._taken.setdefault(found, key) != key:
                raise UserError(
                    f"{where}: {quoted(name)} and another name would both be {self._shown(found)}: "
                    "the folders that tell them apart are missing; put the files where the names say"
                )
            self.moved.append(f"{quoted(name)} is {self._shown(found)}")
            return found
        if leaves:
            raise UserError(
                f"{where} leads out of the folder: {quoted(name)}, and nothing in {self.folder} has that name"
            )
        raise UserError(
            f"{where}: there is no {'mask' if self.masks else 'image'} {quoted(name)} in {self.folder} "
            f"(also tried {', '.join(self.suffixes[:4])})"
        )

    def moved_note(self) -> tuple[str, ...]:
        """A line about names that were found elsewhere than they say."""
        if not self.moved:
            return ()
        kind, count = "masks" if self.masks else "images", len(dict.fromkeys(self.moved))
        return (f"{count} {kind} were found by the ends of their names only: {self.moved[0]}",)

    def with_stem(self, name: str) -> list[Path]:
        """All files whose names are this one but for the suffix and letter case."""
        return self._by_stem.get(plain(stem_of(name.rpartition("/")[2])), [])

    def by_tail(self, wanted: list[str], where: str) -> Path | None:
        """The file whose path ends in the most of these parts; None if not even the last part fits.

        Raises UserError if several fit equally.
        """
        if not wanted:
            return None
        folders, last = [plain(part) for part in wanted[:-1]], wanted[-1]
        ranked = []
        for file in self.with_stem(last):
            parts = relative_name(file, self.folder).split("/")
            length = 0
            for theirs, ours in zip(reversed(parts[:-1]), reversed(folders)):
                if plain(theirs) != ours:
                    break
                length += 1
            ranked.append((length, _likeness(parts[-1], last), file))
        if not ranked:
            return None
        best = max(rank[:2] for rank in ranked)
        files = [file for length, likeness, file in ranked if (length, likeness) == best]
        files = largest(files, self.folder)
        if len(files) > 1:
            first, second = (self._shown(file) for file in files[:2])
            raise UserError(
                f"{where}: {quoted('/'.join(wanted))} may be {first} or {second}"
                f"{f' or {len(files) - 2} others' if len(files) > 2 else ''}: "
                "correct the name, or remove those that are not meant"
            )
        return files[0]

    def _shown(self, file: Path) -> str:
        return quoted(relative_name(file, self.folder))

    @cached_property
    def _by_stem(self) -> dict[str, list[Path]]:
        files: dict[str, list[Path]] = defaultdict(list)
        for file in self._walk():
            files[plain(stem_of(file.name))].append(file)
        return files

    def _walk(self) -> Iterable[Path]:
        """All files with one of the suffixes. Each folder is entered once, whatever links lead to it."""
        entered = set()
        count = 0
        for place, folders, names in os.walk(self.folder, followlinks=True):
            real = os.path.realpath(place)
            if real in entered:
                folders.clear()
                continue
            entered.add(real)
            top = Path(place) == Path(self.folder)
            folders[:] = sorted(name for name in folders if self._enters(name, top))
            for name in sorted(names):
                if name.lower().endswith(self.suffixes) and (not self.masks or not top):
                    yield Path(place, name)
            count += len(names) + len(folders)
            if count > MAX_FILES:
                raise UserError(f"{self.folder} holds over {MAX_FILES} files: give the capture's own folder")

    def _enters(self, name: str, top: bool) -> bool:
        if name.startswith(".") or name == "__MACOSX":
            return False
        if self.masks:
            return not top or base_of(name) in MASK_FOLDERS
        return _NO_PICTURES.fullmatch(name) is None


def cloud_in(folder: Path) -> Path | None:
    """A point cloud that lies in a folder, in any letter case."""
    present = {name.lower(): name for name in sorted(os.listdir(folder), reverse=True)}
    found = [folder / present[name] for name in CLOUDS if name in present]
    return next((path for path in found if path.is_file()), None)


def base_of(name: str) -> str:
    """Without the _4 of copies at a smaller size, in small letters."""
    smaller = _SMALLER.fullmatch(name)
    return (smaller[1] if smaller else name).lower()


def parts_of(name: str) -> list[str]:
    """What follows the last ".." of a path, without drive, empty parts and single dots."""
    parts = [part for part in name.split("/") if part.strip() not in ("", ".")]
    if ".." in parts:
        parts = parts[len(parts) - parts[::-1].index("..") :]
    if parts and re.fullmatch(r"[a-zA-Z]:", parts[0]):
        parts = parts[1:]
    return parts


def plain(text: str) -> str:
    """Equal for names that differ by letter case or by Unicode's normal form only."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def stem_of(name: str) -> str:
    stem, dot, suffix = name.rpartition(".")
    return stem if dot and stem and f".{suffix.lower()}" in (*SUFFIXES, ".ply") else name


def _likeness(found: str, wanted: str) -> int:
    """How well a file's name fits, whose stem does."""
    if found == wanted:
        return 4
    if unicodedata.normalize("NFC", found) == unicodedata.normalize("NFC", wanted):
        return 3
    if plain(found) == plain(wanted):
        return 2
    jpeg = (".jpg", ".jpeg")
    return int(found.lower().endswith(jpeg) and wanted.lower().endswith(jpeg))


def largest(files: list[Path], folder: Path) -> list[Path]:
    """Of equal files in images, images_2 and images_4, those of the first."""
    if len(files) < 2:
        return files

    def shrink(file: Path) -> int:
        sizes = [_SMALLER.fullmatch(part) for part in relative_name(file, folder).split("/")[:-1]]
        return max((int(size[2]) for size in sizes if size and len(size[2]) < 4), default=1)

    bare = {re.sub(r"_\d+(?=/)", "", relative_name(file, folder)) for file in files}
    if len(bare) > 1:
        return files
    least = min(shrink(file) for file in files)
    return [file for file in files if shrink(file) == least]
