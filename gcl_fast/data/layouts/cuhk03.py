"""Read CUHK03: the classic crops with their file of random splits, or the new protocol."""

from __future__ import annotations

import json
import re
from pathlib import Path

from gcl_fast.data.layouts.market import CUHK03_NP, FOLDERS, read_market_like
from gcl_fast.data.layouts.reading import Reading, Row, locate, records_of
from gcl_fast.data.records import ReIDDataset

CLASSIC_NAME = re.compile(r"(?P<pair>\d)_(?P<person>\d+)_(?P<view>\d)_\d+")
KINDS = ("labeled", "detected")


def read_cuhk03(root: Path, reading: Reading) -> ReIDDataset:
    """Read the classic crops by the first of 20 random splits in their split file, or the new protocol's folders."""

    def holds(folder: Path) -> bool:
        """Return whether the folder holds one of both layouts."""
        return (folder / FOLDERS[0]).is_dir() or any(is_classic(folder, kind) for kind in KINDS)

    home = locate(reading, root, holds, "images_labeled with splits_classic_labeled.json")
    if (home / FOLDERS[0]).is_dir():
        return read_market_like(CUHK03_NP, home, reading)
    kind = next(kind for kind in KINDS if is_classic(home, kind))
    folder, file = home / f"images_{kind}", home / f"splits_classic_{kind}.json"
    split = json.loads(file.read_text())[0]
    rows = [_classic_crops(folder, split[name], reading) for name in ("train", "query", "gallery")]
    return reading.dataset(home, *records_of(reading, [folder] * 3, rows))


def is_classic(folder: Path, kind: str) -> bool:
    """Return whether a folder holds the classic crops of a kind, and their split file."""
    return (folder / f"images_{kind}").is_dir() and (folder / f"splits_classic_{kind}.json").is_file()


def _classic_crops(folder: Path, entries: list[list], reading: Reading) -> list[Row]:
    """Read identity and camera from the file names in a split's entries."""
    rows = []
    for file, *_ in entries:  # [file, identity, camera]; the file's folder is that of the list's author
        path = folder / re.split(r"[/\\]", file)[-1]
        match = CLASSIC_NAME.match(path.name)
        if match is None:
            raise reading.refusal(f"{path.name} in the split file is not named PAIR_PERSON_VIEW_NUMBER.png")
        pair, person, view = int(match["pair"]), int(match["person"]), int(match["view"])
        rows.append(Row(path, 1000 * pair + person, 2 * (pair - 1) + view))
    return rows
