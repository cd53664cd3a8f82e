"""Metrics between two reads: summed on the device, read in one piece, with a count of what was not finite."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks

SKIPPED = "skipped"  # metrics named so, or skipped_<update>, are 1 where that update was left out


@dataclass(frozen=True)
class Reading:
    """What happened since the last read, on all ranks."""

    means: dict[str, float]  # over the steps (and ranks) in which the metric was finite
    skipped: int  # steps with an update left out
    streak: int  # the most of them in a row, steps before the last read included
    causes: str  # loss terms that were not finite, or else whose gradients


class Meter:
    """Collects a stage's device scalars without waiting for the device; `read` alone does."""

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._streak = torch.zeros((), device=ranks.device)
        self._clear()

    def _clear(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}  # by the names measured together: (3, T) sum, finite, not finite
        self._worst = torch.zeros_like(self._streak)
        self._skipped = torch.zeros_like(self._streak)

    def add(self, measured: dict[str, Tensor]) -> None:
        """Take the scalars of one step. A stage that reports no `skipped` is judged by its `loss`."""
        names = tuple(measured)
        values = torch.stack([value.detach().float() for value in measured.values()])
        finite = values.isfinite()
        rows = torch.stack([values.where(finite, 0), finite.float(), (~finite).float()])
        self._sums[names] = self._sums[names] + rows if names in self._sums else rows
        flags = [value.detach() for name, value in measured.items() if name.startswith(SKIPPED)]
        skipped = torch.stack(flags or [(~measured["loss"].detach().isfinite()).float()]).amax()
        self._skipped += skipped
        self._streak = (self._streak + 1) * skipped
        self._worst = torch.maximum(self._worst, self._streak)

    def read(self) -> Reading:
        """Means over steps and ranks, the same on every rank; the next read starts from here."""
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
