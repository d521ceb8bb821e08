"""Errors that reach a user as one line of text instead of a traceback."""


class UserError(Exception):
    """Something the user can fix: the message names the file, the problem and the remedy. Exit code 2."""


class MissingWeights(UserError):
    """Weights that are not on this machine. The message names them; the caller adds how to download them."""


class DamagedFile(Exception):
    """A file could be opened, but its contents are wrong; the message says how. The reader adds its name."""


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
