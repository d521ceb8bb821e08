"""Errors that reach a user as one line of text instead of a traceback.

File names and file contents in a message come from elsewhere: they may hold terminal escapes, line breaks,
bytes that are no text, or megabytes. `quoted` is for values within a message, `one_line` for a whole one, and
a UserError is one line of printable text whatever is put into it.
"""

import errno

ADVICE = {
    errno.ENOSPC: "free some space on the disk, or write elsewhere",
    errno.EDQUOT: "free some space within your quota, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "change its permissions, or use another place",
    errno.EPERM: "change its permissions, or use another place",
    errno.EMFILE: "allow more with `ulimit -n 4096`",
    errno.ENFILE: "end other programs",
    errno.ENOMEM: "end other programs",
}
"""What to do about an error of the system."""


class UserError(Exception):
    """Something the user can fix: the message names the file, the problem and the remedy. Exit code 2."""

    def __str__(self) -> str:
        return one_line(super().__str__())


class MissingWeights(UserError):
    """Weights that are not on this machine. The message names them; the caller adds how to download them."""


class DamagedFile(Exception):
    """A file could be opened, but its contents are wrong; the message says how. The reader adds its name."""


def reason(error: OSError) -> str:
    """Why the system refused something, and what to do about it."""
    advice = ADVICE.get(error.errno or 0, "")
    # Some libraries put all of it into the first argument.
    return f"{error.strerror or first_line(error)}{advice and f': {advice}'}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name."""
    return one_line((str(error).strip().splitlines() or [type(error).__name__])[0])


def escaped(text: str) -> str:
    """`text` with everything that is not printable as a backslash escape: control characters, changes of the
    writing direction, and the bytes of file names that are no text (b"caf\\xe9" is shown as caf\\xe9)."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def _escape(char: str) -> str:
    if "\udc80" <= char <= "\udcff":  # an undecodable byte, see PEP 383
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape", "backslashreplace").decode("ascii")


def one_line(text: str, most: int = 600) -> str:
    """`text` on one line, escaped, at most `most` characters long. What is left out is in the middle: what is
    wrong comes first in a message, and what to do last."""
    lines = (line.strip() for line in text.splitlines())
    text = escaped(" ".join(line for line in lines if line))
    if len(text) <= most:
        return text
    tail = (most - 5) // 3
    return f"{text[: most - 5 - tail]} ... {text[len(text) - tail :]}"


def quoted(value: object, most: int = 60) -> str:
    """The representation of a value from a file or from the user, escaped, at most `most` characters long."""
    text = escaped(repr(value))
    return text if len(text) <= most else f"{text[: most - 3]}..."
