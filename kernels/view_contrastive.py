"""View-invariant contrastive loss against the memory bank (Chen et al. 2021, eq. 4; REFERENCE.md, Losses).

l(a) = log(1 + exp(logsumexp_n(f_new . M_n / t) - a / t)),   loss = l(f_new . M_i) + l(f_new . M_p') + l(f . M_p)
with i the crop's own row, p and p' two rows of its cluster, n its negatives: rows of other clusters, drawn by threshold.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gcl_fast.kernels.contrastive_draw import NEGATIVES, differs_from, draw_keys


def view_contrastive_reference(
    f: Tensor,
    f_new: Tensor,
    bank: Tensor,
    labels: Tensor,
    index: Tensor,
    positives: Tensor,
    threshold: Tensor,
    stream: Tensor,
    temperature: float,
    live: bool = False,
    own_negatives: bool = False,
) -> Tensor:
    """The definition; see `view_contrastive`. Differentiable, in the dtype of f."""
    drawn = differs_from(labels, index) & (
        draw_keys(index, stream, NEGATIVES, len(bank)) <= threshold[:, None]
    )  # (B, N)

    def negatives(query: Tensor) -> Tensor:
        return torch.where(drawn, query @ bank.to(f.dtype).T / temperature, -torch.inf).logsumexp(1)  # (B,)

    def term(query: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return softplus(negative - (query * positive).sum(1) / temperature)

    p, p_new = bank.to(f.dtype)[positives].unbind(1)  # each (B, D)
    shared = negatives(f_new)
    own = f if live else bank.to(f.dtype)[index]
    loss = term(f_new, own, shared) + term(f_new, p_new, shared)
    return loss + term(f, p, negatives(f) if own_negatives else shared)
