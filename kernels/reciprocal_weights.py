"""Fuzzy sets of k-reciprocal neighbours, expanded by 2/3 overlap, with softmax weights (Zhong et al. 2017, sec. 3).

On a GPU there are three kernels, each with one program per row. The first makes reciprocal lists. The second makes the
sorted members of the expanded set: a first launch counts, a second one writes. The third makes the inner products with
the members and the two numbers that turn them into a softmax, which plain PyTorch finishes. Sets equal those of the
CPU's op exactly, weights to rounding.

Roofline, H100 at 3.0 TB/s, k1 = 30 (half = 16), D = 512, 28 members a row; bytes in and out at each N:
                            per row                     12,936          100,000          1,000,000
  lists                     30 x 30 + 30 + 46 int32     50 MB, 17 us    0.4 GB, 0.13 ms  3.9 GB, 1.3 ms
  members, both launches    2 (30 + 30 x 16) + 28       54 MB, 18 us    0.4 GB, 0.14 ms  4.2 GB, 1.4 ms
  weights                   28 x 512 + 512 float32      0.8 GB, 0.26 ms 5.9 GB, 2.0 ms   60 GB, 20 ms
At 12,936 rows the lists (1.6 MB), half lists and features (26 MB) stay in the L2 cache (50 MB), so it takes less time.
Estimate only; not measured on a GPU.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import register_fake
from gcl_fast.kernels._sparse_rows import Rows, check_neighbours, check_range, fake_rows, to_rows
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton
from gcl_fast.kernels.cards import Card, card_of

__all__ = ["reciprocal_weights"]

MAX_NEIGHBOURS, MAX_HALF = 126, 64  # of a GPU: round(126 / 2) + 1 = 64, and a tile of 128 x 128 spills


def reciprocal_weights_reference(features: Tensor, neighbours: Tensor, half: int, begin: int, end: int) -> Rows:
    """Define `reciprocal_weights` in plain PyTorch, with N^2 memory and a loop over the rows."""
    nearest = neighbours.long()

    def reciprocal(i: int, k: int) -> Tensor:
        forward = nearest[i, :k]
        return forward[(nearest[forward, :k] == i).any(1)]

    V = features.new_zeros(end - begin, len(features))
    for i in range(begin, end):
        close = reciprocal(i, nearest.shape[1])
        halves = [reciprocal(j, half) for j in close.tolist()]
        joining = [theirs for theirs in halves if 3 * torch.isin(theirs, close).sum() > 2 * len(theirs)]
        members = torch.cat([close, *joining]).unique()
        V[i - begin, members] = torch.softmax(-(2 - 2 * features[members] @ features[i]), 0)
    return to_rows(V, V > 0)


def reciprocal_weights(features: Tensor, neighbours: Tensor, half: int, begin: int, end: int) -> Rows:
    """Compute the fuzzy set of each row's expanded k-reciprocal neighbours.

    A k-reciprocal neighbour j of i has i among its own k nearest. The set of i is expanded by the half list of each
    member (its `half`-reciprocal neighbours) of which more than 2/3 lie in the set. Weights are the softmax of
    -(2 - 2 f_i.f_j) over the members j.

    Args:
        features: (N, D) float32 unit rows, contiguous.
        neighbours: (N, k) int32 nearest rows of each row, best first, itself included; contiguous. On a GPU k is at
            most MAX_NEIGHBOURS and `half` at most MAX_HALF.
        half: neighbours that make a half list, 1..k.
        begin, end: range of the rows to compute, so that ranks can share the work.

    Returns:
        The rows begin..end-1 as sparse rows: start (end - begin + 1,) int64, column (entries,) int32, ascending in each
        row, and value (entries,) float32.

    Raises:
        RuntimeError: arguments that do not fit (on a GPU a ValueError).

    Example:
        >>> features = torch.eye(3)[[0, 0, 1]]
        >>> neighbours = torch.tensor([[0, 1], [0, 1], [2, 0]]).int()
        >>> reciprocal_weights(features, neighbours, 1, 0, 1)
        (tensor([0, 2]), tensor([0, 1], dtype=torch.int32), tensor([0.5000, 0.5000]))
    """
    return torch.ops.gcl_fast.reciprocal_weights(features, neighbours, half, begin, end)


@jit
def _reciprocal_lists_kernel(neighbours, own, halves, K, HALF, BLOCK_K: tl.constexpr):
    """Write those of row i's K neighbours that have i among their own K, and the same with HALF; -1 for the others."""
    row = tl.program_id(0).to(tl.int64)
    rank = tl.arange(0, BLOCK_K)
    neighbour = tl.load(neighbours + row * K + rank, mask=rank < K, other=0)
    theirs = tl.load(
        neighbours + neighbour.to(tl.int64)[:, None] * K + rank[None, :],
        mask=(rank < K)[:, None] & (rank < K)[None, :],
        other=-1,
    )  # (BLOCK_K, BLOCK_K)
    # program_id is int32: against an int64 the whole tile becomes one, and spills
    place = tl.where(theirs == tl.program_id(0), rank[None, :], 2147483647)
    place = tl.min(place, 1)  # (BLOCK_K,) rank of i in each neighbour's list
    tl.store(own + row * K + rank, tl.where(place < K, neighbour, -1), mask=rank < K)
    tl.store(halves + row * HALF + rank, tl.where(place < HALF, neighbour, -1), mask=rank < HALF)


