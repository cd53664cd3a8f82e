"""Normalize by the statistics of the batch of all ranks (`--sync-bn`)."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError


def synchronize_norms(network: nn.Module, ranks: Ranks) -> None:
    """Let the batch norms inside `network` share their statistics, in place; parameters and their names stay.

    torch's SyncBatchNorm does it on CUDA, where alone it works; `SynchronizedNorm` does it on a CPU.

    Raises:
        UserError: a batch norm of another library, which may hold an activation as well and would lose it.
    """
    if ranks.world_size == 1:
        return
    kinds = {type(module) for module in network.modules() if isinstance(module, _BatchNorm)}
    if others := kinds - {nn.BatchNorm1d, nn.BatchNorm2d}:
        raise UserError(
            f"--sync-bn: {', '.join(sorted(kind.__name__ for kind in others))} of this backbone cannot be synchronized;"
            " leave the flag out, or choose a backbone of torchvision"
        )
    if ranks.device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
        return
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm):
                setattr(module, name, SynchronizedNorm.like(child))


class SynchronizedNorm(_BatchNorm):
    """Normalizes over the equal batches of all ranks; in training mode every rank must run it, in the same order."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor

    @classmethod
    def like(cls, norm: _BatchNorm) -> SynchronizedNorm:
        """Return a synchronized norm that holds the parameters and buffers of `norm`."""
        assert norm.momentum is not None
        synchronized = cls(norm.num_features, norm.eps, norm.momentum)
        synchronized.weight, synchronized.bias = norm.weight, norm.bias
        for name, buffer in norm.named_buffers():
            setattr(synchronized, name, buffer)
        return synchronized

    @torch.compiler.disable  # talks to the other ranks
    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, ...) to the same shape and dtype."""
        if not self.training:
            return super().forward(input)
        statistics = torch.var_mean(input.float(), [d for d in range(input.ndim) if d != 1], correction=0)
        variances, means = _Gather.apply(torch.stack(statistics)).unbind(1)  # (W, C) each
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)  # within the ranks and between them
        with torch.no_grad():
            count = len(means) * input.numel() // self.num_features
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        scale = self.weight * (variance + self.eps).rsqrt()
        shape = (-1, *(1 for _ in input.shape[2:]))
        return torch.addcmul((self.bias - mean * scale).view(shape), input, scale.view(shape)).to(input.dtype)

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept any number of dimensions; torch calls this in eval mode."""


def gather_rows(x: Tensor, ranks: Ranks) -> Tensor:
    """Return the rows of all ranks, through which gradients go back to the rank that a row came from.

    It serves losses that each rank takes of its own crops, and whose mean over the ranks is the loss of the step.

    Args:
        x: (B, D) rows of this rank.
        ranks: all of them call this with the same shape.

    Returns:
        (W * B, D), in rank order.
    """
    return x if ranks.world_size == 1 else _Gather.apply(x).flatten(0, 1)


class _Gather(torch.autograd.Function):
    """Gathers x of all ranks as (W, ...). Every rank's loss depends on every row, so gradients are summed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, x)
        return torch.stack(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]
