"""Take a step of optimizers down a loss, by gradients averaged over the ranks, unless one is not finite."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.profiler import record_function

from gcl_fast.distributed.ranks import Ranks

GROWTH_STEPS = 2000  # finite steps in a row that double a loss scale


def scale_losses(optimizer: Optimizer, device: torch.device) -> None:
    """Let `descend` scale the loss of `optimizer`, so that float16 gradients do not vanish (Micikevicius et al. 2018).

    The scale begins at 65536. It halves at each skipped step and doubles after GROWTH_STEPS finite ones. It is in
    the first parameter group, and so in the optimizer's state dict. After a state dict without a scale it begins again.
    """

    def begin(optimizer: Optimizer) -> None:
        group = optimizer.param_groups[0]
        for name, value in (("loss_scale", 65536.0), ("good_steps", 0.0)):
            group[name] = group.setdefault(name, torch.tensor(value)).to(device)  # a checkpoint has it on the CPU

    begin(optimizer)
    optimizer.register_load_state_dict_post_hook(begin)


def descend(loss: Tensor, ranks: Ranks, *optimizers: Optimizer) -> Tensor:
    """Take one step of each of `optimizers` down `loss`, or of none where the loss or a gradient is not finite.

    All ranks decide alike without a further message: a loss that is not finite sends NaN into its backward pass, and
    averaging carries it to every rank. With fused optimizers nothing waits for the device: the decision is a tensor
    that their kernels read. The first of `optimizers` may hold a loss scale (`scale_losses`). The loss is multiplied by
    it, the gradients are divided by it, and it is adjusted.

    Args:
        loss: scalar, mean over this rank's crops.
        ranks: all of them call this.
        optimizers: the optimizer whose gradients are complete last comes first (`Ranks.averaging`).

    Returns:
        A float32 scalar, 1 where the step was skipped and 0 where it was taken.
    """
    for optimizer in optimizers:
        optimizer.zero_grad()
    parameters = [p for o in optimizers for group in o.param_groups for p in group["params"]]
    scaling = optimizers[0].param_groups[0]
    scale = scaling["loss_scale"] if "loss_scale" in scaling else loss.new_ones(())
    with ranks.averaging(parameters), record_function("gcl_fast::backward"):
        loss.backward(torch.where(loss.isfinite(), scale, torch.nan).to(loss))
    return _step([p.grad for p in parameters if p.grad is not None], scale, optimizers)


@record_function("gcl_fast::optimizer")
def _step(gradients: list[Tensor], scale: Tensor, optimizers: tuple[Optimizer, ...]) -> Tensor:
    """Step where all gradients are finite, adjust a loss scale, and return what `descend` returns."""
    scaling = optimizers[0].param_groups[0]
    if "loss_scale" in scaling:
        torch._foreach_div_(gradients, scale)
    skipped = (~get_total_norm(gradients).isfinite()).float()
    if "loss_scale" in scaling:
        good = (1 - skipped) * (scaling["good_steps"] + 1)
        growth = (good == GROWTH_STEPS).float()
        scale.mul_(1 + growth - 0.5 * skipped)  # in place: a captured step reads and writes the same memory
        scaling["good_steps"].copy_(good * (1 - growth))
    for optimizer in optimizers:
        if getattr(optimizer, "_step_supports_amp_scaling", False):  # PyTorch's fused ones, as GradScaler tests it
            optimizer.found_inf = skipped  # type: ignore[attr-defined]
            optimizer.step()
        elif not skipped:
            optimizer.step()
    return skipped
