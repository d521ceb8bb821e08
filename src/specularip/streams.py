"""Standard output and error that never end a run.

A reader that goes away (`specularip fit ... | head -1`), a full disk behind the output, a terminal that is
closed, a missing stream (`>&-`) and an encoding without some character must not cost hours of work: what
cannot be written is left out. Only for the command: as a library, the package leaves the streams alone.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import select
import sys
from typing import Any, TextIO

from specularip.errors import escaped

ERRORS = "specularip-ascii"
"""Name of the error handler that puts ASCII for what an encoding lacks."""
ASCII = {
    **dict.fromkeys("─━╌╴╶╸╺–—‐‑−", "-"),
    **dict.fromkeys("│┃", "|"),
    **dict.fromkeys("╭╮╰╯┌┐└┘├┤┬┴┼", "+"),
    **dict.fromkeys("‘’", "'"),
    **dict.fromkeys("“”", '"'),
    "•": "*", "·": "-", "…": "...", "×": "x", "°": " deg", "±": "+-", "→": "->", "≤": "<=", "≥": ">=",
}  # fmt: skip
"""What help texts and messages use, for encodings without it. Frames keep their width."""


class LenientStream(io.RawIOBase):
    """Writes to `raw` until that fails, and drops everything from then on. error: why it failed."""

    def __init__(self, raw: io.RawIOBase) -> None:
        self.raw = raw
        self.error: OSError | None = None

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        while self.error is None:
            try:
                if (written := self.raw.write(view)) is not None:
                    return written
                select.select([], [self.raw], [])  # the stream does not block, and its reader is slow
            except (OSError, ValueError) as error:  # ValueError: closed
                self.error = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
        return view.nbytes

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self.raw.fileno()

    def isatty(self) -> bool:
        return self.raw.isatty()


def steady_streams() -> None:
    """Replace the process's own sys.stdout and sys.stderr by lenient ones. Others, such as a test's, stay."""
    codecs.register_error(ERRORS, _in_ascii)
    _open_missing()
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is getattr(sys, f"__{name}__"):
            setattr(sys, name, _steady(stream))


def output_error() -> OSError | None:
    """Why what was printed did not reach the standard output; None if it did, or if its reader went away."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, LenientStream):
        return None
    sys.stdout.flush()
    gone = (errno.EPIPE, errno.EIO, errno.EBADF)
    return None if raw.error is None or raw.error.errno in gone else raw.error


def _open_missing() -> None:
    """Connect closed standard streams to the null device. Otherwise the next files that are opened would get
    their numbers, and whatever the process prints."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
            if null != number:
                os.dup2(null, number)
                os.close(null)
        if getattr(sys, name) is None:
            stream = open(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def _steady(stream: TextIO) -> TextIO:
    buffer: Any = stream.buffer
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(LenientStream(getattr(buffer, "raw", buffer))),  # a raw stream under `python -u`
        encoding=stream.encoding,
        errors=ERRORS,
        line_buffering=getattr(stream, "line_buffering", True),
        write_through=getattr(stream, "write_through", False),
    )


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """The codec error handler."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    return "".join(ASCII.get(char) or _escape(char) for char in text), error.end


def _escape(char: str) -> str:
    return escaped(char).encode("ascii", "backslashreplace").decode("ascii")
