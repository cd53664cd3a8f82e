"""Measure what this machine can do at most: matrix product, convolution and memory copy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch.nn import functional as F

from lib.reporting import measure

Arithmetic = Literal["matrix", "convolution"]


@dataclass(frozen=True)
class Ceilings:
    """Holds the best rates of several runs.

    matrix: FLOP/s of a float32 product of square matrices. convolution: FLOP/s of a 3x3 convolution of 128 channels,
    channels-last, in the type `--amp` chooses (`dtype`). copy: bytes/s, read and written ones counted.
    """

    matrix: float
    convolution: float
    copy: float
    dtype: str

    def fraction(self, seconds: float, flops: float, moved: float, arithmetic: Arithmetic) -> float:
        """Return the least possible time of `flops` and `moved` bytes, whichever is longer, over `seconds`."""
        return max(flops / getattr(self, arithmetic), moved / self.copy) / seconds

    def __str__(self) -> str:
        return (
            f"matrix product {self.matrix / 1e9:,.0f} GFLOP/s (float32), convolution {self.convolution / 1e9:,.0f} "
            f"GFLOP/s ({self.dtype}), copy {self.copy / 1e9:.1f} GB/s"
        )


def best(work: Callable[[], object], repeats: int, device: str) -> float:
    """Return the seconds of the fastest of `repeats` calls; on a GPU calls are queued, which hides their launches."""
    calls = 20 if device == "cuda" else 1
    return measure(lambda: [work() for _ in range(calls)] and None, repeats, device)["min"] / calls


@torch.inference_mode()
def convolution(device: str, dtype: torch.dtype, repeats: int = 7) -> float:
    """Measure the FLOP/s of a 3x3 convolution of 128 channels, channels-last."""
    batch, height, width, channels = (64, 64, 32, 128) if device == "cuda" else (16, 32, 16, 128)
    maps = torch.randn(batch, channels, height, width, device=device, dtype=dtype)
    maps = maps.contiguous(memory_format=torch.channels_last)
    kernel = torch.randn(channels, channels, 3, 3, device=device, dtype=dtype)
    kernel = kernel.contiguous(memory_format=torch.channels_last)
    return 2 * maps.numel() * channels * 9 / best(lambda: F.conv2d(maps, kernel, padding=1), repeats, device)


@torch.inference_mode()
def copy(device: str, repeats: int = 7) -> float:
    """Measure the bytes/s of a copy; both read and written bytes count."""
    source = torch.zeros(2**28 if device == "cuda" else 2**26)  # 256 MB on a CPU, well beyond its caches
    source = source.to(device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / best(lambda: target.copy_(source), repeats, device)


@torch.inference_mode()
def matrix(device: str, repeats: int = 7) -> float:
    """Measure the FLOP/s of a float32 product of square matrices."""
    n = 8192 if device == "cuda" else 1536
    square = torch.randn(n, n, device=device)
    product = torch.empty_like(square)
    return 2 * n**3 / best(lambda: torch.mm(square, square, out=product), repeats, device)


def measure_ceilings(device: str, repeats: int = 7) -> Ceilings:
    """Measure the ceilings of `device` ("cpu" or "cuda"), in about two seconds."""
    from gcl_fast.optim.precision import choose  # its import builds the ops: not for whoever wants a rate alone

    dtype = choose(True, torch.device(device)).dtype or torch.float32
    return Ceilings(
        matrix=matrix(device, repeats),
        convolution=convolution(device, dtype, repeats),
        copy=copy(device, repeats),
        dtype=str(dtype).removeprefix("torch."),
    )
