"""Choose the image files among others, by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from gcl_fast.data.layouts.reading import HIDDEN, NO_CROPS, NO_IMAGE, Reading, holds_no_crops

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
BODIES = "body_parameters"  # the folder in a dataset that holds no crops


def image_files(paths: Iterable[Path], reading: Reading) -> list[Path]:
    """Return the image files, sorted; hidden files and those of other types are counted."""
    images = []
    for path in paths:
        if path.name.startswith("."):
            reading.pass_over(HIDDEN)
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            images.append(path)
        else:
            reading.pass_over(NO_IMAGE, path.suffix.lower() or path.name)
    return sorted(images)


def files_in(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder, without its subfolders."""
    with os.scandir(folder) as entries:  # knows folders from files without another call to the system
        yield from (folder / entry.name for entry in entries if not entry.is_dir())


def files_below(root: Path, reading: Reading | None = None) -> Iterator[Path]:
    """Yield the files at any depth, also in folders behind links; each folder is visited once.

    Body parameters, hidden folders, and those that `holds_no_crops` names are left out.

    Args:
        root: the folder.
        reading: counts the folders that are left out; None for nobody.
    """
    seen: set[Path] = set()
    for name, folders, files in os.walk(root, followlinks=True):
        folder, real = Path(name), Path(name).resolve()
        if real in seen or (real != folder and real.is_relative_to(root)):  # visited, or visited later without a link
            folders.clear()
            continue
        seen.add(real)
        children = sorted(child for child in folders if folder != root or child != BODIES)
        folders[:] = [child for child in children if not holds_no_crops(folder / child)]  # os.walk follows this list
        for child in set(children).difference(folders) if reading is not None else ():
            assert reading is not None
            reading.pass_over(NO_CROPS, str((folder / child).relative_to(root)))
        yield from (folder / file for file in files)
