"""Recognize a restart by torchrun (--max-restarts), after which the same command has to go on with its run."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from gcl_fast.atomic import write_atomically

_FILE = "launch"


def restarted(folder: Path) -> bool:
    """Return whether this process is a restart by the torchrun that began, or resumed, the run in `folder`.

    torchrun's count of restarts is not enough. A command that was refused because the folder holds another run is
    restarted as well, and must not go on with that run.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return False
    path = folder / _FILE
    return path.is_file() and path.read_text() == _launch()


def mark_launch(folder: Path) -> None:
    """Note in `folder` which torchrun runs it; rank 0 alone calls this."""
    write_atomically(folder / _FILE, lambda file: file.write(_launch().encode()))


def _launch() -> str:
    """Return one name for all processes of one torchrun, over its restarts."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"{socket.gethostname()} {os.getppid()}" if name == "none" else name
