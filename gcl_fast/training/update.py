"""One step of optimizers down a loss: gradients averaged over the ranks, and no step where one is not finite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from gcl_fast.training.ranks import Ranks


def descend(loss: Tensor, ranks: Ranks, *optimizers: Optimizer) -> Tensor:
    """Take one step of each of `optimizers` down `loss`, or of none where the loss or a gradient is not finite.

    All ranks decide alike, without a word more than the gradients: a loss that is not finite sends NaN into its own
    backward pass, and averaging carries it to every rank. With fused optimizers nothing waits for the device: the
    decision is a tensor that their kernels read.

    Args:
        loss: scalar, mean over this rank's crops.
        optimizers: name those first whose gradients are complete last (`Ranks.averaging`).

    Returns:
        () float32, 1 where the step was skipped.
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    with ranks.averaging(parameters):
        loss.backward(torch.where(loss.isfinite(), 1.0, torch.nan).to(loss))
    norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
    skipped = (~norm.isfinite()).float()
    for optimizer in optimizers:
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # PyTorch's fused ones; GradScaler asks the same
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
            optimizer.step()
        elif not skipped:
            optimizer.step()
    return skipped
