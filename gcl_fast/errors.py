"""The error that a user can repair."""


class UserError(ValueError):
    """Wrong input from outside: the message names the thing, the place and the way out."""
