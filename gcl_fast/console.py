"""Print on standard error while a command works: the package's log, and warnings, one line each."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress

LOGGER = logging.getLogger("gcl_fast")


def printable(text: str, breaks: str = "\n\t") -> str:
    """Return a text in which characters that a terminal would act on are escaped.

    Names of files and cells of tables come from strangers; such a character could hide or replace other lines.

    Args:
        text: any text.
        breaks: characters that stay.

    Example:
        >>> print(printable("a\\x1b[2Jb.jpg"))
        a\\x1b[2Jb.jpg
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in breaks else ascii(c)[1:-1] for c in text)


class Console(logging.Handler):
    """Prints records between progress bars. Of ranks other than 0 it prints warnings and errors alone.

    Args:
        rank: of this process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(logging.WARNING if rank else logging.INFO)
        self.prefix = f"gcl_fast: rank {rank}: " if rank else "gcl_fast: "
        self._printed: set[str] = set()
        self.copy: Callable[[str], object] | None = None  # takes each line as well, such as for the log of a run

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # not for --help

        severity = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        line = printable(f"{self.prefix}{severity}{record.getMessage()}")
        tqdm.write(line, file=sys.stderr)
        self._copy(line)

    def warning(self, message: object) -> str:
        """Return the line of a warning; "" for a text that was printed before.

        Python forgets what it has printed whenever a library changes its filters for a moment.
        """
        text = printable(str(message))
        if text in self._printed:
            return ""
        self._printed.add(text)
        line = f"{self.prefix}warning: {text}"
        self._copy(line)
        return line + "\n"

    def _copy(self, line: str) -> None:
        if self.copy is not None:
            self.copy(line)


def drop_output() -> None:
    """Send standard output nowhere from now on: its reader has gone, and a second write would fail as well."""
    with suppress(OSError, ValueError):  # ValueError: it is no file, as in a test
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def say(text: str) -> None:
    """Print a line between progress bars; where the reader of a pipe has gone, print no more."""
    from tqdm import tqdm  # not for --help

    try:
        tqdm.write(printable(text))
        sys.stdout.flush()
    except BrokenPipeError:
        drop_output()


def copy_lines(copy: Callable[[str], object] | None) -> None:
    """Pass each line that the console prints to `copy` as well; None ends that. Without a console nothing happens."""
    for handler in LOGGER.handlers:
        if isinstance(handler, Console):
            handler.copy = copy


def open_console() -> None:
    """Print the package's log and all warnings in one line each, a warning once; a second call changes nothing.

    Commands call this. A program that imports gcl_fast configures `logging` and `warnings` as it likes.
    """
    if not any(isinstance(handler, Console) for handler in LOGGER.handlers):
        console = Console(int(os.environ.get("RANK", 0)))
        LOGGER.addHandler(console)
        LOGGER.setLevel(logging.INFO)
        warnings.formatwarning = lambda message, category, filename, lineno, line=None: console.warning(message)
