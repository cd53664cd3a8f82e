"""Run a stage: the loop over its epochs, with resuming, checkpoints, metrics and interruption."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType

from torch import Tensor
from torch.profiler import record_function

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.optim.stability import TOLERATED, RunningStatistics, too_many_skipped
from gcl_fast.run.logs import RunLog
from gcl_fast.run.meter import Meter, Reading
from gcl_fast.settings import RunConfig
from gcl_fast.stages.stage import Stage


@dataclass
class Position:
    """Holds how far a stage is: `position` steps into `epoch`, `step` in all."""

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0  # spent in the stage, over all sessions
    skipped: int = 0  # steps left out because they were not finite
    steps: int = 0  # of this epoch's plan
    batch: int = 0  # crops a step, all ranks together

    def follow(self, steps: int, batch: int) -> None:
        """Go on in a plan of `steps` x `batch` crops, which differs from the one before with another number of ranks.

        The order of the crops in a pass depends on (seed, epoch) alone and not on the batch size. The pass goes on at
        the first crop not yet seen, rounded down to a whole batch. No crop is missed, and less than one batch is seen
        twice. A plan with as many steps as before goes on at the same step.
        """
        if self.steps not in (0, steps):
            self.position = min(steps, self.position * self.batch // batch)
        self.steps, self.batch = steps, batch


@dataclass
class Interruption:
    """Holds the first Ctrl-C or SIGTERM; the loop reads it between two steps."""

    signal: int | None = field(default=None)

    @contextmanager
    def watched(self) -> Iterator[Interruption]:
        """Enter a context that catches the first signal of each kind; a second one acts as usual."""

        def note(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signal.signal(number, before[signal.Signals(number)])

        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Interrupted(Exception):
    """Reports that a signal stopped the run, and whether a checkpoint was saved."""


def run_stage(
    stage: Stage,
    at: Position,
    log: RunLog,
    ranks: Ranks,
    interruption: Interruption,
    save: Callable[[], bool],
    statistics: RunningStatistics,
    config: RunConfig,
) -> None:
    """Run `stage` from `at` (updated in place) to its end.

    Args:
        stage: the stage.
        at: how far it is.
        log: takes the metrics.
        ranks: all of them call this.
        interruption: holds a signal, after which the loop saves and stops.
        save: writes a checkpoint of everything, `at` included, and returns whether the disk took it, the same on every
            rank. It is called every `checkpoint_seconds` and before an error is raised.
        statistics: of the networks' batch norms, made finite before each use.
        config: how often to save and to read the metrics from the device.

    Raises:
        Interrupted: after a signal and `save`.
        NotFinite: TOLERATED steps in a row were skipped, which the next read of the metrics shows; after `save`.
    """
    beginning, before, save_time = time.monotonic(), at.seconds, time.monotonic()
    progress, meter = log.progress(stage.name, at.step, at.step), Meter(ranks)
    try:
        while at.epoch < stage.epochs:
            if at.position == 0:
                statistics.mend()
                log.metrics(stage.name, at.step, stage.begin_epoch(at.epoch))
            plan = stage.plan(at.epoch)
            at.follow(len(plan), plan.shape[1] * ranks.world_size)
            expected = at.step - at.position + len(plan) * (stage.epochs - at.epoch)
            for images, index in _awaited(stage.loader.epoch(plan, at.epoch, at.position)):
                meter.add(stage.step(images, index, at.epoch, at.position))
                at.position, at.step = at.position + 1, at.step + 1
                at.seconds = before + time.monotonic() - beginning
                reading = None
                ends = at.epoch == stage.epochs - 1 and at.position == len(plan)
                if at.step % config.log_every == 0 or ends:
                    statistics.mend()
                    reading = meter.read()
                    _report(reading, stage, at, log)
                    if reading.streak >= TOLERATED:
                        success = save()
                        raise too_many_skipped(stage.name, at.step, reading.streak, reading.causes, config, success)
                progress.advance(expected, reading.means if reading else None)
                due = time.monotonic() - save_time > config.checkpoint_seconds
                stop, due = ranks.any(interruption.signal is not None, due)
                if stop or due:
                    statistics.mend()
                    success = save()
                    save_time = time.monotonic()
                if stop:
                    outcome, origin = (
                        ("saved", "") if success else ("not saved", ", from an older checkpoint where there is one")
                    )
                    raise Interrupted(f"{outcome} in {config.folder}; the same command with --resume goes on{origin}")
            at.epoch, at.position = at.epoch + 1, 0
        statistics.mend()
    finally:
        progress.close()


def _awaited(batches: Iterator[tuple[Tensor, Tensor]]) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield `batches`; a profile shows the wait for each as the region "load"."""
    while True:
        with record_function("gcl_fast::load"):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _report(reading: Reading, stage: Stage, at: Position, log: RunLog) -> None:
    """Log the metrics, and count and print the skipped steps."""
    at.skipped += reading.skipped
    skipped = {"skipped": float(reading.skipped)} if reading.skipped else {}
    log.metrics(stage.name, at.step, reading.means | skipped)
    if skipped:
        log.say(f"{stage.name}: {reading.skipped} steps skipped up to step {at.step}, not finite: {reading.causes}")
