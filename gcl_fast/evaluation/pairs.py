"""Measure verification: the similarity of pairs of crops of one person and of two, and the threshold between them.

The pairs are those of query and gallery with different cameras. Distractors (identity 0) are other people than any
query; crops of unknown identity (-1) are in no pair.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from gcl_fast.data import Records
from gcl_fast.evaluation.retrieval import cosine_tiles, query_tiles

BINS = 20_000  # of the cosine from -1 to 1, so that thresholds are multiples of 0.0001
RULE_OF_30 = 30  # errors from which a rate is known within 30 % at 90 % confidence (Doddington et al. 2000)
CHUNK = 2**22  # cosines that are counted at a time


class OperatingPoint(NamedTuple):
    """Holds the rates at a threshold: pairs at least as similar are accepted as one person."""

    threshold: float  # cosine
    far: float  # share of the pairs of two people that are accepted
    tar: float  # share of the pairs of one person that are accepted


@dataclass(frozen=True)
class PairSimilarities:
    """Holds how many pairs have which cosine."""

    same: Tensor  # (BINS,) int64, pairs of one person
    different: Tensor  # (BINS,) int64, pairs of two people

    def at(self, edge: int) -> OperatingPoint:
        """Return the rates at an edge of the bins, 0..BINS."""
        far, tar = self.rates()
        return OperatingPoint(edge * 2 / BINS - 1, float(far[edge]), float(tar[edge]))

    def rates(self) -> tuple[Tensor, Tensor]:
        """Return the false and the true accept rate (BINS + 1,) float64 at the lower edge of each bin, and at 1."""
        far, tar = (
            torch.cat([counts.flip(0).cumsum(0).flip(0), counts.new_zeros(1)]).double() / counts.sum().clamp_min(1)
            for counts in (self.different, self.same)
        )
        return far, tar

    def at_far(self, far: float) -> OperatingPoint:
        """Return the lowest threshold whose false accept rate is at most `far`."""
        return self.at(int((self.rates()[0] <= far).nonzero()[0]))

    def equal_error(self) -> OperatingPoint:
        """Return the lowest threshold at which no more pairs of two people are accepted than of one are refused."""
        far, tar = self.rates()
        return self.at(int((far <= 1 - tar).nonzero()[0]))

    def supports(self, far: float) -> bool:
        """Return whether `far` stands for at least RULE_OF_30 accepted pairs of two people."""
        return far * int(self.different.sum()) >= RULE_OF_30


def pair_similarities(
    query: Tensor, gallery: Tensor, query_records: Records, gallery_records: Records
) -> PairSimilarities:
    """Count the cosines of all pairs of a query and a gallery crop of another camera.

    Args:
        query: (Q, D) unit rows.
        gallery: (G, D) unit rows.
        query_records: identities and cameras of the Q queries.
        gallery_records: identities and cameras of the G crops of the gallery.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> def records(camera):  # two people
        ...     paths = [Path("0.jpg"), Path("1.jpg")]
        ...     return Records(Path("."), paths, np.array([1, 2]), np.full(2, camera), np.zeros(2, int))
        >>> pairs = pair_similarities(torch.eye(2), torch.eye(2), records(1), records(2))
        >>> int(pairs.same.sum()), int(pairs.different.sum()), pairs.at_far(0.0).tar
        (2, 2, 1.0)
    """
    (ids, cameras), (gallery_ids, gallery_cameras) = (
        (torch.as_tensor(records.identity, device=query.device), torch.as_tensor(records.camera, device=query.device))
        for records in (query_records, gallery_records)
    )
    tiles = query_tiles(len(query), len(gallery), CHUNK)
    counts = torch.zeros(2, BINS, dtype=torch.int64, device=query.device)
    for tile, cosines in zip(tiles, cosine_tiles(query, gallery, tiles)):
        bins = ((cosines.double() + 1) * (BINS / 2)).long().clamp_(0, BINS - 1)
        person, others = ids[tile, None], gallery_ids[None]
        counted = (cameras[tile, None] != gallery_cameras[None]) & (person >= 0) & (others >= 0)
        same = person == others
        counted &= ~(same & (person == 0))  # two distractors may be one person or two
        for row, pairs in zip(counts, (counted & same, counted & ~same)):
            row += torch.bincount(bins[pairs], minlength=BINS)
    same, different = counts.cpu()
    return PairSimilarities(same, different)
