"""Pictures looked at one by one: which do not decode, and what stands in for one that breaks later.

`drop_broken` runs before training and remembers its verdicts by file size and time, so that only new files are decoded.
A file that breaks or vanishes during a run is replaced by `blank_picture`, with a warning that names it.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import os
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gcl_fast.data.augment import IMAGENET_MEAN
from gcl_fast.data.records import Records
from gcl_fast.errors import UserError

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # Pillow reads more, DALI does not
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what Pillow raises at a broken picture

Verdict = tuple[int, int, str]  # bytes, modification time in ns, why the picture does not decode or ""


def find_broken(records: Records, threads: int = 2) -> dict[int, str]:
    """Position -> reason, of the pictures that do not decode.

    Every picture is decoded once; verdicts of unchanged files come from an earlier call."""
    file, names = _verdict_file(records.root), records.names
    verdicts, stamps = _read(file), [_stamp(path) for path in records.paths]
    fresh = [i for i, name in enumerate(names) if name not in verdicts or tuple(verdicts[name][:-1]) != stamps[i]]
    passing: dict[str, Verdict] = {}
    with ThreadPoolExecutor(threads) as pool:
        for i, (why, lasting) in zip(fresh, pool.map(_decode, (records.paths[i] for i in fresh))):
            (verdicts if lasting else passing)[names[i]] = (*stamps[i], why)
    if fresh:
        _write(file, verdicts)
    found = [(passing.get(name) or verdicts[name])[-1] for name in names]
    return {i: why for i, why in enumerate(found) if why}


def drop_broken(records: Records, on_bad_image: str = "skip", threads: int = 2) -> tuple[Records, str]:
    """The records whose pictures decode, and a sentence that counts and names the others ("" if there are none).

    on_bad_image: "skip", or "error" to raise UserError at the first scan that finds one.
    """
    broken = find_broken(records, threads)
    if not broken:
        return records, ""
    names = records.names
    listed = "; ".join(f"{names[i]}: {reason}" for i, reason in list(broken.items())[:5])
    more = "; ..." if len(broken) > 5 else ""
    notice = f"{len(broken)} of {len(records)} pictures under {records.root} do not decode ({listed}{more})"
    if on_bad_image == "error" or len(broken) == len(records):
        way_out = ", or pass --on-bad-image skip to leave broken ones out" if on_bad_image == "error" else ""
        raise UserError(f"{notice}; mend or remove them{way_out}")
    sound = np.setdiff1d(np.arange(len(records)), list(broken))
    return records.subset(sound), f"{notice}: skipped"


def why_broken(path: Path) -> str:
    """Why `path` does not decode, or "" if it does."""
    return _decode(path)[0]


@functools.cache
def scratch_folder() -> Path:
    """A folder for files that stand in for others; removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="gcl_fast-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def blank_picture() -> Path:
    """A picture file of ImageNet's mean colour, which is close to 0 once normalized."""
    path = scratch_folder() / "blank.png"
    Image.new("RGB", (1, 1), tuple(round(255 * value) for value in IMAGENET_MEAN)).save(path)
    return path


def _stamp(path: Path) -> tuple[int, int]:
    """Bytes and modification time in ns; zeros for a file that is not there."""
    try:
        stat = path.stat()
    except OSError:
        return 0, 0
    return stat.st_size, stat.st_mtime_ns


def _decode(path: Path) -> tuple[str, bool]:
    """Why the picture does not decode or "", and whether that lasts while the file stays as it is: what the system
    refuses (permissions, a disk that fails) it may grant another time."""
    try:
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return "", True
    except UnidentifiedImageError:
        return f"not a picture of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", True
    except UNREADABLE as error:
        return getattr(error, "strerror", None) or str(error), getattr(error, "errno", None) is None


def _verdict_file(root: Path) -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "gcl_fast"
    cache = Path(os.environ.get("GCL_FAST_CACHE") or home)
    # another folder than that of earlier versions, which fail on verdicts of this form
    return cache / "verdicts" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"


def _read(file: Path) -> dict[str, Verdict]:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):  # missing or damaged: every picture is looked at again
        return {}


def _write(file: Path, verdicts: dict[str, Verdict]) -> None:
    """Whole or not at all: several ranks may write the same verdicts."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as temporary:
            json.dump(verdicts, temporary)
        Path(temporary.name).replace(file)
    except OSError as error:
        log.warning("verdicts on pictures cannot be kept (%s): the next run looks at all of them again", error)
