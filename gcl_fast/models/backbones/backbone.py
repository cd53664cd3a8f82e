"""What a backbone is: named modules, the width of their last map, and how they run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from torch import Tensor, nn


class Backbone(NamedTuple):
    """Holds what an identity encoder needs to compute the last feature map of crops.

    The encoder takes the modules as its own children, so their names are the beginnings of the tensors' names.
    """

    modules: Mapping[str, nn.Module]
    width: int  # channels C of the map
    run: Callable[[nn.Module, Tensor], Tensor]  # the encoder with these children, crops (B, 3, H, W) -> (B, C, h, w)
    initialize: Callable[[nn.Module], None] | None = None  # draws weights; None: they are drawn already
    prefix: str = ""  # of the tensors' names in the encoder, before the names by which other projects know them
    adapt: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict  # makes tensors of other sizes fit, by those names


def draw_kaiming(module: nn.Module) -> None:
    """Draw Kaiming-normal weights (fan out) of a convolution or a Linear, and set its bias to zero."""
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    elif isinstance(module, nn.Linear):
        nn.init.kaiming_normal_(module.weight, mode="fan_out")
        nn.init.zeros_(module.bias)
