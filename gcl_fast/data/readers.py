"""Read dataset folders as `Records`, by one reader for each layout; no reader opens an image."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from gcl_fast.data.records import Records, ReIDDataset
from gcl_fast.errors import UserError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")

# published numbers of crops: train, query, gallery without junk
COUNTS = {
    "market1501": (12_936, 3_368, 15_913),
    "dukemtmc": (16_522, 2_228, 17_661),
    "msmt17": (32_621, 11_659, 82_161),
}

# These match the beginning of a name, since some mirrors hold files ending in .jpg.jpg
MARKET_NAME = re.compile(r"(?P<identity>-1|\d+)_c(?P<camera>\d+)s(?P<sequence>\d+)_(?P<frame>\d+)")
DUKE_NAME = re.compile(r"(?P<identity>\d+)_c(?P<camera>\d+)_f(?P<frame>\d+)")
CUHK_NEW_NAME = re.compile(r"(?P<identity>\d+)_c(?P<camera>\d+)_\d+")  # its last number counts images, not frames
CUHK_CLASSIC_NAME = re.compile(r"(?P<pair>\d)_(?P<person>\d+)_(?P<view>\d)_\d+")

DAYTIMES = ("morning", "noon", "afternoon")

Row = tuple[Path, int, int, Any, int]  # image, identity, camera, sequence (they sort by time), frame in the sequence


def open_dataset(name: str, root: str | Path) -> ReIDDataset:
    """Read the file names of a dataset.

    Args:
        name: "market1501", "dukemtmc", "msmt17", "cuhk03", "synthetic", or "folder" for unlabelled crops.
        root: the dataset's folder, or the folder that holds it.

    Returns:
        The dataset; "folder" has training crops only.

    Raises:
        UserError: `name` is unknown, or the folder is missing, incomplete or empty. The message names the expected
            layout.

    Example:
        >>> from PIL import Image
        >>> Image.new("RGB", (64, 128)).save("someone.jpg")
        >>> dataset = open_dataset("folder", ".")
        >>> dataset.train.names, len(dataset.query), len(dataset.gallery)
        (['someone.jpg'], 0, 0)
    """
    if name not in READERS:
        raise UserError(f"unknown dataset {name!r}; choose one of {', '.join(sorted(READERS))}")
    root = Path(root).expanduser().resolve()
    if not root.is_dir():
        raise UserError(f"{name}: there is no folder {root}; expected {LAYOUTS[name]}")
    dataset = READERS[name](name, root)
    counts = tuple(len(split) for split in (dataset.train, dataset.query, dataset.gallery))
    published = COUNTS.get(name, counts)
    if counts == published:
        return dataset
    note = (
        f"{name}: {_with_commas(counts)} crops for training, query and gallery; as published: {_with_commas(published)}"
    )
    return ReIDDataset(name, dataset.root, dataset.train, dataset.query, dataset.gallery, (*dataset.notes, note))


def _read_market_like(name: str, root: Path) -> ReIDDataset:
    """Read bounding_box_train, query and bounding_box_test; file names give identity, camera and frame."""
    pattern, homes, form = MARKET_LIKE[name]
    home = _find_home(name, root, homes, marker="bounding_box_train")
    folders = [home / split for split in ("bounding_box_train", "query", "bounding_box_test")]
    notes: list[str] = []
    rows = [_named_crops(name, folder, pattern, form, notes) for folder in folders]
    train, query, gallery = _records(name, folders, rows)
    return ReIDDataset(name, home, train, query, gallery, tuple(notes))


def _named_crops(name: str, folder: Path, pattern: re.Pattern, form: str, notes: list[str]) -> list[Row]:
    """Read identity, camera, sequence and frame from the file names in a folder; add a note on names without them."""
    if not folder.is_dir():
        raise UserError(f"{name}: no {folder.name} under {folder.parent}; expected {LAYOUTS[name]}")
    rows, others = [], []
    for path in _image_files(folder.iterdir()):
        match = pattern.match(path.name)
        if match is None:
            others.append(path.name)
        elif match["identity"] != "-1":  # -1: junk, which shows no whole person
            parts = {key: int(value) for key, value in match.groupdict().items()}
            rows.append((path, parts["identity"], parts["camera"], parts.get("sequence", 0), parts.get("frame", 0)))
    if others:
        first = ", ".join(others[:3] + ["..."] * (len(others) > 3))
        notes.append(
            f"{len(others)} images in {folder} are left out, as their names give no identity and camera ({first});"
            f" expected {form}"
        )
    return rows


def _read_msmt17(name: str, root: Path) -> ReIDDataset:
    """Read four lists of `relative/path identity`; version 2 has other folder names and the same lists.

    The lists number people from 0. Records number them from 1, since 0 stands for distractors.
    """
    home = _find_home(name, root, ("MSMT17_V1", "MSMT17_V2", "MSMT17"), marker="list_train.txt")
    folders = {split: _one_of(name, home, (split, f"mask_{split}_v2")) for split in ("train", "test")}

    def read(split: str, *lists: str) -> list[Row]:
        """Read the crops of one split from its lists."""
        rows = []
        for list_name in lists:
            if not (home / list_name).is_file():
                raise UserError(f"{name}: no {list_name} under {home}; expected {LAYOUTS[name]}")
            for line in (home / list_name).read_text().split("\n"):
                if line.strip():
                    relative, identity = line.rsplit(maxsplit=1)
                    fields = Path(relative).stem.split("_")  # identity, number, camera, recording, frame, box
                    recording, frame = _recording(fields[3]), int(fields[4])
                    rows.append((folders[split] / relative, int(identity) + 1, int(fields[2]), recording, frame))
        return rows

    rows = [read("train", "list_train.txt", "list_val.txt")]
    rows += [read("test", "list_query.txt"), read("test", "list_gallery.txt")]
    train, query, gallery = _records(name, [folders["train"], folders["test"], folders["test"]], rows)
    return ReIDDataset(name, home, train, query, gallery)


def _recording(text: str) -> tuple[str, int, str]:
    """Split a recording such as 0303noon into date, rank of the time of day (unknown ones last) and time of day."""
    daytime = text.lstrip("0123456789")
    rank = DAYTIMES.index(daytime) if daytime in DAYTIMES else len(DAYTIMES)
    return text.removesuffix(daytime), rank, daytime


def _read_cuhk03(name: str, root: Path) -> ReIDDataset:
    """Read the classic crops by the first of 20 random splits in their split file, or the new protocol's folders."""
    if (root / "bounding_box_train").is_dir():
        return _read_market_like(name, root)
    for kind in ("labeled", "detected"):
        folder, splits = root / f"images_{kind}", root / f"splits_classic_{kind}.json"
        if folder.is_dir() and splits.is_file():
            split = json.loads(splits.read_text())[0]
            rows = [_cuhk_crops(name, folder, split[s]) for s in ("train", "query", "gallery")]
            train, query, gallery = _records(name, [folder] * 3, rows)
            return ReIDDataset(name, root, train, query, gallery)
    raise UserError(f"{name}: {root} holds neither layout; expected {LAYOUTS[name]}")


