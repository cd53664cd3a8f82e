"""Compute the memory bank's loss and update in several formulations: ours, the references', the official one."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from gcl_fast.kernels.contrastive_draw import contrastive_draw_reference
from gcl_fast.kernels.memory_update import memory_update_reference
from gcl_fast.kernels.view_contrastive import view_contrastive_reference
from gcl_fast.memory import MemoryBank


class Official:
    """Computes loss and update as the official code: crop by crop, with a clone of the bank, N permuted each time."""

    def __init__(self, bank: MemoryBank) -> None:
        self.features, self.labels = bank.features.clone(), bank.labels
        self.temperature, self.momentum, self.num_negatives = bank.temperature, bank.momentum, bank.num_negatives

    def loss(self, f: Tensor, f_new: Tensor, index: Tensor) -> Tensor:
        f, f_new = normalize(f.float(), dim=1), normalize(f_new.float(), dim=1)
        memory, labels, total = self.features.clone().float(), self.labels.cpu(), f.new_zeros(())
        for b, i in enumerate(index.tolist()):
            members = (labels == labels[i]).nonzero().flatten()
            p, p_new = members[torch.randint(len(members), (2,))]
            others = (labels != labels[i]).nonzero().flatten()
            negatives = memory[others[torch.randperm(len(others))[: self.num_negatives]].to(memory.device)]  # (K, D)
            against = negatives @ f_new[b]
            for positive in (f_new[b] @ memory[i], f_new[b] @ memory[p_new], f[b] @ memory[p]):
                total = total - log_softmax(torch.cat((positive[None], against)) / self.temperature, 0)[0]
        return total / len(index)

    def update_(self, index: Tensor, f: Tensor) -> None:
        for i, feature in zip(index.tolist(), normalize(f.float(), dim=1), strict=True):
            row = self.momentum * self.features[i].float() + (1 - self.momentum) * feature
            self.features[i] = row / row.norm()


class Reference:
    """Computes loss and update by the references that ship with the ops."""

    def __init__(self, bank: MemoryBank, compiled: bool = False) -> None:
        self.bank, self.features = bank, bank.features.clone()
        self.rows = torch.compile(self._rows) if compiled else self._rows

    def _rows(self, f: Tensor, f_new: Tensor, index: Tensor) -> Tensor:
        bank = self.bank
        positives, threshold = contrastive_draw_reference(bank.labels, index, bank.stream, bank.num_negatives)
        f, f_new = normalize(f.float(), dim=1), normalize(f_new.float(), dim=1)
        return view_contrastive_reference(
            f, f_new, self.features.float(), bank.labels, index, positives, threshold, bank.stream, bank.temperature
        )

    def loss(self, f: Tensor, f_new: Tensor, index: Tensor) -> Tensor:
        return self.rows(f, f_new, index).mean()

    def update_(self, index: Tensor, f: Tensor) -> None:
        memory_update_reference(self.features, index, f, self.bank.momentum)


def crops_and_bank(
    batch: int, samples: int, dim: int, negatives: int, device: str, dtype: torch.dtype = torch.float32
) -> tuple[MemoryBank, Tensor, Tensor, Tensor]:
    """Return a full bank with clusters as large as Market-1501's, and a batch: index, f, f_new."""
    bank = MemoryBank(samples, dim, num_negatives=negatives).to(device)
    bank.features.normal_().div_(bank.features.norm(dim=1, keepdim=True))
    bank.features = bank.features.to(dtype)
    bank.labels.random_(max(1, samples // 17))  # the mean cluster of Market-1501
    index = torch.randint(samples, (batch,), device=device)
    f, f_new = (torch.randn(batch, dim, device=device, requires_grad=True) for _ in range(2))
    return bank, index, f, f_new


CONTENDERS: dict[str, Callable[[MemoryBank], MemoryBank | Reference | Official]] = {
    "ours": lambda bank: bank,
    "reference": Reference,
    "compiled reference": lambda bank: Reference(bank, compiled=True),
    "official": Official,
}
