"""Where gcl_fast keeps what can be made again: built ops, and verdicts on images."""

import os
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
