"""Which arithmetic the networks run in, and whether they are compiled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch

COMPILE_OFF = "off: not worth its minutes on a CPU"


@dataclass(frozen=True)
class Precision:
    """The chosen arithmetic: `dtype` None is plain float32; `why` and `why_compiled` go to the header."""

    device: str
    dtype: torch.dtype | None
    why: str
    compiled: bool = False
    why_compiled: str = "off"

    def autocast(self) -> AbstractContextManager[object]:
        """The context for forward passes; losses, norms and R1 leave it by themselves."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)


def choose(amp: bool, device: torch.device, compile: str = "off") -> Precision:
    """bfloat16 autocast where it was asked for and the hardware multiplies in it, float32 elsewhere; compiled networks
    where `compile` is "on", or "auto" and there is a GPU."""
    compiled = compile == "on" or (compile == "auto" and device.type == "cuda")
    why = {"on": "on, as asked", "off": "off, as asked"}.get(compile, "on" if compiled else COMPILE_OFF)
    return replace(_arithmetic(amp, device), compiled=compiled, why_compiled=why)


def _arithmetic(amp: bool, device: torch.device) -> Precision:
    if not amp:
        return Precision(device.type, None, "fp32 (--amp for mixed precision)")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return Precision(
                "cuda", None, f"fp32: --amp needs bfloat16 (sm_80 or newer), this GPU is sm_{major}{minor}"
            )
        return Precision("cuda", torch.bfloat16, "bf16 autocast")
    if not torch.cpu._is_avx512_bf16_supported():
        return Precision("cpu", None, "fp32: --amp needs a CPU with bfloat16 instructions (AVX512_BF16), this has none")
    return Precision("cpu", torch.bfloat16, "bf16 autocast (AVX512_BF16)")