@jit
def _expanded_sets_kernel(
    own, halves, start, column, first_row, K, HALF, FILL: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_H: tl.constexpr
):
    """Unite a row's own list with those half lists of its members that lie in it by more than 2/3.

    Members leave the tile by ascending index, a minimum at a time: about 28 of them, where a sort of 512 takes 45
    stages.
    """
    local = tl.program_id(0)
    row = local.to(tl.int64) + first_row
    rank, half = tl.arange(0, BLOCK_K), tl.arange(0, BLOCK_H)
    member = tl.load(own + row * K + rank, mask=rank < K, other=-1)
    theirs = tl.load(
        halves + member.to(tl.int64)[:, None] * HALF + half[None, :],
        mask=(member >= 0)[:, None] & (half < HALF)[None, :],
        other=-1,
    )  # (BLOCK_K, BLOCK_H)
    shared = tl.zeros((BLOCK_K, BLOCK_H), tl.int32)  # 0 or 1; a mask carried through the loop spills on AMD
    for r in range(0, K):
        shared += (theirs == tl.load(own + row * K + r)).to(tl.int32)
    overlap = tl.sum(tl.where(theirs >= 0, shared, 0), 1)
    joins = 3 * overlap > 2 * tl.sum((theirs >= 0).to(tl.int32), 1)
    theirs = tl.where((theirs >= 0) & joins[:, None], theirs, 2147483647)
    member = tl.where(member >= 0, member, 2147483647)
    place = start + local
    if FILL:
        column += tl.load(place)
    count = tl.full((), 0, tl.int64)
    smallest = tl.minimum(tl.min(theirs), tl.min(member, 0))
    while smallest < 2147483647:
        if FILL:
            tl.store(column + count, smallest)
        count += 1
        above = tl.min(tl.where(theirs > smallest, theirs, 2147483647))
        smallest = tl.minimum(above, tl.min(tl.where(member > smallest, member, 2147483647), 0))
    if not FILL:
        tl.store(place + 1, count)


@jit
def _closeness_kernel(
    features, start, column, closeness, largest, total, first_row, D, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Write row i's -(2 - 2 f_i.f_j) for its members j, their maximum, and the sum of their exponentials below it."""
    local = tl.program_id(0)
    first = tl.load(start + local)
    members = (tl.load(start + local + 1) - first).to(tl.int32)
    query = features + (local.to(tl.int64) + first_row) * D
    slot, dim = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_D)
    maximum = tl.full((), float("-inf"), tl.float32)
    exponentials = tl.full((), 0.0, tl.float32)
    for begin in range(0, members, BLOCK_M):
        inside = begin + slot < members
        member = tl.load(column + first + begin + slot, mask=inside, other=0).to(tl.int64)
        product = tl.zeros((BLOCK_M,), tl.float32)
        for chunk in range(0, D, BLOCK_D):
            d = chunk + dim
            f = tl.load(query + d, mask=d < D, other=0.0)
            rows = tl.load(
                features + member[:, None] * D + d[None, :], mask=inside[:, None] & (d < D)[None, :], other=0.0
            )
            product += tl.sum(rows * f[None, :], 1)
        score = tl.where(inside, 2.0 * product - 2.0, float("-inf"))
        tl.store(closeness + first + begin + slot, score, mask=inside)
        before = maximum
        maximum = tl.maximum(before, tl.max(score, 0))
        exponentials = exponentials * tl.exp(before - maximum) + tl.sum(tl.exp(score - maximum), 0)
    tl.store(largest + local, maximum)
    tl.store(total + local, exponentials)


