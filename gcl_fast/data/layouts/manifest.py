"""Read a manifest: a table in CSV or Parquet with a row for each crop."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from gcl_fast.data.layouts.labels import NUMBER, number_labels
from gcl_fast.data.layouts.query_gallery import build_query_gallery
from gcl_fast.data.layouts.reading import Reading, Row, first_of, locate, make_records
from gcl_fast.data.records import ReIDDataset
from gcl_fast.errors import UserError

COLUMNS = ("path", "split", "identity", "camera", "frame", "tracklet")
SPLITS = ("train", "query", "gallery", "test")
SUFFIXES = (".csv", ".tsv", ".parquet")
PYARROW = 15  # the first major version of which every release refuses pickled extension types
REPEATED = "repeated in the manifest"

Table = dict[str, list[str]]  # column -> cells as text, "" where empty


def read_manifest(root: Path, reading: Reading) -> ReIDDataset:
    """Read a table with the columns path, split, identity, camera, frame and tracklet, of which path alone is needed.

    Paths are relative to the manifest's folder, or absolute. The splits are train, query, gallery and test; query and
    gallery are chosen from crops of `test`. Without splits all crops are for training, and query and gallery are
    chosen among them. Identity, camera and tracklet are integers or text; 0 is a distractor, and empty is unknown.
    A tracklet's name counts within its camera.

    Args:
        root: the manifest, or the folder that holds it.
        reading: takes the notes.
    """
    file = manifest_in(root, reading)
    table, lines = _read_table(file, reading)
    paths = _paths(file, table["path"], lines, reading)
    table, paths, lines = _without_repeats(file, table, paths, lines, reading)
    _refuse_missing(file, paths, reading)
    rows = _rows(file, table, paths, lines, reading)
    return _divide(file, table.get("split", []), lines, rows, reading)


def manifest_in(root: Path, reading: Reading) -> Path:
    """Return the manifest that `root` is or holds: manifest.csv, .tsv or .parquet, or the only file of these types."""
    if root.is_file():
        return root
    named = lambda folder: any(path.stem.lower() == "manifest" for path in manifests(folder))
    home = locate(reading, root, lambda folder: bool(manifests(folder)), "manifest.csv", above=named)
    files = manifests(home)
    if len(files) > 1:
        names = first_of([file.name for file in files])
        raise reading.error(f"{home} holds {len(files)} tables ({names}): name one of them as the root")
    return files[0]


def manifests(folder: Path) -> list[Path]:
    """Return the files in a folder that may be its manifest; one that is named so is the only one."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and path.name[0] != ".")
    files = [path for path in files if path.is_file()]
    return [path for path in files if path.stem.lower() == "manifest"][:1] or files


def _read_table(file: Path, reading: Reading) -> tuple[Table, list[int]]:
    """Read the known columns as text, and the number of each row for messages; other columns are noted."""
    read = _read_parquet if file.suffix.lower() == ".parquet" else _read_csv
    table, lines = read(file, reading)
    columns = {name.strip().lower(): cells for name, cells in table.items()}
    if "path" not in columns:
        near = get_close_matches("path", columns, 1, cutoff=0.5)
        nearest = f", of which {near[0]} is the nearest" if near else ""
        raise reading.error(f"{file} has no column path, but {', '.join(columns) or 'none at all'}{nearest}")
    if not columns["path"]:
        raise reading.error(f"{file} has no rows")
    if others := sorted(columns.keys() - {*COLUMNS, ""}):
        reading.notes.append(f"{reading.name}: columns that are not read: {', '.join(others)}")
    return {name: columns[name] for name in COLUMNS if name in columns}, lines


