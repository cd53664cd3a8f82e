"""Measure what this device can do at most: matrix products by type, convolution, copy, a launch.

python -m on_gpu.rates --device cuda

Each the best of several measurements of many calls that are queued, so that launching them is hidden.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch

from lib.ceilings import convolution, copy
from on_gpu.rows import emit

TYPES = {
    "bf16 matrix product": (torch.bfloat16, False),
    "fp16 matrix product": (torch.float16, False),
    "tf32 matrix product": (torch.float32, True),
    "fp32 matrix product": (torch.float32, False),
}


def queued(work: Callable[[], object], calls: int, device: str, repeats: int = 5) -> float:
    """Return the seconds of a call, the best of `repeats` times `calls` calls in a row."""
    best = float("inf")
    for _ in range(repeats + 1):  # the first warms up, and is the slowest
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            work()
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - start) / calls)
    return best


def product(dtype: torch.dtype, tf32: bool, device: str) -> float:
    """Measure the FLOP/s of a product of square matrices."""
    n = 8192 if device == "cuda" else 256
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    out, before = torch.empty_like(a), torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = tf32
    try:
        return 2 * n**3 / queued(lambda: torch.mm(a, b, out=out), 10, device)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@torch.inference_mode()
def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    device = parser.parse_args().device
    for what, (dtype, tf32) in TYPES.items():
        emit({"kind": "rate", "what": what, "value": product(dtype, tf32, device)})
    note = "3x3, 128 channels, channels-last, bfloat16"
    emit({"kind": "rate", "what": "convolution", "value": convolution(device, torch.bfloat16), "note": note})
    emit({"kind": "rate", "what": "copy", "value": copy(device), "note": "bytes read and written"})
    one = torch.zeros(1, device=device)
    emit(
        {"kind": "rate", "what": "launch", "value": queued(lambda: one.add_(1), 1000, device), "note": "queued, eager"}
    )

    def launched_and_waited() -> None:
        one.add_(1)
        if device == "cuda":
            torch.cuda.synchronize()

    emit({"kind": "rate", "what": "launch and wait", "value": queued(launched_and_waited, 100, device)})


if __name__ == "__main__":
    main()
