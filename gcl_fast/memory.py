"""The memory bank: one unit embedding and one pseudo-label per training crop, with the loss and the update of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.profiler import record_function

from gcl_fast.kernels.contrastive_draw import contrastive_draw
from gcl_fast.kernels.memory_update import memory_update
from gcl_fast.kernels.view_contrastive import view_contrastive

__all__ = ["MemoryBank"]


class MemoryBank(nn.Module):
    """Holds the state of the view-invariant loss, `.features` (N, D) and `.labels` (N,), and computes the loss.

    The rows of `.features` are unit vectors. The caller writes the pseudo-labels, int64 with -1 for an outlier.

    Args:
        num_samples: N, the number of training crops.
        dim: D, the size of an embedding.
        momentum: weight of the OLD entry in an update, 0..1.
        temperature: of the contrastive loss, above 0.
        num_negatives: K, the number of negatives that are drawn for each crop in each step; where fewer entries have
            another label, all of them are taken.
        live: contrast the novel view with the live embedding f instead of the crop's own entry (the paper's figure).
        own_negatives: compare the negatives of the third term with f instead of f_new (the paper's figure).
        terms: weights of the three terms: the novel view with the crop's own entry, the novel view with an entry of the
            crop's cluster, the crop with an entry of its cluster.
        seed: of the draws. A draw depends on (seed, number of updates so far, crop). So a resumed run repeats it, and
            ranks with the same bank agree.

    Example:
        >>> bank = MemoryBank(num_samples=6, dim=8)
        >>> bank.features.copy_(normalize(torch.randn(6, 8), dim=1))  # embeddings of all crops
        tensor(...)
        >>> bank.labels.copy_(torch.tensor([0, 0, 0, 1, 1, -1]))  # their pseudo-labels
        tensor(...)
        >>> index = torch.tensor([0, 3])  # the crops of a batch
        >>> f, f_new = torch.randn(2, 2, 8, requires_grad=True)  # crops, novel views
        >>> bank.loss(f, f_new, index).backward()
        >>> bank.update_(index, f)
    """

    features: Tensor
    labels: Tensor
    stream: Tensor

    def __init__(
        self,
        num_samples: int,
        dim: int,
        momentum: float = 0.2,
        temperature: float = 0.04,
        num_negatives: int = 8192,
        *,
        live: bool = False,
        own_negatives: bool = False,
        terms: tuple[float, float, float] = (1.0, 1.0, 1.0),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.momentum, self.temperature, self.num_negatives = momentum, temperature, num_negatives
        self.live, self.own_negatives, self.terms = live, own_negatives, terms
        self.register_buffer("features", torch.zeros(num_samples, dim))
        self.register_buffer("labels", torch.full((num_samples,), -1))
        self.register_buffer("stream", torch.tensor([seed, 0]))  # (seed, number of updates), which the draws depend on

    @record_function("gcl_fast::contrastive")
    def loss(self, f: Tensor, f_new: Tensor, index: Tensor, positives: Tensor | None = None) -> Tensor:
        """Compute the view-invariant contrastive loss, averaged over the batch.

        With l(a) = -log(exp(a / t) / (exp(a / t) + sum_n exp(f_new . M_n / t))), negatives n and temperature t, it is
        l(f_new . M_i) + l(f_new . M_p') + l(f . M_p), each times its weight in `terms`, where f and f_new are
        L2-normalized (Chen et al. 2021; docs/algorithm.md).

        Args:
            f: (B, D) embeddings of real crops, before L2 normalization.
            f_new: (B, D) embeddings of their novel views, before L2 normalization.
            index: (B,) int64 bank rows i of the crops.
            positives: (B, 2) int64 bank rows p (compared with f) and p' (compared with f_new), or (B,) for both; None
                draws them from the crop's own cluster.

        Returns:
            Scalar float32, 0 for an empty batch. A crop without a single negative adds 0.

        Raises:
            ValueError: f or f_new is not finite, under `torch.autograd.detect_anomaly`. Otherwise the loss becomes NaN,
                because a check would make the host wait for the device.
        """
        if torch.is_anomaly_enabled():
            for name, value in (("f", f), ("f_new", f_new)):
                if faults := (~value.isfinite().all(1)).nonzero().flatten().tolist():
                    raise ValueError(f"MemoryBank.loss: {name} is not finite in batch rows {faults}")
        draws, threshold = contrastive_draw(self.labels, index, self.stream, self.num_negatives)
        if positives is None:
            positives = draws
        elif positives.ndim == 1:
            positives = torch.stack((positives, positives), 1)
        f, f_new = normalize(f.float(), dim=1), normalize(f_new.float(), dim=1)
        rows = view_contrastive(
            f, f_new, self.features, self.labels, index, positives, threshold, self.stream,
            self.temperature, live=self.live, own_negatives=self.own_negatives, terms=self.terms,
        )  # fmt: skip
        return rows.sum() / max(len(index), 1)

    @torch.no_grad()
    @record_function("gcl_fast::bank")
    def update_(self, index: Tensor, f: Tensor) -> None:
        """Blend embeddings of real crops into their rows, in place; call it after the backward pass.

        M_i <- normalize(momentum * M_i + (1 - momentum) * normalize(f_i)); repeated indices follow in batch order. On a
        GPU the update is one launch, and a second one counts the step.

        Args:
            index: (B,) int64 bank rows. With several ranks, pass the gathered batch in rank order on every rank.
            f: (B, D) training-mode embeddings, before L2 normalization. A row that is not finite is skipped.
        """
        memory_update(self.features, index, f, self.momentum)
        self.stream[1] += 1
