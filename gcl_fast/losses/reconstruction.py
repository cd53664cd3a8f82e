"""L1 reconstruction of pictures and of part features."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from gcl_fast.models.layers import widen


def reconstruction_loss(made: Tensor, target: Tensor) -> Tensor:
    """mean |made - target|, float32; the target is detached.

    Args:
        made, target: pictures (B, 3, H, W) or part features (B, P).
    """
    return F.l1_loss(widen(made), widen(target.detach()))
