"""Multi-label classification against a memory: every crop is a class, and a crop may be of several (MMCL)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize, softplus


def multi_label_loss(
    f: Tensor, features: Tensor, positives: Tensor, delta: float = 5.0, hard_share: float = 0.01, form: str = "squared"
) -> Tensor:
    """Pull crops to the memory rows of their labels, push them from the most similar others (Wang and Zhang 2020).

    With s_j = f . M_j, labels P and the most similar others H, |H| = hard_share * (N - |P|) but at least 1:

        delta / |P| * sum_{j in P} l(s_j, 1) + 1 / |H| * sum_{j in H} l(s_j, -1)

    Args:
        f: (B, D) embeddings, before L2 normalization; gradients reach them only.
        features: (N, D) unit rows of the memory.
        positives: (B, L) int64 rows of each crop's labels, different ones, padded with -1; the first is never -1.
        delta: weight of the labels.
        hard_share: of the others, 0..1.
        form: of l(s, y): "squared", (s - y)^2, or "logistic", log(1 + exp(-y s)).

    Returns:
        Scalar float32, mean over the batch; a crop with all rows for labels has no second term.
    """
    with torch.autocast(f.device.type, enabled=False):
        similarity = normalize(f.float(), dim=1) @ features.detach().float().T  # (B, N)
        known = positives >= 0  # (B, L)
        rows = torch.where(known, positives, positives[:, :1])
        count = known.sum(1)
        N = len(features)
        pull = (_penalty(similarity.gather(1, rows), 1, form) * known).sum(1) / count
        labelled = torch.zeros_like(similarity, dtype=torch.bool).scatter_(1, rows, True)
        wanted = ((N - count) * hard_share).long().clamp_min(1).minimum(N - count)  # (B,)
        hardest = similarity.masked_fill(labelled, -torch.inf).topk(max(1, int(N * hard_share)), 1).values
        hard = torch.arange(hardest.shape[1], device=f.device) < wanted[:, None]
        push = (_penalty(hardest.masked_fill(~hard, 0), -1, form) * hard).sum(1) / wanted.clamp_min(1)
        return (delta * pull + push).mean()


def _penalty(similarity: Tensor, label: int, form: str) -> Tensor:
    return (similarity - label).square() if form == "squared" else softplus(-label * similarity)
