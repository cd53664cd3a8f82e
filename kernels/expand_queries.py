"""Query expansion: the mean of the fuzzy sets of a row's nearest neighbours (Zhong et al. 2017, sec. 3.4).

On a GPU the lists of row i are the sets V_j of its k nearest neighbours, every cap is 1, and `merge_rows` sums them up.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake
from gcl_fast.kernels._sparse_rows import Rows, check_neighbours, check_range, check_rows, fake_rows, to_dense, to_rows
from gcl_fast.kernels._triton import on_its_device
from gcl_fast.kernels.merge_rows import merge_rows

__all__ = ["expand_queries"]


def expand_queries_reference(
    start: Tensor, column: Tensor, value: Tensor, neighbours: Tensor, begin: int, end: int
) -> Rows:
    """Define `expand_queries` in plain PyTorch, with N^2 memory."""
    rows = neighbours[begin:end].long()  # (R, k)
    V = to_dense(start, column, value)
    stored = to_dense(start, column, torch.ones_like(value)) > 0
    return to_rows(V[rows].mean(1), stored[rows].any(1))


def expand_queries(start: Tensor, column: Tensor, value: Tensor, neighbours: Tensor, begin: int, end: int) -> Rows:
    """Average the sparse rows of each row's nearest neighbours: W_i = mean over r of V[neighbours[i, r]].

    Args:
        start, column, value: V as N sparse rows, (N + 1,) int64, (entries,) int32 and (entries,) float32. Values lie
            within 0..1, columns ascend in each row.
        neighbours: (N, k) int32 rows, contiguous.
        begin, end: range of the rows i to compute, so that ranks can share the work.

    Returns:
        The rows begin..end-1 of W, as start (end - begin + 1,), column and value.

    Raises:
        RuntimeError: arguments that do not fit (on a GPU a ValueError).

    Example:
        >>> start, column, value = torch.tensor([0, 1, 2]), torch.tensor([0, 1]).int(), torch.ones(2)
        >>> neighbours = torch.tensor([[0, 1], [1, 0]]).int()
        >>> expand_queries(start, column, value, neighbours, 0, 1)
        (tensor([0, 2]), tensor([0, 1], dtype=torch.int32), tensor([0.5000, 0.5000]))
    """
    return torch.ops.gcl_fast.expand_queries(start, column, value, neighbours, begin, end)


@on_its_device
def expand_queries_triton(
    start: Tensor, column: Tensor, value: Tensor, neighbours: Tensor, begin: int, end: int
) -> Rows:
    """Launch the kernel of `merge_rows`. Same arguments as the op; runs on CPU tensors under TRITON_INTERPRET=1."""
    check_rows("expand_queries", start, column, value)
    check_neighbours("expand_queries", neighbours, len(start) - 1, start.device)
    check_range("expand_queries", begin, end, len(neighbours))
    k = neighbours.shape[1]
    list_start = torch.arange(begin, end + 1, device=start.device) * k
    caps = torch.ones_like(neighbours, dtype=value.dtype)
    start, column, total = merge_rows(list_start, neighbours, caps, (start, column, value), 0.0)
    return start, column, total.div_(k)


load()
torch.library.register_kernel("gcl_fast::expand_queries", "cuda", expand_queries_triton)


@register_fake("expand_queries")
def _(start: Tensor, column: Tensor, value: Tensor, neighbours: Tensor, begin: int, end: int) -> Rows:
    return fake_rows(end - begin, value)
