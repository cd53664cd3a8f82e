"""Running lists of the k largest entries of a matrix's rows, which is made and merged a tile at a time.

It is what a bare matrix product needs for an exact search of nearest neighbours. It serves the CPU; a GPU's search
takes torch.topk of larger tiles.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake

__all__ = ["merge_top_k"]


def merge_top_k_reference(values: Tensor, indices: Tensor, tile: Tensor, first_row: int, first_column: int) -> None:
    """Define `merge_top_k` in plain PyTorch, by a stable sort."""
    rows, k = slice(first_row, first_row + len(tile)), values.shape[1]
    columns = torch.arange(first_column, first_column + tile.shape[1], dtype=torch.int32, device=tile.device)
    offered = torch.cat((values[rows], tile.masked_fill(tile.isnan(), -torch.inf)), 1)
    candidates = torch.cat((indices[rows], columns.expand(len(tile), -1)), 1)
    best, order = offered.sort(dim=1, descending=True, stable=True)
    values[rows], indices[rows] = best[:, :k], candidates.gather(1, order[:, :k])


def merge_top_k(values: Tensor, indices: Tensor, tile: Tensor, first_row: int, first_column: int) -> None:
    """Merge lists of the k largest entries of a matrix's rows with one tile of that matrix, in place.

    Among equal entries the one that was merged first stays in front, so tiles come by ascending column. An entry that
    is NaN or -infinity enters no list.

    Args:
        values: (N, k) float32, the largest entries of each row, best first; -infinity where there is none yet. Written.
        indices: (N, k) int32, the columns of these. Written.
        tile: (R, C) float32 entries; the tile, or its transpose, is contiguous. So one product of two blocks serves the
            lists of both: its transpose is a tile of the other block's rows.
        first_row, first_column: place of the tile in the matrix.

    Raises:
        RuntimeError: tensors of another shape, dtype or order, or rows that the lists do not have.

    Example:
        >>> values, indices = torch.full((1, 2), -torch.inf), torch.zeros(1, 2, dtype=torch.int32)
        >>> merge_top_k(values, indices, torch.tensor([[0.1, 0.7, 0.3]]), first_row=0, first_column=0)
        >>> merge_top_k(values, indices, torch.tensor([[0.5, 0.2]]), first_row=0, first_column=3)
        >>> values, indices
        (tensor([[0.7000, 0.5000]]), tensor([[1, 3]], dtype=torch.int32))
    """
    torch.ops.gcl_fast.merge_top_k(values, indices, tile, first_row, first_column)


load()


@register_fake("merge_top_k")
def _(values: Tensor, indices: Tensor, tile: Tensor, first_row: int, first_column: int) -> None:
    return None
