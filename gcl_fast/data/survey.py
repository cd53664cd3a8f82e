"""Survey the images of a dataset before they are used: people, cameras, sizes, and equal files."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from PIL import Image

from gcl_fast.data.broken_images import FORMATS, UNREADABLE, refuse_special
from gcl_fast.data.records import Records, ReIDDataset, judged_queries

SPLITS = ("train", "query", "gallery")
Size = tuple[int, int]  # (width, height)


@dataclass(frozen=True)
class SplitSurvey:
    """Holds what the labels of a split say.

    Attributes:
        crops: number of crops.
        people: number of people, without distractors.
        distractors: crops of identity 0.
        unlabelled: crops of unknown identity.
        cameras: crops of each camera; 0 is unknown.
        crops_per_person: the least, the median and the largest number; None without people.
        tracklets: number of tracklets.
    """

    crops: int
    people: int
    distractors: int
    unlabelled: int
    cameras: dict[int, int]
    crops_per_person: tuple[int, float, int] | None
    tracklets: int


@dataclass(frozen=True)
class EqualFiles:
    """Counts files whose bytes are equal.

    Attributes:
        within: by split, the files whose bytes an earlier file of the split has.
        across: by pair of splits such as "train, query", the files of the second whose bytes are in the first.
        examples: two paths of equal bytes for each split and pair that has any.
    """

    within: dict[str, int]
    across: dict[str, int]
    examples: dict[str, tuple[Path, Path]]


def survey_split(records: Records) -> SplitSurvey:
    """Count people, cameras and tracklets of a split."""
    people, crops = np.unique(records.identity[records.identity > 0], return_counts=True)
    cameras = Counter(records.camera.tolist())
    return SplitSurvey(
        crops=len(records),
        people=len(people),
        distractors=int((records.identity == 0).sum()),
        unlabelled=int((records.identity < 0).sum()),
        cameras=dict(sorted(cameras.items())),
        crops_per_person=(int(crops.min()), float(np.median(crops)), int(crops.max())) if len(people) else None,
        tracklets=len(np.unique(records.tracklet[records.tracklet >= 0])),
    )


def unmatched_queries(query: Records, gallery: Records) -> int:
    """Return the number of queries whose person no other camera of the gallery has seen; they do not count."""
    return int((~judged_queries(query, gallery)).sum())


def image_sizes(paths: Sequence[Path], threads: int = 2) -> list[Size]:
    """Read the sizes of images from their headers; files without a header that is understood are left out."""

    def size(path: Path) -> Size | None:
        """Return the size of an image, or None."""
        try:
            refuse_special(path)
            with Image.open(path, formats=FORMATS) as image:
                return image.size
        except UNREADABLE:
            return None

    with ThreadPoolExecutor(threads) as pool:
        return [size for size in pool.map(size, paths) if size is not None]


def equal_files(dataset: ReIDDataset, threads: int = 2) -> EqualFiles:
    """Find files whose bytes are equal, within a split and between splits.

    A file that two splits share, as where queries are chosen from the training crops, is not equal to itself. Files
    of a size that no other file has are not read.
    """
    splits: Mapping[str, list[Path]] = {split: getattr(dataset, split).paths for split in SPLITS}
    digests = _digests([*dict.fromkeys(path for paths in splits.values() for path in paths)], threads)
    first = {split: _first_of_bytes(paths, digests) for split, paths in splits.items()}
    within, across, examples = {}, {}, {}
    for split, paths in splits.items():
        copies = [path for path in paths if path in digests and first[split][digests[path]] != path]
        within[split] = len(copies)
        if copies:
            examples[split] = (first[split][digests[copies[0]]], copies[0])
    for earlier, later in combinations(SPLITS, 2):
        shared = set(splits[earlier])
        copies = [path for path in splits[later] if path not in shared and digests.get(path) in first[earlier]]
        across[pair := f"{earlier}, {later}"] = len(copies)
        if copies:
            examples[pair] = (first[earlier][digests[copies[0]]], copies[0])
    return EqualFiles(within, across, examples)


def _first_of_bytes(paths: Sequence[Path], digests: Mapping[Path, bytes]) -> dict[bytes, Path]:
    """Return the first file of each digest."""
    first: dict[bytes, Path] = {}
    for path in paths:
        if path in digests:
            first.setdefault(digests[path], path)
    return first


def _digests(paths: Sequence[Path], threads: int) -> dict[Path, bytes]:
    """Return a digest of the bytes of each file that shares its size with another; files that are gone have none."""

    def size(path: Path) -> int:
        """Return the bytes of a file, -1 where it is gone."""
        try:
            return path.stat().st_size
        except OSError:
            return -1

    def digest(path: Path) -> bytes:
        """Return the digest of a file."""
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()

    with ThreadPoolExecutor(threads) as pool:
        sizes = list(pool.map(size, paths))
        count = Counter(sizes)
        alike = [path for path, size in zip(paths, sizes) if size > 0 and count[size] > 1]
        return dict(zip(alike, pool.map(digest, alike)))
