"""A file of JSON values, one a line, that survives what happens to its writer: a kill, a full disk."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from specularip.errors import UserError, reason
from specularip.files import json_value

BLOCK = 2**16


class JsonLines:
    """Appends to the file `path`, by one process at a time, which opens it when it is first needed.

    A line is handed to the system as a whole: what a killed process leaves is at most half a last line, which
    the next one to append removes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def append(self, value: Any) -> None:
        """Add `files.json_value` of a value. Raises UserError where it cannot be written; the file is then
        as it was before."""
        line = (json.dumps(json_value(value)) + "\n").encode()
        try:
            file = self._opened()
            start = os.fstat(file).st_size
            try:
                written = 0
                while written < len(line):  # a disk that is nearly full takes a part
                    written += os.write(file, line[written:])
            except OSError:
                os.ftruncate(file, start)
                raise
        except OSError as error:
            raise self._error(error) from error

    def size(self) -> int:
        """Bytes; 0 without a file."""
        try:
            return self.path.stat().st_size
        except FileNotFoundError:
            return 0

    def truncate(self, size: int) -> None:
        """Remove what was added since the file had `size` bytes. Raises UserError where that fails."""
        try:
            if self.size() > size:
                os.truncate(self.path, size)
        except OSError as error:
            raise self._error(error) from error

    def close(self) -> None:
        """The next `append` opens the file again."""
        if self._file is not None:
            file, self._file = self._file, None
            os.close(file)

    def _opened(self) -> int:
        if self._file is None:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
            file = os.open(self.path, flags, 0o666)
            try:
                os.ftruncate(file, _whole_lines(file))
            except OSError:
                os.close(file)
                raise
            self._file = file
        return self._file

    def _error(self, error: OSError) -> UserError:
        return UserError(f"cannot write {self.path}: {reason(error)}")


def _whole_lines(file: int) -> int:
    """Bytes up to the last line's end."""
    end = os.fstat(file).st_size
    while end > 0:
        start = max(0, end - BLOCK)
        os.lseek(file, start, os.SEEK_SET)
        found = os.read(file, end - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
