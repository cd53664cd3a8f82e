"""k-reciprocal re-ranking of query against gallery (Zhong et al. 2017, eq. 12) on the engine of the pseudo-labels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.jaccard import neighbourhoods


@dataclass(frozen=True)
class Reranking:
    """Defaults of the paper."""

    k1: int = 20
    k2: int = 6
    weight: float = 0.3  # of the plain distance; the Jaccard distance has the rest


def reranked_distances(query: Tensor, gallery: Tensor, tiles: Sequence[slice], settings: Reranking) -> Iterator[Tensor]:
    """weight * d + (1 - weight) * Jaccard distance, tile by tile of query rows.

    Neighbourhoods are those in query and gallery together; d is the squared Euclidean distance over its largest value
    in the row, query and gallery together.

    Args:
        query: (Q, D), gallery: (G, D) L2-normalized rows.
        tiles: consecutive ranges of queries.

    Returns:
        for each tile (rows, G) float32 on the CPU.
    """
    everyone = torch.cat((query, gallery))
    sets = neighbourhoods(everyone, settings.k1, settings.k2)
    for tile in tiles:
        start, column, value = torch.ops.gcl_fast.jaccard_rows(*sets, 0.0, tile.start, tile.stop)
        similarity = value.new_zeros(tile.stop - tile.start, len(everyone))
        similarity[torch.repeat_interleave(start.diff()), column.long()] = value
        plain = (2 - 2 * query[tile] @ everyone.T).clamp_min(0)
        plain = plain[:, len(query) :] / plain.amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
        yield (settings.weight * plain + (1 - settings.weight) * (1 - similarity[:, len(query) :])).cpu()
