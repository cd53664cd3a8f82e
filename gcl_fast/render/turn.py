"""The two views of a step, a crop's own and a novel one: their structure maps, and pixels carried between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.kernels.transfer_appearance import Carried

Route = Literal["there", "back", "neighbour"]  # to the novel view, from it, or to the own view of the neighbour


def swap_neighbours(rows: Tensor) -> Tensor:
    """Swap the rows 2k and 2k + 1 of a batch (B, ...), B even.

    Example:
        >>> swap_neighbours(torch.tensor([1, 2, 3, 4]))
        tensor([2, 1, 4, 3])
    """
    return rows.unflatten(0, (-1, 2)).flip(1).flatten(0, 1)


class Turn:
    """Holds the people of a batch of crops in two views: the crops' own, and a novel one.

    Args:
        maps: (2 * B, 1, H, W) structure maps in [-1, 1], of the own views and then of the novel ones.
        carry: maps images (B, C, H, W) of one view to another by a route; None where no body is known.

    Example:
        >>> turn = Turn(torch.rand(4, 1, 64, 40))
        >>> turn.own.shape, turn.novel.shape
        (torch.Size([2, 1, 64, 40]), torch.Size([2, 1, 64, 40]))
    """

    def __init__(self, maps: Tensor, carry: Callable[[Tensor, Route], Carried] | None = None) -> None:
        self.maps, self._carry = maps, carry

    @property
    def own(self) -> Tensor:
        """Return the structure maps (B, 1, H, W) of the crops' own views."""
        return self.maps.chunk(2)[0]

    @property
    def novel(self) -> Tensor:
        """Return the structure maps (B, 1, H, W) of the novel views."""
        return self.maps.chunk(2)[1]

    def there(self, images: Tensor) -> Carried:
        """Carry images (B, C, H, W) of the own views to the novel ones, C from 1 to 4.

        Raises:
            UserError: the maps are pre-rendered, so that no body is known.
        """
        return self._carried(images, "there")

    def back(self, view: Carried) -> Carried:
        """Carry images (B, 3, H, W) of the novel views to the own ones; the confidences of both ways multiply.

        Raises:
            UserError: the maps are pre-rendered, so that no body is known.
        """
        carried = self._carried(torch.cat(view, 1), "back")
        return Carried(carried.colour[:, :3], carried.confidence * carried.colour[:, 3:])

    def from_neighbours(self, images: Tensor) -> Carried:
        """Carry images (B, C, H, W) of the own views to those of their neighbours: row 2k to row 2k + 1, and back.

        Raises:
            UserError: the maps are pre-rendered, so that no body is known.
        """
        return self._carried(images, "neighbour")

    def _carried(self, images: Tensor, route: Route) -> Carried:
        if self._carry is None:
            raise UserError(
                "pre-rendered structure maps hold no body, so no pixel can be carried to another view: set"
                " model.generator.appearance=parts, or use body parameters"
            )
        return self._carry(images, route)


class Turns(Protocol):
    """Makes the turns of crops by their index, see `bodies.OnlineStructureMaps`."""

    def turn(self, index: Tensor, yaw: Tensor) -> Turn:
        """Return both views of crops (B,) int64 for novel views at yaw (B,) degrees from their own."""
