"""View-invariant loss + backward + bank update: ours against plain PyTorch and the official formulation, in one run.

    python benchmarks/memory_bank.py                                       # the paper's sizes
    python benchmarks/memory_bank.py --batch 256 --samples 1000000 --only ours
    python benchmarks/memory_bank.py --device cuda --bank-dtype bfloat16

Prints min / median / max seconds, peak extra memory and the fraction of the ceiling (the two bare matrix products that
the loss cannot do without), and appends a line per contender to results/memory_bank.csv.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from lib.reporting import measure_all, report
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from gcl_fast.kernels.contrastive_draw import contrastive_draw_reference
from gcl_fast.kernels.memory_update import memory_update_reference
from gcl_fast.kernels.view_contrastive import view_contrastive_reference
from gcl_fast.memory import MemoryBank
from gcl_fast.process import prepare_process


class Official:
    """The official formulation, from REFERENCE.md: clone the bank, crop after crop, a permutation of N each."""

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
    """The references that ship with the ops."""

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
    """A full bank of clusters as large as Market-1501's, and a batch: index, f, f_new."""
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


def main() -> None:
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=12936)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--bank-dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=list(CONTENDERS))
    options = parser.parse_args()

    torch.manual_seed(0)
    device, B, N, D = options.device, options.batch, options.samples, options.dim
    bank, index, f, f_new = crops_and_bank(B, N, D, options.negatives, device, getattr(torch, options.bank_dtype))

    def products() -> None:
        scores = f_new.detach() @ bank.features.float().T
        scores @ bank.features.float()

    def step(contender: MemoryBank | Reference | Official) -> None:
        f.grad = f_new.grad = None
        contender.loss(f, f_new, index).backward()
        contender.update_(index, f.detach())

    names = options.only or CONTENDERS
    work = {"bare matrix products": products} | {name: partial(step, CONTENDERS[name](bank)) for name in names}
    setting = {"batch": B, "samples": N, "dim": D, "negatives": options.negatives, "bank_dtype": options.bank_dtype}
    measured = measure_all(work, options.repeats, device)
    bare = measured["bare matrix products"]["median"]
    rows = [
        {**setting, "what": name, **figures, "ceiling_fraction": round(bare / figures["median"], 3)}
        for name, figures in measured.items()
    ]
    print(f"appended to {report('memory_bank', rows, device)}")


if __name__ == "__main__":
    main()
