"""Read any folder of crops, without labels."""

from __future__ import annotations

from pathlib import Path

from gcl_fast.data.layouts.image_names import files_below, image_files
from gcl_fast.data.layouts.reading import Reading, Row, records_of
from gcl_fast.data.records import Records, ReIDDataset


def read_folder(root: Path, reading: Reading) -> ReIDDataset:
    """Read any folder of crops, at any depth; they have no labels, and nothing can be evaluated."""
    rows = [Row(path) for path in image_files(files_below(root), reading)]
    (train,) = records_of(reading, [root], [rows])
    return reading.dataset(root, train, Records.empty(root), Records.empty(root))
