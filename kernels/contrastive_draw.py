"""Which bank rows a crop is compared with: two positives of its cluster, and exactly K rows of other clusters.

No permutation of N and no B x N random numbers: every (crop, bank row n) has a 32-bit key, a keyed bijection of n, so
that the keys of one crop never tie. The K smallest keys among the rows of other clusters are its negatives, and a
threshold says it all: n is drawn when key(n) <= threshold. A positive is the smallest key among its own cluster.
Keys depend on (seed, step, index) only: the draw is the same in every kernel, on every rank, at every batch position.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import INDEX, Expected, check_rows_exist, check_tensors, register_fake
from gcl_fast.kernels._triton import jit, on_its_device, tl
from gcl_fast.kernels.cards import Card, card_of

__all__ = ["contrastive_draw"]

NEGATIVES, FIRST_POSITIVE, SECOND_POSITIVE = range(3)  # independent families of keys
ALL = 0xFFFFFFFF  # the threshold that draws every row


def _mix(x: Tensor) -> Tensor:
    """Map 32-bit integers held in int64 one to one (Wellons' lowbias32: avalanche bias 0.17)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & ALL
    x = ((x ^ (x >> 15)) * 0x846CA68B) & ALL
    return x ^ (x >> 16)


def draw_keys(index: Tensor, stream: Tensor, family: int, num_samples: int) -> Tensor:
    """Return the keys of every bank row for each crop: (B, N) int64 in 0..2^32-1, distinct within a row."""
    words = torch.stack((stream[0] & ALL, stream[0] >> 32 & ALL, stream[1] & ALL))
    first = second = torch.full_like(index, family)
    for word in (*words, index):
        first, second = _mix(first ^ word), _mix(second ^ word ^ 0x9E3779B9)
    n = torch.arange(num_samples, device=index.device)
    return _mix((_mix(n ^ first[:, None]) + second[:, None]) & ALL)


def differs_from(labels: Tensor, index: Tensor) -> Tensor:
    """Return (B, N) bool: whether bank row n is of another cluster than row index[b].

    Outliers (label < 0) are clusters of one.
    """
    own = labels.index_select(0, index)[:, None]
    is_self = index[:, None] == torch.arange(len(labels), device=index.device)
    return torch.where(own < 0, ~is_self, labels != own)


def contrastive_draw_reference(
    labels: Tensor, index: Tensor, stream: Tensor, num_negatives: int
) -> tuple[Tensor, Tensor]:
    """Define `contrastive_draw` in plain PyTorch, with (B, N) tensors."""
    differs = differs_from(labels, index)  # (B, N)
    members = [draw_keys(index, stream, family, len(labels)) for family in (FIRST_POSITIVE, SECOND_POSITIVE)]
    positives = torch.stack([keys.masked_fill(differs, ALL + 1).argmin(1) for keys in members], 1)
    if num_negatives >= len(labels):
        return positives, torch.full_like(index, ALL)
    keys = draw_keys(index, stream, NEGATIVES, len(labels)).masked_fill(~differs, ALL)
    return positives, keys.kthvalue(num_negatives, dim=1).values


@jit
def mix(x):
    """Map uint32 one to one, as `_mix` does."""
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)


@jit
def key_words(stream, row, FAMILY: tl.constexpr):
    """Return the two uint32 words that make the keys of a crop (or of a vector of crops) its own."""
    seed = tl.load(stream)
    first = mix((seed ^ FAMILY).to(tl.uint32))
    second = mix((seed ^ FAMILY ^ 0x9E3779B9).to(tl.uint32))
    high, step, row = (seed >> 32).to(tl.uint32), tl.load(stream + 1).to(tl.uint32), row.to(tl.uint32)
    first, second = mix(first ^ high), mix(second ^ high ^ 0x9E3779B9)
    first, second = mix(first ^ step), mix(second ^ step ^ 0x9E3779B9)
    return mix(first ^ row), mix(second ^ row ^ 0x9E3779B9)


@jit
def key_of(n, first, second):
    """Return the keys of bank rows n (uint32)."""
    return mix(mix(n.to(tl.uint32) ^ first) + second)


@jit
def differs(label, own, n, row):
    """Tell whether bank row n with `label` is of another cluster than `row` with label `own`.

    Outliers are clusters of one.
    """
    return tl.where(own < 0, n != row, label != own)


