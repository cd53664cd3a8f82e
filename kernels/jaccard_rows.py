"""Jaccard similarity of fuzzy sets (Zhong et al. 2017, sec. 3.3).  s_ik = sum_j min(V_ij, V_kj),  J_ik = s / (2 - s)

On a GPU the lists of row i are the rows j of the inverted index that V_i names, the caps are V_ij, and `merge_rows`
sums them up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import check_number, register_fake
from gcl_fast.kernels._sparse_rows import Rows, check_range, check_rows, fake_rows, to_dense, to_rows
from gcl_fast.kernels._triton import on_its_device
from gcl_fast.kernels.merge_rows import merge_rows

__all__ = ["jaccard_rows"]


def jaccard_rows_reference(
    start: Tensor, column: Tensor, value: Tensor, min_similarity: float, begin: int, end: int
) -> Rows:
    """Define `jaccard_rows` in plain PyTorch, with N^2 memory and a loop over the rows."""
    V = to_dense(start, column, value)
    shared = V.new_zeros(end - begin, len(V))
    for place, row in enumerate(V[begin:end]):
        shared[place] = torch.minimum(row, V).sum(1)
    similarity = (shared / (2 - shared)).clamp_max(1)
    return to_rows(similarity, (shared > 0) & (similarity >= min_similarity))


def jaccard_rows(start: Tensor, column: Tensor, value: Tensor, min_similarity: float, begin: int, end: int) -> Rows:
    """Compute the Jaccard similarity of some sparse rows with all rows, where they share anything.

    Args:
        start, column, value: V as N sparse rows, (N + 1,) int64, (entries,) int32 and (entries,) float32. Each row is a
            fuzzy set: its values are not negative and add up to 1. Columns ascend in each row.
        min_similarity: the least similarity that is returned, 0..1.
        begin, end: range of the rows to compare, so that ranks can share the work.

    Returns:
        The rows begin..end-1 of J, as start (end - begin + 1,), column and value within 0..1.

    Raises:
        RuntimeError: arguments that do not fit (on a GPU a ValueError).

    Example:
        >>> start, column = torch.tensor([0, 1, 3]), torch.tensor([0, 0, 1]).int()
        >>> value = torch.tensor([1.0, 0.5, 0.5])
        >>> jaccard_rows(start, column, value, 0.0, 0, 1)
        (tensor([0, 2]), tensor([0, 1], dtype=torch.int32), tensor([1.0000, 0.3333]))
    """
    return torch.ops.gcl_fast.jaccard_rows(start, column, value, min_similarity, begin, end)


def _transposed(start: Tensor, column: Tensor, value: Tensor) -> Rows:
    """Return the columns of a square sparse matrix as rows, ascending. The library's stable sort does it."""
    N = len(start) - 1
    row = torch.repeat_interleave(torch.arange(N, dtype=column.dtype, device=column.device), start.diff())
    by_column, order = column.sort(stable=True)
    ends = torch.arange(N + 1, dtype=column.dtype, device=column.device)
    return torch.searchsorted(by_column, ends), row[order], value[order]


@on_its_device
def jaccard_rows_triton(
    start: Tensor, column: Tensor, value: Tensor, min_similarity: float, begin: int, end: int
) -> Rows:
    """Launch the kernel of `merge_rows`. Same arguments as the op; runs on CPU tensors under TRITON_INTERPRET=1."""
    check_rows("jaccard_rows", start, column, value)
    check_range("jaccard_rows", begin, end, len(start) - 1)
    check_number("jaccard_rows", "min_similarity", min_similarity, 0, 1)
    least = 2 * min_similarity / (1 + min_similarity)  # s / (2 - s) >= min_similarity
    inverted = _transposed(start, column, value)
    start, column, shared = merge_rows(start[begin : end + 1], column, value, inverted, least)
    return start, column, (shared / (2 - shared)).clamp_max_(1)


load()
torch.library.register_kernel("gcl_fast::jaccard_rows", "cuda", jaccard_rows_triton)


@register_fake("jaccard_rows")
def _(start: Tensor, column: Tensor, value: Tensor, min_similarity: float, begin: int, end: int) -> Rows:
    return fake_rows(end - begin, value)
