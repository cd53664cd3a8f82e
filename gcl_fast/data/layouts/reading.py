"""Collect what a reader sees: rows of crops, what it passes over and why, notes, and errors that name the layout."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from gcl_fast.data.records import Records, ReIDDataset
from gcl_fast.errors import UserError

SHOWN = 3  # names that a note or an error shows
READABLE = os.R_OK | os.X_OK  # a folder whose names can be listed and opened

JUNK = "junk"
HIDDEN = "hidden"
NO_IMAGE = "of another type"
NO_CROPS = "folders of a program or a run"
PROGRAM_FOLDERS = ("@eaDir", "#recycle", "$RECYCLE.BIN", "__MACOSX", "lost+found")  # of file servers and archives
RUN_FILES = ("environment.json", "run.log", "checkpoints")  # beside config.yaml in the folder of a run
UNNAMED = "with a name without identity and camera"


class Row(NamedTuple):
    """Holds what a reader knows of a crop; the defaults mean unknown."""

    path: Path
    identity: int = -1
    camera: int = 0
    sequence: Any = 0  # sequences sort by time, and each counts its frames from the start
    frame: int = 0
    tracklet: int = -1


class LayoutError(UserError):
    """The folder does not hold the layout that was asked for."""


class Reading:
    """Collects the notes of one reader, and what it passes over.

    Args:
        name: the dataset's name, for messages.
        expected: the layout, for errors.
    """

    def __init__(self, name: str, expected: str) -> None:
        self.name, self.expected = name, expected
        self.notes: list[str] = []
        self._passed: Counter[str] = Counter()
        self._examples: dict[str, set[str]] = {}

    def pass_over(self, reason: str, example: str = "", count: int = 1) -> None:
        """Count `count` files that are passed over, and keep an example for the note."""
        self._passed[reason] += count
        self._examples.setdefault(reason, set()).update([example] if example else [])

    def lacks(self, path: Path) -> bool:
        """Return whether a file or folder that evaluation alone needs is missing, and take a note of it."""
        if not path.exists():
            note = f"{self.name}: there is no {path.name} in {path.parent}"
            self.notes += [note] if note not in self.notes else []
        return not path.exists()

    def error(self, problem: str) -> LayoutError:
        """Return the error for a folder that does not hold the layout."""
        return LayoutError(f"{self.name}: {problem}; expected {self.expected}")

    def refusal(self, problem: str) -> UserError:
        """Return the error for a dataset of this layout that cannot be read as it is."""
        return UserError(f"{self.name}: {problem}")

    def dataset(self, home: Path, train: Records, query: Records, gallery: Records) -> ReIDDataset:
        """Return the dataset with the notes and with the counts of what was passed over."""
        passed = dict(self._passed)
        notes = [*self.notes, *([self._passed_note()] if passed else [])]
        return ReIDDataset(self.name, home, train, query, gallery, tuple(notes), passed)

    def _passed_note(self) -> str:
        """Return the sentence that counts by reason what was passed over."""
        parts = []
        for reason, count in sorted(self._passed.items()):
            examples = first_of(sorted(self._examples[reason]))
            parts.append(f"{count:,} {reason}" + (f" ({examples})" if examples else ""))
        return f"{self.name}: passed over: {', '.join(parts)}"


def locate(
    reading: Reading,
    root: Path,
    holds: Callable[[Path], bool],
    marker: str,
    homes: Sequence[str] = (),
    above: Callable[[Path], bool] | None = None,
) -> Path:
    """Return the folder that holds a dataset: `root`, a folder in it, or the one above.

    Args:
        reading: takes a note where the folder is neither `root` nor one of `homes`.
        root: the folder that was given.
        holds: whether a folder holds the dataset.
        marker: what such a folder contains, for the error.
        homes: usual names of the folder below `root`.
        above: whether the folder above `root` holds the dataset; None for `holds`.

    Raises:
        LayoutError: no folder holds the dataset, or several below `root` do.
    """
    for home in (root, *(root / name for name in homes)):
        if holds(home):
            return home
    below = [folder for folder in visible_folders(root) if holds(folder)]
    if len(below) > 1:
        names = first_of([folder.name for folder in below])
        raise reading.error(f"{len(below)} folders in {root} hold {marker} ({names}): name one of them as the root")
    if below or (os.access(root.parent, READABLE) and (above or holds)(root.parent)):
        home = below[0] if below else root.parent
        reading.notes.append(f"{reading.name}: read from {home}, one level {'below' if below else 'above'} {root}")
        return home
    raise reading.error(f"no {marker} under {root}{_nearest(root, marker)}")


def text_of(file: Path, reading: Reading) -> str:
    """Return the text of a list in UTF-8.

    Raises:
        UserError: the file cannot be read, or holds other bytes than text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise reading.refusal(f"{file} cannot be read ({error}); expected a list in UTF-8") from error


