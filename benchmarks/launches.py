"""Count kernel launches and traffic of each stage's step on a GPU in eager mode, without a GPU.

    python benchmarks/launches.py                                  # all stages, both presets: a minute
    python benchmarks/launches.py --preset paper --stage joint

One step runs on a GPU of paper (paper_gpu.py) under bfloat16 autocast, after one that warms up, and its ops are counted
as they arrive below autograd and autocast (kernel_counts.py says how). `ours` are launches of gcl_fast's own ops,
`waits` places where the step would wait for the device. Rows are appended to results/launches.csv.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from itertools import product
from typing import Any
from unittest.mock import patch

from gcl_fast.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, make_embedded_dataset, open_inputs
from gcl_fast.losses.camera_proxies import CameraProxies
from gcl_fast.losses.cluster_memory import Clusters
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import RunConfig
from gcl_fast.stages.warmups.cluster import Warmup
from lib.kernel_counts import Count
from lib.paper_gpu import emulated_gpu, paper_gpu
from lib.reporting import report
from lib.stages import KINDS, first_epoch, open_stage, small_config


def prepared(name: str, config: RunConfig, inputs: Inputs, device: torch.device) -> Callable[[], object]:
    """Prepare a step of the stage called `name`. The CPU groups the labels, since the device has no values."""
    groups = Clusters.from_labels(torch.arange(len(inputs.dataset.train)) // 4)
    grouped = Clusters(*(t.to(device) for t in groups))
    precision = Precision("cuda", torch.bfloat16, "as CUDA's")
    with (
        patch.object(Clusters, "from_labels", lambda _: grouped),
        patch.object(CameraProxies, "from_labels", lambda *_: None),
    ):
        stage = open_stage(name, config, inputs, Ranks(0, 1, device), precision)
    batch = config.generative.batch if name == "generative" else config.joint.batch
    if isinstance(stage, Warmup):
        batch = stage.settings.identities * stage.settings.crops
    images = torch.empty(batch, 3, *config.size, device=device).contiguous(memory_format=torch.channels_last)
    index = (torch.arange(batch) % len(inputs.dataset.train)).to(device)
    step = emulated_gpu.watched(stage.step, begins=True)
    return lambda: step(images, index, first_epoch(stage, config), 0)


def counted(name: str, config: RunConfig, inputs: Inputs, counts: list[Count]) -> dict[str, Any]:
    """Run a step of the stage called `name` and return its row; its count becomes the last of `counts`."""
    step = prepared(name, config, inputs, torch.device("cuda", 0))
    step()
    counts.append(Count())
    waits = emulated_gpu.waits["within"]
    waits.clear()
    step()
    for place in waits:
        print(f"{config.preset} {name} waits: {place}", file=sys.stderr)
    count = counts[-1]
    return {
        "preset": config.preset,
        "stage": name,
        "launches": count.launches.total(),
        "ours": sum(launches for op, launches in count.launches.items() if op.startswith("gcl_fast::")),
        "read_mb": round(count.read.total() / 1e6, 1),
        "written_mb": round(count.written.total() / 1e6, 1),
        "waits": len(waits),
    }


def main(arguments: list[str] | None = None) -> None:
    """Count, print and append rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", nargs="+", choices=("demo", "paper"), default=["demo", "paper"])
    parser.add_argument("--stage", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--ops", type=int, default=20, help="how many of the ops with most launches are printed")
    options = parser.parse_args(arguments)
    configs = [small_config(preset, "cpu") for preset in options.preset]
    for config in configs:
        make_embedded_dataset(config)
    counts, rows = [Count()], []
    with paper_gpu(lambda *seen: counts[-1](*seen)):
        for config, name in product(configs, options.stage):
            rows.append(counted(name, config, open_inputs(config), counts))
            print(f"{config.preset} {name}: {rows[-1]['launches']:,} launches")
            count = counts[-1]
            for op, launches in count.launches.most_common(options.ops):
                moved = f"{count.read[op] / 1e6:12,.1f} MB read{count.written[op] / 1e6:12,.1f} MB written"
                print(f"  {op:44}{launches:7,}{moved}")
    report("launches", rows)


if __name__ == "__main__":
    main()
