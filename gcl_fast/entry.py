"""Begin and end the commands: an error that a user can repair is one line, without a traceback."""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path

from gcl_fast.console import drop_output, open_console, printable
from gcl_fast.errors import UserError
from gcl_fast.versions import check_torch

REFUSED, INTERRUPTED, UNREAD = 2, 130, 141  # exit statuses; 141 is that of a program that SIGPIPE ends


def print_error(sentence: str) -> None:
    """Print why a command ends, and leave it to torchrun, which otherwise buries it under its own report.

    torchrun shows the message of the file that it names in TORCHELASTIC_ERROR_FILE at the end of its report.
    """
    sentence = printable(sentence)
    print(f"gcl_fast: {sentence}", file=sys.stderr, flush=True)
    if path := os.environ.get("TORCHELASTIC_ERROR_FILE"):
        content = {"message": f"gcl_fast: {sentence}", "timestamp": int(time.time())}
        with suppress(OSError):
            Path(path).write_text(json.dumps(content))


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
        print_error(str(error))
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        print("gcl_fast: interrupted before it began", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED)


def entry(main: Callable[[list[str] | None], int]) -> Callable[..., int]:
    """Wrap the `main` of a command: a UserError prints one line (status 2), and so does Ctrl-C (status 130).

    A reader that closes the pipe of the output ends the command without a word (status 141).

    Args:
        main: takes the arguments, None for those of the process, and returns the exit status.
    """

    @wraps(main)
    def run(arguments: list[str] | None = None) -> int:
        open_console()
        try:
            status = main(arguments)
            sys.stdout.flush()  # here, where a pipe that nobody reads is no traceback
            return status
        except UserError as error:
            print_error(str(error))
            return REFUSED
        except BrokenPipeError:  # `gcl-fast data DIR | head`
            drop_output()
            return UNREAD
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            print_error(f"{str(error.filename)[:80]}...: a path of {len(str(error.filename))} characters is too long")
            return REFUSED
        except KeyboardInterrupt:
            print("gcl_fast: interrupted", file=sys.stderr, flush=True)
            return INTERRUPTED

    return run
