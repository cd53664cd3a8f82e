"""Kernel launches and traffic of a step of each stage on a GPU in eager mode, counted without a GPU.

    python benchmarks/launches.py                                  # all stages, both presets: a minute
    python benchmarks/launches.py --preset paper --stage joint

One step runs on a GPU of paper (paper_gpu.py) under bfloat16 autocast, after one that warms up, and its ops are counted
as they arrive below autograd and autocast. Views launch nothing; an op of gcl_fast launches what KERNELS says, a
multi-tensor op its chunks, a convolution one kernel and one for its bias, its backward pass one for each gradient, any
other op one. That is an estimate: the libraries add kernels that transform layouts or split sums. Bytes are those of
each argument and result, once. `waits` counts places where the step would wait for the device. Rows are appended to
results/launches.csv.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any
from unittest.mock import patch

from gcl_fast.training.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

import torch
from paper_gpu import emulated_gpu, paper_gpu, tensors_in
from reporting import report
from stages import KINDS, first_epoch, open_stage, small_config
from torch import Tensor

from gcl_fast.config import RunConfig
from gcl_fast.losses.camera_proxies import CameraProxies
from gcl_fast.losses.cluster_memory import Clusters
from gcl_fast.training.inputs import Inputs, make_embedded_dataset, open_inputs
from gcl_fast.training.precision import Precision
from gcl_fast.training.ranks import Ranks
from gcl_fast.training.warmups.cluster import Warmup

Arguments = tuple[Any, ...]
CHUNK, BLOCKS = 65536, 320  # elements of a chunk, chunks of a launch: torch's multi_tensor_apply
TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # of a launch, by the number of lists


def _chunks(lists: Sequence[Any]) -> int:
    """Launches of multi_tensor_apply over as many lists of tensors."""
    launches, tensors, blocks = 0, 0, 0
    for tensor in lists[0]:
        tensors += 1
        for _ in range(math.ceil(tensor.numel() / CHUNK)):
            blocks += 1
            if blocks == BLOCKS:
                launches, blocks, tensors = launches + 1, 0, 1  # the tensor may go on in the next launch
        if tensors == TENSORS[min(len(lists), 5)]:
            launches, blocks, tensors = launches + bool(blocks), 0, 0
    return launches + bool(blocks)


def _multi_tensor(args: Arguments) -> int:
    """Of a foreach op: lists of tensors first, each read or written."""
    return _chunks([a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)])


# Kernels of an op by its name, where these are not one: a number, or a function of its arguments.
KERNELS: dict[str, int | Callable[[Arguments], int]] = {
    # of gcl_fast: what its launcher for CUDA launches
    "gcl_fast::structure": 6,
    "gcl_fast::rasterize": 3,
    "gcl_fast::negative_lse": 12,  # tiled, one tile: fill 3, two products, rows, scale, log-sum and mean 5
    "gcl_fast::styled_norm": lambda args: 1 + args[-1],  # of whole samples: parts first
    "gcl_fast::styled_norm_backward": lambda args: 1 + args[-1],
    # of torch
    "aten::convolution": lambda args: 1 + (args[2] is not None),  # the bias is added after
    "aten::convolution_backward": lambda args: sum(args[-1]),
    "aten::constant_pad_nd": 2,  # fill, copy
    "aten::slice_backward": 2,
    "aten::select_backward": 2,
    "aten::reflection_pad2d_backward": 2,
    "aten::max_pool2d_with_indices_backward": 2,
    "aten::_foreach_norm": lambda args: _chunks(args[:1]) + 1,
    "aten::_fused_adam_": lambda args: _chunks(args[:4]),
    "aten::_fused_adamw_": lambda args: _chunks(args[:4]),
    "aten::_fused_sgd_": lambda args: _chunks(args[:3]),
    # memory without a kernel
    **dict.fromkeys(
        ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"), 0
    ),
    "aten::_unsafe_view": 0,
    "aten::is_same_size": 0,
}


def kernels_of(op: Any, args: Arguments) -> int:
    """How many kernels `op` launches."""
    schema = op._schema
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return 0  # a view
    count = KERNELS.get(schema.name)
    if count is None:
        count = _multi_tensor if schema.name.startswith("aten::_foreach") else 1
    return count(args) if callable(count) else count


@dataclass
class Count:
    """Launches and bytes of a step, by op."""

    launches: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def __call__(self, op: Any, args: Arguments, kwargs: dict[str, Any], made: Any) -> None:
        """Of one op, its arguments and results."""
        kernels, name = kernels_of(op, args), op._schema.name.removeprefix("aten::")
        changed = [
            args[n] if n < len(args) else kwargs[argument.name]
            for n, argument in enumerate(op._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        written = sum(_size(t) for t in tensors_in(changed or (made,)))
        if kernels and written:
            self.launches[name] += kernels
            self.read[name] += sum(_size(t) for t in tensors_in((args, *kwargs.values())))
            self.written[name] += written


def _size(tensor: Tensor) -> int:
    """Bytes that are read of `tensor`: an expanded one's once."""
    held = (size for size, stride in zip(tensor.shape, tensor.stride()) if stride)
    return math.prod(held) * tensor.element_size() if tensor.numel() else 0


def prepared(name: str, config: RunConfig, inputs: Inputs, device: torch.device) -> Callable[[], object]:
    """A step of the stage called `name`, ready to be called. Labels are grouped on the CPU, since the device has no
    values; all else is made there."""
    groups = Clusters.from_labels(torch.arange(len(inputs.dataset.train)) // 4)
    grouped = Clusters(*(t.to(device) for t in groups))
    precision = Precision("emulated", torch.bfloat16, "as CUDA's")
    with (
        patch.object(Clusters, "from_labels", lambda _: grouped),
        patch.object(CameraProxies, "from_labels", lambda *_: None),
    ):
        stage = open_stage(name, config, inputs, Ranks(0, 1, device), precision)
    batch = stage.settings.identities * stage.settings.crops if isinstance(stage, Warmup) else config.joint.batch
    images = torch.empty(batch, 3, *config.size, device=device).contiguous(memory_format=torch.channels_last)
    index = (torch.arange(batch) % len(inputs.dataset.train)).to(device)
    step = emulated_gpu.watched(stage.step)
    return lambda: step(images, index, first_epoch(stage, config), 0)


def counted(name: str, config: RunConfig, inputs: Inputs, counts: list[Count]) -> dict[str, Any]:
    """The CSV's row of a step of the stage called `name`, whose count becomes the last of `counts`."""
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
    """Count, print, append."""
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
