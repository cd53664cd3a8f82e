"""What commands print on standard error while they work: the package's log, and warnings, one line each."""

from __future__ import annotations

import logging
import os
import sys
import warnings

LOGGER = logging.getLogger("gcl_fast")


class Console(logging.Handler):
    """Prints records between progress bars. Of ranks other than 0 it prints warnings and errors alone.

    Args:
        rank: of this process.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(logging.WARNING if rank else logging.INFO)
        self._prefix = f"gcl_fast: rank {rank}: " if rank else "gcl_fast: "

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm  # not for --help

        severity = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        tqdm.write(f"{self._prefix}{severity}{record.getMessage()}", file=sys.stderr)


def open_console() -> None:
    """Print the package's log and all warnings in one line each; a second call changes nothing.

    Commands call this. A program that imports gcl_fast configures `logging` and `warnings` as it likes.
    """
    warnings.formatwarning = lambda message, category, filename, lineno, line=None: f"gcl_fast: warning: {message}\n"
    if not any(isinstance(handler, Console) for handler in LOGGER.handlers):
        LOGGER.addHandler(Console(int(os.environ.get("RANK", 0))))
        LOGGER.setLevel(logging.INFO)
