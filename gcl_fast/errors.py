"""Errors that a user can mend: entries print them in one line, without a traceback."""


class UserError(ValueError):
    """Wrong input from outside: the message names the thing, the place and the way out."""