def holds_no_crops(folder: Path) -> bool:
    """Return whether a folder holds images of a program: it is hidden, one of a file server, or of a run."""
    if folder.name.startswith(".") or folder.name in PROGRAM_FOLDERS:
        return True
    return (folder / "config.yaml").is_file() and any((folder / name).exists() for name in RUN_FILES)


def visible_folders(root: Path) -> list[Path]:
    """Return the folders in `root` that can be read, sorted, without those that hold no crops."""
    folders = (path for path in root.iterdir() if path.is_dir() and not holds_no_crops(path))
    return sorted(path for path in folders if os.access(path, READABLE))


def _nearest(root: Path, marker: str) -> str:
    """Return what is in `root` instead of `marker`, for an error."""
    names = sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
    if near := get_close_matches(marker, names, 1):
        return f", the nearest is {near[0]}"
    return f", which holds {first_of(names)}" if names else ", which is empty"


def first_of(names: Sequence[str]) -> str:
    """Return the first names for a message, and "..." where there are more."""
    return ", ".join([*names[:SHOWN], *["..."] * (len(names) > SHOWN)])


def records_of(reading: Reading, folders: Sequence[Path], splits: Sequence[Sequence[Row]]) -> list[Records]:
    """Make the records of splits, with the frames of all sequences on one clock.

    Training needs neither query nor gallery, so these may be empty.

    Args:
        reading: of the dataset, for errors.
        folders: the root of each split, that of the training crops first.
        splits: the rows of each split.

    Raises:
        LayoutError: there are no training crops.
    """
    if not splits[0]:
        raise reading.error(f"no crops in {folders[0]}")
    return make_records(folders, splits)


def make_records(folders: Sequence[Path], splits: Sequence[Sequence[Row]]) -> list[Records]:
    """Make records as `records_of` does, where every split may be empty.

    Raises:
        UserError: a crop lies outside the folder of its split, by its name.
    """
    # Each sequence counts its frames from the start. Here a sequence begins after the largest frame of the one before
    # it, over all cameras, so that its frames stay comparable between cameras. JVTC's code adds up the frames of each
    # camera instead, which shifts cameras against each other.
    _refuse_outside(folders, splits)
    last: dict[Any, int] = {}
    for row in (row for rows in splits for row in rows):
        last[row.sequence] = max(row.frame, last.get(row.sequence, 0))
    order = sorted(last)
    begins = dict(zip(order, accumulate((last[sequence] for sequence in order), initial=0)))
    records = []
    for folder, rows in zip(folders, splits):
        if not rows:
            records.append(Records.empty(folder))
            continue
        paths, identity, camera, *_, tracklet = zip(*rows)
        clock = [begins[row.sequence] + row.frame for row in rows]
        numbers = (np.array(values, np.int64) for values in (identity, camera, clock, tracklet))
        records.append(Records(folder, list(paths), *numbers))
    return records


def _refuse_outside(folders: Sequence[Path], splits: Sequence[Sequence[Row]]) -> None:
    """Raise a UserError where the name of a crop leads out of the folder of its split.

    Names of crops become names of files, such as those of novel views, which would leave their folder as well. A link
    in a dataset may lead anywhere: its name stays inside.
    """
    for folder, rows in zip(folders, splits):
        inside = os.path.join(folder, "")  # noqa: PTH118  # a pathlib.Path drops the separator at the end
        parent = f"{os.sep}..{os.sep}"
        for row in rows:
            path = os.fspath(row.path)
            if not path.startswith(inside) or parent in path[len(inside) - 1 :]:
                raise UserError(f"{path} is named as a crop of {folder} and lies outside; remove it from its list")
