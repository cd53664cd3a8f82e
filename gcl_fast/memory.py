"""The memory bank: one unit embedding per training crop, its pseudo-label, and the loss and update that use them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from torch.profiler import record_function

from gcl_fast.kernels.contrastive_draw import contrastive_draw
from gcl_fast.kernels.memory_update import memory_update
from gcl_fast.kernels.view_contrastive import view_contrastive


class MemoryBank(nn.Module):
    """State of the view-invariant loss: `.features` (N, D) unit rows and `.labels` (N,) pseudo-labels (outlier = -1).

    Args:
        num_samples: N, the number of training crops.
        dim: D, the size of an embedding.
        momentum: weight of the OLD entry in an update, 0..1.
        temperature: of the contrastive loss.
        num_negatives: K, drawn anew for each crop and step; all available ones where there are fewer.
        live: contrast the novel view with the live embedding f instead of the crop's own entry (the paper's figure).
        own_negatives: compare the negatives of the third term with f instead of f_new (the paper's figure).
        terms: weights of the three terms: the novel view with its crop's own entry, with one of its cluster, the crop
            with one of its cluster.
        seed: of the draws. A draw depends on (seed, number of updates so far, crop): a resumed run repeats it, ranks
            that hold the same bank agree.
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
        self.register_buffer("stream", torch.tensor([seed, 0]))  # (seed, step) of the draws

    @record_function("gcl_fast::contrastive")
    def loss(self, f: Tensor, f_new: Tensor, index: Tensor, positives: Tensor | None = None) -> Tensor:
        """View-invariant contrastive loss, averaged over the batch.

        Args:
            f: (B, D) embeddings of real crops, before L2 normalization.
            f_new: (B, D) embeddings of their novel views, likewise.
            index: (B,) int64 bank rows of the crops.
            positives: (B, 2) or (B,) int64 bank rows p (compared with f) and p' (with f_new); drawn from the crop's own
                cluster when not given.

        Returns:
            Scalar float32, 0 for an empty batch. A crop without a single negative adds 0.

        Raises:
            ValueError: under `torch.autograd.detect_anomaly`, the rows whose embedding is not finite (otherwise the
                loss becomes NaN: telling would synchronize).
        """
        if torch.is_anomaly_enabled():
            for name, value in (("f", f), ("f_new", f_new)):
                if broken := (~value.isfinite().all(1)).nonzero().flatten().tolist():
                    raise ValueError(f"MemoryBank.loss: {name} is not finite in batch rows {broken}")
        drawn, threshold = contrastive_draw(self.labels, index, self.stream, self.num_negatives)
        if positives is not None:
            drawn = positives if positives.ndim == 2 else torch.stack((positives, positives), 1)
        f, f_new = normalize(f.float(), dim=1), normalize(f_new.float(), dim=1)
        rows = view_contrastive(
            f, f_new, self.features, self.labels, index, drawn, threshold, self.stream,
            self.temperature, live=self.live, own_negatives=self.own_negatives, terms=self.terms,
        )  # fmt: skip
        return rows.sum() / max(len(index), 1)

    @torch.no_grad()
    @record_function("gcl_fast::bank")
    def update_(self, index: Tensor, f: Tensor) -> None:
        """Blend embeddings of real crops into their rows, in place; call it after the backward pass.

        M_i <- normalize(momentum * M_i + (1 - momentum) * normalize(f_i)); repeated indices in batch order. On a GPU
        that is one launch, and one more counts the step.

        Args:
            index: (B,) int64 bank rows. Under several ranks pass the gathered batch, in rank order, on every rank.
            f: (B, D) training-mode embeddings, before L2 normalization. One that is not finite leaves its entry alone.
        """
        memory_update(self.features, index, f, self.momentum)
        self.stream[1] += 1
