"""The radius of DBSCAN, read off the sparse Jaccard graph."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.dbscan import dbscan

# Pairs below this similarity are most of the graph (2,850 of 2,947 entries a row at 12,936 rows of 760 identities), and
# no radius reaches them unless rho asks for more pairs than are left: they are counted in bins then, and not stored.
FAINT = 0.01
FAINT_BINS = 2**16  # 1.5e-7 wide
RADII = [step / 25 for step in range(1, 25)]  # 0.04 .. 0.96


def is_eps(eps: float | str | None) -> bool:
    """Whether it is a radius below 1 (which would join every pair), None or "auto"."""
    return eps is None or eps == "auto" or (not isinstance(eps, str) and 0 <= eps < 1)


def eps_by_rho(similarity: Tensor, rho: float, complete: bool = True, faint: Tensor | None = None) -> float | None:
    """Mean of the smallest round(rho * M) of the M non-zero distances above the diagonal (the official rule).

    Pairs that are not stored have distance 1. Where rho asks for less than one pair, one is taken.

    Args:
        similarity: (N, N) symmetric sparse CSR.
        rho: share of all pairs, 0..1.
        complete: no pair with similarity above 0 is left out of `similarity` and `faint`.
        faint: (FAINT_BINS,) int64, how many pairs were left out of `similarity` at each similarity of 0..FAINT.

    Returns:
        The radius; None where the graph is not complete and rho asks for more pairs than it holds.
    """
    N, column = similarity.shape[0], similarity.col_indices()
    point = torch.arange(N, dtype=column.dtype, device=column.device)
    row = torch.repeat_interleave(point, similarity.crow_indices().diff())
    stored = 1 - similarity.values()[column > row]
    distance = stored[stored > 0]
    pairs = N * (N - 1) // 2 - (len(stored) - len(distance))
    if pairs == 0:
        return 0.0  # all points are equal, or there is one point
    wanted = max(1, round(rho * pairs))
    if wanted > len(distance) and not complete:
        return None
    if wanted > len(distance):
        return (float(distance.sum(dtype=torch.float64)) + _faint_sum(faint, wanted - len(distance))) / wanted
    if distance.is_cuda:
        return float(distance.sort().values[:wanted].mean(dtype=torch.float64))
    return float(np.partition(distance.numpy(), wanted - 1)[:wanted].mean(dtype=np.float64))


def _faint_sum(faint: Tensor | None, wanted: int) -> float:
    """Sum of the `wanted` smallest distances among the pairs of `faint`, and of 1 for each that there is not."""
    if faint is None:
        return float(wanted)
    counts = faint.flip(0)  # most similar first
    taken = (wanted - (counts.cumsum(0) - counts)).clamp_min(0).minimum(counts)
    similarity = (FAINT_BINS - 0.5 - torch.arange(FAINT_BINS, device=faint.device)).double() * (FAINT / FAINT_BINS)
    return wanted - float((taken * similarity).sum())


def eps_auto(similarity: Tensor, min_samples: int) -> float:
    """The radius whose clusters are many, even, stable and leave few outliers; no number to choose.

    A radius too small leaves outliers or splits, one too large merges. Of 24 radii this takes the one that maximizes

        (share of points in clusters)^2 / sum_c p_c^2 * stability,      p_c = share of cluster c among the clustered.

    The first two factors are the chance that two random points are both clustered, over the chance that two clustered
    points fall together: 1 / sum_c p_c^2 counts clusters, and one giant cluster as one. Stability is the adjusted Rand
    index with the labels of the next smaller or larger radius, whichever is better: without it, clusters that are clear
    at most radii are cut up at the smallest.

    Planted clusters (1,800 points of 100 identities, 6 cameras, noise partly of rank R, k1 = 20, mean of 3 seeds):
    adjusted Rand index, outliers alone, at the best of the radii, here, and at three fixed ones.

        R   signal  best (radius)  auto | 0.4   0.48  0.6  |  R   signal  best (radius)  auto | 0.4   0.48  0.6
        4    0.7    0.09  (0.55)   0.09 | 0.04  0.08  0.04 | 12    0.7    0.21  (0.67)   0.21 | 0.02  0.04  0.13
        4    1.0    0.38  (0.56)   0.38 | 0.24  0.33  0.32 | 12    1.0    0.81  (0.60)   0.81 | 0.62  0.73  0.81
        4    1.5    0.72  (0.49)   0.72 | 0.68  0.72  0.55 | 12    1.5    1.00  (0.49)   1.00 | 1.00  1.00  1.00

    Over 104 such worlds, isotropic noise and look-alikes among them, it loses 0.004 against the best radius on average
    and 0.05 at most; 0.4, 0.48 and 0.6 lose 0.114, 0.093 and 0.074, and 0.42, 0.35 and 0.38 at most.

    Args:
        similarity: (N, N) symmetric sparse CSR; pairs farther than the last of `RADII` may be left out.
        min_samples: as for DBSCAN.

    Returns:
        One of `RADII`, the smallest of equally good ones; the largest of all where no radius makes a cluster.
    """
    labels = [dbscan(similarity, radius, min_samples, "own") for radius in RADII]
    kept = [adjusted_rand_index(a, b) for a, b in pairwise(labels)]  # from one radius to the next
    stability = [max(below, above) for below, above in pairwise([kept[0], *kept, kept[-1]])]
    scores = [_evenness(found) * stable for found, stable in zip(labels, stability)]
    return RADII[int(np.argmax(scores))] if max(scores) > 0 else RADII[-1]


def _evenness(labels: Tensor) -> float:
    sizes = torch.bincount(labels[labels >= 0]).double()
    clustered = float(sizes.sum())
    return clustered**4 / float(sizes.square().sum()) / len(labels) ** 2 if clustered else 0.0
