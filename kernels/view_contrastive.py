"""View-invariant contrastive loss against the memory bank (Chen et al. 2021, eq. 4; REFERENCE.md, Losses).

l(a) = log(1 + exp(logsumexp_n(f_new . M_n / t) - a / t)),   loss = l(f_new . M_i) + l(f_new . M_p') + l(f . M_p)
with i the crop's own row, p and p' two rows of its cluster, n its negatives: drawn rows of other clusters.

The op is the log-sum-exp over negatives. Its forward also leaves the softmax-weighted mean of the negatives, which is all
its backward needs (d lse / d query = mean / t), so the bank is read once and no (B, N) tensor outlives a tile.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import softplus

from gcl_fast.csrc.build import load
from gcl_fast.kernels.contrastive_draw import NEGATIVES, differs_from, draw_keys

TILE_BYTES = 8 << 20  # of the bank, per step of the tiled route


def negative_lse_reference(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> Tensor:
    """The definition; see `negative_lse`. Differentiable, in the dtype of the query."""
    keys = draw_keys(index, stream, NEGATIVES, len(bank))
    drawn = differs_from(labels, index) & (keys <= threshold[:, None])  # (B, N)
    return torch.where(drawn, query @ bank.to(query.dtype).T / temperature, -torch.inf).logsumexp(1)


@torch.library.custom_op("gcl_fast::negative_lse", mutates_args=(), device_types="cpu")
def _negative_lse(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """Tile after tile of the bank: matrix product, one row kernel (mask, reduce, exponentiate in place), matrix product.

    A tile is still in the cache when the second product reads it. One tile is the whole bank when that is small.
    """
    B, D = query.shape
    N = len(bank)
    query = query.float()
    state = query.new_tensor([-torch.inf, 0.0]).repeat(B, 1)  # running maximum and sum
    total = query.new_zeros(B, D)
    step = max(TILE_BYTES // (4 * max(D, B)), 1)
    with torch.autocast(query.device.type, enabled=False):
        for first in range(0, N, step):
            rows = bank[first : first + step].float()  # (T, D), a view of a float32 bank
            weights = query @ rows.T  # (B, T) scores, then weights
            factor = torch.ops.gcl_fast.contrastive_rows(
                weights, state, labels, index, threshold, stream, first, temperature
            )
            total = torch.addmm(total * factor[:, None], weights, rows)
    maximum, sum_ = state.unbind(1)
    return maximum + sum_.log(), total / sum_.clamp_min(torch.finfo(torch.float32).tiny)[:, None]


@_negative_lse.register_fake
def _(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    return query.new_empty(len(query), dtype=torch.float32), torch.empty_like(query, dtype=torch.float32)


def _save(ctx, inputs, output) -> None:
    ctx.save_for_backward(output[1])
    ctx.temperature, ctx.dtype = inputs[-1], inputs[0].dtype


def _backward(ctx, grad_lse: Tensor, _grad_mean: Tensor) -> tuple:
    (mean,) = ctx.saved_tensors
    return ((grad_lse / ctx.temperature)[:, None] * mean).to(ctx.dtype), *[None] * 6


_negative_lse.register_autograd(_backward, setup_context=_save)


def negative_lse(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> Tensor:
    """log sum_n exp(query . M_n / temperature) over the drawn negatives of each crop, streamed over the bank.

    Args:
        query: (B, D) float32 or bfloat16; differentiable. In float64 the reference answers.
        bank: (N, D) float32 or bfloat16, accumulated in float32; no gradient.
        labels, index, threshold, stream: the draw, as `contrastive_draw` takes and gives it.
        temperature: > 0.

    Returns:
        (B,) float32; -inf for a crop without negatives.

    There is no register_autocast: it would make a float32 copy of a bfloat16 bank. The op runs as if autocast were off.
    """
    if query.dtype == torch.float64:
        return negative_lse_reference(query, bank, labels, index, threshold, stream, temperature)
    return _negative_lse(query, bank, labels, index, threshold, stream, temperature)[0]


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
) -> Tensor:
    """View-invariant loss of each crop.

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

    Returns:
        (B,) losses in float32 (float64 for float64 embeddings); 0 for a crop without any negative.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit.
    """
    _check(f, f_new, bank, labels, index, positives)
    draw = labels, index, threshold, stream, temperature
    f, f_new = (x if x.dtype == torch.float64 else x.float() for x in (f, f_new))
    entry, p, p_new = bank[torch.cat((index[:, None], positives), 1)].to(f.dtype).unbind(1)  # each (B, D)

    def term(query: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        return softplus(negative - (query * positive).sum(1) / temperature)

    shared = negative_lse(f_new, bank, *draw)
    own = negative_lse(f, bank, *draw) if own_negatives else shared
    return term(f_new, f if live else entry, shared) + term(f_new, p_new, shared) + term(f, p, own)


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
) -> Tensor:
    """The definition of `view_contrastive`, in plain PyTorch and with (B, N) tensors."""
    draw = labels, index, threshold, stream, temperature
    own = f if live else bank[index]
    loss = 0
    for query, positive, negative in (
        (f_new, own, f_new),
        (f_new, bank[positives[:, 1]], f_new),
        (f, bank[positives[:, 0]], f if own_negatives else f_new),
    ):
        negatives = negative_lse_reference(negative, bank, *draw)
        loss = loss + softplus(negatives - (query * positive).sum(1) / temperature)
    return loss


def _check(f: Tensor, f_new: Tensor, bank: Tensor, labels: Tensor, index: Tensor, positives: Tensor) -> None:
    tensors = {"f": f, "f_new": f_new, "bank": bank, "labels": labels, "index": index, "positives": positives}
    B, N, D = len(f), len(bank), bank.shape[-1]
    expected = {"f": (B, D), "f_new": (B, D), "bank": (N, D), "labels": (N,), "index": (B,), "positives": (B, 2)}
    if any(tuple(tensors[name].shape) != shape for name, shape in expected.items()):
        got = ", ".join(f"{name} {tuple(tensor.shape)}" for name, tensor in tensors.items())
        wanted = "f, f_new (B, D), bank (N, D), labels (N,), index (B,), positives (B, 2)"
        raise ValueError(f"view_contrastive: expected {wanted}; got {got}")
    if any(tensors[name].dtype != torch.int64 for name in ("labels", "index", "positives")):
        raise ValueError("view_contrastive: labels, index and positives must be int64")
    if len({tensor.device for tensor in tensors.values()}) > 1:
        got = ", ".join(f"{name} on {tensor.device}" for name, tensor in tensors.items())
        raise ValueError(f"view_contrastive: all tensors must be on one device; got {got}")


load()


@torch.library.register_fake("gcl_fast::contrastive_rows")
def _(
    scores: Tensor,
    state: Tensor,
    labels: Tensor,
    index: Tensor,
    threshold: Tensor,
    stream: Tensor,
    first: int,
    temperature: float,
) -> Tensor:
    return scores.new_empty(len(scores))
