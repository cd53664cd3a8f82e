"""Read MSMT17: lists of crops, whose names give camera, recording and frame."""

from __future__ import annotations

from pathlib import Path

from gcl_fast.data.layouts.reading import Reading, Row, locate, records_of
from gcl_fast.data.records import ReIDDataset

DAYTIMES = ("morning", "noon", "afternoon")
HOMES = ("MSMT17_V1", "MSMT17_V2", "MSMT17")


def read_msmt17(root: Path, reading: Reading) -> ReIDDataset:
    """Read four lists of `relative/path identity`; version 2 has other folder names and the same lists.

    The lists number people from 0. Records number them from 1, since 0 stands for distractors.
    """
    marker = "list_train.txt"
    home = locate(reading, root, lambda folder: (folder / marker).is_file(), marker, HOMES)
    folders = {split: _one_of(reading, home, (split, f"mask_{split}_v2")) for split in ("train", "test")}

    def read(split: str, *lists: str) -> list[Row]:
        """Read the crops of one split from its lists."""
        rows = []
        for list_name in lists:
            if not (home / list_name).is_file():
                raise reading.error(f"no {list_name} under {home}")
            for line in (home / list_name).read_text().split("\n"):
                if line.strip():
                    relative, identity = line.rsplit(maxsplit=1)
                    fields = Path(relative).stem.split("_")  # identity, number, camera, recording, frame, box
                    path, sequence = folders[split] / relative, recording(fields[3])
                    rows.append(Row(path, int(identity) + 1, int(fields[2]), sequence, int(fields[4])))
        return rows

    rows = [read("train", "list_train.txt", "list_val.txt")]
    rows += [read("test", "list_query.txt"), read("test", "list_gallery.txt")]
    return reading.dataset(home, *records_of(reading, [folders["train"], folders["test"], folders["test"]], rows))


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
