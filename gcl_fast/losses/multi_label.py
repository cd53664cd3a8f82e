"""Multi-label classification against a memory (MMCL): every crop is a class, and a crop may have several labels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus


def multi_label_loss(
    f: Tensor, features: Tensor, positives: Tensor, delta: float = 5.0, hard_share: float = 0.01, form: str = "squared"
) -> Tensor:
    """Pull crops to the memory rows of their labels, and push them from the most similar other rows.

    With s_j = f . M_j, labels P and the most similar other rows H, |H| = hard_share * (N - |P|) but at least 1, it is

        delta / |P| * sum_{j in P} l(s_j, 1) + 1 / |H| * sum_{j in H} l(s_j, -1)

    (Wang and Zhang 2020, eq. 7 to 9).

    Args:
        f: (B, D) embeddings, before L2 normalization; gradients reach f only.
        features: (N, D) unit rows of the memory.
        positives: (B, L) int64 rows of each crop's labels, without repeats, padded with -1; the first is never -1.
        delta: weight of the first term.
        hard_share: share of the other rows that H takes, 0..1.
        form: of l(s, y): "squared" is (s - y)^2, "logistic" is log(1 + exp(-y s)).

    Returns:
        Scalar float32, mean over the batch; a crop whose labels are all rows has no second term.

    Example:
        >>> memory = torch.eye(4)
        >>> positives = torch.tensor([[0, 1], [2, -1]])  # the second crop has one label
        >>> loss = multi_label_loss(torch.randn(2, 4), memory, positives)
        >>> loss.shape
        torch.Size([])
    """
    with torch.autocast(f.device.type, enabled=False):
        similarity = normalize(f.float(), dim=1) @ features.detach().float().T  # (B, N)
        is_label = positives >= 0  # (B, L); the rest is padding
        rows = torch.where(is_label, positives, positives[:, :1])
        count = is_label.sum(1)  # (B,) |P|
        N = len(features)
        pull = (_penalty(similarity.gather(1, rows), 1, form) * is_label).sum(1) / count
        label_mask = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, rows, True)
        hard_count = ((N - count) * hard_share).long().clamp_min(1).minimum(N - count)  # (B,) |H|
        hardest = similarity.masked_fill(label_mask, -torch.inf).topk(max(1, int(N * hard_share)), 1).values
        is_hard = torch.arange(hardest.shape[1], device=f.device) < hard_count[:, None]
        push = (_penalty(hardest.masked_fill(~is_hard, 0), -1, form) * is_hard).sum(1) / hard_count.clamp_min(1)
        return (delta * pull + push).mean()


def _penalty(similarity: Tensor, label: int, form: str) -> Tensor:
    """Compute l(similarity, label) of `multi_label_loss`."""
    return (similarity - label).square() if form == "squared" else softplus(-label * similarity)
