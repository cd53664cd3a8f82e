"""Learning rate over a stage."""

from __future__ import annotations

import math

from torch import Tensor
from torch.optim import Optimizer


def ramp_then_cosine(step: int, total: int, ramp_steps: int, constant_share: float) -> float:
    """Factor of the learning rate: linear rise over `ramp_steps`, one until `constant_share` of the `total` steps, then
    a cosine to zero."""
    fall = max(0.0, step - constant_share * total) / max((1 - constant_share) * total, 1.0)
    return min(1.0, (step + 1) / max(ramp_steps, 1)) * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))


def set_learning_rate(optimizer: Optimizer, rate: float) -> None:
    """Set that of all parameters, in place where it is a tensor (`optimizers.adam`): a captured step reads that one."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
