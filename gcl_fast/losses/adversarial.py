"""Least-squares adversarial losses over the scales of a discriminator, with the R1 penalty (Mao et al. 2017; Mescheder
et al. 2018, eq. 9)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import vjp

from gcl_fast.models import Discriminator
from gcl_fast.models.layers import widen


class DiscriminatorTerms(NamedTuple):
    """What `DiscriminatorLoss` returns, float32; `total` is to be minimized, the others are for the log."""

    total: Tensor  # ()
    fake: Tensor  # (K,) mean D(fake)^2, summed over the scales, of each kind of fake
    real: Tensor  # () mean (D(real) - 1)^2, summed over the scales
    penalty: Tensor  # () R1 before its weight, summed over the scales; 0 where it was left out


class DiscriminatorLoss(nn.Module):
    """sum over kinds k of  [D(fake_k)^2 + (D(real) - 1)^2 + gamma * R1(real)], each a mean, summed over the scales.

    The loss is the forward of a module so that everything, R1's inner gradient included, is one graph to compile
    (`.compile(fullgraph=True)`), and so that DDP around this module synchronizes all gradients: R1 through `ddp.module`
    would bypass it. Compiled under DDP it needs `torch._dynamo.config.optimize_ddp = False`.

    Args:
        discriminator: pictures -> one map a scale; without batch statistics.
        gamma: weight of the penalty.
    """

    def __init__(self, discriminator: Discriminator, gamma: float = 0.01):
        super().__init__()
        self.discriminator = discriminator
        self.gamma = gamma

    def forward(self, real: Tensor, *fakes: Tensor, every: int = 1) -> DiscriminatorTerms:
        """Of crops `real` and K kinds of pictures `fakes` (detached here), each (B, 3, H, W).

        every: how many times heavier the penalty is, taken each so many steps; 0 leaves it out of this one (lazy R1,
            Karras et al. 2020).
        """
        # Gradients of a float16 pass would vanish: they are about 1e-9 at initialization.
        half = torch.is_autocast_enabled(real.device.type) and torch.get_autocast_dtype(real.device.type) == torch.half
        with torch.autocast(real.device.type, enabled=False) if half else nullcontext():
            real_maps, penalty = self._penalized(real) if every else (self.discriminator(real), real.new_zeros(()))
        real_term = torch.stack([(widen(m) - 1).square().mean() for m in real_maps]).sum()
        fake_terms = _mean_square(self.discriminator(torch.cat(fakes).detach()), len(fakes), 0.0)
        # One real pass of weight K in place of one for every kind of fake: the sum is the same.
        total = fake_terms.sum() + len(fakes) * (real_term + self.gamma * every * penalty)
        return DiscriminatorTerms(total, fake_terms, real_term, penalty)

    def _penalized(self, real: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """(D(real) of each scale, R1 summed over the scales)."""
        score = self.discriminator.at_scale
        # Each scale gets its own copy of the input, so that one pull-back gives all gradients unmixed.
        copies = [real] * len(self.discriminator.scales)
        real_maps, pull_back, *_ = vjp(lambda *images: tuple(score(s, x) for s, x in enumerate(images)), *copies)
        gradients = pull_back(tuple(torch.ones_like(m) for m in real_maps))  # a scale: (B, 3, H, W)
        return real_maps, torch.stack([widen(g).square().sum((1, 2, 3)).mean() for g in gradients]).sum()


class GeneratorAdversarialLoss(nn.Module):
    """2 * mean (D(fake) - 1)^2, summed over the scales; gradients reach the pictures and not D's parameters."""

    def __init__(self, discriminator: Discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, *fakes: Tensor) -> Tensor:
        """Of K kinds of pictures, each (B, 3, H, W): the loss of each kind, (K,) float32."""
        with frozen(self.discriminator):
            return 2 * _mean_square(self.discriminator(torch.cat(fakes)), len(fakes), 1.0)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Within, `module`'s trainable parameters take no gradient, its input does: a third of the backward saved."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _mean_square(maps: list[Tensor], kinds: int, target: float) -> Tensor:
    """Mean (map - target)^2 of each kind, summed over the scales; maps (kinds * B, 1, H_s, W_s) -> (kinds,)."""
    terms = [(widen(m) - target).square().unflatten(0, (kinds, -1)).mean((1, 2, 3, 4)) for m in maps]
    return torch.stack(terms).sum(0)
