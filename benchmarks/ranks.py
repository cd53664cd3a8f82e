"""Time three ways to average gradients over ranks, and model what more ranks cost.

    torchrun --standalone --nproc-per-node 2 benchmarks/ranks.py
    python benchmarks/ranks.py --bandwidth 25 --latency 20

The first times the backward pass of ResNet-50 (the identity encoder at the paper's sizes) with its gradients averaged
by one all-reduce after it, by `Ranks.averaging`, and by DistributedDataParallel. The second measures nothing: it counts
the parameters of the paper's networks and works out, for a given bandwidth and latency, what each update of the joint
stage sends, how long that takes, and hence how long the backward pass must be to hide it.
"""

from __future__ import annotations

import argparse
import time
from copy import deepcopy
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gcl_fast.distributed import ranks as processes
from gcl_fast.distributed.ranks import BUCKET_BYTES, Ranks
from gcl_fast.models import GCL
from gcl_fast.process import prepare_process
from gcl_fast.settings import preset
from lib.reporting import RESULTS, append, spread


def sent_per_step() -> dict[str, int]:
    """Return the bytes of float32 that each all-reduce of a joint step carries, at the paper's sizes."""
    with torch.device("meta"):
        gcl = GCL(preset("paper").model)
    size = lambda *modules: 4 * sum(p.numel() for module in modules for p in module.parameters())
    norms = sum(m.num_features for m in gcl.identity.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm))
    return {
        "discriminator update": size(gcl.discriminator),
        "generator update (E_str, G)": size(gcl.structure, gcl.generator),
        "identity update (E_id)": size(gcl.identity),
        "running statistics": 2 * 4 * norms,
    }


def model(world_size: int, bandwidth: float, latency: float) -> list[tuple[str, float, float]]:
    """Return (update, MB sent by each rank, milliseconds) of ring all-reduces over `world_size` ranks.

    A ring sends 2 (W - 1) / W of the bytes through every link, in 2 (W - 1) hops.

    Args:
        bandwidth: GB/s of the slowest link between two neighbours in the ring.
        latency: microseconds of a hop.
    """
    rows = []
    for name, held in sent_per_step().items():
        sent = 2 * (world_size - 1) / world_size * held
        launches = -(-held // BUCKET_BYTES)
        rows.append((name, sent / 1e6, sent / bandwidth / 1e6 + launches * 2 * (world_size - 1) * latency / 1e3))
    return rows


def average_at_once(parameters: list[nn.Parameter], world_size: int) -> None:
    """Average by one all-reduce of all gradients, when the last one is there."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([g.flatten() for g in gradients])
    dist.all_reduce(flat)
    flat /= world_size
    for gradient, mean in zip(gradients, flat.split([g.numel() for g in gradients])):
        gradient.copy_(mean.view_as(gradient))


def compare(ranks: Ranks, batch: int, repeats: int) -> dict[str, list[float]]:
    """Return seconds of forward and backward pass by each way, in turns so that a busy machine hits all alike."""
    torch.manual_seed(0)
    encoder = GCL(preset("paper").model).identity.to(ranks.device).to(memory_format=torch.channels_last)
    wrapped = DistributedDataParallel(deepcopy(encoder), forward_sync_buffers=False, gradient_as_bucket_view=True)
    images = torch.randn(batch, 3, 128, 64, device=ranks.device).contiguous(memory_format=torch.channels_last)
    parameters = list(encoder.parameters())

    def passes(network: nn.Module) -> None:
        torch.stack([part.float().square().mean() for part in network(images)]).sum().backward()

    def once() -> None:
        passes(encoder)
        average_at_once(parameters, ranks.world_size)

    def buckets() -> None:
        with ranks.averaging(parameters):
            passes(encoder)

    ways = {
        "not averaged": lambda: passes(encoder),
        "one all-reduce afterwards": once,
        "Ranks.averaging": buckets,
        "DistributedDataParallel": lambda: passes(wrapped),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for repeat in range(repeats + 1):
        for name, way in ways.items():
            encoder.zero_grad()
            wrapped.zero_grad()
            ranks.barrier()
            began = time.perf_counter()
            way()
            if ranks.device.type == "cuda":
                torch.cuda.synchronize()
            if repeat:  # the first warms up
                seconds[name].append(time.perf_counter() - began)
    return seconds


def main() -> None:
    """Print the model, or under torchrun measure and append to results/ranks.csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bandwidth", type=float, default=25.0, help="GB/s between neighbours (default: 25, assumed)")
    parser.add_argument("--latency", type=float, default=20.0, help="microseconds a hop (default: 20, assumed)")
    parser.add_argument("--batch", type=int, default=4, help="128x64 crops a rank in the measurement")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    prepare_process()  # as train.py does: page faults of every new bucket would be measured
    ranks = processes.start()
    if ranks.world_size > 1:
        seconds = compare(ranks, options.batch, options.repeats)
        rows: list[dict[str, Any]] = [
            {"ranks": ranks.world_size, "way": name, **spread(values)} for name, values in seconds.items()
        ]
        if ranks.main:
            for row in rows:
                print("{way:28} min {min:.3f} s, median {median:.3f} s, max {max:.3f} s".format(**row))
            append(RESULTS / "ranks.csv", rows, ranks.device.type)
    else:
        print(f"counted bytes; assumed {options.bandwidth:g} GB/s and {options.latency:g} us a hop, not measured")
        for world_size in (2, 8, 64):
            for name, sent, milliseconds in model(world_size, options.bandwidth, options.latency):
                print(f"{world_size:3} ranks  {name:28} {sent:8.2f} MB sent by each rank  {milliseconds:7.2f} ms")
    processes.stop()


if __name__ == "__main__":
    main()
