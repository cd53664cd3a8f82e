"""Restarts by torchrun (--max-restarts): the same command runs again after a rank died, and has to go on, not start."""

from __future__ import annotations

import os
import socket
from pathlib import Path

_FILE = "launch"


def restarted(folder: Path) -> bool:
    """Return whether this process is a restart by the torchrun that began, or resumed, the run in `folder`.

    The count alone does not tell: a command refused because the folder holds another run is restarted as well, and
    must not go on with that one.
    """
    if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0)) == 0:
        return False
    path = folder / _FILE
    return path.is_file() and path.read_text() == _launch()


def mark_launch(folder: Path) -> None:
    """Note in `folder` which torchrun runs it; rank 0 alone calls this."""
    (folder / _FILE).write_text(_launch())


def _launch() -> str:
    """Return one name for all processes of one torchrun, over its restarts."""
    name = os.environ.get("TORCHELASTIC_RUN_ID", "none")
    return f"{socket.gethostname()} {os.getppid()}" if name == "none" else name
