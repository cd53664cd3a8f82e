"""DBSCAN on a sparse similarity graph.

On a GPU it is PyTorch's own operations around one kernel, which joins core points. Counting, numbering and border
points are gathers, a running sum and an integer minimum by scatter; only the union-find needs a kernel. Its root is the
least index of the component whatever the order of the atomics, so the labels are those of the CPU's op in every run.

Roofline, H100 at 3.0 TB/s, on the benchmark's graph: 74 entries a row (similarity from 0.01), 18 of them within a
radius of 0.6, 9 once each pair is taken once. The filter reads 12 bytes an entry and writes 13; the join reads 8 a pair
and makes some 3 atomic operations on the parents, which stay in the L2 cache up to 12 M points.
  N = 12,936:     1.0 M entries,  24 MB,  8 us;    0.1 M pairs, 0.3 M atomics
  N = 100,000:    7.4 M entries, 185 MB, 62 us;    0.9 M pairs, 2.7 M atomics
  N = 1,000,000:   74 M entries, 1.9 GB, 0.6 ms;   9 M pairs, 27 M atomics, 27 ms at a pessimistic 1 per ns
Estimate only; not measured on a GPU.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake
from gcl_fast.kernels._sparse_rows import check_rows
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton

__all__ = ["csr_dbscan"]


def csr_dbscan_reference(start: Tensor, column: Tensor, value: Tensor, eps: float, min_samples: int) -> Tensor:
    """Define `csr_dbscan` in plain PyTorch, with N^2 memory."""
    N = len(start) - 1
    point = torch.arange(N, device=start.device)
    near = torch.eye(N, dtype=torch.bool, device=start.device)
    near[torch.repeat_interleave(point, start.diff()), column.long()] |= (1 - value).double() <= eps
    core = near.sum(1) >= min_samples
    to_core = near & core
    lowest = torch.where(core, point, N)  # the lowest core point that a core point is connected with
    while not torch.equal(lower := torch.where(to_core, lowest, N).amin(1).where(core, lowest), lowest):
        lowest = lower
    number = (core & (lowest == point)).cumsum(0) - 1
    label = torch.where(core, number[lowest.clamp_max(N - 1)], N)
    label = torch.where(core, label, torch.where(to_core, label, N).amin(1))
    return label.masked_fill(label == N, -1)


def csr_dbscan(start: Tensor, column: Tensor, value: Tensor, eps: float, min_samples: int) -> Tensor:
    """Cluster the points of a symmetric sparse similarity graph by DBSCAN; distance = 1 - similarity.

    A core point has at least `min_samples` points within eps, itself counted. Clusters are the connected components of
    core points, numbered by their lowest core point. Another point with core points within eps joins the
    lowest-numbered of their clusters.

    Args:
        start, column, value: the similarities as N sparse rows, (N + 1,) int64, (entries,) int32 and (entries,)
            float32. Pairs that are not stored are never neighbours; a point is its own neighbour.
        eps: radius, a distance in 0..1.
        min_samples: points that make a core point, at least 1.

    Returns:
        (N,) int64 cluster of each point, -1 for an outlier.

    Raises:
        RuntimeError: arrays that are no sparse rows, a negative radius, no min_samples (on a GPU a ValueError).

    Example:
        >>> similarity = torch.tensor([[1.0, 0.9, 0.1], [0.9, 1.0, 0.0], [0.1, 0.0, 1.0]])
        >>> start, column = torch.tensor([0, 3, 6, 9]), torch.arange(3).repeat(3).int()
        >>> csr_dbscan(start, column, similarity.flatten(), eps=0.5, min_samples=2)
        tensor([ 0,  0, -1])
    """
    return torch.ops.gcl_fast.csr_dbscan(start, column, value, eps, min_samples)


@jit
def _join_kernel(a, b, parent, pairs, BLOCK: tl.constexpr):
    """Join the two sets of each pair, a lane per pair.

    parent[x] <= x always. To join high with low < high, low becomes high's parent if it is less than the parent before,
    which is what atomic_min does. Then the parent before remains to be joined with low: a pair with a lesser high. That
    goes on until the two meet or high was a root. No step loses a connection and each lowers high, so any order of the
    lanes ends with the same sets and their least points as roots. Relaxed order is enough, since a lane acts only on
    what its own atomic returned.
    """
    pair = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    live = pair < pairs
    one, other = tl.load(a + pair, mask=live, other=0), tl.load(b + pair, mask=live, other=0)
    high, low = tl.maximum(one, other), tl.minimum(one, other)
    live = live & (high != low)
    while tl.max(live.to(tl.int32), 0) > 0:
        before = tl.atomic_min(parent + high, low, mask=live, sem="relaxed")
        live = live & (before != high) & (before != low)
        high = tl.where(live, tl.maximum(before, low), high)
        low = tl.where(live, tl.minimum(before, low), low)


JOIN_CONFIGURATION = {"BLOCK": 256, "num_warps": 4}


def components(a: Tensor, b: Tensor, N: int) -> Tensor:
    """Return the least point of each point's connected component, (N,) int32, for edges a[e] - b[e] (int32)."""
    root = torch.arange(N, dtype=torch.int32, device=a.device)
    if len(a):
        grid = (triton.cdiv(len(a), JOIN_CONFIGURATION["BLOCK"]),)
        _join_kernel[grid](a, b, root, len(a), **JOIN_CONFIGURATION)
    while not torch.equal(above := root[root], root):  # pointer jumping: paths halve
        root = above
    return root


@on_its_device
def csr_dbscan_triton(start: Tensor, column: Tensor, value: Tensor, eps: float, min_samples: int) -> Tensor:
    """Launch the kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1."""
    check_rows("csr_dbscan", start, column, value)
    if not eps >= 0:
        raise ValueError(f"csr_dbscan: eps must be a distance, 0 or more, not {eps}")
    if min_samples < 1:
        raise ValueError(f"csr_dbscan: min_samples is {min_samples}, expected at least 1")
    N = len(start) - 1
    point = torch.arange(N, dtype=torch.int32, device=start.device)
    row = torch.repeat_interleave(point, start.diff())
    near = ((1 - value).double() <= eps) & (row != column)  # double as on the CPU: eps in float32 may be less
    row, column = row[near], column[near]
    core = torch.bincount(row, minlength=N) + 1 >= min_samples
    from_core, to_core = core[row], core[column]

    joined = from_core & to_core & (column < row)  # the graph is symmetric: each pair once
    root = components(row[joined], column[joined], N)
    number = (core & (root == point)).cumsum(0) - 1
    label = torch.where(core, number[root], N)  # N: none yet
    border = to_core & ~from_core
    label.scatter_reduce_(0, row[border].long(), label[column[border]], "amin")
    return label.masked_fill_(label == N, -1)


load()
torch.library.register_kernel("gcl_fast::csr_dbscan", "cuda", csr_dbscan_triton)


@register_fake("csr_dbscan")
def _(start: Tensor, column: Tensor, value: Tensor, eps: float, min_samples: int) -> Tensor:
    return start.new_empty(len(start) - 1)
