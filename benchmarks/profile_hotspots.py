"""Profile real training steps: where the time goes, as a page, a trace and a text table.

    python benchmarks/profile_hotspots.py --stage joint --steps 20 --amp
    python benchmarks/profile_hotspots.py --stage warmup --amp --preset paper --dataset market1501 --data-root DIR

All flags but --stage, --steps and --out are those of train.py. Leaves in --out: STAGE.html, which opens from disk, and
STAGE.trace.json for chrome://tracing or Perfetto. Three rounds of --steps steps run: without the profiler, under it as
a rehearsal, and under it for the page. The first round's median gives the cost of the profiler. The rehearsal is needed
because the profiler's records split the memory that tensors reuse, and steps that touch new memory take longer. All
rounds start at the beginning of an epoch, without its clustering.
"""

from __future__ import annotations

import argparse
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from gcl_fast.process import prepare_process

if __name__ == "__main__":
    prepare_process()  # may restart the process: before torch is imported

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from gcl_fast.command_line import parse
from gcl_fast.distributed import ranks as processes
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.entry import entry
from gcl_fast.errors import UserError
from gcl_fast.inputs import make_embedded_dataset, open_inputs
from gcl_fast.optim.precision import choose, planned_steps
from gcl_fast.optim.stability import RunningStatistics
from gcl_fast.run.logs import RunLog
from gcl_fast.run.loop import Interrupted, Interruption, Position, run_stage
from gcl_fast.settings import RunConfig
from gcl_fast.stages.stage import Stage
from gcl_fast.table import text_table
from lib.ceilings import measure_ceilings
from lib.reporting import facts
from lib.stages import KINDS, first_epoch, open_stage
from profiler.chrome_trace import Profile, read
from profiler.page import kernel_table, region_table, write_page

WARM = 3  # steps before anything is timed: compilation, first allocations


class Profiled:
    """Represents `stage`: it reports each step to `profiler`, times it, and asks the loop to stop after `steps`."""

    def __init__(self, stage: Stage, profiler: profile, interruption: Interruption, steps: int, cuda: bool) -> None:
        self._stage, self._profiler, self._interruption, self._left = stage, profiler, interruption, steps
        self._cuda = cuda
        self.ends = [time.perf_counter()]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)

    def step(self, *arguments: Any) -> dict[str, torch.Tensor]:
        measured = self._stage.step(*arguments)
        if self._cuda:
            torch.cuda.synchronize()  # a step's time is then its own
        self._profiler.step()
        self.ends.append(time.perf_counter())
        self._left -= 1
        if not self._left:
            self._interruption.signal = signal.SIGINT
        return measured


def record(stage: Stage, config: RunConfig, epoch: int, steps: int, ranks: Ranks, trace: Path) -> float:
    """Run the training loop for WARM + 3 * steps + 2 steps and write the trace of the last `steps`.

    Returns the median seconds of a step without the profiler.

    Raises:
        UserError: the stage has not as many steps.
    """
    cuda, interruption = ranks.device.type == "cuda", Interruption()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    plan, count = schedule(skip_first=WARM + steps, wait=0, warmup=1, active=steps, repeat=2), WARM + 3 * steps + 2
    with (
        tempfile.TemporaryDirectory() as folder,
        profile(
            activities=activities,
            schedule=plan,
            record_shapes=True,
            profile_memory=True,
        ) as profiler,
    ):
        log, counted = (
            RunLog(Path(folder), ranks.main),
            Profiled(stage, profiler, interruption, count, cuda),
        )
        at = Position(epoch=epoch, position=1)  # past what begins an epoch
        try:
            unsaved, no_norms = replace(config, checkpoint_seconds=1e9), RunningStatistics(torch.nn.Identity())
            run_stage(counted, at, log, ranks, interruption, lambda: True, no_norms, unsaved)
        except Interrupted:
            pass
        else:
            raise UserError(f"--steps {steps}: the {stage.name} stage ended after {at.step} of {count} steps")
        finally:
            log.close()
    profiler.export_chrome_trace(str(trace))
    ends = counted.ends[WARM : WARM + steps + 1]
    return statistics.median(after - before for before, after in pairwise(ends))


def lines(measured: Profile, plain: float) -> list[str]:
    """Return the first lines of the page and of the output."""
    profiled = statistics.median(end - start for start, end in measured.steps) / 1e6
    summary = [
        f"{len(measured.steps)} steps, median {profiled * 1e3:.1f} ms; {plain * 1e3:.1f} ms without the profiler, "
        f"which costs {profiled / plain - 1:+.1%}",
        f"named regions cover {measured.coverage:.1%} of the steps",
    ]
    if measured.launch_gap is not None:
        summary.append(f"the GPU ran no kernel during {measured.launch_gap:.1%} of the steps")
    return summary


@entry
def main(arguments: list[str] | None) -> int:
    """Profile a stage and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--stage", choices=list(KINDS), default="joint")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path, default=Path("runs/profile"))
    options, rest = parser.parse_known_args(arguments)
    config, _ = parse(rest)
    config = replace(config, cuda_graphs="off")  # a graph has no regions
    ranks = processes.start(config.device)
    if config.dataset == "synthetic":
        make_embedded_dataset(config)
    inputs = open_inputs(config)
    steps = planned_steps(config, len(inputs.dataset.train), ranks.world_size)
    precision = choose(config.amp, ranks.device, config.compile, steps)
    stage = open_stage(options.stage, config, inputs, ranks, precision)
    ceilings = measure_ceilings(ranks.device.type)
    options.out.mkdir(parents=True, exist_ok=True)
    trace, page = (options.out / f"{options.stage}.{ending}" for ending in ("trace.json", "html"))
    plain = record(stage, config, first_epoch(stage, config), options.steps, ranks, trace)
    measured = read(trace)
    machine = ", ".join(f"{key} {value}" for key, value in facts(ranks.device.type).items())
    summary = [f"{options.stage} stage, {config.preset} preset, {precision.why}, compile {precision.why_compiled}"]
    summary += [*lines(measured, plain), f"ceilings: {ceilings}", machine]
    write_page(page, f"gcl_fast: hotspots of the {options.stage} stage", summary, measured, ceilings)
    print(
        "\n".join(summary),
        text_table(region_table(measured)),
        text_table(kernel_table(measured, ceilings, 12)),
        sep="\n\n",
    )
    print(f"\n{page}\n{trace}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
