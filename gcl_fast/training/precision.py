"""Which arithmetic the networks run in, and whether they are compiled."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from gcl_fast.training.update import scale_losses

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

    def prepare(self, *optimizers: Optimizer) -> None:
        """Scale their losses where the arithmetic is float16, whose gradients would vanish."""
        if self.dtype == torch.float16:
            for optimizer in optimizers:
                scale_losses(optimizer, torch.device(self.device))

    def compile(self, *modules: nn.Module, fullgraph: bool = False) -> None:
        """Compile `modules` in place (torch.compile(module) would rename their tensors) where that was chosen.

        For each shape on its own: a last, smaller batch would otherwise replace the graph of all others by one of
        symbolic sizes.
        """
        if self.compiled:
            torch._dynamo.config.automatic_dynamic_shapes = False
            for module in modules:
                module.compile(fullgraph=fullgraph)


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
        if major < 7:
            return Precision(
                "cuda", None, f"fp32: --amp needs tensor cores (sm_70 or newer), this GPU is sm_{major}{minor}"
            )
        if major < 8:
            why = f"fp16 autocast, losses scaled: no bfloat16 before sm_80, this GPU is sm_{major}{minor}"
            return Precision("cuda", torch.float16, why)
        return Precision("cuda", torch.bfloat16, "bf16 autocast")
    if not torch.cpu._is_avx512_bf16_supported():
        return Precision("cpu", None, "fp32: --amp needs a CPU with bfloat16 instructions (AVX512_BF16), this has none")
    return Precision("cpu", torch.bfloat16, "bf16 autocast (AVX512_BF16)")
