"""What this machine can do at most: matrix product, convolution and memory copy, measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from reporting import measure
from torch.nn import functional as F

from gcl_fast.training.precision import choose

Arithmetic = Literal["matrix", "convolution"]


@dataclass(frozen=True)
class Ceilings:
    """The best of several runs.

    matrix: FLOP/s of a float32 product of square matrices. convolution: FLOP/s of a 3x3 convolution of 128 channels,
    channels-last, in the type `--amp` chooses (`dtype`). copy: bytes/s, read and written ones counted.
    """

    matrix: float
    convolution: float
    copy: float
    dtype: str

    def fraction(self, seconds: float, flops: float, moved: float, arithmetic: Arithmetic) -> float:
        """Least possible time of `flops` and `moved` bytes, whichever is longer, over the time taken."""
        return max(flops / getattr(self, arithmetic), moved / self.copy) / seconds

    def __str__(self) -> str:
        return (
            f"matrix product {self.matrix / 1e9:,.0f} GFLOP/s (float32), convolution {self.convolution / 1e9:,.0f} "
            f"GFLOP/s ({self.dtype}), copy {self.copy / 1e9:.1f} GB/s"
        )


def measure_ceilings(device: str, repeats: int = 7) -> Ceilings:
    """The ceilings of `device` ("cpu" or "cuda"); a second or two."""
    dtype = choose(True, torch.device(device)).dtype or torch.float32
    n, batch, height, width, channels = (8192, 64, 64, 32, 128) if device == "cuda" else (1536, 16, 32, 16, 128)
    square = torch.randn(n, n, device=device)
    product = torch.empty_like(square)
    maps = torch.randn(batch, channels, height, width, device=device, dtype=dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    source = torch.zeros(2**28 if device == "cuda" else 2**26)  # 256 MB on a CPU, well beyond its caches
    source = source.to(device)
    target = torch.zeros_like(source)

    def best(work: Callable[[], object]) -> float:
        return measure(work, repeats, device)["min"]

    with torch.inference_mode():
        return Ceilings(
            matrix=2 * n**3 / best(lambda: torch.mm(square, square, out=product)),
            convolution=2 * maps.numel() * channels * 9 / best(lambda: F.conv2d(maps, kernel, padding=1)),
            copy=2 * source.nbytes / best(lambda: target.copy_(source)),
            dtype=str(dtype).removeprefix("torch."),
        )
