"""Read any folder of crops, without labels of people."""

from __future__ import annotations

from pathlib import Path

from gcl_fast.data.layouts.image_names import files_below, image_files
from gcl_fast.data.layouts.labels import camera_in, number_labels
from gcl_fast.data.layouts.reading import Reading, Row, first_of, records_of
from gcl_fast.data.records import Records, ReIDDataset


def read_folder(root: Path, reading: Reading) -> ReIDDataset:
    """Read any folder of crops, at any depth; they have no labels of people, and nothing can be evaluated.

    A camera is read from the image's name or from a folder, such as c1, cam1 or cam_a, where every crop has one.
    """
    paths = image_files(files_below(root, reading), reading)
    labels = [camera_in(*reversed(path.relative_to(root).parts)) for path in paths]
    if without := [path.name for path, label in zip(paths, labels) if not label]:
        if len(without) < len(paths):
            reading.notes.append(
                f"{reading.name}: no camera is used, since {len(without):,} of {len(paths):,} names give none"
                f" ({first_of(without)})"
            )
        labels = [""] * len(paths)
    elif 2 * len(set(labels)) > len(labels):  # such as c0001.jpg, c0002.jpg, which count crops
        reading.notes.append(f"{reading.name}: no camera is used, since names give {len(set(labels)):,} of them")
        labels = [""] * len(paths)
    cameras, note = number_labels(labels, unknown=0)
    reading.notes += [f"{reading.name}: cameras are {note}"] * bool(note)
    (train,) = records_of(reading, [root], [[Row(path, camera=camera) for path, camera in zip(paths, cameras)]])
    return reading.dataset(root, train, Records.empty(root), Records.empty(root))
