"""Names of jobs, which are those of their folders.

A name that is derived depends on its own job alone: adding, removing or moving others renames none.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Sequence
from pathlib import PurePath

LONGEST_DERIVED = 60
LONGEST_BYTES = 120
"""Of a given name. File systems allow 255, of which temporary files take some."""
RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³])(\..*)?", re.IGNORECASE)
"""Names of devices, which Windows keeps from files whatever their suffix."""
TAKEN = re.compile(r"summary|index\.html|summary\.csv|batch\.jsonl|unfinished-\d+|\.lock", re.IGNORECASE)
"""What a batch's folder holds besides its jobs."""
FACE_LENGTH = 14


def name_problem(name: str) -> str:
    """Why a folder cannot have this name on all systems, "" if it can."""
    if not name.isprintable() or re.search(r'[<>:"/\\|?*]', name):
        return 'must be free of / \\ < > : " | ? * and control characters'
    if name.startswith(".") or name != name.strip() or name.endswith("."):
        return "must not begin with a dot, nor end with one, nor have blanks around it"
    if RESERVED.fullmatch(name):
        return "is kept for a device by Windows"
    if TAKEN.fullmatch(name):
        return "is kept for the batch's own files"
    if len(name.encode()) > LONGEST_BYTES:
        return f"must have at most {LONGEST_BYTES} bytes"
    return ""


def folded(name: str) -> str:
    """The same for names that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def derived_name(text: str, images: Sequence[str], seed: int, rest: Sequence[object]) -> str:
    """Words of the text, the first photo's name, the seed if it is not 0, and a checksum of all that
    determines the job.

    images: paths as they are written in the job file, so that the name stays when all of it is moved. rest:
    other JSON values that the result depends on. At most LONGEST_DERIVED characters: a-z, 0-9 and dashes.
    """
    content = json.dumps([text, [PurePath(image).as_posix() for image in images], seed, *rest])
    checksum = hashlib.sha256(content.encode()).hexdigest()[:8]
    face = _slug(PurePath(images[0]).stem, FACE_LENGTH)
    tail = [part for part in (face, str(seed) if seed else "", checksum) if part]
    start = _slug(text, LONGEST_DERIVED - len("-".join(tail)) - 1)
    return "-".join([start or "job", *tail])


def _slug(text: str, length: int) -> str:
    """Lower-case ASCII words with dashes, as many as fit; the start of the first if none does."""
    text = unicodedata.normalize("NFKD", text[: 20 * LONGEST_DERIVED].replace("ß", "ss"))
    text = "".join(char for char in text if not unicodedata.combining(char)).lower()
    slug = "-".join(re.findall(r"[a-z0-9]+", re.sub("['’]", "", text)))
    if len(slug) <= length:
        return slug
    return slug[: length + 1].rpartition("-")[0] or slug[:length]
