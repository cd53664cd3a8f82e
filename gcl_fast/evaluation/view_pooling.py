"""Pool the embedding of a crop with those of its novel views: the crop as seen from all sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from gcl_fast.bodies.usable_views import usable_views
from gcl_fast.render import Turn

NOVEL_YAWS = tuple(45.0 * step for step in range(1, 8))  # degrees


class Bodies(Protocol):
    """Turns crops by their index, and knows how sure their bodies are (`bodies.OnlineStructureMaps`)."""

    @property
    def confidence(self) -> Tensor:
        """Return how sure the body of each crop is, (N,) in 0..1."""

    def turn(self, index: Tensor, yaw: Tensor) -> Turn:
        """Return both views of crops (B,) for novel views at yaw (B,) degrees from their own."""


class CarriedViews:
    """Makes the novel views of a batch that are pooled with its crops: their own pixels, carried over the body mesh.

    An identity encoder that learned from such views gains by the mean over them; another one need not.

    Args:
        bodies: of the crops.
        yaws: degrees.

    Attributes:
        used: share of the views that were used so far; NaN before the first.
    """

    def __init__(self, bodies: Bodies, yaws: Sequence[float] = NOVEL_YAWS) -> None:
        self.bodies, self.yaws = bodies, yaws
        self._used = self._views = 0

    @property
    def used(self) -> float:
        """Return the share of the views that were used so far."""
        return self._used / self._views if self._views else float("nan")

    def __call__(self, images: Tensor, index: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield for each yaw the views (B, 3, H, W) of crops, and which of them are used (B,)."""
        for angle in self.yaws:
            turn = self.bodies.turn(index, torch.full(index.shape, angle, device=images.device))
            carried = turn.there(images)
            used = usable_views(turn, carried, self.bodies.confidence[index])
            self._used += int(used.sum())
            self._views += len(used)
            yield carried.colour, used
