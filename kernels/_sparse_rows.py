"""What the ops on sparse rows share: their type, the checks of the launchers on a GPU, and a fake result."""

from __future__ import annotations

import torch
from torch import Tensor

Rows = tuple[Tensor, Tensor, Tensor]  # start (rows + 1,) int64, column (entries,) int32, value (entries,) float32


def check_rows(op: str, start: Tensor, column: Tensor, value: Tensor) -> None:
    """Refuse what is not the contiguous arrays of a square sparse matrix, as the CPU's ops do.

    The checks read the arrays, so the host waits for the GPU.

    Raises:
        ValueError: the message names the op and what does not fit.
    """
    arrays, dtypes = (start, column, value), (torch.int64, torch.int32, torch.float32)
    fits = all(array.dtype == dtype and array.ndim == 1 for array, dtype in zip(arrays, dtypes))
    fits = fits and all(array.is_contiguous() and array.device == start.device for array in arrays)
    if not fits or len(start) == 0 or len(column) != len(value):
        got = ", ".join(f"{array.dtype} {tuple(array.shape)} on {array.device}" for array in arrays)
        raise ValueError(
            f"{op}: expected contiguous start (rows + 1) int64, column and value (entries) int32 and float32; got {got}"
        )
    if (start[0] != 0) | (start[-1] != len(column)) | (start.diff() < 0).any():
        raise ValueError(f"{op}: start must begin at 0, never fall, and end at the {len(column)} entries")
    if ((column < 0) | (column >= len(start) - 1)).any():
        raise ValueError(f"{op}: a column lies outside 0..{len(start) - 2}")


def check_range(op: str, begin: int, end: int, rows: int) -> None:
    """Refuse what is no range of rows.

    Raises:
        ValueError: the message names the op and the range.
    """
    if not 0 <= begin <= end <= rows:
        raise ValueError(f"{op}: begin and end name rows {begin}..{end} of {rows}")


def check_neighbours(op: str, neighbours: Tensor, rows: int, device: torch.device) -> None:
    """Refuse what is not contiguous int32 (N, k) within 0..rows-1 on this device. The host waits for the GPU.

    Raises:
        ValueError: the message names the op and what does not fit.
    """
    shape = tuple(neighbours.shape)
    if len(shape) != 2 or shape[1] == 0 or neighbours.dtype != torch.int32 or not neighbours.is_contiguous():
        raise ValueError(f"{op}: neighbours must be contiguous int32 (N, k), k > 0, not {neighbours.dtype} {shape}")
    if neighbours.device != device:
        raise ValueError(f"{op}: neighbours on {neighbours.device}, the other tensors on {device}")
    if ((neighbours < 0) | (neighbours >= rows)).any():
        raise ValueError(f"{op}: neighbours: a neighbour lies outside 0..{rows - 1}")


def to_dense(start: Tensor, column: Tensor, value: Tensor) -> Tensor:
    """Return the square matrix (N, N) of sparse rows. For references: it needs N^2 memory."""
    N = len(start) - 1
    row = torch.repeat_interleave(torch.arange(N, device=start.device), start.diff())
    return value.new_zeros(N, N).index_put_((row, column.long()), value)


def to_rows(dense: Tensor, stored: Tensor) -> Rows:
    """Return the entries of a matrix (R, N) that the mask `stored` (R, N) names, as sparse rows."""
    start = torch.cat((stored.new_zeros(1, dtype=torch.int64), stored.sum(1).cumsum(0)))
    return start, stored.nonzero()[:, 1].int(), dense[stored]


def fake_rows(rows: int, like: Tensor) -> Rows:
    """Return `rows` fake sparse rows with a number of entries that is only known once the op has run."""
    entries = torch.library.get_ctx().new_dynamic_size()
    return (
        like.new_empty(rows + 1, dtype=torch.int64),
        like.new_empty(entries, dtype=torch.int32),
        like.new_empty(entries),
    )
