"""Open the stages of training with networks, inputs and labels in place, ready for a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.run.initialize import initialize
from gcl_fast.settings import PUBLISHED, RunConfig, override, preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint, make_joint
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups.cluster import Warmup
from gcl_fast.synthetic import WorldConfig

KINDS: dict[str, Callable[..., Any]] = {
    "warmup": Warmup,
    "generative": Generative,
    "joint": make_joint,
}
SMALL_WORLD = WorldConfig(identities=16)  # of the embedded dataset: enough for the largest batch, made in seconds


def small_config(name: str, device: str) -> RunConfig:
    """Return the published method in the sizes of a preset, on a small embedded dataset of its own.

    It is compiled as long runs are on a GPU. It has no CUDA graphs: benchmarks replace parts of a step, which a
    captured one would not notice.
    """
    return replace(
        override(preset(name), [f"device={device}", *(PUBLISHED if name == "demo" else ())]),
        amp=True,
        compile="on" if device == "cuda" else "off",
        cuda_graphs="off",
        dataset="synthetic",
        data_root="datasets/benchmark",
        world=SMALL_WORLD,
    )


def networks(config: RunConfig, precision: Precision, device: torch.device) -> GCL:
    """Make the networks as a run does: from the settings' weights, channels-last, compiled where that was chosen."""
    torch.manual_seed(config.seed)
    gcl = GCL(config.model)
    initialize(gcl, config)
    gcl.to(device).to(memory_format=torch.channels_last)
    precision.compile(*gcl.children())
    return gcl


def open_stage(name: str, config: RunConfig, inputs: Inputs, ranks: Ranks, precision: Precision) -> Stage:
    """Open the stage called `name`, with clusters of four neighbouring crops in place of a clustering.

    A step costs the same whatever the labels say, and a clustering of untrained embeddings may leave no inliers.
    """
    stage = KINDS[name](config, networks(config, precision, ranks.device), inputs, ranks, precision)
    labels = (torch.arange(len(inputs.dataset.train)) // 4).to(ranks.device)
    if isinstance(stage, Warmup):
        stage.load_state_dict({**stage.state_dict(), "labels": labels})
    if isinstance(stage, Joint):
        stage.bank.labels.copy_(labels)
    if not isinstance(stage, Generative):
        stage.bank.features.normal_().div_(stage.bank.features.norm(dim=1, keepdim=True))
    return stage


def first_epoch(stage: Stage, config: RunConfig) -> int:
    """Return the first epoch whose steps update all networks of the stage."""
    return config.generative.reconstruction_epochs if stage.name == "generative" else 0


def first_batch(stage: Stage, epoch: int) -> tuple[Tensor, Tensor]:
    """Return (images, index) of the first step of `epoch`."""
    return next(islice(stage.loader.epoch(stage.plan(epoch), epoch), 1))
