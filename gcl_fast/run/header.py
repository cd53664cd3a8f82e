"""Collect the run's header: what was chosen, and the reason where it is the second choice."""

from __future__ import annotations

import os

import numpy as np
import torch

from gcl_fast import __version__
from gcl_fast.csrc.build import recipe
from gcl_fast.data import Records
from gcl_fast.distributed.device import why_no_gpu
from gcl_fast.distributed.ranks import SHARING, Ranks, shares_gpus
from gcl_fast.inputs import Inputs
from gcl_fast.kernels import rasterize
from gcl_fast.optim.optimizers import describe
from gcl_fast.optim.precision import Precision
from gcl_fast.process import allocator
from gcl_fast.pseudo_labels.search import choose
from gcl_fast.settings import ClusteringConfig, RunConfig, WarmupConfig
from gcl_fast.stages import graphs


def facts(config: RunConfig, inputs: Inputs, ranks: Ranks, precision: Precision, weights: str) -> dict[str, str]:
    """Return name -> choice, in the order in which they are printed."""
    data = inputs.dataset
    device = (
        torch.cuda.get_device_name(ranks.device)
        if ranks.device.type == "cuda"
        else f"CPU, {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    )
    return {
        "version": f"gcl_fast {__version__}, torch {torch.__version__}",
        "device": device + describe_ranks(ranks) + _second_choice(config, ranks),
        "precision": precision.why,
        "compile": precision.why_compiled,
        "CUDA graphs": graphs.choose(config, ranks)[1],
        "batch norms": _norms(config.sync_bn, ranks),
        "optimizers": describe(config.optimizer_backend, ranks.device),
        "allocator": allocator(),
        "dataset": f"{data.name} in {data.root}: {len(data.train)} train, {len(data.query)} query, "
        f"{len(data.gallery)} gallery" + "".join(f"; {note}" for note in inputs.notes),
        **({} if data.can_be_ranked else {"evaluation": f"none: {data.name} {data.why_unranked}"}),
        **_source(inputs),
        **_tracklets(config, data.train),
        "body": inputs.body,
        **_rasterizer(ranks.device),
        "neighbours": choose(_clustered_rows(config, data.train), config.joint.clustering.engine, ranks.device)[1],
        "DBSCAN": "of gcl_fast, on the sparse graph",
        **_backbone(config),
        "weights": weights,
        "warm-up": "none" if config.warmup is None else config.warmup.method,
        "stages": " -> ".join(config.stages) + f", seed {config.seed}",
    }


def _second_choice(config: RunConfig, ranks: Ranks) -> str:
    """Return why a run that could choose its device is on the CPU, although a GPU's driver is installed."""
    reason = why_no_gpu() if config.device == "auto" and ranks.device.type == "cpu" else ""
    return f"; {reason}" if reason else ""


def describe_ranks(ranks: Ranks) -> str:
    """Return the number of ranks, and whether they share GPUs."""
    if ranks.world_size == 1:
        return ""
    sharing = f" that share GPUs by gloo ({SHARING}=1), which tests correctness alone"
    return f", {ranks.world_size} ranks" + (sharing if ranks.device.type == "cuda" and shares_gpus() else "")


def _backbone(config: RunConfig) -> dict[str, str]:
    """Return the line of a backbone that is not one of the residual networks of the presets."""
    identity = config.model.identity
    if identity.backbone == "residual":
        return {}
    stride = "" if identity.output_stride is None else f", output stride {identity.output_stride}"
    return {"backbone": identity.backbone + stride}


def _source(inputs: Inputs) -> dict[str, str]:
    """Return the line of the labelled dataset, where there is one."""
    source = inputs.source
    if source is None:
        return {}
    notes = "".join(f"; {note}" for note in source.notes)
    notes += "" if source.can_be_ranked else f"; its test set is not evaluated: it {source.why_unranked}"
    people = len(np.unique(source.train.identity))
    return {"source": f"{source.name} in {source.root}: {len(source.train)} train, {people} identities{notes}"}


def _tracklets(config: RunConfig, train: Records) -> dict[str, str]:
    """Return the line of the tracklets, where the dataset has any: their number, and which stages use them."""
    count, alone = train.tracklet_counts
    if not count:
        return {}
    clusterings = {"joint": _joint_clustering(config)}
    if isinstance(config.warmup, WarmupConfig):
        clusterings["warmup"] = config.warmup.clustering
    clusters = [stage for stage in ("warmup", "joint") if stage in config.stages]
    idle = [stage for stage in clusters if stage not in clusterings or not clusterings[stage].tracklets]
    text = f"{len(train):,} crops in {count:,} tracklets" + (f", {alone:,} of them in none" if alone else "")
    return {"tracklets": text + (f"; not used by {' and '.join(idle)}" if idle else "")}


def _joint_clustering(config: RunConfig) -> ClusteringConfig:
    """Return how the joint stage clusters."""
    return config.joint.clustering if config.joint.clusters is None else config.joint.clusters.clustering


def _clustered_rows(config: RunConfig, train: Records) -> int:
    """Return the number of rows that the joint stage clusters: tracklets where they count, else crops."""
    count, alone = train.tracklet_counts
    return count + alone if _joint_clustering(config).tracklets else len(train)


def _rasterizer(device: torch.device) -> dict[str, str]:
    """Return the line of a rasterizer that has no kernels for the GPU."""
    if device.type == "cpu" or rasterize.HAS_CUDA_KERNELS:
        return {}
    return {"rasterizer": f"on the CPU, between two copies; the C++ ops were built for {recipe().notice}"}


def _norms(synchronized: bool, ranks: Ranks) -> str:
    """Return over which crops batch norms take their statistics."""
    if ranks.world_size == 1:
        return "statistics of the batch" + (" (--sync-bn changes nothing with one rank)" if synchronized else "")
    if not synchronized:
        return "statistics of each rank's batch; running statistics averaged over the ranks"
    return "statistics over all ranks, by " + (
        "torch" if ranks.device.type == "cuda" else "gcl_fast (torch's needs CUDA)"
    )
