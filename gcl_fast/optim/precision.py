"""Which arithmetic the networks run in, and whether they are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from gcl_fast.optim.update import scale_losses
from gcl_fast.settings import RunConfig

# Compiling the step of the demo's networks: seconds it takes, seconds it saves in each step, how these are known.
# On a CPU (one thread, nothing cached) 270 CPU seconds in Python and 300 in g++, and then 1.46 to 1.51 a joint step in
# bfloat16 against 1.41 to 1.50 of the eager one, whose norms, padding and upsampling are C++ already.
COMPILING = {"cpu": (570.0, 0.0, "measured"), "cuda": (300.0, 0.05, "assumed, not measured")}

# Of one network in one process: the stages' batch sizes times training and resting batch norms, with and without a
# gradient. Beyond torch's own limit of 8 a network would go on eager, with one warning.
GRAPHS = 64


@dataclass(frozen=True)
class Precision:
    """The chosen arithmetic: `dtype` None is plain float32; `why` and `why_compiled` go to the header."""

    device: str
    dtype: torch.dtype | None
    why: str
    compiled: bool = False
    why_compiled: str = "off"

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward passes; losses, norms and R1 leave it by themselves."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device, self.dtype)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Enter the context for forward passes over a whole split: that of training, but eager.

        Such passes end with a smaller batch and run in a mode of their own, so each would compile a graph that saves
        nothing: a graph takes longer to compile than the splits take to embed.
        """
        with self.autocast(), torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            yield

    def prepare(self, *optimizers: Optimizer) -> None:
        """Scale their losses where the arithmetic is float16, whose gradients would vanish."""
        if self.dtype == torch.float16:
            for optimizer in optimizers:
                scale_losses(optimizer, torch.device(self.device))

    def compile(self, *modules: nn.Module, fullgraph: bool = False) -> None:
        """Compile `modules` in place (torch.compile(module) would rename their tensors) where that was chosen.

        Each shape and mode that a stage trains in gets a graph of its own, in its first steps; a second shape would
        otherwise replace the first graph by one of symbolic sizes. GRAPHS bounds how many.
        """
        if self.compiled:
            torch._dynamo.config.automatic_dynamic_shapes = False
            torch._dynamo.config.recompile_limit = GRAPHS
            for module in modules:
                module.compile(fullgraph=fullgraph)


def choose(amp: bool, device: torch.device, compile: str = "off", steps: int = 0) -> Precision:
    """Choose the arithmetic, and whether to compile.

    Args:
        amp: bfloat16 autocast where the hardware multiplies in it, float16 with scaled losses on GPUs without it.
        compile: "on", "off", or "auto": where all `steps` together save more time than compiling takes (COMPILING).
        steps: planned ones, see `planned_steps`.
    """
    cost, saved, known = COMPILING[device.type]
    compiled = compile == "on" or (compile == "auto" and steps * saved > cost)
    why = f"{'on' if compiled else 'off'}, as asked"
    if compile == "auto":
        why = (
            f"{'on' if compiled else 'off'}: about {cost:g} s to compile, {saved:g} s saved in each of {steps:,} whole"
            f" steps ({known})"
        )
    return replace(_arithmetic(amp, device), compiled=compiled, why_compiled=why)


def planned_steps(config: RunConfig, crops: int, world_size: int) -> int:
    """Return how many steps of G and D `config` plans on `crops` training crops: those that compiling is for.

    Steps of the warm-up and of reconstruction alone are short and save little. Outliers, which leave the joint stage,
    are not known yet. It is a function of the settings, so that a run that is resumed decides as it did before.
    """
    generative, joint = config.generative, config.joint
    epochs_and_batch = {
        "generative": (generative.epochs - generative.reconstruction_epochs, generative.batch),
        "joint": (joint.epochs, joint.batch),
    }
    planned = [epochs_and_batch[stage] for stage in config.stages if stage in epochs_and_batch]
    return sum(epochs * (crops // (batch * world_size)) for epochs, batch in planned)


def _arithmetic(amp: bool, device: torch.device) -> Precision:
    if not amp:
        return Precision(device.type, None, f"fp32{_tf32(device)} (--amp for mixed precision)")
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


def _tf32(device: torch.device) -> str:
    """Return what TF32 rounds in a float32 run on a GPU that has it, by torch's switches, for the header."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0):
        return ""
    switches = {
        "convolutions": torch.backends.cudnn.allow_tf32,
        "matrix products": torch.backends.cuda.matmul.allow_tf32,
    }
    return "".join(f", {name} in {'TF32' if on else 'full float32'}" for name, on in switches.items())
