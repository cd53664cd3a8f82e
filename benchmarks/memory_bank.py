"""View-invariant loss + backward + bank update: ours against plain PyTorch and the official formulation, in one run.

    python benchmarks/memory_bank.py                                       # the paper's sizes
    python benchmarks/memory_bank.py --batch 256 --samples 1000000 --only ours
    python benchmarks/memory_bank.py --device cuda --bank-dtype bfloat16

Prints min / median / max seconds, peak extra memory and the fraction of the ceiling (the two bare matrix products that
the loss cannot do without), and appends a line per contender to results/memory_bank.csv.
"""

from __future__ import annotations

import argparse
from functools import partial

import torch

from gcl_fast.memory import MemoryBank
from gcl_fast.process import prepare_process
from lib.bank_formulations import CONTENDERS, Official, Reference, crops_and_bank
from lib.reporting import measure_all, report


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
