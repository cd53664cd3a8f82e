"""Write files atomically: they exist completely or not at all; and check beforehand where they can be written."""

from __future__ import annotations

import json
import os
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from gcl_fast.errors import UserError


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that readers see the old file or the complete new one, also after a crash.

    `write` fills a temporary file, which is then renamed. The file is synced before the rename, since its name could
    reach the disk before its bytes otherwise. The folder is synced after the rename. Several processes may write the
    same file at once: each has a temporary file of its own, and the last rename stays.

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
    # Not by `tempfile`, whose files are readable by their owner alone: the umask decides, as for any new file.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with temporary.open("xb") as file:
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


def write_json(path: Path, content: object) -> None:
    """Write a JSON file that people can read, as `write_atomically` does.

    Raises:
        OSError: the file cannot be written; the old one stays.

    Example:
        >>> write_json(Path("summary.json"), {"stages": {}})
        >>> print(Path("summary.json").read_text(), end="")
        {
          "stages": {}
        }
    """
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def check_writable(folder: Path) -> None:
    """Check that files can be written to a folder, which may be missing; nothing is left there, and no folder is made.

    Args:
        folder: where files are to go; its nearest existing parent stands for a missing one.

    Raises:
        OSError: nothing can be written there.
    """
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    tempfile.TemporaryFile(dir=folder).close()


def refuse_link(path: Path) -> None:
    """Check that a file which is written in place, such as a log or a lock, is no symbolic link.

    A folder that strangers made may hold a link to any file of the user. What `write_atomically` writes needs no check:
    it replaces the link itself.

    Raises:
        UserError: `path` is a link.
    """
    if path.is_symlink():
        raise UserError(f"{path} is a link, and the file that it leads to would be written; remove it, or copy it here")


def write_target(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write the file that a user asked for, as `write_atomically` does.

    Raises:
        UserError: the file cannot be written; the old one stays.

    Example:
        >>> write_target(Path("rows.txt"), lambda file: file.write(b"complete"))
    """
    try:
        write_atomically(path, write)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror or error}); choose another place") from error


def write_text(path: Path, text: str) -> None:
    """Write the text file that a user asked for, as `write_target` does.

    Text may hold names of files that are no UTF-8; their bytes become question marks.

    Raises:
        UserError: the file cannot be written; the old one stays.

    Example:
        >>> write_text(Path("page.html"), "<title>A run</title>")
    """
    write_target(path, lambda file: file.write(text.encode(errors="replace")))


def check_target(path: Path) -> None:
    """Check, before long work, that the file `path` can be written; nothing is left behind.

    Raises:
        UserError: its folder cannot be written, or there is a folder at `path`.

    Example:
        >>> check_target(Path("rows.npz"))
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give the name of a file")
    try:
        check_writable(path.absolute().parent)
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}); choose another place") from error