def _cuhk_crops(name: str, folder: Path, entries: list[list]) -> list[Row]:
    """Read identity and camera from the file names in a split's entries."""
    rows = []
    for file, *_ in entries:  # [file, identity, camera]; the file's folder is that of the list's author
        path = folder / re.split(r"[/\\]", file)[-1]
        match = CUHK_CLASSIC_NAME.match(path.name)
        if match is None:
            raise UserError(f"{name}: {path.name} in the split file is not named PAIR_PERSON_VIEW_NUMBER.png")
        pair, person, view = int(match["pair"]), int(match["person"]), int(match["view"])
        rows.append((path, 1000 * pair + person, 2 * (pair - 1) + view, 0, 0))
    return rows


def _read_folder(name: str, root: Path) -> ReIDDataset:
    """Read any folder of crops, at any depth; they have no labels, and nothing can be evaluated."""
    rows: list[Row] = [(path, -1, 0, 0, 0) for path in _image_files(_files_below(root))]
    (train,) = _records(name, [root], [rows])
    return ReIDDataset(name, root, train, Records.empty(root), Records.empty(root))


def _files_below(root: Path) -> Iterator[Path]:
    """Yield the files at any depth, also in folders behind links; each folder is visited once."""
    seen: set[Path] = set()
    for name, folders, files in os.walk(root, followlinks=True):
        folder, real = Path(name), Path(name).resolve()
        if real in seen or (real != folder and real.is_relative_to(root)):  # visited, or visited later without a link
            folders.clear()
            continue
        seen.add(real)
        folders.sort()  # in place, since os.walk follows this list
        yield from (folder / file for file in files)


