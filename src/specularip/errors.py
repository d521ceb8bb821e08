"""The one exception that reaches a user as a line of text instead of a traceback."""


class UserError(Exception):
    """Something the user can mend: the message says what is wrong and what to do. Exit code 2."""
