"""Errors that a user can mend: entries print them in one line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps


class UserError(ValueError):
    """Wrong input from outside: the message names the thing, the place and the way out."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Entries import within: a UserError, of building the C++ ops say, is printed and ends the process (status 2).

    So does a torch that is too old, before anything imports it, and Ctrl-C (status 130): the first import builds the
    ops, for some seconds or, with CUDA kernels, minutes.
    """
    from gcl_fast.versions import check_torch

    try:
        check_torch()
        yield
    except UserError as error:
        print(f"gcl_fast: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("gcl_fast: interrupted before it began", file=sys.stderr, flush=True)
        sys.exit(130)


def entry(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """`main` of an entry, its arguments None for those of the process: a UserError is printed (status 2), and Ctrl-C
    said (status 130)."""

    @wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except UserError as error:
            print(f"gcl_fast: {error}", file=sys.stderr, flush=True)
            return 2
        except KeyboardInterrupt:
            print("gcl_fast: interrupted", file=sys.stderr, flush=True)
            return 130

    return run
