"""Division of a clustering over ranks: each rank computes a range of the rows, and all ranks get the whole."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class SparseRows(NamedTuple):
    """Holds N sparse rows in the form that the ops take and return."""

    start: Tensor  # (N + 1,) int64
    column: Tensor  # (entries,) int32, ascending within a row
    value: Tensor  # (entries,) float32


class Team:
    """Represents the ranks that share a clustering. All must make the same calls in the same order.

    Args:
        group: the ranks; None: this process alone.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        self.group = group
        self.rank, self.size = (0, 1) if group is None else (dist.get_rank(group), dist.get_world_size(group))

    def rows(self, N: int) -> tuple[int, int]:
        """Return the first and the end of this rank's range of N rows.

        The lengths of the ranges differ by at most one; a range is empty where there are more ranks than rows.
        """
        return N * self.rank // self.size, N * (self.rank + 1) // self.size

    def join(self, part: Tensor) -> Tensor:
        """Concatenate each rank's `part` along the first axis, in the order of ranks, on the device of `part`."""
        if self.size == 1:
            return part
        device = torch.device("cuda") if dist.get_backend(self.group) == "nccl" else torch.device("cpu")
        lengths = [torch.zeros(1, dtype=torch.int64, device=device) for _ in range(self.size)]
        dist.all_gather(lengths, torch.tensor([len(part)], device=device), group=self.group)
        sizes = [int(length) for length in lengths]
        padded = torch.zeros(max(sizes), *part.shape[1:], dtype=part.dtype, device=device)  # one length for all ranks
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([whole[:size] for whole, size in zip(parts, sizes)]).to(part.device)

    def add(self, counts: Tensor) -> Tensor:
        """Sum the `counts` of all ranks, on the device of `counts`."""
        return self.join(counts.unsqueeze(0)).sum(0)

    def join_rows(self, start: Tensor, column: Tensor, value: Tensor) -> SparseRows:
        """Concatenate each rank's range of sparse rows, in the order of ranks."""
        if self.size == 1:
            return SparseRows(start, column, value)
        lengths = self.join(start.diff())
        return SparseRows(torch.cat((start[:1], lengths.cumsum(0))), self.join(column), self.join(value))
