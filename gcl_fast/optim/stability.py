"""Keep a run finite, and explain why it cannot go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcl_fast.errors import UserError
from gcl_fast.settings import RunConfig

TOLERATED = 10  # skipped steps in a row
# Texts of out-of-memory errors without a type of their own: torch's on a CPU, and those of the driver, cuDNN and cuBLAS
# on a GPU, which come through the stable ABI of our ops and through library handles.
SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED")


class NotFinite(UserError):
    """Reports that TOLERATED steps in a row were skipped."""


class RunningStatistics:
    """Holds copies of the running statistics of a network's batch norms from when they were last finite.

    A skipped step does not change weights, but its forward pass has changed the running statistics. A value that is not
    finite would stay in a running mean for ever.
    """

    def __init__(self, network: nn.Module) -> None:
        norms = [module for module in network.modules() if isinstance(module, _BatchNorm)]
        buffers = [b for norm in norms for b in (norm.running_mean, norm.running_var) if b is not None]
        self._copies = [(buffer, buffer.clone()) for buffer in buffers]

    @torch.no_grad()
    def mend(self) -> None:
        """Restore buffers that are not finite, and copy the finite ones; nothing waits for the device."""
        for buffer, copy in self._copies:
            buffer.copy_(torch.where(buffer.isfinite().all(), buffer, copy))
            copy.copy_(buffer)


def too_many_skipped(stage: str, step: int, streak: int, causes: str, config: RunConfig, saved: bool) -> NotFinite:
    """Return the error that ends a run whose steps are skipped one after the other.

    Args:
        stage: its name.
        step: the number of steps that the stage has taken.
        streak: how many were skipped in a row.
        causes: the loss terms or gradients that were not finite.
        config: the settings; the message names the learning rates to halve.
        saved: whether the disk took the checkpoint.
    """
    settings = getattr(config, stage)
    rates = {name: getattr(settings, name) for name in ("lr", "lr_identity") if hasattr(settings, name)}
    halved = " ".join(f"{stage}.{name}={rate / 2:g}" for name, rate in rates.items())
    outcome = "are saved" if saved else "could not be saved (make room; an older checkpoint may be there)"
    return NotFinite(
        f"{stage}: {streak} steps in a row were skipped at step {step}, not finite: {causes}. The weights from before"
        f" {outcome}: the same command with --resume --set {halved} goes on at half the learning rate"
        + ("; without --amp a new run may fare better" if config.amp else "")
    )


@contextmanager
def naming_what_to_lower(stage: str, config: RunConfig, device: torch.device) -> Iterator[None]:
    """Turn an out-of-memory error into one that names the settings on which the memory of `stage` depends.

    Raises:
        UserError: torch ran out of memory within the context.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # torch raises a RuntimeError, on a CPU without a type of its own
        text = str(error)
        if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(sign in text for sign in SIGNS):
            raise
        setting = "batch" if hasattr(getattr(config, stage), "batch") else "identities"
        raise UserError(
            f"{stage}: out of memory on {device} ({text.splitlines()[0] if text else 'MemoryError'}). Lower"
            f" --set {stage}.{setting} (now {getattr(getattr(config, stage), setting)}) first, then the size of the"
            f" crops, --set height and width (now {config.height}x{config.width}); --cache none (now {config.cache})"
            f" keeps no decoded crops, --set cuda_graphs=off (now {config.cuda_graphs}) no memory of captured steps."
            " --resume takes a new batch size; a new size of crops needs a new run"
        ) from error
