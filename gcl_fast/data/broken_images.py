"""Find image files that do not decode, and provide the blank image that replaces one that breaks later.

`drop_broken` runs before training. It stores its verdicts with each file's size and time, so that only new files are
decoded. During a run, `blank_image` replaces a file that breaks or vanishes, and a warning names the file.
"""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gcl_fast.atomic import write_atomically
from gcl_fast.cache_folder import cache_folder
from gcl_fast.data.augment import IMAGENET_MEAN
from gcl_fast.data.records import Records
from gcl_fast.errors import UserError

log = logging.getLogger(__name__)

FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF")  # Pillow reads more, DALI does not
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # Pillow's errors for broken images

Verdict = tuple[int, int, str]  # bytes, modification time in ns, why the image does not decode or ""


def find_broken(records: Records, threads: int = 2) -> dict[int, str]:
    """Find the images that do not decode.

    Each image is decoded once. Verdicts on unchanged files come from an earlier call.

    Args:
        records: the crops to check.
        threads: files that are decoded at a time.

    Returns:
        Position in `records` -> reason.

    Example:
        >>> from gcl_fast.data import open_dataset
        >>> Image.new("RGB", (64, 128)).save("0001.jpg")
        >>> _ = Path("0002.jpg").write_bytes(b"no image")
        >>> find_broken(open_dataset("folder", ".").train)
        {1: 'not an image of JPEG, PNG, BMP, WEBP or TIFF'}
    """
    try:
        file = _verdict_file(records.root)
    except UserError as error:
        log.warning("verdicts on images cannot be stored (%s): the next run decodes all images again", error)
        file = None
    names = records.names
    verdicts, stamps = _read(file), [_stamp(path) for path in records.paths]
    new = [i for i, name in enumerate(names) if name not in verdicts or tuple(verdicts[name][:-1]) != stamps[i]]
    temporary: dict[str, Verdict] = {}
    with ThreadPoolExecutor(threads) as pool:
        for i, (why, permanent) in zip(new, pool.map(_decode, (records.paths[i] for i in new))):
            (verdicts if permanent else temporary)[names[i]] = (*stamps[i], why)
    if new and file is not None:
        _write(file, verdicts)
    reasons = [(temporary.get(name) or verdicts[name])[-1] for name in names]
    return {i: why for i, why in enumerate(reasons) if why}


def drop_broken(
    records: Records, on_bad_image: str = "skip", threads: int = 2, *, needed: bool = True
) -> tuple[Records, str]:
    """Leave out the records whose images do not decode.

    Args:
        records: the crops to check.
        on_bad_image: "skip" leaves broken images out, "error" raises.
        threads: files that are decoded at a time.
        needed: whether some image must decode, as for training.

    Returns:
        The records whose images decode, and a sentence that counts and names the others ("" if there are none).

    Raises:
        UserError: an image is broken and `on_bad_image` is "error", or all are and some are needed.

    Example:
        >>> from gcl_fast.data import open_dataset
        >>> Image.new("RGB", (64, 128)).save("0001.jpg")
        >>> _ = Path("0002.jpg").write_bytes(b"no image")
        >>> crops, notice = drop_broken(open_dataset("folder", ".").train)
        >>> crops.names, notice
        (['0001.jpg'], '1 of 2 images under ... do not decode (0002.jpg: not an image of ...): skipped')
    """
    broken = find_broken(records, threads)
    if not broken:
        return records, ""
    names = records.names
    first = "; ".join(f"{names[i]}: {reason}" for i, reason in list(broken.items())[:5])
    more = "; ..." if len(broken) > 5 else ""
    notice = f"{len(broken)} of {len(records)} images under {records.root} do not decode ({first}{more})"
    if on_bad_image == "error" or (needed and len(broken) == len(records)):
        way_out = ", or pass --on-bad-image skip to leave broken ones out" if on_bad_image == "error" else ""
        raise UserError(f"{notice}; repair or remove them{way_out}")
    sound = np.setdiff1d(np.arange(len(records)), list(broken))
    return records.subset(sound), f"{notice}: skipped"


def refuse_special(path: Path) -> None:
    """Raise an OSError where a path leads to a pipe, a socket or a device: to open one can wait for ever.

    Raises:
        OSError: it is no regular file, or it is missing.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError("not a regular file")


def why_broken(path: Path) -> str:
    """Return why `path` does not decode, or "" if it does."""
    return _decode(path)[0]


def lacks_header(path: Path) -> bool:
    """Return whether `path` is missing or does not begin as an image; nothing is decoded."""
    try:
        refuse_special(path)
        with Image.open(path, formats=FORMATS):
            return False
    except UNREADABLE:
        return True


@functools.cache
def scratch_folder() -> Path:
    """Make a folder for files that replace others; it is removed when the process ends."""
    folder = tempfile.mkdtemp(prefix="gcl_fast-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


@functools.cache
def blank_image() -> Path:
    """Make an image file of ImageNet's mean colour, which is close to 0 once normalized."""
    path = scratch_folder() / "blank.png"
    Image.new("RGB", (1, 1), tuple(round(255 * value) for value in IMAGENET_MEAN)).save(path)
    return path


def _stamp(path: Path) -> tuple[int, int]:
    """Return a file's bytes and modification time in ns; zeros if it is missing."""
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_size, status.st_mtime_ns


def _decode(path: Path) -> tuple[str, bool]:
    """Return why the image does not decode or "", and whether that is permanent while the file does not change.

    Errors of the system (permissions, a disk that fails) are not permanent.
    """
    try:
        refuse_special(path)
        with Image.open(path, formats=FORMATS) as image:
            image.load()
            return "", True
    except UnidentifiedImageError:
        return f"not an image of {', '.join(FORMATS[:-1])} or {FORMATS[-1]}", True
    except UNREADABLE as error:
        return getattr(error, "strerror", None) or str(error), getattr(error, "errno", None) is None


def _verdict_file(root: Path) -> Path:
    """Return the path of the verdicts on the images below `root`, in the user's cache folder."""
    return cache_folder() / "verdicts" / f"{hashlib.sha256(os.fsencode(root)).hexdigest()[:16]}.json"


def _read(file: Path | None) -> dict[str, Verdict]:
    """Read stored verdicts by name; none if there is no file, or it is damaged."""
    if file is None:
        return {}
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError):
        return {}


def _write(file: Path, verdicts: dict[str, Verdict]) -> None:
    """Write the verdicts; several ranks may write the same file. A warning says why where that is impossible."""
    text = json.dumps(verdicts)
    try:
        write_atomically(file, lambda open_file: open_file.write(text.encode()))
    except OSError as error:
        log.warning("verdicts on images cannot be stored (%s): the next run decodes all images again", error)
