"""Read MSMT17: lists of crops, whose names give camera, recording and frame."""

from __future__ import annotations

from pathlib import Path

from gcl_fast.data.layouts.reading import Reading, Row, locate, records_of, text_of
from gcl_fast.data.records import ReIDDataset

DAYTIMES = ("morning", "noon", "afternoon")
FORM = "PERSON/PERSON_NUMBER_CAMERA_RECORDING_FRAME_BOX.jpg PERSON"
HOMES = ("MSMT17_V1", "MSMT17_V2", "MSMT17")


def read_msmt17(root: Path, reading: Reading) -> ReIDDataset:
    """Read four lists of `relative/path identity`; version 2 has other folder names and the same lists.

    The lists number people from 0. Records number them from 1, since 0 stands for distractors.
    """
    marker = "list_train.txt"
    home = locate(reading, root, lambda folder: (folder / marker).is_file(), marker, HOMES)
    train = _one_of(reading, home, ("train", "mask_train_v2"))
    test = next((home / name for name in ("test", "mask_test_v2") if (home / name).is_dir()), home / "test")

    def read(folder: Path, *lists: str) -> list[Row]:
        """Read the crops in a folder from its lists; those of the test crops may be missing."""
        rows: list[Row] = []
        for list_name in lists:
            if folder == test and (reading.lacks(test) or reading.lacks(home / list_name)):
                continue
            if not (home / list_name).is_file():
                raise reading.error(f"no {list_name} under {home}")
            file = home / list_name
            for number, line in enumerate(text_of(file, reading).splitlines(), 1):
                if line.strip():
                    rows.append(_row(folder, line, f"{file}, line {number}", reading))
        return rows

    rows = [read(train, "list_train.txt", "list_val.txt")]
    rows += [read(test, "list_query.txt"), read(test, "list_gallery.txt")]
    return reading.dataset(home, *records_of(reading, [train, test, test], rows))


def _row(folder: Path, line: str, place: str, reading: Reading) -> Row:
    """Read a crop of `folder` from a line of a list; `place` is for messages."""
    relative, _, identity = line.strip().rpartition(" ")
    fields = Path(relative).stem.split("_")  # identity, number, camera, recording, frame, box
    try:
        camera, frame, person = int(fields[2]), int(fields[4]), int(identity) + 1
    except (IndexError, ValueError):
        raise reading.refusal(
            f"{place} is {line.strip()[:80]!r}; expected {FORM}, as in 0000/0000_000_01_0303morning_0015_0.jpg 0"
        ) from None
    return Row(folder / relative.strip(), person, camera, recording(fields[3]), frame)


def recording(text: str) -> tuple[str, int, str]:
    """Split a recording such as 0303noon into date, rank of the time of day (unknown ones last) and time of day."""
    daytime = text.lstrip("0123456789")
    rank = DAYTIMES.index(daytime) if daytime in DAYTIMES else len(DAYTIMES)
    return text.removesuffix(daytime), rank, daytime


def _one_of(reading: Reading, home: Path, folders: tuple[str, ...]) -> Path:
    """Return the first of `folders` that exists in `home`."""
    for folder in folders:
        if (home / folder).is_dir():
            return home / folder
    raise reading.error(f"no {' or '.join(folders)} under {home}")
