"""Runs of train.py in forks of one process that has imported everything: most of a short run is starting Python."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

SERVER = """
import json, os, sys
from gcl_fast.process import prepare_process

prepare_process()
from gcl_fast import train
from gcl_fast.run import session

print("ready", flush=True)
for line in sys.stdin:
    arguments, stdout, stderr = json.loads(line)
    child = os.fork()
    if child == 0:
        for number, path in ((1, stdout), (2, stderr)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.exit(train.main(arguments))
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Training:
    """One run of train.py; it is polled, killed and waited for as a `subprocess.Popen` is."""

    def __init__(self, server: subprocess.Popen, pid: int, stdout: Path, stderr: Path) -> None:
        self.pid, self.returncode, self._server = pid, None, server
        self._stdout, self._stderr = stdout, stderr

    def poll(self) -> int | None:
        """Return the exit status, negative where a signal ended the run; None while it goes on."""
        return self.wait(0)

    def wait(self, timeout: float = 300) -> int | None:
        """Wait for the end, at most `timeout` seconds, and return as `poll`."""
        if self.returncode is None and select.select([self._server.stdout], [], [], timeout)[0]:
            self.returncode = int(self._server.stdout.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal to a run that goes on."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End the run at once, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    @property
    def stdout(self) -> str:
        """What the run has printed so far."""
        return self._stdout.read_text()

    @property
    def stderr(self) -> str:
        """What the run has printed on standard error so far."""
        return self._stderr.read_text()


class Trainer:
    """Starts runs, one at a time, each with the arguments of train.py.

    Args:
        folder: takes the script of the server and what the runs print.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        (folder / "server.py").write_text(SERVER)
        command = [sys.executable, str(folder / "server.py")]
        self._server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        assert self._server.stdout.readline() == b"ready\n"

    def start(self, command: list[str]) -> Training:
        """Start a run of `command`, of which the first two words (Python and train.py) are left out."""
        self._count += 1
        stdout, stderr = (self._folder / f"{self._count}.{name}" for name in ("stdout", "stderr"))
        self._server.stdin.write(json.dumps([[*map(str, command[2:])], str(stdout), str(stderr)]).encode() + b"\n")
        return Training(self._server, int(self._server.stdout.readline()), stdout, stderr)

    def run(self, command: list[str]) -> Training:
        """Start a run and wait for its end."""
        training = self.start(command)
        assert training.wait() is not None, f"the run did not end: {training.stdout}{training.stderr}"
        return training

    def close(self) -> None:
        """End the server."""
        self._server.stdin.close()
        self._server.wait(60)