@jit
def _contrastive_draw_kernel(labels, index, stream, positives, threshold, N, K, BLOCK: tl.constexpr):
    """Draw for one crop in each program, which alone writes its positives and threshold: no race.

    The K-th smallest key comes from four histograms of 256 bins, a digit at a time. Keys are computed again each pass,
    since reading them would cost more than the dozen integer operations.
    """
    position = tl.program_id(0)
    row = tl.load(index + position)
    own = tl.load(labels + row)
    first_a, first_b = key_words(stream, row, 1)
    second_a, second_b = key_words(stream, row, 2)
    smallest_first = tl.full(
        (BLOCK,), 0xFFFFFFFFFFFFFFFF, tl.uint64
    )  # (key << 32 | n), so that the minimum knows its n
    smallest_second = tl.full((BLOCK,), 0xFFFFFFFFFFFFFFFF, tl.uint64)
    for start in range(0, N, BLOCK):
        n = start + tl.arange(0, BLOCK)
        label = tl.load(labels + n, mask=n < N, other=0)
        other = (n >= N) | differs(label, own, n, row)
        packed = (key_of(n, first_a, first_b).to(tl.uint64) << 32) | n.to(tl.uint64)
        smallest_first = tl.where(other, smallest_first, tl.minimum(smallest_first, packed))
        packed = (key_of(n, second_a, second_b).to(tl.uint64) << 32) | n.to(tl.uint64)
        smallest_second = tl.where(other, smallest_second, tl.minimum(smallest_second, packed))
    tl.store(positives + 2 * position, (tl.min(smallest_first, 0) & 0xFFFFFFFF).to(tl.int64))
    tl.store(positives + 2 * position + 1, (tl.min(smallest_second, 0) & 0xFFFFFFFF).to(tl.int64))

    first, second = key_words(stream, row, 0)
    bins = tl.arange(0, 256)
    prefix = tl.full((), 0, tl.uint64)  # the digits found so far, leading ones first
    remaining = K
    for digit in tl.static_range(4):
        counts = tl.zeros((256,), tl.int32)
        for start in range(0, N, BLOCK):
            n = start + tl.arange(0, BLOCK)
            label = tl.load(labels + n, mask=n < N, other=0)
            key = key_of(n, first, second).to(tl.uint64)
            candidate = (n < N) & differs(label, own, n, row) & ((key >> (32 - 8 * digit)) == prefix)
            counts += tl.histogram(((key >> (24 - 8 * digit)) & 255).to(tl.int32), 256, mask=candidate)
        below = tl.cumsum(counts, 0) < remaining
        found = tl.minimum(tl.sum(below.to(tl.int32), 0), 255)  # 255 throughout when fewer than K are there: draw all
        remaining -= tl.sum(tl.where(bins < found, counts, 0), 0)
        prefix = (prefix << 8) | found.to(tl.uint64)
    tl.store(threshold + position, prefix.to(tl.int64))


def draw_configuration(card: Card) -> dict[str, int]:
    """Choose the constants of a launch: four rows a lane."""
    return {"BLOCK": 1024, "num_warps": 8, **card.every_register(8)}


@on_its_device
def contrastive_draw_triton(labels: Tensor, index: Tensor, stream: Tensor, num_negatives: int) -> tuple[Tensor, Tensor]:
    """Launch the kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: num_negatives < 1, tensors of another shape, type or order, or on several devices. An index out of
            range is undefined: telling would cost a synchronization.
    """
    vectors = {"labels": Expected(labels, "N", INDEX), "index": Expected(index, "B", INDEX)}
    check_tensors("contrastive_draw", **vectors, stream=Expected(stream, "2", INDEX))
    check_rows_exist("contrastive_draw", index, "labels", len(labels))
    if num_negatives < 1:
        raise ValueError(f"contrastive_draw: num_negatives is {num_negatives}, expected at least 1")
    positives, threshold = index.new_empty((*index.shape, 2)), index.new_empty(index.shape)
    if len(index):
        _contrastive_draw_kernel[(len(index),)](
            labels, index, stream, positives, threshold, len(labels),
            min(num_negatives, len(labels)), **draw_configuration(card_of(labels.device)),
        )  # fmt: skip
    return positives, threshold


def contrastive_draw(labels: Tensor, index: Tensor, stream: Tensor, num_negatives: int) -> tuple[Tensor, Tensor]:
    """Draw two positives and num_negatives negatives for each crop of a batch.

    Args:
        labels: (N,) int64 pseudo-labels of the bank's rows, N < 2^32; a negative label is a cluster of one.
        index: (B,) int64 bank rows of the crops, 0 <= index < N.
        stream: (2,) int64, (seed, step).
        num_negatives: K >= 1; all rows of other clusters where there are fewer.

    Returns:
        positives (B, 2) int64: two independent uniform rows of the crop's cluster, itself included; and threshold (B,)
        int64: the crop's negatives are the rows n of other clusters with draw_keys(...)[b, n] <= threshold[b].

    Raises:
        ValueError: num_negatives < 1.
        RuntimeError: on the CPU, tensors of another shape or dtype, an index out of range.

    Example:
        >>> labels, index = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([4, 0])
        >>> positives, threshold = contrastive_draw(labels, index, torch.tensor([0, 0]), num_negatives=2)
        >>> positives[0].tolist()  # the crop is alone in its cluster
        [4, 4]
    """
    if num_negatives < 1:
        raise ValueError(f"contrastive_draw: num_negatives is {num_negatives}, expected at least 1")
    return torch.ops.gcl_fast.contrastive_draw(labels.contiguous(), index.contiguous(), stream, num_negatives)


load()
torch.library.register_kernel("gcl_fast::contrastive_draw", "cuda", contrastive_draw_triton)


@register_fake("contrastive_draw")
def _(labels: Tensor, index: Tensor, stream: Tensor, num_negatives: int) -> tuple[Tensor, Tensor]:
    return index.new_empty((*index.shape, 2)), index.new_empty(index.shape)
