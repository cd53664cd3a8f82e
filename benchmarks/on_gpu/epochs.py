"""Time steps of the paper preset through the stage's own loader, and extrapolate to its epochs.

python -m on_gpu.epochs --device cuda --stage joint

Crops are generated, as many as Market-1501 trains on, with walking bodies; they are decoded, cached, augmented and
rendered as in a run. A joint epoch's clustering is measured once, on rows with a memory bank's spectrum. Evaluations
and checkpoints are left out. On a CPU --crops and --steps keep it tiny, with the demo's networks.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch

from gcl_fast.bodies import BodyParameters, save_body_parameters, walking_pose
from gcl_fast.data import open_dataset
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.optim.precision import choose
from gcl_fast.process import prepare_process
from gcl_fast.run.meter import Meter
from gcl_fast.settings import PUBLISHED, RunConfig, override, preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint
from lib.embeddings import bank
from lib.epoch_readers import write_crops
from lib.reporting import seconds_of
from lib.stages import first_epoch, open_stage
from on_gpu.rows import Row, emit
from on_gpu.targets import EPOCHS

MARKET = 12_936  # training crops of Market-1501
WARM = 20  # steps before any is timed


def make_dataset(folder: Path, count: int) -> None:
    """Make `count` crops and their body parameters, unless they are there."""
    path = folder / "body_parameters" / "train.npz"
    if path.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_crops(folder, count)
    names = open_dataset("folder", folder).train.names
    turn, camera = torch.arange(count), torch.tensor([[0.52, 0.5, 0.5, 8.0]]).repeat(count, 1)
    pose, shape = walking_pose(turn / 8 % 1), torch.full((count, 6), 0.5)
    yaw = turn * 45.0 % 360
    save_body_parameters(path, BodyParameters(names, "anny", pose, shape, yaw, camera, torch.ones(count)))


def begin(stage: Generative | Joint, device: str) -> tuple[float, float]:
    """Return the seconds that begin the first epoch, and those that begin each further one."""
    if isinstance(stage, Generative):
        return seconds_of(lambda: stage.begin_epoch(0), device), 0.0
    stage.bank.features.copy_(bank(*stage.bank.features.shape))
    seconds_of(lambda: stage.begin_epoch(1), device)  # kernels are compiled
    further = seconds_of(lambda: stage.begin_epoch(1), device)
    stage.bank.labels.copy_(torch.arange(len(stage.bank.labels)) // 17)  # the mean cluster of Market-1501; no outliers
    start = time.perf_counter()
    stage._embed(torch.arange(len(stage.bank.labels)))
    return time.perf_counter() - start + further, further


def config_of(count: int, device: str) -> RunConfig:
    """Return the paper preset, eager, on the generated crops; on a CPU the demo's networks and a small batch."""
    config = preset("paper") if device == "cuda" else override(preset("demo"), list(PUBLISHED))
    config = replace(
        override(config, [f"device={device}"]), amp=True, compile="off", dataset="folder", data_root=f"crops-{count}"
    )
    if device == "cpu":
        few = replace(config.generative, batch=4), replace(config.joint, batch=4)
        config = replace(config, height=64, width=40, generative=few[0], joint=few[1])
    return config


def main() -> None:
    """Measure, extrapolate and report."""
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), required=True)
    parser.add_argument("--stage", choices=("generative", "joint"), required=True)
    parser.add_argument("--crops", type=int, default=MARKET)
    parser.add_argument("--steps", type=int, default=200)
    options = parser.parse_args()
    device = options.device
    config = config_of(options.crops, device)
    make_dataset(Path(config.data_root), options.crops)
    ranks, inputs = Ranks(0, 1, torch.device(device)), open_inputs(config)
    stage = open_stage(options.stage, config, inputs, ranks, choose(True, ranks.device))
    assert isinstance(stage, Generative | Joint)
    once, each = begin(stage, device)
    epoch, meter, warm = first_epoch(stage, config), Meter(ranks), min(WARM, options.steps)
    plan = stage.plan(epoch)
    batches = enumerate(stage.loader.epoch(plan, epoch))

    def take(steps: int) -> None:
        for _ in range(steps):
            position, (images, index) = next(batches)
            meter.add(stage.step(images, index, epoch, position))

    loading = seconds_of(lambda: take(1), device)  # decodes all crops where they are cached
    take(warm - 1)
    measured = min(options.steps, len(plan) - warm)
    step = seconds_of(lambda: take(measured), device) / measured
    batch, epochs = plan.shape[1], stage.epochs - epoch
    total = once + (epochs - 1) * each + epochs * len(plan) * step + loading
    how = "; ".join(filter(None, [stage.loader.notice, stage.graphs.release()]))
    same = lambda s: {"min_ms": 1e3 * s, "median_ms": 1e3 * s, "max_ms": 1e3 * s}
    row: Row = {"kind": "time", "contender": "ours", "repeats": measured, "note": how}
    size = f"{options.crops:,} crops, batch {batch}"
    emit(row | {"what": f"{options.stage} step with loading, {config.preset}", "size": size, "unit": "images",
                "per_second": batch / step, **same(step)})  # fmt: skip
    basis = f"from {measured} steps of {1e3 * step:.1f} ms; first decoding {loading:.1f} s, clustering {each:.2f} s"
    row |= {"contender": "ours, extrapolated", "note": basis}
    emit(row | {"what": f"{EPOCHS}, {options.stage}", "size": f"{epochs} epochs of {len(plan)} steps", "unit": "epochs",
                "per_second": epochs / total, **same(total)})  # fmt: skip


if __name__ == "__main__":
    main()
