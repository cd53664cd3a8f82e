"""Errors that a user can mend: entries print them in one line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(ValueError):
    """Wrong input from outside: the message names the thing, the place and the way out."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Entries import within: a UserError, of building the C++ ops say, is printed and ends the process (status 2).

    So does Ctrl-C (status 130): the first import builds the ops, for some seconds or, with CUDA kernels, minutes.
    """
    try:
        yield
    except UserError as error:
        print(f"gcl_fast: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gcl_fast: interrupted before it began", file=sys.stderr, flush=True)
        sys.exit(130)
