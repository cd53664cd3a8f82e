"""Write files atomically: they exist completely or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that readers see the old file or the complete new one, also after a crash.

    `write` fills a temporary file, which is then renamed. The file is synced before the rename, since its name could
    reach the disk before its bytes otherwise. The folder is synced after the rename.

    Args:
        path: the file; its folder is made if missing.
        write: fills an open binary file.

    Raises:
        OSError: the file cannot be written; the old one stays.

    Example:
        >>> write_atomically(Path("notes.txt"), lambda file: file.write(b"complete"))
        >>> Path("notes.txt").read_text()
        'complete'
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # there is one writer; a leftover of a crash is overwritten
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
