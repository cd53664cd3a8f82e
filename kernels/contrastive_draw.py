"""Which bank rows a crop is compared with: two positives of its cluster, and exactly K rows of other clusters.

No permutation of N and no B x N random numbers: every (crop, bank row n) has a 32-bit key, a keyed bijection of n, so
that the keys of one crop never tie. The K smallest keys among the rows of other clusters are its negatives, and a
threshold says it all: n is drawn when key(n) <= threshold. A positive is the smallest key among its own cluster.
Keys depend on (seed, step, index) only: the draw is the same in every kernel, on every rank, at every batch position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load

NEGATIVES, FIRST_POSITIVE, SECOND_POSITIVE = range(3)  # independent families of keys
ALL = 0xFFFFFFFF  # the threshold that draws every row


def _mix(x: Tensor) -> Tensor:
    """Bijection on 32-bit integers held in int64 (Wellons' lowbias32: avalanche bias 0.17)."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & ALL
    x = ((x ^ (x >> 15)) * 0x846CA68B) & ALL
    return x ^ (x >> 16)


def draw_keys(index: Tensor, stream: Tensor, family: int, num_samples: int) -> Tensor:
    """Keys of every bank row for each crop: (B, N) int64 in 0..2^32-1, distinct within a row."""
    words = torch.stack((stream[0] & ALL, stream[0] >> 32 & ALL, stream[1] & ALL))
    first = second = torch.full_like(index, family)
    for word in (*words, index):
        first, second = _mix(first ^ word), _mix(second ^ word ^ 0x9E3779B9)
    n = torch.arange(num_samples, device=index.device)
    return _mix((_mix(n ^ first[:, None]) + second[:, None]) & ALL)


def differs_from(labels: Tensor, index: Tensor) -> Tensor:
    """(B, N) bool: bank row n is of another cluster than row index[b]; outliers (label < 0) are clusters of one."""
    own = labels.index_select(0, index)[:, None]
    is_self = index[:, None] == torch.arange(len(labels), device=index.device)
    return torch.where(own < 0, ~is_self, labels != own)


def contrastive_draw_reference(
    labels: Tensor, index: Tensor, stream: Tensor, num_negatives: int
) -> tuple[Tensor, Tensor]:
    """The definition; see `contrastive_draw`."""
    differs = differs_from(labels, index)  # (B, N)
    members = [draw_keys(index, stream, family, len(labels)) for family in (FIRST_POSITIVE, SECOND_POSITIVE)]
    positives = torch.stack([keys.masked_fill(differs, ALL + 1).argmin(1) for keys in members], 1)
    if num_negatives >= len(labels):
        return positives, torch.full_like(index, ALL)
    keys = draw_keys(index, stream, NEGATIVES, len(labels)).masked_fill(~differs, ALL)
    return positives, keys.kthvalue(num_negatives, dim=1).values


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
        RuntimeError: tensors of another shape or dtype; on the CPU, an index out of range.
    """
    if num_negatives < 1:
        raise ValueError(f"contrastive_draw: num_negatives is {num_negatives}, expected at least 1")
    return torch.ops.gcl_fast.contrastive_draw(labels, index, stream, num_negatives)


load()


@torch.library.register_fake("gcl_fast::contrastive_draw")
def _(labels: Tensor, index: Tensor, stream: Tensor, num_negatives: int) -> tuple[Tensor, Tensor]:
    return index.new_empty((*index.shape, 2)), index.new_empty(index.shape)
