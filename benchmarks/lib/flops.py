"""Count the floating-point operations of products and convolutions by torch's own formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, register_flop_formula

from gcl_fast.kernels import negative_lse  # noqa: F401 - registers the op


@register_flop_formula(torch.ops.gcl_fast.negative_lse)
def negative_lse_flops(query: torch.Size, bank: torch.Size, *_: Any, **__: Any) -> int:
    """Return the FLOPs of the scores of `query` (B, D) with `bank` (N, D), and of the bank's weighted mean."""
    return 4 * query[0] * bank[0] * bank[1]


class Flops(TorchDispatchMode):
    """Counts the floating-point operations of all ops that torch knows a formula of, while the mode is active.

    It is torch's FlopCounterMode without its hooks on modules, which the pull-back of R1 does not bear.
    """

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if formula := flop_registry.get(func.overloadpacket):
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result
