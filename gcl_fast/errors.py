"""Define the error that a user can repair; the commands print it in one line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps


class UserError(ValueError):
    """Means wrong input from outside; the message names the thing, the place and the way out."""


@contextmanager
def in_one_line() -> Iterator[None]:
    """Print a UserError of a command's imports in one line and end the process with status 2.

    The first import builds the C++ ops, which can fail and takes seconds or, with CUDA kernels, minutes. Ctrl-C ends
    the process with status 130. A torch that is too old is refused before anything imports it.
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
    """Wrap a command's `main` so that a UserError (status 2) or Ctrl-C (status 130) is printed in one line.

    Args:
        main: takes the command's arguments, None for the process's own, and returns the exit status.

    Returns:
        A function of the same kind whose arguments default to None.
    """

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
