"""View-invariant loss + backward + bank update: ours against plain PyTorch and the official formulation, in one run.

    python benchmarks/kernels.py                                       # the paper's sizes
    python benchmarks/kernels.py --batch 256 --samples 1000000 --only ours
    python benchmarks/kernels.py --device cuda --bank-dtype bfloat16

Prints min / median / max milliseconds, peak extra memory and the fraction of the ceiling (the two bare matrix products
that the loss cannot do without), and appends a line per contender to a CSV.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import platform
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from gcl_fast.kernels.contrastive_draw import contrastive_draw_reference
from gcl_fast.kernels.memory_update import memory_update_reference
from gcl_fast.kernels.view_contrastive import view_contrastive_reference
from gcl_fast.memory import MemoryBank


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
        memory_update_reference(self.features, index, normalize(f.float(), dim=1), self.bank.momentum)


def peak_memory(work: Callable[[], object], device: str) -> float:
    """MB that `work` needs beyond what was there before it; on the CPU resident memory, so page-granular."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return (torch.cuda.max_memory_allocated() - before) / 1e6

    def resident(field: str) -> int:
        status = Path("/proc/self/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith(field)))

    ctypes.CDLL(None).malloc_trim(
        0
    )  # else memory that earlier calls have freed would serve, and hide what this one needs
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark
    before = resident("VmRSS")
    work()
    return (resident("VmHWM") - before) * 1024 / 1e6


def times(work: Callable[[], object], device: str, repeats: int) -> list[float]:
    """Milliseconds of each of `repeats` calls, after two to warm up."""
    measured = []
    for n in range(repeats + 2):
        start = time.perf_counter()
        work()
        if device == "cuda":
            torch.cuda.synchronize()
        if n >= 2:
            measured.append((time.perf_counter() - start) * 1e3)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--samples", type=int, default=12936)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--negatives", type=int, default=8192)
    parser.add_argument("--bank-dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--only", nargs="+", choices=["ours", "reference", "compiled reference", "official"])
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/kernels.csv"))
    options = parser.parse_args()

    torch.manual_seed(0)
    device, B, N, D = options.device, options.batch, options.samples, options.dim
    bank = MemoryBank(N, D, num_negatives=options.negatives).to(device)
    bank.features.normal_().div_(bank.features.norm(dim=1, keepdim=True))
    bank.features = bank.features.to(getattr(torch, options.bank_dtype))
    bank.labels.random_(N // 17)  # the mean cluster of Market-1501
    index = torch.randint(N, (B,), device=device)
    f, f_new = (torch.randn(B, D, device=device, requires_grad=True) for _ in range(2))

    def products() -> None:
        scores = f_new.detach() @ bank.features.float().T
        scores @ bank.features.float()

    contenders: dict[str, Callable[[], MemoryBank | Reference | Official]] = {
        "ours": lambda: bank,
        "reference": lambda: Reference(bank),
        "compiled reference": lambda: Reference(bank, compiled=True),
        "official": lambda: Official(bank),
    }
    ceiling = statistics.median(times(products, device, options.repeats))
    machine = (
        torch.cuda.get_device_name() if device == "cuda" else f"{platform.machine()}, {torch.get_num_threads()} threads"
    )
    print(f"B={B} N={N} D={D} K={options.negatives} {options.bank_dtype}, torch {torch.__version__}, {machine}")
    print(f"{'bare matrix products':20} {ceiling:8.2f} ms")
    rows = []
    for name in options.only or contenders:
        contender = contenders[name]()

        def step(contender: MemoryBank | Reference | Official = contender) -> None:
            f.grad = f_new.grad = None
            contender.loss(f, f_new, index).backward()
            contender.update_(index, f.detach())

        measured = times(step, device, options.repeats)
        low, median, high = min(measured), statistics.median(measured), max(measured)
        memory = peak_memory(step, device)
        print(
            f"{name:20} {low:8.2f} {median:8.2f} {high:8.2f} ms (min median max) {memory:8.1f} MB extra "
            f"{ceiling / median:6.1%} of the ceiling"
        )
        setting = {"batch": B, "samples": N, "dim": D, "negatives": options.negatives, "bank_dtype": options.bank_dtype}
        figures = {"min_ms": low, "median_ms": median, "max_ms": high, "extra_mb": memory, "products_ms": ceiling}
        date = datetime.now(UTC).isoformat(timespec="minutes")
        rows.append(
            {"date": date, "machine": machine, "torch": torch.__version__, "contender": name}
            | setting
            | {key: round(value, 3) for key, value in figures.items()}
        )
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    new = not options.csv.exists()
    with options.csv.open("a", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        if new:
            writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
