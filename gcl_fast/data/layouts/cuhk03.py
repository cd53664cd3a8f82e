"""Read CUHK03: its crops with a split file of the classic or the new protocol, or the new protocol's folders."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from gcl_fast.data.layouts.market import CUHK03_NP, FOLDERS, read_market_like
from gcl_fast.data.layouts.reading import Reading, Row, locate, records_of, text_of
from gcl_fast.data.records import ReIDDataset

CLASSIC_NAME = re.compile(r"(?P<pair>\d)_(?P<person>\d+)_(?P<view>\d)_\d+")
KINDS = ("labeled", "detected")
PROTOCOLS = {"classic": "the first of 20 random splits", "new": "767 people for training"}
SPLITS = ("train", "query", "gallery")


def read_cuhk03(root: Path, reading: Reading) -> ReIDDataset:
    """Read the crops of a kind by their split file, or the new protocol's folders.

    The classic protocol goes before the new one, and `labeled` before `detected`, unless `root` is `images_detected`.
    A note says which was read, since their results differ.
    """
    holds = lambda folder: (folder / FOLDERS[0]).is_dir() or bool(split_files(folder))
    home = locate(reading, root, holds, "images_labeled with splits_classic_labeled.json")
    if (home / FOLDERS[0]).is_dir():
        reading.notes.append(f"{reading.name}: the new protocol ({PROTOCOLS['new']}), by the folders of {home}")
        return read_market_like(CUHK03_NP, home, reading)
    files = split_files(home)
    (protocol, kind), file = min(files.items(), key=lambda item: f"images_{item[0][1]}" != root.name)
    others = ", ".join(f"{other} {crops}" for other, crops in files if (other, crops) != (protocol, kind))
    reading.notes.append(
        f"{reading.name}: the {protocol} protocol ({PROTOCOLS[protocol]}) of the {kind} crops, with the metric of"
        " Market-1501" + (f"; {file.name} was chosen, and there are {others} as well" if others else "")
    )
    folder, split = home / f"images_{kind}", _first_split(file, reading)
    rows = [_crops(folder, split[name], f"{file}, {name}", reading) for name in SPLITS]
    return reading.dataset(home, *records_of(reading, [folder] * 3, rows))


def split_files(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the split files in a folder by protocol and kind, where the crops of that kind are beside them."""
    files = {(protocol, kind): folder / f"splits_{protocol}_{kind}.json" for protocol in PROTOCOLS for kind in KINDS}
    return {key: file for key, file in files.items() if file.is_file() and (folder / f"images_{key[1]}").is_dir()}


def _first_split(file: Path, reading: Reading) -> dict[str, Any]:
    """Return the first split of a file; a split for evaluation that it lacks is empty."""
    try:
        content = json.loads(text_of(file, reading))
    except json.JSONDecodeError as error:
        raise reading.refusal(f"{file}, line {error.lineno}: no JSON ({error.msg}); restore it from a copy") from error
    split = content[0] if isinstance(content, list) and content else content
    if not isinstance(split, dict) or not isinstance(split.get("train"), list):
        raise reading.refusal(f"{file}: expected a list of splits, each with {', '.join(SPLITS)}")
    return {name: split.get(name) or [] for name in SPLITS}


def _crops(folder: Path, entries: Any, place: str, reading: Reading) -> list[Row]:
    """Read identity and camera from the file names in a split's entries."""
    rows = []
    for number, entry in enumerate(entries if isinstance(entries, list) else [entries], 1):
        # [file, identity, camera]; the file's folder is that of the list's author
        name = re.split(r"[/\\]", entry[0])[-1] if isinstance(entry, list) and isinstance([*entry, 0][0], str) else ""
        match = CLASSIC_NAME.match(name)
        if match is None:
            raise reading.refusal(
                f"{place}, entry {number} is {json.dumps(entry)[:80]}; expected [PAIR_PERSON_VIEW_NUMBER.png, identity,"
                " camera]"
            )
        pair, person, view = int(match["pair"]), int(match["person"]), int(match["view"])
        rows.append(Row(folder / name, 1000 * pair + person, 2 * (pair - 1) + view))
    return rows
