"""Describe a dataset for the rest of the package: crops on disk with identity, camera and frame."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class Records:
    """Holds the crops of one split, in a fixed order.

    Attributes:
        root: the split's folder.
        paths: N absolute image files below it.
        identity: (N,) int64; -1 is unknown, 0 is a distractor in datasets that have them.
        camera: (N,) int64, the dataset's number; 0 is unknown.
        frame: (N,) int64, the dataset's number on one clock for all sequences; 0 is unknown.
        tracklet: (N,) int64, a number for each tracklet of the dataset; -1, the default, is unknown.

    Raises:
        ValueError: an array's length differs from the number of paths.
    """

    root: Path
    paths: list[Path]
    identity: np.ndarray
    camera: np.ndarray
    frame: np.ndarray
    tracklet: np.ndarray = field(default_factory=lambda: np.array(-1))  # a scalar stands for all crops

    def __post_init__(self) -> None:
        if np.ndim(self.tracklet) == 0:
            object.__setattr__(self, "tracklet", np.full(len(self.paths), self.tracklet))
        for name in ("identity", "camera", "frame", "tracklet"):
            values = np.asarray(getattr(self, name), dtype=np.int64)
            if values.shape != (len(self.paths),):
                raise ValueError(f"Records: {name} has shape {values.shape}, expected ({len(self.paths)},)")
            object.__setattr__(self, name, values)

    @classmethod
    def empty(cls, root: Path) -> Records:
        """Return the records of a split without crops."""
        empty = np.empty(0, dtype=np.int64)
        return cls(root, [], empty, empty, empty)

    @property
    def names(self) -> list[str]:
        """Return each crop's path relative to `root`, with forward slashes; body-parameter files use it as key."""
        return [path.relative_to(self.root).as_posix() for path in self.paths]

    @property
    def tracklet_counts(self) -> tuple[int, int]:
        """Return the number of known tracklets, and of crops without one."""
        known = self.tracklet >= 0
        return len(np.unique(self.tracklet[known])), int((~known).sum())

    def subset(self, index: np.ndarray) -> Records:
        """Return the crops at `index` (positions, or a boolean mask (N,)), in that order."""
        index = np.arange(len(self))[np.asarray(index)]
        paths = [self.paths[i] for i in index]
        columns = (self.identity, self.camera, self.frame, self.tracklet)
        return Records(self.root, paths, *(column[index] for column in columns))

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class ReIDDataset:
    """Holds the three splits of a dataset on disk.

    Attributes:
        name: the dataset's name, see `open_dataset`.
        root: the folder that holds the splits and body_parameters/.
        train: the crops to learn from.
        query: the crops to search for.
        gallery: the crops to search in.
        notes: remarks on this copy for the run's header, such as counts that differ from the published ones.
        passed_over: number of files that the reader passed over, by reason.
    """

    name: str
    root: Path
    train: Records
    query: Records
    gallery: Records
    notes: tuple[str, ...] = ()
    passed_over: Mapping[str, int] = field(default_factory=dict)

    @property
    def why_unranked(self) -> str:
        """Return why nothing can be evaluated, as the rest of a sentence on the dataset; "" where something can."""
        missing = [name for name in ("query", "gallery") if not len(getattr(self, name))]
        if missing:
            return f"has no {' and '.join(missing)}"
        if not judged_queries(self.query, self.gallery).any():
            return "has no query whose person another camera of the gallery has seen"
        return ""

    @property
    def can_be_ranked(self) -> bool:
        """Return whether a query has its person in another camera of the gallery."""
        return not self.why_unranked


def judged_queries(query: Records, gallery: Records) -> np.ndarray:
    """Return which queries (Q,) count in retrieval: their person is in another camera of the gallery.

    Example:
        >>> def records(*people):  # (identity, camera) each
        ...     identity, camera = np.array(people).T
        ...     return Records(Path("."), [Path(f"{i}.jpg") for i in range(len(people))], identity, camera, 0 * camera)
        >>> judged_queries(records((1, 1), (2, 1), (3, 1)), records((1, 2), (2, 1))).tolist()
        [True, False, False]
    """
    Q = len(query)
    _, person = np.unique(np.concatenate([query.identity, gallery.identity]), return_inverse=True)
    cameras, camera = np.unique(np.concatenate([query.camera, gallery.camera]), return_inverse=True)
    pair = person.astype(np.int64) * len(cameras) + camera  # one number for a person before a camera
    seen = np.unique(pair[Q:])
    views = np.bincount(seen // max(len(cameras), 1), minlength=int(person.max(initial=-1)) + 1)
    return views[person[:Q]] - np.isin(pair[:Q], seen) > 0
