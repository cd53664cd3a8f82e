"""Names for what a training step does, put around the parts of a stage from outside.

The step code stays as it is and costs nothing where nobody profiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import Any
from unittest.mock import patch

import torch
from torch import nn
from torch.profiler import record_function

from gcl_fast.stages import gcl_step as step
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups import cluster

PREFIX = "gcl_fast::"


def named(region: str, work: Callable[..., Any]) -> Callable[..., Any]:
    """`work`, inside `region`."""

    @wraps(work)
    def inside(*arguments: Any, **options: Any) -> Any:
        with record_function(PREFIX + region):
            return work(*arguments, **options)

    return inside


def named_batches(epoch: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """A loader's `epoch`, waiting for each batch inside "load"."""

    def batches(*arguments: Any) -> Iterator[Any]:
        waiting = iter(epoch(*arguments))
        following = named("load", lambda: next(waiting, None))
        while (batch := following()) is not None:
            yield batch

    return batches


class NamedModule(nn.Module):
    """`module`, its calls inside `region`; a compiled one stays one graph. Everything else is the module's own."""

    def __init__(self, region: str, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.inside = named(region, module)

    def forward(self, *arguments: Any, **named_arguments: Any) -> Any:
        return self.inside(*arguments, **named_arguments)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("module"), name)


@contextmanager
def regions_of(stage: Any) -> Iterator[Stage]:
    """Within, the parts of `stage` (a Warmup, Generative or Joint) bear names in a profile.

    load, structure maps, encode (identity encoder), decode (structure encoder and generator), discriminate,
    contrastive, losses, bank, backward. torch names the optimizers itself; R1 is the backward inside discriminate.
    """
    places: list[tuple[Any, str, str]] = [(torch.Tensor, "backward", "backward")]
    modules: list[tuple[Any, str, str]] = []
    if bank := getattr(stage, "bank", None):
        places += [(bank, "update_", "bank"), (bank, "loss", "contrastive")]
    if update := getattr(stage, "gcl_step", None):
        places += [(update, "structure_maps", "structure maps"), (step, "generator_losses", "losses")]
        places += [(step, "reconstruction_loss", "losses")]
        modules += [(update.gcl, "identity", "encode"), (update.gcl, "structure", "decode")]
        modules += [(update.gcl, "generator", "decode"), (update, "discriminator_loss", "discriminate")]
        modules += [(update, "adversarial", "discriminate")]
    else:
        places += [(cluster, "instance_memory_loss", "contrastive")]
        modules += [(stage, "encoder", "encode")]
    with ExitStack() as undo:
        undo.enter_context(patch.object(stage.loader, "epoch", named_batches(stage.loader.epoch)))
        for owner, name, region in places:
            undo.enter_context(patch.object(owner, name, named(region, getattr(owner, name))))
        for owner, name, region in modules:
            undo.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, NamedModule(region, getattr(owner, name)))
        yield stage
