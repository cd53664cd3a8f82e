"""The loop that every stage shares: epochs, resuming, checkpoints, metrics, interruption."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.training.logs import RunLog
from gcl_fast.training.ranks import Ranks

TOLERATED = 10  # steps in a row whose loss is not finite


class Loader(Protocol):
    """Batches of a plan (`gcl_fast.data.TrainLoader`)."""

    notice: str  # engine and cache, for the log

    def epoch(self, plan: Tensor, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """(images (B, 3, H, W), index (B,)) for each row of `plan` from `start` on."""


class Stage(Protocol):
    """What the loop needs of a stage. Randomness is a function of (seed, epoch, position), never of a live state."""

    name: str
    epochs: int

    @property
    def loader(self) -> Loader:
        """Where the crops come from."""

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Prepare an epoch (cluster, set learning rates); metrics for the log. Not called on resuming inside it."""

    def plan(self, epoch: int) -> Tensor:
        """(steps, B) crop indices of this rank."""

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """One update; device scalars for the log. `loss` among them decides whether the step was finite."""

    def state_dict(self) -> dict[str, Any]:
        """What the stage needs besides the networks to go on: optimizers, bank, labels."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""


@dataclass
class Position:
    """How far a stage is: `position` steps into `epoch`, `step` in all."""

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0  # spent in the stage, over all sessions


@dataclass
class Interruption:
    """Set by the first Ctrl-C or SIGTERM; the loop looks at it between two steps."""

    signal: int | None = field(default=None)

    @contextmanager
    def watched(self) -> Iterator[Interruption]:
        """Catch the first signal of each kind; a second one acts as usual."""

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
    """The run was asked to stop and has saved itself."""


class NotFinite(UserError):
    """The loss was not finite for TOLERATED steps in a row."""


def run_stage(
    stage: Stage,
    at: Position,
    log: RunLog,
    ranks: Ranks,
    interruption: Interruption,
    save: Callable[[], None],
    save_seconds: float,
    log_every: int,
) -> None:
    """Run `stage` from `at` (updated in place) to its end.

    Args:
        save: writes a checkpoint of everything, `at` included; called every `save_seconds` and before raising.
        log_every: steps between two reads of the metrics from the device.

    Raises:
        Interrupted: after a signal, with a checkpoint written.
        NotFinite: the loss was NaN or infinite ten steps in a row; the last checkpoint from before stands.
    """
    began, before, saved, not_finite = time.monotonic(), at.seconds, time.monotonic(), 0
    progress = log.progress(stage.name, at.step, at.step)
    sums: dict[str, Tensor] = {}
    count = Counter[str]()
    try:
        while at.epoch < stage.epochs:
            if at.position == 0:
                log.metrics(stage.name, at.step, stage.begin_epoch(at.epoch))
            plan = stage.plan(at.epoch)
            expected = at.step - at.position + len(plan) * (stage.epochs - at.epoch)
            for images, index in stage.loader.epoch(plan, at.epoch, at.position):
                measured = stage.step(images, index, at.epoch, at.position)
                at.position, at.step = at.position + 1, at.step + 1
                count.update(measured.keys())
                for name, value in measured.items():
                    sums[name] = sums[name] + value.detach() if name in sums else value.detach()
                read = None
                if at.step % log_every == 0:
                    read = dict(
                        zip(sums, ranks.mean(torch.stack([sums[name] / count[name] for name in sums]).float()).tolist())
                    )
                    sums, count = {}, Counter()
                    log.metrics(stage.name, at.step, read)
                    not_finite = 0 if torch.isfinite(torch.tensor(read["loss"])) else not_finite + log_every
                    if not_finite >= TOLERATED:
                        bad = ", ".join(
                            name for name, value in read.items() if value != value or abs(value) == torch.inf
                        )
                        raise NotFinite(f"{stage.name}: not finite for {not_finite} steps at step {at.step}: {bad}")
                progress.advance(expected, read)
                at.seconds = before + time.monotonic() - began
                stop = ranks.any(interruption.signal is not None)
                if stop or (not_finite == 0 and ranks.any(time.monotonic() - saved > save_seconds)):
                    save()
                    saved = time.monotonic()
                if stop:
                    raise Interrupted
            at.epoch, at.position = at.epoch + 1, 0
    finally:
        progress.close()
