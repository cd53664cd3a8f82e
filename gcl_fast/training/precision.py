"""Which arithmetic the networks run in, and whether they are compiled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Precision:
    """The chosen arithmetic: `dtype` None is plain float32; `why` goes to the header."""

    device: str
    dtype: torch.dtype | None
    why: str

    def autocast(self) -> AbstractContextManager[object]:
        """The context for forward passes; losses, norms and R1 leave it by themselves."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)


def choose(amp: bool, device: torch.device) -> Precision:
    """bfloat16 autocast where it was asked for and the hardware multiplies in it, float32 elsewhere."""
    if not amp:
        return Precision(device.type, None, "fp32 (--amp for mixed precision)")
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        if major < 8:
            return Precision("cuda", None, f"fp32: --amp needs bfloat16 (sm_80 or newer), this GPU is sm_{major}{minor}")
        return Precision("cuda", torch.bfloat16, "bf16 autocast")
    if not torch.cpu._is_avx512_bf16_supported():
        return Precision("cpu", None, "fp32: --amp needs a CPU with bfloat16 instructions (AVX512_BF16), this has none")
    return Precision("cpu", torch.bfloat16, "bf16 autocast (AVX512_BF16)")