WEIGHTS_CONFIGURATION = {"BLOCK_M": 16, "BLOCK_D": 128, "num_warps": 4}


def lists_configuration(K: int) -> dict[str, int]:
    """Choose the constants of a launch: 32 numbers of the tile a lane, so up to k1 = 32 one warp needs no barrier."""
    block = max(32, triton.next_power_of_2(K))
    return {"BLOCK_K": block, "num_warps": block * block // 1024}


def sets_configuration(K: int, half: int, card: Card) -> dict[str, int]:
    """Choose the constants of a launch: 16 numbers of the tile a lane, since a block of 128 x 64 spills with 32.

    A half list has round(k1 / 2) + 1 entries, at times one more than half a block.
    """
    block = lists_configuration(K)["BLOCK_K"]
    block_half = block // 2 if half <= block // 2 else block
    warps = block * block_half // 512
    return {"BLOCK_K": block, "BLOCK_H": block_half, "num_warps": warps, **card.every_register(warps)}


def expanded_sets(neighbours: Tensor, half: int, begin: int, end: int) -> tuple[Tensor, Tensor]:
    """Return start (end - begin + 1,) int64 and column int32 of the expanded k-reciprocal sets of rows begin..end-1."""
    N, K = neighbours.shape
    own, halves = torch.empty_like(neighbours), neighbours.new_empty(N, half)
    start = torch.zeros(end - begin + 1, dtype=torch.int64, device=neighbours.device)
    if begin == end:
        return start, neighbours.new_empty(0)
    _reciprocal_lists_kernel[(N,)](neighbours, own, halves, K, half, **lists_configuration(K))
    launch, configuration = _expanded_sets_kernel[(end - begin,)], sets_configuration(K, half, card_of(start.device))
    launch(own, halves, start, own, begin, K, half, FILL=False, **configuration)
    start = start.cumsum(0)
    column = neighbours.new_empty(int(start[-1]))
    launch(own, halves, start, column, begin, K, half, FILL=True, **configuration)
    return start, column


@on_its_device
def reciprocal_weights_triton(features: Tensor, neighbours: Tensor, half: int, begin: int, end: int) -> Rows:
    """Launch the kernels. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: tensors of another shape, dtype or device, a neighbour or a range out of bounds, more than 126
            neighbours, or half lists longer than 64.
    """
    if features.ndim != 2 or features.dtype != torch.float32 or not features.is_contiguous():
        raise ValueError("reciprocal_weights: features must be contiguous float32 of shape (N, D)")
    check_neighbours("reciprocal_weights", neighbours, len(features), features.device)
    check_range("reciprocal_weights", begin, end, len(features))
    K = neighbours.shape[1]
    if len(neighbours) != len(features) or not 0 < half <= K:
        raise ValueError(
            "reciprocal_weights: needs one row of neighbours per feature and 0 < half <= k; got "
            f"{len(neighbours)} rows, {len(features)} features, half {half} of {K}"
        )
    if K > MAX_NEIGHBOURS or half > MAX_HALF:
        raise ValueError(
            f"reciprocal_weights: k1 is {K}, half {half}, and the GPU's kernels hold {MAX_NEIGHBOURS} neighbours, half "
            f"{MAX_HALF}, at most; use a smaller k1, or features on the CPU"
        )
    start, column = expanded_sets(neighbours, half, begin, end)
    closeness = features.new_empty(len(column))
    largest, total = features.new_empty(2, end - begin)
    if len(column):
        _closeness_kernel[(end - begin,)](
            features, start, column, closeness, largest, total, begin, features.shape[1], **WEIGHTS_CONFIGURATION
        )
    row = torch.repeat_interleave(start.diff())
    return start, column, closeness.sub_(largest[row]).exp_().div_(total[row])


load()
torch.library.register_kernel("gcl_fast::reciprocal_weights", "cuda", reciprocal_weights_triton)


@register_fake("reciprocal_weights")
def _(features: Tensor, neighbours: Tensor, half: int, begin: int, end: int) -> Rows:
    return fake_rows(end - begin, features)
