"""Begin and end the commands: an error that a user can repair is one line, without a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps

from gcl_fast.console import open_console
from gcl_fast.errors import UserError
from gcl_fast.versions import check_torch

REFUSED, INTERRUPTED = 2, 130  # exit statuses


@contextmanager
def in_one_line() -> Iterator[None]:
    """Import within this context what a command needs: a UserError ends the process in one line (status 2).

    The version of torch is checked first, without importing it. The first import builds the C++ ops, which takes
    seconds, or minutes with CUDA kernels: Ctrl-C ends that in one line as well (status 130).
    """
    open_console()
    try:
        check_torch()
        yield
    except UserError as error:
        print(f"gcl_fast: {error}", file=sys.stderr, flush=True)
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        print("gcl_fast: interrupted before it began", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


def entry(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Wrap the `main` of a command: a UserError prints one line (status 2), and so does Ctrl-C (status 130).

    Args:
        main: takes the arguments, None for those of the process, and returns the exit status.
    """

    @wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        open_console()
        try:
            return main(arguments)
        except UserError as error:
            print(f"gcl_fast: {error}", file=sys.stderr, flush=True)
            return REFUSED
        except KeyboardInterrupt:
            print("gcl_fast: interrupted", file=sys.stderr, flush=True)
            return INTERRUPTED

    return run
