"""Time a training step against the official formulation, or with --compile eager against compiled.

python -m on_gpu.steps --device cuda --stage joint --size paper

The official step is eager, in float32 with TF32 for products and convolutions and with cudnn.benchmark, as its users
run it. Loading is left out; the memory bank has the rows of Market-1501 at the paper's size. On a CPU --size tiny tries
this script: two crops, and compiled no further than AOT autograd.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partialmethod
from typing import Any
from unittest.mock import patch

import torch
from torch import nn

from gcl_fast.process import prepare_process
from lib.flops import Flops
from lib.ladder import LADDER, prepare
from on_gpu.rows import Row, emit
from on_gpu.targets import OFFICIAL
from on_gpu.timing import timed

EVERYTHING = LADDER.keys() - {"official", "compile"}


@dataclass(frozen=True)
class Contender:
    """Represents a way to take the step.

    on: optimizations, of LADDER. settings: of the run, each "name=value". The others are torch's switches.
    """

    on: frozenset[str]
    settings: tuple[str, ...] = ()
    tf32_products: bool = False
    cudnn_benchmark: bool = False


EAGER = Contender(frozenset(EVERYTHING))
CAPTURED = replace(EAGER, settings=("cuda_graphs=on",))


def contenders(device: str, compiled: bool) -> dict[str, Contender]:
    """Return what is measured, ours first; its operations are what a step needs."""
    captured = {"ours, captured": CAPTURED} if device == "cuda" else {}
    if compiled:
        return {"ours, eager": EAGER, "ours, compiled": replace(EAGER, on=EAGER.on | {"compile"}), **captured}
    official = Contender(frozenset(), tf32_products=True, cudnn_benchmark=True)
    return {"ours, eager": EAGER, **captured, "eager with cudnn.benchmark": replace(EAGER, cudnn_benchmark=True),
            OFFICIAL: official}  # fmt: skip


@contextmanager
def switched(contender: Contender) -> Iterator[None]:
    """Set torch's switches to the contender's within the context."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = (
        contender.tf32_products,
        contender.cudnn_benchmark,
    )
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.benchmark = before


def kernels(step: Callable[[], object]) -> tuple[int, float]:
    """Return how many kernels a step launches, and their milliseconds."""
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        step()
        torch.cuda.synchronize()
    events = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(events), sum(event.device_time for event in events) / 1e3


def measure(stage: str, size: str, device: str, compiled: bool) -> Iterator[Row]:
    """Yield rows of each contender, one after the other: together they would need the memory of all."""
    what, needed = f"{stage} step", 0.0
    batch, preset, repeats = (2, "demo", 3) if size == "tiny" else (16, size, 20)
    for name, contender in contenders(device, compiled).items():
        label = {"size": f"{size}, batch {batch}"}
        torch.manual_seed(0)
        with switched(contender):
            step, stack = prepare(stage, preset, batch, device, set(contender.on), contender.settings)
            with stack:
                if not needed:
                    with torch.compiler.set_stance("force_eager"), Flops() as counted:
                        step()
                    needed = counted.total
                start = time.perf_counter()
                step()
                if device == "cuda":
                    torch.cuda.synchronize()
                first = time.perf_counter() - start
                work: dict[str, Any] = {
                    "flops": needed,
                    "arithmetic": "convolution",
                    "note": f"{needed / 1e12:.2f} TFLOP needed",
                }
                yield from timed(what, label["size"], "images", batch, {name: step}, device, repeats=repeats, **work)
                yield {"kind": "fact", "what": f"first {what}, {name}", "measured": f"{first:.1f} s"}
                if device == "cuda":
                    count, busy = kernels(step)
                    columns = {"what": f"kernels of a {what}, {name}", "measured": f"{count}, {busy:.2f} ms"}
                    yield {"kind": "fact", **columns}
        del step
        if device == "cuda":
            torch.cuda.empty_cache()


def main() -> None:
    """Measure and report."""
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--stage", choices=("generative", "joint"), required=True)
    parser.add_argument("--size", choices=("paper", "demo", "tiny"), required=True)
    parser.add_argument("--compile", action="store_true", help="eager beside compiled: minutes of compiling")
    options = parser.parse_args()
    backend = "inductor" if options.device == "cuda" else "aot_eager"
    with patch.object(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend)):
        for row in measure(options.stage, options.size, options.device, options.compile):
            emit(row)


if __name__ == "__main__":
    main()
