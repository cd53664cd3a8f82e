"""What the loop needs of a stage, and a stage of its loader."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor

from gcl_fast.stages.graphs import StepGraphs


class Loader(Protocol):
    """Batches of a plan (`gcl_fast.data.TrainLoader`)."""

    notice: str  # engine and cache, for the log

    def epoch(self, plan: Tensor, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images (B, 3, H, W) and index (B,) for each row of `plan` from `start` on."""


class Stage(Protocol):
    """What the loop needs of a stage. Randomness is a function of (seed, epoch, position), never of a live state."""

    name: str
    epochs: int
    graphs: StepGraphs  # through which `step` takes its updates

    @property
    def loader(self) -> Loader:
        """Return where the crops come from."""

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Prepare an epoch (cluster, set learning rates); metrics for the log. Not called on resuming inside it."""

    def plan(self, epoch: int) -> Tensor:
        """Return the (steps, B) crop indices of this rank."""

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """One update; device scalars for the log, `loss` among them. Those called `skipped` or `skipped_<update>` are 1
        where the update was left out because it was not finite (`gcl_fast.optim.update.descend`)."""

    def state_dict(self) -> dict[str, Any]:
        """Return what the stage needs besides the networks to go on: optimizers, bank, labels."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load what `state_dict` returned."""
