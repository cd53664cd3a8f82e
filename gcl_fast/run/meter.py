"""Sum metrics on the device between two reads, and read them in one piece, with a count of what was not finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks

SKIPPED = "skipped"  # metrics of this name, or skipped_<update>, are 1 where the update was left out


@dataclass(frozen=True)
class Reading:
    """Holds the metrics since the last read, over all ranks."""

    means: dict[str, float]  # over the steps (and ranks) in which the metric was finite
    skipped: int  # steps with an update left out
    streak: int  # the most of these in a row, including steps before the last read
    causes: str  # the loss terms that were not finite, or else the updates whose gradients were not


class Meter:
    """Collects a stage's device scalars without waiting for the device; `read` alone does."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._streak = torch.zeros((), device=ranks.device)
        self._clear()

    def _clear(self) -> None:
        """Set all sums to zero."""
        # Names of a step's T metrics -> (3, T): sum, count of finite values, count of others
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._worst = torch.zeros_like(self._streak)
        self._skipped = torch.zeros_like(self._streak)

    def add(self, metrics: dict[str, Tensor]) -> None:
        """Add the scalars of one step. In a stage without `skipped`, a `loss` that is not finite counts as skipped."""
        names = tuple(metrics)
        values = torch.stack([value.detach().float() for value in metrics.values()])
        finite = values.isfinite()
        rows = torch.stack([values.where(finite, 0), finite.float(), (~finite).float()])
        self._sums[names] = self._sums[names] + rows if names in self._sums else rows
        flags = [value.detach() for name, value in metrics.items() if name.startswith(SKIPPED)]
        skipped = torch.stack(flags or [(~metrics["loss"].detach().isfinite()).float()]).amax()
        self._skipped += skipped
        self._streak = (self._streak + 1) * skipped
        self._worst = torch.maximum(self._worst, self._streak)

    def read(self) -> Reading:
        """Return the means over steps and ranks, the same on every rank, and begin a new sum."""
        totals = self._ranks.sum(torch.cat([sums.flatten() for sums in self._sums.values()]))
        skipped, streak = self._ranks.max(torch.stack([self._skipped, self._worst])).int().tolist()
        by_name: dict[str, Tensor] = {}  # (3,)
        for names, part in zip(self._sums, totals.cpu().split([sums.numel() for sums in self._sums.values()])):
            for name, column in zip(names, part.view(3, -1).T):
                by_name[name] = by_name[name] + column if name in by_name else column
        self._clear()
        terms = {name: column.tolist() for name, column in by_name.items() if not name.startswith(SKIPPED)}
        updates = [name for name, column in by_name.items() if name.startswith(SKIPPED) and column[0]]
        causes = [name for name, (_, _, not_finite) in terms.items() if not_finite]
        causes = causes or ["gradients" + name.removeprefix(SKIPPED).replace("_", " of ") for name in updates]
        means = {name: total / count for name, (total, count, _) in terms.items() if count}
        return Reading(means, skipped, streak, ", ".join(causes))