def _read_csv(file: Path, reading: Reading) -> tuple[Table, list[int]]:
    """Read a table whose cells are separated by commas, semicolons or tabs, whichever its first line has most of."""
    try:
        with file.open(newline="", encoding="utf-8-sig") as text:
            header = text.readline()
            delimiter = max(",;\t", key=header.count)
            names = next(csv.reader([header], delimiter=delimiter), [])
            rows = csv.reader(text, delimiter=delimiter)
            numbered = [(rows.line_num + 1, row) for row in rows if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise reading.refusal(f"{file} is no table in UTF-8 ({error}): save it as CSV in UTF-8") from error
    if repeated := [
        name for name, count in Counter(map(str.lower, map(str.strip, names))).items() if name and count > 1
    ]:
        raise reading.refusal(f"{file} has more than one column {repeated[0]}: keep one of them")
    for line, row in numbered:
        if len(row) != len(names):
            raise reading.refusal(f"row {line} of {file} has {len(row)} cells, but the header has {len(names)}")
    table = {name: [row[column].strip() for _, row in numbered] for column, name in enumerate(names)}
    return table, [line for line, _ in numbered]


def _read_parquet(file: Path, reading: Reading) -> tuple[Table, list[int]]:
    """Read a Parquet table by pyarrow, or by pandas with another engine; rows count from 1."""
    columns: dict[str, Any]
    try:
        try:
            import pyarrow
            from pyarrow import parquet
        except ImportError:
            from pandas import read_parquet

            columns = read_parquet(file).astype(object).to_dict("list")
        else:
            if int(pyarrow.__version__.partition(".")[0]) < PYARROW:
                raise reading.refusal(
                    f"{file} needs pyarrow {PYARROW} or later, and {pyarrow.__version__} is installed, which can run"
                    " code that a file holds: pip install -U pyarrow"
                )
            columns = parquet.read_table(file).to_pydict()
    except ImportError as error:
        raise reading.refusal(f"{file} needs pyarrow: pip install pyarrow, or save the manifest as CSV") from error
    except UserError:
        raise
    except Exception as error:  # each engine has errors of its own for a damaged file
        reason = str(error).partition("\n")[0]
        raise reading.refusal(f"{file} cannot be read as Parquet ({reason})") from error
    # None and NaN, which differs from itself, stand for an empty cell
    text = lambda cell: "" if cell is None or cell != cell else str(cell).strip()
    table = {str(name): [text(cell) for cell in cells] for name, cells in columns.items()}
    return table, [*range(1, 1 + max(map(len, table.values()), default=0))]


def _paths(file: Path, cells: Sequence[str], lines: Sequence[int], reading: Reading) -> list[Path]:
    """Return the absolute paths of the images."""
    if "" in cells:
        raise reading.refusal(f"row {lines[cells.index('')]} of {file} names no image: each row needs a path")
    windows = any("\\" in cell for cell in cells) and not any("/" in cell for cell in cells) and os.sep == "/"
    separated = [cell.replace("\\", "/") for cell in cells] if windows else cells
    return [Path(os.path.normpath(file.parent / cell)) for cell in separated]


def _without_repeats(
    file: Path, table: Table, paths: Sequence[Path], lines: Sequence[int], reading: Reading
) -> tuple[Table, list[Path], list[int]]:
    """Return the table and the paths with one row for each file, and the number of each row.

    Raises:
        UserError: two rows of one file say different things.
    """
    first: dict[Path, int] = {}
    records = list(zip(*(table[name] for name in table if name != "path")))
    for place, path in enumerate(paths):
        if (former := first.setdefault(path, place)) != place:
            if records and records[former] != records[place]:
                raise reading.refusal(
                    f"rows {lines[former]} and {lines[place]} of {file} name one file, {path.name}, with different"
                    " values: keep one of them"
                )
            reading.pass_over(REPEATED, path.name)
    places = list(first.values())
    return (
        {name: [cells[place] for place in places] for name, cells in table.items()},
        list(first),
        [lines[place] for place in places],
    )


def _refuse_missing(file: Path, paths: Sequence[Path], reading: Reading) -> None:
    """Raise a UserError where images are missing."""
    if missing := [str(path) for path in paths if not path.is_file()]:
        raise reading.refusal(
            f"{len(missing):,} of {len(paths):,} images that {file} names are missing ({first_of(missing)}); paths are"
            f" absolute, or relative to {file.parent}"
        )


def _rows(file: Path, table: Table, paths: list[Path], lines: list[int], reading: Reading) -> list[Row]:
    """Return the rows of the manifest with numbers for its labels."""
    empty = [""] * len(paths)
    cells = {name: table.get(name, empty) for name in COLUMNS}
    identity, note = number_labels(cells["identity"], unknown=-1)
    reading.notes += [f"{reading.name}: people are {note}"] * bool(note)
    camera, note = number_labels(cells["camera"], unknown=0)
    reading.notes += [f"{reading.name}: cameras are {note}"] * bool(note)
    for name, numbers, least in (("identity", identity, -1), ("camera", camera, 0)):
        if min(numbers) < least:
            row = lines[numbers.index(min(numbers))]
            raise reading.refusal(f"row {row} of {file} has {name} {min(numbers)}: expected {least} or more, or text")
    frames = []
    for line, cell in zip(lines, cells["frame"]):
        match = NUMBER.fullmatch(cell or "0")
        if match is None or int(match[1]) < 0:
            raise reading.refusal(f"row {line} of {file} has frame {cell!r}: expected an integer, 0 or more")
        frames.append(int(match[1]))
    tracklets = _tracklets(cells["tracklet"], camera, identity, reading)
    return [
        Row(path, person, number, frame=frame, tracklet=tracklet)
        for path, person, number, frame, tracklet in zip(paths, identity, camera, frames, tracklets)
    ]


def _tracklets(cells: list[str], camera: list[int], identity: list[int], reading: Reading) -> list[int]:
    """Return a number for each tracklet, which is a name within a camera; note those that show several people."""
    keys = sorted({key for key in zip(camera, cells) if key[1]})
    numbers = {key: number for number, key in enumerate(keys)}
    tracklets = [numbers.get(key, -1) for key in zip(camera, cells)]
    pairs = {(tracklet, person) for tracklet, person in zip(tracklets, identity) if tracklet >= 0 and person >= 0}
    people = Counter(tracklet for tracklet, _ in pairs)
    if several := sum(count > 1 for count in people.values()):
        reading.notes.append(f"{reading.name}: tracklets that show more than one person: {several:,}")
    return tracklets


def _divide(file: Path, splits: list[str], lines: list[int], rows: list[Row], reading: Reading) -> ReIDDataset:
    """Return the dataset of the rows, with query and gallery as the splits say or as the rule chooses them."""
    words = [word.lower() for word in splits]
    if not any(words):
        words = ["train"] * len(rows)
    for line, word in zip(lines, words):
        if word not in SPLITS:
            given = f"split {word!r}" if word else "no split"
            raise reading.refusal(f"row {line} of {file} has {given}: expected one of {', '.join(SPLITS)}")
    of: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row, word in sorted(zip(rows, words)):  # by path
        of[word].append(row)
    if of["test"] and (of["query"] or of["gallery"]):
        raise reading.refusal(f"{file} has crops of test, and of query or gallery as well: write test for all of them")
    if bool(of["query"]) != bool(of["gallery"]):
        there, absent = ("query", "gallery") if of["query"] else ("gallery", "query")
        reading.notes.append(
            f"{reading.name}: {file} has crops of {there} and none of {absent}; write test for both to choose them"
        )
    if of["test"]:
        of["query"], of["gallery"] = build_query_gallery(of["test"], reading, "the crops of test")
    elif not any(splits):
        of["query"], of["gallery"] = build_query_gallery(of["train"], reading, "the training crops")
    elif of["query"] and not any(row.camera for row in of["query"]):
        reading.notes.append(f"{reading.name}: no camera of a query is known; evaluation needs the column camera")
    outside = any(not row.path.is_relative_to(file.parent) for row in rows)
    root = Path(os.path.commonpath([file.parent, *(row.path.parent for row in rows)])) if outside else file.parent
    return reading.dataset(file.parent, *make_records([root] * 3, [of[s] for s in ("train", "query", "gallery")]))
