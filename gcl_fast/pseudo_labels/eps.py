"""The radius of DBSCAN, computed from the sparse Jaccard graph."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.dbscan import dbscan

# Pairs below this similarity are most of the graph. No radius reaches them, unless rho asks for more pairs than the
# graph stores without them; such pairs are then counted in bins and not stored.
FAINT = 0.01
FAINT_BINS = 2**16  # 1.5e-7 wide
RADII = [step / 25 for step in range(1, 25)]  # 0.04 .. 0.96


def eps_by_rho(similarity: Tensor, rho: float, complete: bool = True, faint: Tensor | None = None) -> float | None:
    """Compute the mean of the smallest round(rho * M) of the M non-zero distances above the diagonal.

    This is the rule of the official implementation (docs/algorithm.md). Pairs that are not stored have distance 1.
    Where rho asks for less than one pair, one is taken.

    Args:
        similarity: (N, N) symmetric sparse CSR.
        rho: share of all pairs, 0..1.
        complete: whether `similarity` and `faint` together have every pair with a similarity above 0.
        faint: (FAINT_BINS,) int64 number of pairs that `similarity` lacks, by their similarity in 0..FAINT.

    Returns:
        The radius; None where the graph is not complete and rho asks for more pairs than it stores.
    """
    N, column = similarity.shape[0], similarity.col_indices()
    point = torch.arange(N, dtype=column.dtype, device=column.device)
    row = torch.repeat_interleave(point, similarity.crow_indices().diff())
    values = 1 - similarity.values()[column > row]
    distance = values[values > 0]
    pairs = N * (N - 1) // 2 - (len(values) - len(distance))
    if pairs == 0:
        return 0.0  # all points are equal, or there is one point
    count = max(1, round(rho * pairs))
    if count > len(distance) and not complete:
        return None
    if count > len(distance):
        return (float(distance.sum(dtype=torch.float64)) + _faint_sum(faint, count - len(distance))) / count
    if distance.is_cuda:
        return float(distance.sort().values[:count].mean(dtype=torch.float64))
    return float(np.partition(distance.numpy(), count - 1)[:count].mean(dtype=np.float64))


def _faint_sum(faint: Tensor | None, count: int) -> float:
    """Sum the `count` smallest distances of the pairs in `faint`; each pair that it lacks has distance 1."""
    if faint is None:
        return float(count)
    sizes = faint.flip(0)  # most similar first
    share = (count - (sizes.cumsum(0) - sizes)).clamp_min(0).minimum(sizes)  # pairs of each bin among the smallest
    similarity = (FAINT_BINS - 0.5 - torch.arange(FAINT_BINS, device=faint.device)).double() * (FAINT / FAINT_BINS)
    return count - float((share * similarity).sum())


def eps_auto(similarity: Tensor, min_samples: int) -> float:
    """Choose the radius whose clusters are many, even and stable, with few outliers.

    A radius that is too small leaves outliers or splits clusters; one that is too large merges them. Of 24 radii this
    takes the one that maximizes

        (share of points in clusters)^2 / sum_c p_c^2 * stability,      p_c = share of cluster c among those points.

    The first factor is the chance that two random points are both in clusters. The factor 1 / sum_c p_c^2 counts
    clusters, weighted by size, so that one giant cluster counts as one. Stability is the larger adjusted Rand index of
    the labels with those at the next smaller and the next larger radius. Without it, the smallest radii would win: they
    split clusters that are stable at most other radii.

    On planted clusters this loses at most 0.05 of the best radius' adjusted Rand index, and each fixed radius loses
    more (tests/pseudo_labels/test_eps.py).

    Args:
        similarity: (N, N) symmetric sparse CSR; pairs farther than the last of `RADII` may be absent.
        min_samples: number of points within the radius that make a core point, the point itself included.

    Returns:
        One of `RADII`, the smallest of equally good ones; the largest of all where no radius gives a cluster.
    """
    labels = [dbscan(similarity, radius, min_samples, "own") for radius in RADII]
    agreement = [adjusted_rand_index(a, b) for a, b in pairwise(labels)]  # of each radius with the next
    stability = [max(below, above) for below, above in pairwise([agreement[0], *agreement, agreement[-1]])]
    scores = [_evenness(clusters) * factor for clusters, factor in zip(labels, stability)]
    return RADII[int(np.argmax(scores))] if max(scores) > 0 else RADII[-1]


def _evenness(labels: Tensor) -> float:
    """Compute the first two factors of the score that `eps_auto` maximizes."""
    sizes = torch.bincount(labels[labels >= 0]).double()
    count = float(sizes.sum())  # points in clusters
    return count**4 / float(sizes.square().sum()) / len(labels) ** 2 if count else 0.0
