"""Compute and set the learning rate over a stage."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer


def ramp_then_cosine(step: int, total: int, ramp_steps: int, constant_share: float) -> float:
    """Return the factor of the learning rate: a linear rise, then one, then a cosine to zero.

    Args:
        step: the step, 0 to `total` - 1.
        total: number of steps.
        ramp_steps: the rise takes so many steps; 0 for none.
        constant_share: the cosine begins after this share of the steps, in [0, 1].
    """
    fall = max(0.0, step - constant_share * total) / max((1 - constant_share) * total, 1.0)
    return min(1.0, (step + 1) / max(ramp_steps, 1)) * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all parameters, in place where it is a tensor, which a captured step reads."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
