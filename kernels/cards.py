"""What a launch rule may know of a GPU: facts of the one at hand, and of every target that aot.py compiles for.

Launch rules take a `Card` and nothing else of the machine, so that the configuration compiled here for a target is the
one that a GPU of that kind launches.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

KIB = 1024
WITH_MATRIX_UNITS = ("gfx908", "gfx90a", "gfx94", "gfx95")  # AMD's CDNA; RDNA's (gfx11, gfx12) take no float32


@dataclass(frozen=True)
class Card:
    """Holds what launch rules know of a GPU."""

    backend: str  # "cuda" or "hip"
    arch: int | str  # 86 for compute capability 8.6; AMD's name of the instruction set
    block_shared: int  # bytes of shared memory that one block may ask for

    @property
    def float32_precision(self) -> str | None:
        """Return Triton's name for exact float32 products on matrix units; None where there are none.

        Compute capability 7.5 has none, nor bfloat16: Triton widens and rounds that by integer arithmetic there.
        """
        if self.backend == "cuda":
            return "tf32x3" if int(self.arch) >= 80 else None
        return "ieee" if str(self.arch).startswith(WITH_MATRIX_UNITS) else None

    def every_register(self, warps: int) -> dict[str, int]:
        """Return the launch option that lets one block have all registers of a processor.

        Without it ptxas spills a few to fit one more block in.
        """
        return {"maxnreg": min(65536 // (32 * warps), 255)} if self.backend == "cuda" else {}


@dataclass(frozen=True)
class Target:
    """Holds a card, and how many blocks one of its processors (multiprocessor or compute unit) runs at a time."""

    card: Card
    warps: int
    blocks: int
    shared: int  # bytes
    block_overhead: int = KIB  # bytes of shared memory that the driver takes of every block
    warp_size: int = 32
    registers: int = 65536
    register_unit: int = 8  # registers a lane, in which they are given out


# NVIDIA: cuda_occupancy.h of CUDA 13.0 and the CUDA programming guide, "Technical Specifications per Compute
# Capability". AMD: ROCm documentation, "GPU hardware specifications"; two compute units of RDNA 3 share 128 KiB.
TARGETS = {
    "sm_75": Target(Card("cuda", 75, 64 * KIB), warps=32, blocks=16, shared=64 * KIB, block_overhead=0),
    "sm_80": Target(Card("cuda", 80, 163 * KIB), warps=64, blocks=32, shared=164 * KIB),
    "sm_86": Target(Card("cuda", 86, 99 * KIB), warps=48, blocks=16, shared=100 * KIB),
    "sm_89": Target(Card("cuda", 89, 99 * KIB), warps=48, blocks=24, shared=100 * KIB),
    "sm_90": Target(Card("cuda", 90, 227 * KIB), warps=64, blocks=32, shared=228 * KIB),
    "sm_100": Target(Card("cuda", 100, 227 * KIB), warps=64, blocks=32, shared=228 * KIB),
    "sm_103": Target(Card("cuda", 103, 227 * KIB), warps=64, blocks=32, shared=228 * KIB),
    "sm_120": Target(Card("cuda", 120, 99 * KIB), warps=48, blocks=24, shared=100 * KIB),
    "gfx942": Target(Card("hip", "gfx942", 64 * KIB), 32, 32, 64 * KIB, 0, warp_size=64, registers=131072),
    "gfx950": Target(Card("hip", "gfx950", 160 * KIB), 32, 32, 160 * KIB, 0, warp_size=64, registers=131072),
    "gfx1100": Target(Card("hip", "gfx1100", 64 * KIB), 32, 32, 64 * KIB, 0, registers=98304, register_unit=24),
}


@cache
def _card(number: int) -> Card:
    facts: Any = torch.cuda.get_device_properties(number)  # torch's stub lacks the opt-in limit
    if torch.version.hip:
        return Card("hip", facts.gcnArchName.split(":")[0], facts.shared_memory_per_block)
    return Card("cuda", 10 * facts.major + facts.minor, facts.shared_memory_per_block_optin)


def card_of(device: torch.device) -> Card:
    """Return the facts of a GPU at hand, which the host knows without a wait.

    Triton's interpreter, whose tensors lie on the CPU, passes for any GPU.
    """
    if device.type == "cpu":
        return TARGETS["sm_80"].card
    return _card(torch.cuda.current_device() if device.index is None else device.index)
