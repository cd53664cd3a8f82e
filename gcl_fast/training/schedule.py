"""Learning rate over a stage."""

from __future__ import annotations

import math

import torch


def ramp_then_cosine(step: int, total: int, ramp_steps: int, constant_share: float) -> float:
    """Factor of the learning rate: linear rise over `ramp_steps`, one until `constant_share` of the `total` steps, then
    a cosine to zero."""
    fall = max(0.0, step - constant_share * total) / max((1 - constant_share) * total, 1.0)
    return min(1.0, (step + 1) / max(ramp_steps, 1)) * 0.5 * (1 + math.cos(math.pi * min(fall, 1.0)))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Of all parameters."""
    for group in optimizer.param_groups:
        group["lr"] = rate
