"""Decide which novel views show enough of their person to stand for them."""

from __future__ import annotations

from torch import Tensor

from gcl_fast.bodies.body_estimator import DOUBTFUL
from gcl_fast.kernels.transfer_appearance import Carried
from gcl_fast.render import Turn

SHOWN = 0.15  # mean confidence of a view's body, below which its crop shows too little of the person


def usable_views(turn: Turn, carried: Carried, confidence: Tensor) -> Tensor:
    """Return which novel views can stand for their person.

    A view is left out where the body of its crop is doubtful, and where the crop shows too little of the body, as where
    the body lies outside the crop.

    Args:
        turn: the crops' own views and the novel ones.
        carried: the crops' pixels in the novel views.
        confidence: (B,) of the bodies, in 0..1.

    Returns:
        (B,) bool.

    Example:
        >>> import torch
        >>> turn = Turn(torch.zeros(4, 1, 64, 40))  # two bodies that fill their crops
        >>> confidence_of_pixels = torch.stack([torch.full((1, 64, 40), 0.9), torch.full((1, 64, 40), 0.1)])
        >>> usable_views(turn, Carried(torch.rand(2, 3, 64, 40), confidence_of_pixels), torch.ones(2))
        tensor([ True, False])
    """
    body = (turn.novel < 1).float()
    shown = (carried.confidence * body).sum((1, 2, 3)) / body.sum((1, 2, 3)).clamp(min=1)
    return (confidence >= DOUBTFUL) & (shown >= SHOWN)
