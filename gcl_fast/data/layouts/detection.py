"""Recognize the layout of a folder by what it holds."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from gcl_fast.data.layouts import market
from gcl_fast.data.layouts.cuhk03 import KINDS, split_files
from gcl_fast.data.layouts.image_names import IMAGE_SUFFIXES, files_below, files_in
from gcl_fast.data.layouts.labels import camera_in
from gcl_fast.data.layouts.manifest import SUFFIXES, manifests
from gcl_fast.data.layouts.person_folders import (
    has_image,
    holds_people,
    holds_tracklets,
    images_in_splits,
    tracklet_names,
)
from gcl_fast.data.layouts.reading import visible_folders

SAMPLE = 200  # file names that decide
PARTS = {*market.FOLDERS, *market.VERI.folders, "bbox_train", "bbox_test", "train", "test", *KINDS}  # of datasets


def detect(root: Path) -> str | None:
    """Return the name of the dataset whose layout `root` or a folder in it has; None without images.

    A layout of fixed folder names is recognized first, then a manifest, then trees of people, then any images. The
    folder above counts where `root` has the name of a split, such as query.
    """
    if root.is_file():
        return "manifest" if root.suffix.lower() in SUFFIXES else None
    homes = [root, *visible_folders(root), *([root.parent] if root.name in PARTS else [])]
    for home in homes:
        for marked, holds in MARKED.items():
            if holds(home):
                return marked
        if (home / market.FOLDERS[0]).is_dir() and (name := _market_like(home)) is not None:
            return name
    if any(map(_is_manifest, manifests(root))):
        return "manifest"
    cameras = all(camera_in(folder.name) for folder in visible_folders(root))  # a folder for each is no person
    if not has_image(root) and not cameras and images_in_splits(root) is None:
        if holds_tracklets(root) and not all(map(camera_in, tracklet_names(root))):
            return "tracklet-folders"
        if holds_people(root):
            return "person-folders"
    return "folder" if any(path.suffix.lower() in IMAGE_SUFFIXES for path in files_below(root)) else None


def _is_manifest(file: Path) -> bool:
    """Return whether a table is called manifest, or is a text whose first line has the column path."""
    if file.stem.lower() == "manifest":
        return True
    with file.open("rb") as lines:
        return b"path" in re.split(rb"[,;\t\r\n]", lines.readline(4096).lower())


def _market_like(home: Path) -> str | None:
    """Return which dataset of Market-1501's three folders a folder holds, by most of the names of its crops.

    None stands for other names, and for no crops.
    """
    names = [path.name for path in islice(files_in(home / market.FOLDERS[0]), SAMPLE)]
    fits = lambda pattern: sum(bool(pattern.match(name)) for name in names)
    if 2 * fits(market.MARKET_NAME) > len(names):
        if (home / market.DISTRACTORS).is_dir():
            return "market1501-500k"
        return "synthetic" if (home / "world.json").is_file() else "market1501"
    if 2 * fits(market.DUKE_NAME) > len(names):
        return "occluded-duke" if "occluded" in home.name.lower() else "dukemtmc"
    if 2 * fits(market.COUNTED_NAME) > len(names):
        return "personx" if "personx" in f"{home.parent.name} {home.name}".lower() else "cuhk03-np"
    return None


def _subsets(home: Path) -> bool:
    """Return whether a folder holds numbered folders of Market-1501's layout."""
    return home.is_dir() and any(
        child.name.isdigit() and (child / market.FOLDERS[0]).is_dir() for child in visible_folders(home)
    )


MARKED: dict[str, Callable[[Path], bool]] = {
    "msmt17": lambda home: (home / "list_train.txt").is_file() and (home / "list_query.txt").is_file(),
    "mars": lambda home: (home / "bbox_train").is_dir(),
    "veri776": lambda home: (home / "image_train").is_dir() and (home / "image_query").is_dir(),
    "cuhk03": lambda home: bool(split_files(home)),
    "cuhk03-np": lambda home: any((home / kind / market.FOLDERS[0]).is_dir() for kind in KINDS),
    "personx": _subsets,
}
