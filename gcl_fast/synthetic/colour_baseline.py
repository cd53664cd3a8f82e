"""Measure retrieval by colour histograms, the baseline that shows whether a world is too easy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from gcl_fast.data.broken_images import FORMATS

STRIPES, BINS = 6, 8


def colour_histogram(path: Path) -> np.ndarray:
    """Return the square roots of HSV histograms, one for each horizontal stripe of a crop's middle columns."""
    image = np.asarray(Image.open(path, formats=FORMATS).convert("HSV"))
    width = image.shape[1]
    middle = image[:, width // 5 : width - width // 5]
    parts = []
    for stripe in np.array_split(middle, STRIPES):
        index = stripe.reshape(-1, 3).astype(int) * BINS // 256
        hue_saturation = np.bincount(index[:, 0] * BINS + index[:, 1], minlength=BINS * BINS)
        value = np.bincount(index[:, 2], minlength=BINS)
        parts += [hue_saturation / len(index), value / len(index)]
    return np.sqrt(np.concatenate(parts))


def colour_retrieval(root: str | Path) -> float:
    """Compute the mAP of retrieval by colour histograms from query to gallery.

    Gallery crops of the query's person by the query's camera are left out, and so is junk.

    Args:
        root: a folder in Market-1501's layout.

    Returns:
        The mean average precision in 0..1.

    Example:
        >>> for folder, name, colour in (
        ...     ("query", "0001_c1s1_000001_01.jpg", "red"),
        ...     ("bounding_box_test", "0001_c2s1_000002_01.jpg", "red"),
        ...     ("bounding_box_test", "0002_c2s1_000003_01.jpg", "blue"),
        ... ):
        ...     Path(folder).mkdir(exist_ok=True)
        ...     Image.new("RGB", (32, 64), colour).save(Path(folder, name))
        >>> colour_retrieval(".")
        1.0
    """
    root = Path(root)
    query = sorted((root / "query").glob("*.jpg"))
    gallery = [path for path in sorted((root / "bounding_box_test").glob("*.jpg")) if not path.name.startswith("-1")]
    query_features, gallery_features = (
        np.stack([colour_histogram(path) for path in paths]) for paths in (query, gallery)
    )
    label = lambda paths: np.array([[int(path.name[:4]), int(path.name.split("_c")[1][0])] for path in paths]).T
    (query_ids, query_cameras), (gallery_ids, gallery_cameras) = label(query), label(gallery)
    similarity = query_features @ gallery_features.T  # Bhattacharyya coefficient
    precisions = []
    for row, person, camera in zip(similarity, query_ids, query_cameras):
        candidate = (gallery_ids != person) | (gallery_cameras != camera)
        hit = (gallery_ids == person)[candidate][np.argsort(-row[candidate], kind="stable")]
        precisions.append((np.cumsum(hit) / np.arange(1, len(hit) + 1))[hit].mean())
    return float(np.mean(precisions))
