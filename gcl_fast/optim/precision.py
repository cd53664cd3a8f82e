"""Choose the precision of the networks, and whether they are compiled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.optim import Optimizer

from gcl_fast.optim.update import scale_losses
from gcl_fast.settings import RunConfig

# For each type of device: seconds that compiling takes, seconds that it saves in each step, the origin of both numbers.
# On a CPU the compiled step is not faster: norms, padding and upsampling of the eager step are C++ ops already.
COMPILING = {"cpu": (570.0, 0.0, "measured"), "cuda": (300.0, 0.05, "assumed, not measured")}

# Limit of the graphs of one network in one process: one for each batch size, mode of the batch norms, and with and
# without gradients. Beyond torch's own limit of 8 a network would go on eager, with one warning.
GRAPHS = 64


@dataclass(frozen=True)
class Precision:
    """Holds the chosen precision: `dtype` None is plain float32; `why` and `why_compiled` go to the header."""

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
        """Enter the context for forward passes over a whole split: as in training, but never compiled.

        Such passes end with a smaller batch and run in eval mode. Each would compile graphs of its own, which takes
        longer than to embed the split.
        """
        with self.autocast(), torch.compiler.set_stance("force_eager") if self.compiled else nullcontext():
            yield

    def prepare(self, *optimizers: Optimizer) -> None:
        """Scale the losses of `optimizers` where the precision is float16, whose gradients would vanish."""
        if self.dtype == torch.float16:
            for optimizer in optimizers:
                scale_losses(optimizer, torch.device(self.device))

    def compile(self, *modules: nn.Module, fullgraph: bool = False) -> None:
        """Compile `modules` in place where that was chosen; torch.compile(module) would rename their tensors.

        Each shape and mode of a stage gets its graph in the first steps. Without the setting below, a second shape
        would replace the first graph by one of symbolic sizes. GRAPHS limits their number.
        """
        if self.compiled:
            torch._dynamo.config.automatic_dynamic_shapes = False
            torch._dynamo.config.recompile_limit = GRAPHS
            for module in modules:
                module.compile(fullgraph=fullgraph)


def choose(amp: bool, device: torch.device, compile: str = "off", steps: int = 0) -> Precision:
    """Choose the precision, and whether to compile.

    Args:
        amp: bfloat16 autocast where the hardware multiplies in it, float16 with scaled losses on GPUs without it.
        device: where the networks run.
        compile: "on", "off", or "auto", which compiles where `steps` save more time than compiling takes (COMPILING).
        steps: the number of steps that the run plans (`planned_steps`).
    """
    cost, gain, origin = COMPILING[device.type]
    compiled = compile == "on" or (compile == "auto" and steps * gain > cost)
    why = f"{'on' if compiled else 'off'}, as asked"
    if compile == "auto":
        why = (
            f"{'on' if compiled else 'off'}: about {cost:g} s to compile, {gain:g} s saved in each of {steps:,} whole"
            f" steps ({origin})"
        )
    return replace(_precision(amp, device), compiled=compiled, why_compiled=why)


def planned_steps(config: RunConfig, crops: int, world_size: int) -> int:
    """Return how many whole steps of G and D the settings plan, which are the steps that compiling is for.

    Steps of the warm-up and of reconstruction alone are short and save little. Outliers leave the joint stage and are
    not known yet. The number depends on the settings alone, so that a resumed run decides as it did before.

    Args:
        config: the settings.
        crops: number of training crops.
        world_size: number of ranks.
    """
    generative, joint = config.generative, config.joint
    epochs_and_batch = {
        "generative": (max(0, generative.epochs - generative.reconstruction_epochs), generative.batch),
        "joint": (joint.epochs, joint.batch),
    }
    steps = {stage: epochs * (crops // (batch * world_size)) for stage, (epochs, batch) in epochs_and_batch.items()}
    if joint.clusters is not None:
        steps["joint"] = joint.clusters.epochs * joint.clusters.steps_per_epoch // joint.update_every
    return sum(steps[stage] for stage in config.stages if stage in steps)


def _precision(amp: bool, device: torch.device) -> Precision:
    """Choose the dtype of the forward passes by what the hardware multiplies in."""
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
