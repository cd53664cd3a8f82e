"""Define what the loop needs of a stage, and what a stage needs of its loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from gcl_fast.stages.graphs import StepGraphs


class Loader(Protocol):
    """Loads the batches of a plan (`gcl_fast.data.TrainLoader`)."""

    notice: str  # engine and cache, for the log

    def epoch(self, plan: Tensor, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) and their index (B,) for each row of `plan` from `start` on."""


class Stage(Protocol):
    """Represents a stage for the loop. Its draws are functions of (seed, epoch, position), never of a live state."""

    name: str
    epochs: int
    graphs: StepGraphs  # through which `step` takes its updates

    @property
    def loader(self) -> Loader:
        """Return the loader of the crops."""

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Prepare an epoch, and return metrics for the log; a run that resumes inside the epoch does not call it."""

    def plan(self, epoch: int) -> Tensor:
        """Return the crop indices (steps, B) of this rank."""

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Take one update, and return device scalars for the log, `loss` among them.

        Scalars called `skipped` or `skipped_<update>` are 1 where the update was left out because it was not finite
        (`gcl_fast.optim.update.descend`).
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what the stage needs besides the networks to go on: optimizers, bank, labels."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
