"""View-invariant contrastive loss against the memory bank (Chen et al. 2021, eq. 4).

l(a) = log(1 + exp(logsumexp_n(f_new . M_n / t) - a / t)),   loss = l(f_new . M_i) + l(f_new . M_p') + l(f . M_p)
with i the crop's own row, p and p' two rows of its cluster, n its negatives: drawn rows of other clusters.

All that is large is in the op `negative_lse`; the rest is a dozen operations on (B, D), which torch.compile fuses.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gcl_fast.kernels.negative_lse import negative_lse, negative_lse_reference

__all__ = ["view_contrastive"]


def view_contrastive(
    f: Tensor,
    f_new: Tensor,
    bank: Tensor,
    labels: Tensor,
    index: Tensor,
    positives: Tensor,
    threshold: Tensor,
    stream: Tensor,
    temperature: float,
    *,
    live: bool = False,
    own_negatives: bool = False,
    terms: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Compute the view-invariant loss of each crop.

    Args:
        f, f_new: (B, D) unit embeddings of crops and of their novel views.
        bank: (N, D) unit rows, float32 or bfloat16; no gradient.
        labels: (N,) int64 pseudo-labels of the rows.
        index: (B,) int64 rows of the crops.
        positives: (B, 2) int64 rows p and p' of the crops' clusters.
        threshold, stream: the draw of negatives, see `contrastive_draw`.
        temperature: > 0.
        live: first term against f instead of M_i (the paper's figure).
        own_negatives: third term against negatives of f instead of f_new (the paper's figure).
        terms: weights of the three terms.

    Returns:
        (B,) losses in float32 (float64 for float64 embeddings); 0 for a crop without any negative.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit; on the CPU also an index or a positive out of range.

    Example:
        >>> bank, labels, index = torch.eye(4), torch.tensor([0, 0, 1, 1]), torch.tensor([0])
        >>> stream = torch.tensor([0, 0])
        >>> from gcl_fast.kernels.contrastive_draw import contrastive_draw
        >>> draw = contrastive_draw(labels, index, stream, num_negatives=4)
        >>> view_contrastive(bank[:1], bank[:1], bank, labels, index, *draw, stream, temperature=1.0).shape
        torch.Size([1])
    """
    _check(f, f_new, bank, labels, index, positives)
    draw = labels, index, threshold, stream, temperature
    f, f_new = (x if x.dtype == torch.float64 else x.float() for x in (f, f_new))
    entry, p, p_new = bank[torch.cat((index[:, None], positives), 1)].to(f.dtype).unbind(1)  # each (B, D)

    def term(query: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return softplus(negative - (query * positive).sum(1) / temperature)

    shared = negative_lse(f_new, bank, *draw)
    own = negative_lse(f, bank, *draw) if own_negatives else shared
    losses = term(f_new, f if live else entry, shared), term(f_new, p_new, shared), term(f, p, own)
    return sum((weight * loss for weight, loss in zip(terms, losses)), torch.zeros_like(f[:, 0]))


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
    *,
    live: bool = False,
    own_negatives: bool = False,
    terms: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> Tensor:
    """Define `view_contrastive` in plain PyTorch, with (B, N) tensors."""
    draw = labels, index, threshold, stream, temperature
    own = f if live else bank[index]
    loss = torch.zeros_like(f[:, 0])
    for weight, query, positive, negative in (
        (terms[0], f_new, own, f_new),
        (terms[1], f_new, bank[positives[:, 1]], f_new),
        (terms[2], f, bank[positives[:, 0]], f if own_negatives else f_new),
    ):
        negatives = negative_lse_reference(negative, bank, *draw)
        loss = loss + weight * softplus(negatives - (query * positive).sum(1) / temperature)
    return loss


def _check(f: Tensor, f_new: Tensor, bank: Tensor, labels: Tensor, index: Tensor, positives: Tensor) -> None:
    tensors = {"f": f, "f_new": f_new, "bank": bank, "labels": labels, "index": index, "positives": positives}
    B, N, D = len(f), len(bank), bank.shape[-1]
    expected = {"f": (B, D), "f_new": (B, D), "bank": (N, D), "labels": (N,), "index": (B,), "positives": (B, 2)}
    if any(tuple(tensors[name].shape) != shape for name, shape in expected.items()):
        got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        wanted = "f, f_new (B, D), bank (N, D), labels (N,), index (B,), positives (B, 2)"
        raise ValueError(f"view_contrastive: expected {wanted}; got {got}")
    if D > 1 and bank.stride(1) != 1:
        raise ValueError(f"view_contrastive: the bank's rows must be contiguous; its strides are {bank.stride()}")
    if any(tensors[name].dtype != torch.int64 for name in ("labels", "index", "positives")):
        raise ValueError("view_contrastive: labels, index and positives must be int64")
    if len({tensor.device for tensor in tensors.values()}) > 1:
        got = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"view_contrastive: all tensors must be on one device; got {got}")
    if f.device.type == "cpu" and B and not torch.compiler.is_compiling():  # a GPU's host would wait for the answer
        for name in ("index", "positives"):
            least, greatest = (int(bound) for bound in tensors[name].aminmax())
            if least < 0 or greatest >= N:
                raise ValueError(f"view_contrastive: {name} holds rows {least}..{greatest}, outside 0..{N - 1}")