def _find_home(name: str, root: Path, homes: tuple[str, ...], marker: str) -> Path:
    """Return `root` or the folder of a usual name in it, whichever holds `marker`."""
    for home in (root, *(root / h for h in homes)):
        if (home / marker).exists():
            return home
    raise UserError(f"{name}: no {marker} under {root}; expected {LAYOUTS[name]}")


def _one_of(name: str, home: Path, folders: tuple[str, ...]) -> Path:
    """Return the first of `folders` that exists in `home`."""
    for folder in folders:
        if (home / folder).is_dir():
            return home / folder
    raise UserError(f"{name}: no {' or '.join(folders)} under {home}; expected {LAYOUTS[name]}")


def _image_files(paths: Iterable[Path]) -> list[Path]:
    """Return the image files in a fixed order, without hidden ones."""
    return sorted(p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and not p.name.startswith("."))


def _records(name: str, folders: Sequence[Path], splits: Sequence[list[Row]]) -> list[Records]:
    """Make the records of the splits in `folders`, with the frames of all sequences on one clock."""
    # Each sequence counts its frames from the start. Here a sequence begins after the largest frame of the one before
    # it, over all cameras, so that its frames stay comparable between cameras. JVTC's code adds up the frames of each
    # camera instead, which shifts cameras against each other.
    last: dict[Any, int] = {}
    for *_, sequence, frame in (row for rows in splits for row in rows):
        last[sequence] = max(frame, last.get(sequence, 0))
    order = sorted(last)
    begins = dict(zip(order, accumulate((last[sequence] for sequence in order), initial=0)))
    records = []
    for folder, rows in zip(folders, splits):
        if not rows:
            raise UserError(f"{name}: no crops in {folder}; expected {LAYOUTS[name]}")
        paths, identity, camera, *_ = zip(*rows)
        clock = [begins[sequence] + frame for *_, sequence, frame in rows]
        records.append(Records(folder, list(paths), np.array(identity), np.array(camera), np.array(clock)))
    return records


def _with_commas(counts: tuple[int, ...]) -> str:
    """Format numbers of crops for a message."""
    return " / ".join(f"{n:,}" for n in counts)


MARKET_LIKE = {  # name: (pattern of file names, usual names of the folder, form of the file names for messages)
    "market1501": (MARKET_NAME, ("Market-1501-v15.09.15", "Market-1501", "market1501"), "PPPP_cCsS_FFFFFF_NN.jpg"),
    "synthetic": (MARKET_NAME, (), "PPPP_cCsS_FFFFFF_NN.jpg"),
    "dukemtmc": (DUKE_NAME, ("DukeMTMC-reID", "dukemtmc-reid"), "PPPP_cC_fFFFFFFF.jpg"),
    "cuhk03": (CUHK_NEW_NAME, (), "PPPP_cC_N.png"),
}

READERS: dict[str, Callable[[str, Path], ReIDDataset]] = {
    **dict.fromkeys(MARKET_LIKE, _read_market_like),
    "msmt17": _read_msmt17,
    "cuhk03": _read_cuhk03,
    "folder": _read_folder,
}

LAYOUTS = {
    "market1501": "DIR/Market-1501-v15.09.15/{bounding_box_train,query,bounding_box_test}/PPPP_cCsS_FFFFFF_NN.jpg",
    "synthetic": "DIR/{bounding_box_train,query,bounding_box_test}/PPPP_cCsS_FFFFFF_NN.jpg"
    " (gcl-fast synthetic --out DIR makes it)",
    "dukemtmc": "DIR/DukeMTMC-reID/{bounding_box_train,query,bounding_box_test}/PPPP_cC_fFFFFFFF.jpg",
    "msmt17": "DIR/MSMT17_V1/{train,test}/ or DIR/MSMT17_V2/{mask_train_v2,mask_test_v2}/ and"
    " list_{train,val,query,gallery}.txt",
    "cuhk03": "DIR/images_{labeled,detected}/PAIR_PERSON_VIEW_NUMBER.png and splits_classic_{labeled,detected}.json,"
    " or DIR/{bounding_box_train,query,bounding_box_test}/PPPP_cC_N.png; without a split use the dataset 'folder'",
    "folder": f"DIR/**/* ending in {', '.join(IMAGE_SUFFIXES)}",
}
