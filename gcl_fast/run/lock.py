"""Hold the folder of a run for one process, so that two commands of one name do not overwrite each other's hours."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
import warnings
from pathlib import Path
from typing import IO

from gcl_fast.errors import UserError

NAME = ".lock"
PATIENCE = 3.0  # seconds to wait for a process that was just killed, whose memory the system still frees
UNSUPPORTED = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems without locks


class RunLock:
    """Represents the lock on a run's folder: a file that its process holds open and locked.

    The system drops the lock when the process ends, however it ends, so that no stale lock blocks a run. Locks reach
    over the hosts of an NFS mount where its server keeps them. The file names host, process and time for messages.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / NAME
        self._file: IO[str] | None = None

    @property
    def held(self) -> bool:
        """Return whether `acquire` has been called, and `release` has not."""
        return self._file is not None

    def acquire(self, patience: float = PATIENCE) -> None:
        """Take the lock; the folder must exist. A second call changes nothing.

        Two objects of one process share a lock, since one process knows what it does.

        Args:
            patience: seconds to wait for another process.

        Raises:
            UserError: another process holds the folder; the message names it.
            OSError: the file cannot be written.
        """
        if self.held:
            return
        file = self.path.open("a+")
        try:
            if self._locks(file, time.monotonic() + patience):
                file.truncate(0)
                file.write(f"{_process()} since {time.strftime('%Y-%m-%d %H:%M:%S')}\n")
                file.flush()
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Drop the lock; the file stays, since another process may have opened it."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _locks(self, file: IO[str], deadline: float) -> bool:
        """Lock the file, and return whether this object holds it alone.

        Raises:
            UserError: another process holds it at the deadline.
        """
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            except OSError as error:
                if error.errno in UNSUPPORTED:
                    warnings.warn(
                        f"{self.folder} lies on a file system without locks ({error.strerror}): take care that no two"
                        " commands train one run",
                        stacklevel=4,
                    )
                    return False
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            file.seek(0)
            holder = file.read().strip()
            if holder.startswith(f"{_process()} since"):
                return False
            if time.monotonic() > deadline:
                raise UserError(
                    f"{self.folder} is trained by {holder or 'another process'} now; wait for it, or choose another"
                    " --name"
                )
            time.sleep(0.1)


def _process() -> str:
    """Return the name of this process among all hosts."""
    return f"process {os.getpid()} on {socket.gethostname()}"
