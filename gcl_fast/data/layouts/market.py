"""Read layouts like Market-1501's: three folders, where the file names give identity, camera and frame."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gcl_fast.data.layouts.image_names import files_below, files_in, image_files
from gcl_fast.data.layouts.reading import JUNK, UNNAMED, Reading, Row, locate, records_of, visible_folders
from gcl_fast.data.records import ReIDDataset

# These match the beginning of a name, since some mirrors hold files ending in .jpg.jpg
MARKET_NAME = re.compile(r"(?P<identity>-1|\d+)_c(?P<camera>\d+)s(?P<sequence>\d+)_(?P<frame>\d+)")
DUKE_NAME = re.compile(r"(?P<identity>\d+)_c(?P<camera>\d+)_f(?P<frame>\d+)")
VERI_NAME = re.compile(r"(?P<identity>\d+)_c(?P<camera>\d+)_(?P<frame>\d+)_\d+")
COUNTED_NAME = re.compile(r"(?P<identity>-1|\d+)_c(?P<camera>\d+)")  # what follows counts images, not frames

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
DISTRACTORS = "images"  # where the archive of Market-1501's 500k distractors puts its files


@dataclass(frozen=True)
class Family:
    """Describes a dataset of three folders.

    Attributes:
        pattern: of a file name.
        form: the file name for messages.
        homes: usual names of the dataset's folder.
        folders: of training crops, queries and gallery.
    """

    pattern: re.Pattern[str]
    form: str
    homes: tuple[str, ...] = ()
    folders: tuple[str, str, str] = FOLDERS


MARKET = Family(MARKET_NAME, "PPPP_cCsS_FFFFFF_NN.jpg", ("Market-1501-v15.09.15", "Market-1501", "market1501"))
SYNTHETIC = Family(MARKET_NAME, "PPPP_cCsS_FFFFFF_NN.jpg")
DUKE = Family(DUKE_NAME, "PPPP_cC_fFFFFFFF.jpg", ("DukeMTMC-reID", "dukemtmc-reid"))
OCCLUDED_DUKE = Family(DUKE_NAME, "PPPP_cC_fFFFFFFF.jpg", ("Occluded_Duke", "Occluded-DukeMTMC-reID", "occluded_duke"))
CUHK03_NP = Family(COUNTED_NAME, "PPPP_cC_N.png")
PERSONX = Family(COUNTED_NAME, "PPPP_cC....jpg", ("PersonX", "PersonX_v1", "personx"))
VERI = Family(VERI_NAME, "VVVV_cCCC_TTTTTTTT_N.jpg", ("VeRi", "veri"), ("image_train", "image_query", "image_test"))


def read_market_like(family: Family, root: Path, reading: Reading) -> ReIDDataset:
    """Read the three folders of a dataset.

    VeRi-776 is assumed to hold image_train, image_query and image_test, with the time as the third part of a name.
    Occluded-Duke is assumed to have DukeMTMC-reID's folders and names, as its conversion script leaves them.
    """
    train = family.folders[0]
    home = locate(reading, root, lambda folder: (folder / train).is_dir(), train, family.homes)
    folders = [home / name for name in family.folders]
    return reading.dataset(home, *records_of(reading, folders, _rows_of(folders, family, reading)))


def _rows_of(folders: Sequence[Path], family: Family, reading: Reading) -> list[list[Row]]:
    """Return the rows of the folders of training crops, queries and gallery; the latter two may be missing."""
    train, *others = folders
    rows = [named_crops(train, family, reading)]
    return rows + [[] if reading.lacks(folder) else named_crops(folder, family, reading) for folder in others]


def read_market_500k(root: Path, reading: Reading) -> ReIDDataset:
    """Read Market-1501 with the 500k distractors in its gallery.

    The distractors are assumed in the folder `images` beside bounding_box_train, as their archive unpacks. All of them
    are distractors (identity 0); a camera is read where the name gives one.
    """
    home = locate(reading, root, lambda folder: (folder / FOLDERS[0]).is_dir(), FOLDERS[0], MARKET.homes)
    train, query, gallery = _rows_of([home / name for name in FOLDERS], MARKET, reading)
    if not (home / DISTRACTORS).is_dir():
        raise reading.error(f"no {DISTRACTORS} under {home}")
    distractors = []
    for path in image_files(files_below(home / DISTRACTORS, reading), reading):
        match = MARKET_NAME.match(path.name)
        if match is not None and match["identity"] == "-1":
            reading.pass_over(JUNK)
        elif match is not None:
            camera, sequence, frame = (int(match[key]) for key in ("camera", "sequence", "frame"))
            distractors.append(Row(path, 0, camera, sequence, frame))
        else:
            distractors.append(Row(path, 0))
    if not distractors:
        raise reading.error(f"no crops in {home / DISTRACTORS}")
    reading.notes.append(f"{reading.name}: {len(distractors):,} distractors of {DISTRACTORS} are in the gallery")
    folders = [home / FOLDERS[0], home / FOLDERS[1], home]
    return reading.dataset(home, *records_of(reading, folders, [train, query, gallery + distractors]))


def read_cuhk03_np(root: Path, reading: Reading) -> ReIDDataset:
    """Read CUHK03 in its new protocol: the folders of Market-1501 in `detected` and in `labeled`.

    Of both, `detected` is read unless `root` is the other one, since most papers report it.
    """
    kinds = ("detected", "labeled")

    def holds(folder: Path) -> bool:
        """Return whether the folder is one of the two kinds, or holds one."""
        return any((folder / kind / FOLDERS[0]).is_dir() for kind in (".", *kinds))

    home = locate(reading, root, holds, FOLDERS[0], ("cuhk03-np", "CUHK03-NP"))
    if not (home / FOLDERS[0]).is_dir():
        there = [kind for kind in kinds if (home / kind / FOLDERS[0]).is_dir()]
        reading.notes += [f"{reading.name}: {there[0]} crops are read; {there[1]} ones are beside"] * (len(there) > 1)
        home = home / there[0]
    return read_market_like(CUHK03_NP, home, reading)


def read_personx(root: Path, reading: Reading) -> ReIDDataset:
    """Read PersonX: the folders of Market-1501, or these in a folder for each subset (1, 2, ...).

    All subsets below `root` are joined; to read one of them, name it as the root. Names are assumed to begin with
    identity and camera, and cameras to have the same numbers in all subsets.
    """

    def subsets(folder: Path) -> list[Path]:
        """Return the subsets in a folder."""
        if not folder.is_dir():
            return []
        return [child for child in visible_folders(folder) if child.name.isdigit() and (child / FOLDERS[0]).is_dir()]

    def holds(folder: Path) -> bool:
        """Return whether the folder holds the three folders, or subsets of them."""
        return (folder / FOLDERS[0]).is_dir() or bool(subsets(folder))

    home = locate(reading, root, holds, FOLDERS[0], PERSONX.homes)
    if (home / FOLDERS[0]).is_dir():
        return read_market_like(PERSONX, home, reading)
    joined = subsets(home)
    reading.notes.append(f"{reading.name}: subsets {', '.join(folder.name for folder in joined)} are joined")
    subset_rows = [_rows_of([folder / name for name in FOLDERS], PERSONX, reading) for folder in joined]
    rows = [[row for rows in split for row in rows] for split in zip(*subset_rows)]
    return reading.dataset(home, *records_of(reading, [home] * 3, rows))


def named_crops(folder: Path, family: Family, reading: Reading) -> list[Row]:
    """Read identity, camera, sequence and frame from the file names in a folder."""
    if not folder.is_dir():
        raise reading.error(f"no {folder.name} under {folder.parent}")
    rows = []
    for path in image_files(files_in(folder), reading):
        match = family.pattern.match(path.name)
        if match is None:
            reading.pass_over(f"{UNNAMED}, unlike {family.form}", path.name)
        elif match["identity"] == "-1":  # shows no whole person
            reading.pass_over(JUNK)
        else:
            parts = {key: int(value) for key, value in match.groupdict().items()}
            rows.append(Row(path, parts["identity"], parts["camera"], parts.get("sequence", 0), parts.get("frame", 0)))
    return rows
