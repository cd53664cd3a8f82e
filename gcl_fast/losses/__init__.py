"""Losses of the generative and the joint stage; the view-invariant loss is MemoryBank's."""

from gcl_fast.losses.adversarial import DiscriminatorLoss, DiscriminatorTerms, GeneratorAdversarialLoss, frozen
from gcl_fast.losses.generator_terms import LossWeights, Views, generative_forward, generator_losses
from gcl_fast.losses.reconstruction import reconstruction_loss

__all__ = [
    "DiscriminatorLoss",
    "DiscriminatorTerms",
    "GeneratorAdversarialLoss",
    "LossWeights",
    "Views",
    "frozen",
    "generative_forward",
    "generator_losses",
    "reconstruction_loss",
]
