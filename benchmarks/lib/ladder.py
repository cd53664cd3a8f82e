"""Prepare a training step with any subset of our optimizations, from the official formulation to ours."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from typing import cast
from unittest.mock import patch

import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import make_embedded_dataset, open_inputs
from gcl_fast.losses import adversarial
from gcl_fast.memory import MemoryBank
from gcl_fast.optim.precision import choose
from gcl_fast.settings import override
from gcl_fast.stages.gcl_step import GCLStep, IdentityTraining
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint
from gcl_fast.stages.reference_step import ReferenceStep
from lib.bank_formulations import Official
from lib.plain_layers import PLAIN, plain_layers
from lib.stages import first_batch, first_epoch, open_stage, small_config

LADDER = {  # what is switched on, in this order -> what a row of the table calls it
    "official": "official step, float32",
    "process": "+ allocator and OpenMP settings",
    "layout": "+ channels-last",
    "bf16": "+ bf16 autocast",
    "batched": "+ batched calls, one real pass of D",
    "frozen": "+ D frozen in G's update",
    "fused": "+ fused optimizers",
    "bank": "+ memory-bank ops",
    "norm": "+ norm ops",
    "padding": "+ padding op",
    "second": "+ weight gradients in R1",
    "upsampling": "+ folded upsampling (train.py --amp)",
    "compile": "+ compiled",
}
MARKET = 12_936  # training crops of Market-1501


def prepare(
    name: str, size: str, batch: int, device: str, on: set[str], settings: tuple[str, ...] = ()
) -> tuple[Callable[[], object], ExitStack]:
    """Return a call of one step of stage `name` with only the optimizations `on`, and a stack that undoes its patches.

    Args:
        settings: settings of the run, each "name=value".
    """
    config = override(small_config(size, device), [*settings])
    config = replace(
        config, generative=replace(config.generative, batch=batch), joint=replace(config.joint, batch=batch)
    )
    make_embedded_dataset(config)
    ranks = Ranks(0, 1, torch.device(device))
    precision = choose("bf16" in on, ranks.device, "on" if "compile" in on else "off")
    stage = open_stage(name, config, open_inputs(config), ranks, precision)
    assert isinstance(stage, Generative | Joint)
    epoch = first_epoch(stage, config)
    images, index = first_batch(stage, epoch)
    layout = torch.channels_last if "layout" in on else torch.contiguous_format
    stage.gcl.to(memory_format=layout)
    step = stage.gcl_step
    if isinstance(stage, Joint):
        if size == "paper":
            stage.bank = MemoryBank(MARKET, config.model.identity.embedding).to(device)
            stage.bank.features.normal_().div_(stage.bank.features.norm(dim=1, keepdim=True))
            stage.bank.labels.copy_(torch.arange(MARKET) // 17)  # the mean cluster of Market-1501
        if "bank" not in on:
            stage.bank = cast(MemoryBank, Official(stage.bank))
    if "fused" not in on:
        step.optimizers = [
            torch.optim.Adam(
                o.param_groups[0]["params"], betas=(0.0, 0.999), weight_decay=config.generative.weight_decay
            )
            for o in step.optimizers
        ]
        if isinstance(stage, Joint):
            stage.optimizer = torch.optim.SGD(stage.gcl.identity.parameters(), lr=0.0, momentum=0.9, nesterov=True)
    if isinstance(stage, Joint):
        step.identity = IdentityTraining(stage.bank, stage.optimizer, config.joint.batch_statistics)
    if "batched" not in on:
        stage.gcl_step = cast(GCLStep, ReferenceStep(step, layout, fixed_maps=True))
    stack = ExitStack()
    if plain := PLAIN.keys() - on:
        stack.enter_context(plain_layers(*plain))
    if "frozen" not in on:
        stack.enter_context(patch.object(adversarial, "frozen", nullcontext))
    return partial(stage.step, images, index, epoch, 0), stack
