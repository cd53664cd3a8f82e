"""k-reciprocal re-ranking of query against gallery (Zhong et al. 2017, eq. 12), by the ops of the pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.jaccard import neighbourhoods


@dataclass(frozen=True)
class Reranking:
    """Holds the settings of re-ranking; the defaults are those of Zhong et al. 2017."""

    k1: int = 20  # neighbours that make a neighbourhood, the row itself included
    k2: int = 6  # nearest neighbours whose neighbourhoods are averaged, the row itself included
    weight: float = 0.3  # of the plain distance, 0..1; the Jaccard distance has the rest


def reranked_distances(query: Tensor, gallery: Tensor, tiles: Sequence[slice], settings: Reranking) -> Iterator[Tensor]:
    """Yield weight * d + (1 - weight) * Jaccard distance for tiles of queries (Zhong et al. 2017, eq. 12).

    Neighbourhoods are taken in query and gallery together. d is the squared Euclidean distance over the largest one of
    the row to query and gallery.

    Args:
        query: (Q, D) L2-normalized rows.
        gallery: (G, D) L2-normalized rows.
        tiles: consecutive ranges of queries.
        settings: sizes of the neighbourhoods, and the weight.

    Yields:
        (rows, G) float32 on the CPU, for each tile.
    """
    rows = torch.cat((query, gallery))
    sets = neighbourhoods(rows, settings.k1, settings.k2)
    for tile in tiles:
        start, column, value = torch.ops.gcl_fast.jaccard_rows(*sets, 0.0, tile.start, tile.stop)
        similarity = value.new_zeros(tile.stop - tile.start, len(rows))
        similarity[torch.repeat_interleave(start.diff()), column.long()] = value
        plain = (2 - 2 * query[tile] @ rows.T).clamp_min(0)
        plain = plain[:, len(query) :] / plain.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        yield (settings.weight * plain + (1 - settings.weight) * (1 - similarity[:, len(query) :])).cpu()
