"""Where gcl_fast keeps what can be made again: built ops, and verdicts on images."""

import os
import stat
from pathlib import Path

from gcl_fast.errors import UserError


def cache_folder() -> Path:
    """Return the folder that GCL_FAST_CACHE names, else gcl_fast in the user's cache folder.

    Raises:
        UserError: neither names a folder, since the user has no home folder, as in some containers.
    """
    if cache := os.environ.get("GCL_FAST_CACHE"):
        return _expanded(cache)
    return _expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gcl_fast"


def refuse_strangers(*places: Path) -> None:
    """Check, before code from the cache is run, that no other user can have put it there.

    Each place must belong to this user or root. Users other than its owner and its group must not be able to write it;
    in a folder with the sticky bit, such as /tmp, they cannot replace what is there. A group counts as trusted.

    Args:
        places: the file, and the folders that hold it; those that do not exist are passed over.

    Raises:
        UserError: another user owns or can write one of them.

    Example:
        >>> refuse_strangers(Path("not_built_yet.so"))
    """
    if not hasattr(os, "geteuid"):  # no owners and modes as POSIX has them
        return
    for place in places:
        try:
            status = place.stat()
        except OSError:  # missing or unreadable: nothing is run from there
            continue
        if status.st_uid not in (os.geteuid(), 0):
            why = f"{place} belongs to another user (uid {status.st_uid})"
        elif status.st_mode & stat.S_IWOTH and not (place.is_dir() and status.st_mode & stat.S_ISVTX):
            why = f"every user can write {place}"
        else:
            continue
        raise UserError(
            f"{why}, so the code in it is not run: name a folder of your own in GCL_FAST_CACHE, or remove {place}"
        )


def _expanded(path: str) -> Path:
    """Return a path with a leading ~ as the home folder.

    Raises:
        UserError: there is no home folder.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(
            f"gcl_fast keeps its built ops in {path}, and this user has no home folder: name a folder that can be"
            " written in GCL_FAST_CACHE"
        ) from error
