"""Rank a gallery by sorting each row of distances in NumPy: the peer of the ranking op."""

from __future__ import annotations

import numpy as np


def by_sorting(distance: np.ndarray, ids: list[np.ndarray], chunk: int = 256) -> tuple[float, np.ndarray]:
    """Return mAP and CMC by sorting every row, which is the fastest formulation without an op of its own."""
    query_ids, gallery_ids, query_cameras, gallery_cameras = ids
    average, cmc = [], np.zeros(50)
    for start in range(0, len(distance), chunk):
        part = slice(start, start + chunk)
        order = np.argsort(distance[part], axis=1, kind="stable")
        same = gallery_ids[order] == query_ids[part, None]
        keep = ~(same & (gallery_cameras[order] == query_cameras[part, None]))
        place, hits = keep.cumsum(1), (same & keep).cumsum(1)
        match = same & keep
        total = hits[:, -1]
        average.append(((hits / np.maximum(place, 1)) * match).sum(1)[total > 0] / total[total > 0])
        first = np.take_along_axis(place, match.argmax(1)[:, None], 1)[total > 0, 0] - 1
        cmc += (first[:, None] <= np.arange(50)).sum(0)
    precision = np.concatenate(average)
    return float(precision.mean()), cmc / len(precision)
