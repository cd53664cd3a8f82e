"""Expand queries by what they find (Chum et al. 2007, "Total Recall")."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize


def average_with_nearest(query: Tensor, gallery: Tensor, k: int, rows: int = 1024) -> Tensor:
    """Replace each query by the direction of its mean with its nearest entries of the gallery.

    Args:
        query: (Q, D) unit rows.
        gallery: (G, D) unit rows on the same device.
        k: entries that each query is averaged with, from 0; a smaller gallery gives all of its entries.
        rows: queries that are compared with the gallery at a time.

    Returns:
        (Q, D) unit rows.

    Example:
        >>> import torch
        >>> query, gallery = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [0.6, 0.8], [-1.0, 0.0]])
        >>> average_with_nearest(query, gallery, k=1)
        tensor([[0.8944, 0.4472]])
    """
    if k == 0 or not len(gallery):
        return query
    expanded = query.clone()
    for tile in expanded.split(rows):  # views of the result
        nearest = (tile @ gallery.T).topk(min(k, len(gallery))).indices  # (rows, k)
        tile.copy_(normalize(tile + gallery[nearest].sum(1), dim=1))
    return expanded
