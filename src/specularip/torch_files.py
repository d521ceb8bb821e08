"""Files of `torch.save`, as published weights are: read without running code from them."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

from specularip.errors import DamagedFile, first_line
from specularip.files import utf8_name


def read_torch(path: Path) -> Any:
    """What the file holds: tensors, and lists and dicts of them, mapped from the file where that can be.

    Raises DamagedFile for a zip whose files are compressed: torch never compresses them, and would inflate
    them to whatever size they claim. Else as `torch.load` with `weights_only=True`: all kinds of exceptions.
    """
    import torch

    zipped = zipfile.is_zipfile(path)
    if zipped:
        try:
            with zipfile.ZipFile(path) as archive:
                stored = all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        except Exception as error:  # zipfile raises all kinds of exceptions on damaged directories
            raise DamagedFile(first_line(error)) from error
        if not stored:
            raise DamagedFile("it is compressed, as torch writes no weights")
    with utf8_name(path) as name:
        return torch.load(name, map_location="cpu", weights_only=True, mmap=zipped)
