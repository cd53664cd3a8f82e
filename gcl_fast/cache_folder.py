"""Where gcl_fast keeps what can be made again: built ops, and verdicts on images."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the folder that GCL_FAST_CACHE names, else gcl_fast in the user's cache folder."""
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gcl_fast"
    return Path(os.environ.get("GCL_FAST_CACHE") or home)
