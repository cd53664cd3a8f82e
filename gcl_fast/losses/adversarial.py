"""Least-squares adversarial losses over the scales of a discriminator, with the R1 penalty.

The adversarial terms are of Mao et al. 2017, the penalty is eq. 9 of Mescheder et al. 2018.
"""

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
    """Holds the result of `DiscriminatorLoss` in float32: `total` is to be minimized, the others are for the log."""

    total: Tensor  # ()
    fake: Tensor  # (K,) mean D(fake)^2 of each kind of fake, summed over the scales
    real: Tensor  # () mean (D(real) - 1)^2, summed over the scales
    penalty: Tensor  # () R1 before its weight, summed over the scales; 0 in a step without it


class DiscriminatorLoss(nn.Module):
    """Computes the loss of the discriminator from real crops and K kinds of generated images.

        sum over kinds k of  [D(fake_k)^2 + (D(real) - 1)^2 + gamma * R1(real)]

    The first two are means over batch and map, R1(real) is the mean over the batch of |grad_x sum D_s(x)|^2; each is
    summed over the scales s. The module, R1's inner gradient included, compiles to one graph.

    Args:
        discriminator: maps images (B, 3, H, W) to one map per scale, without statistics over the batch.
        gamma: weight of the penalty, at least 0.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> loss = DiscriminatorLoss(Discriminator(ModelConfig.demo().discriminator))
        >>> real, generated = torch.rand(2, 4, 3, 64, 32)
        >>> terms = loss(real, generated)
        >>> terms.total.backward()
        >>> terms.fake.shape
        torch.Size([1])
    """

    def __init__(self, discriminator: Discriminator, gamma: float = 0.01):
        super().__init__()
        self.discriminator = discriminator
        self.gamma = gamma

    def forward(self, real: Tensor, *fakes: Tensor, every: int = 1) -> DiscriminatorTerms:
        """Compute the loss of one batch.

        Args:
            real: crops (B, 3, H, W).
            fakes: K kinds of generated images, (B, 3, H, W) each; they are detached.
            every: the penalty is taken every so many steps and weighs so many times more; 0 leaves it out of this step
                (lazy regularization, Karras et al. 2020, section 3.1).

        Returns:
            The loss and its terms; the weight of the real term and of the penalty is K.
        """
        # Gradients of a float16 pass would vanish: they are about 1e-9 at initialization.
        device = real.device.type
        is_half = torch.is_autocast_enabled(device) and torch.get_autocast_dtype(device) == torch.half
        with torch.autocast(device, enabled=False) if is_half else nullcontext():
            real_maps, penalty = self._penalized(real) if every else (self.discriminator(real), real.new_zeros(()))
        real_term = torch.stack([(widen(m) - 1).square().mean() for m in real_maps]).sum()
        fake_terms = _mean_square(self.discriminator(torch.cat(fakes).detach()), len(fakes), 0.0)
        # One real pass of weight K replaces one pass per kind of fake: the sum is the same.
        total = fake_terms.sum() + len(fakes) * (real_term + self.gamma * every * penalty)
        return DiscriminatorTerms(total, fake_terms, real_term, penalty)

    def _penalized(self, real: Tensor) -> tuple[Sequence[Tensor], Tensor]:
        """Compute D(real) of each scale, and R1 summed over the scales."""
        score = self.discriminator.at_scale
        # Each scale gets its own copy of the input: one pull-back then gives the gradient of each scale by itself.
        copies = [real] * len(self.discriminator.scales)
        real_maps, pull_back, *_ = vjp(lambda *images: tuple(score(s, x) for s, x in enumerate(images)), *copies)
        gradients = pull_back(tuple(torch.ones_like(m) for m in real_maps))  # (B, 3, H, W) of each scale
        return real_maps, torch.stack([widen(g).square().sum((1, 2, 3)).mean() for g in gradients]).sum()


class GeneratorAdversarialLoss(nn.Module):
    """Computes 2 * mean (D(fake) - 1)^2, summed over the scales, with gradients for the images and not for D.

    Args:
        discriminator: maps images (B, 3, H, W) to one map per scale.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> adversarial = GeneratorAdversarialLoss(Discriminator(ModelConfig.demo().discriminator))
        >>> generated = torch.rand(4, 3, 64, 32, requires_grad=True)
        >>> adversarial(generated).sum().backward()
        >>> generated.grad.shape
        torch.Size([4, 3, 64, 32])
    """

    def __init__(self, discriminator: Discriminator):
        super().__init__()
        self.discriminator = discriminator

    def forward(self, *fakes: Tensor) -> Tensor:
        """Compute the loss of each kind of generated image.

        Args:
            fakes: K kinds of generated images, (B, 3, H, W) each.

        Returns:
            (K,) float32, one loss per kind.
        """
        with frozen(self.discriminator):
            return 2 * _mean_square(self.discriminator(torch.cat(fakes)), len(fakes), 1.0)


@contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """Freeze the trainable parameters of `module` inside the context; gradients still reach its input.

    A third of the backward pass is saved: the gradients by the weights.

    Args:
        module: the module to freeze; its parameters are trainable again afterwards, also after an error.

    Example:
        >>> layer, x = nn.Linear(2, 1), torch.ones(1, 2, requires_grad=True)
        >>> with frozen(layer):
        ...     layer(x).sum().backward()
        >>> layer.weight.grad is None, x.grad is None
        (True, False)
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _mean_square(maps: list[Tensor], kinds: int, target: float) -> Tensor:
    """Compute mean (map - target)^2 of each kind, summed over scales: maps (kinds * B, 1, H_s, W_s) -> (kinds,)."""
    terms = [(widen(m) - target).square().unflatten(0, (kinds, -1)).mean((1, 2, 3, 4)) for m in maps]
    return torch.stack(terms).sum(0)
