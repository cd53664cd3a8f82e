"""What every floor above knows of a dataset: crops on disk with identity, camera and frame."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Records:
    """The crops of one split, in a fixed order.

    root: the split's folder. paths: absolute picture files below it. identity: (N,) int64, -1 = unknown,
    0 = distractor where the dataset has them. camera, frame: (N,) int64, as numbered by the dataset, 0 = unknown; the
    frames of all sequences are on one clock.
    """

    root: Path
    paths: list[Path]
    identity: np.ndarray
    camera: np.ndarray
    frame: np.ndarray

    def __post_init__(self) -> None:
        for field in ("identity", "camera", "frame"):
            values = np.asarray(getattr(self, field), dtype=np.int64)
            if values.shape != (len(self.paths),):
                raise ValueError(f"Records: {field} has shape {values.shape}, expected ({len(self.paths)},)")
            object.__setattr__(self, field, values)

    @classmethod
    def empty(cls, root: Path) -> Records:
        nothing = np.empty(0, dtype=np.int64)
        return cls(root, [], nothing, nothing, nothing)

    @property
    def names(self) -> list[str]:
        """Each crop's path relative to `root`, with forward slashes: the key of body-parameter files."""
        return [path.relative_to(self.root).as_posix() for path in self.paths]

    def subset(self, index: np.ndarray) -> Records:
        """The crops at `index` (positions or a boolean mask), in that order."""
        index = np.arange(len(self))[np.asarray(index)]
        paths = [self.paths[i] for i in index]
        return Records(self.root, paths, self.identity[index], self.camera[index], self.frame[index])

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ReIDDataset:
    """A dataset on disk. root: the folder that holds the splits (and body_parameters/). notes: what a reader should
    know about this copy, for the run header, such as counts that differ from the published ones."""

    name: str
    root: Path
    train: Records
    query: Records
    gallery: Records
    notes: tuple[str, ...] = ()
