"""Run a command that is bounded in time and leaves no process behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE = 5.0  # seconds between asking processes to end and ending them
DIE_WITH_PARENT = 1  # Linux: PR_SET_PDEATHSIG


@dataclass(frozen=True)
class Outcome:
    """Holds how a command ended. status: "done", "failed" or "timed out"."""

    status: str
    seconds: float
    returncode: int | None


def run(command: Sequence[str], seconds: float, log: Path, environment: Mapping[str, str], folder: Path) -> Outcome:
    """Run `command` in `folder` for `seconds` at most, its output in `log`; end it and all it started after that.

    On Linux it also ends when this process is killed, and descendants in sessions of their own (torchrun's ranks) end
    with it. Ctrl-C ends it before the KeyboardInterrupt goes on.
    """
    start = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            preexec_fn=_dying_with(os.getpid()) if sys.platform == "linux" else None,
        )
        try:
            returncode = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return Outcome("timed out", time.monotonic() - start, None)
        finally:
            _end(process)
    return Outcome("failed" if returncode else "done", time.monotonic() - start, returncode)


def output(log: Path) -> str:
    """Return the last 200 kB of a command's output; a progress bar counts as its last state."""
    text = log.read_bytes()[-200_000:].decode(errors="replace")
    return "\n".join(line.rstrip().rsplit("\r", 1)[-1] for line in text.split("\n")).strip("\n")


def _dying_with(parent: int) -> Callable[[], None]:
    """Return what a new process does first: it asks for SIGTERM at the death of `parent`."""
    prctl = ctypes.CDLL(None).prctl

    def ask() -> None:
        prctl(DIE_WITH_PARENT, signal.SIGTERM)
        if os.getppid() != parent:  # it is dead already
            os._exit(1)

    return ask


def _descendants(process: int) -> Iterator[int]:
    """Return the children of `process`, their children and so on (on Linux)."""
    with suppress(OSError):
        for thread in Path(f"/proc/{process}/task").iterdir():
            for child in map(int, (thread / "children").read_text().split()):
                yield child
                yield from _descendants(child)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the group of `process` and all its descendants: by SIGTERM, after GRACE by SIGKILL."""
    others = list(_descendants(process.pid))
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    others += [child for child in _descendants(process.pid) if child not in others]
    for kill, target in ((os.killpg, process.pid), *((os.kill, other) for other in others)):
        with suppress(ProcessLookupError, PermissionError):
            kill(target, signal.SIGKILL)
    process.wait()
