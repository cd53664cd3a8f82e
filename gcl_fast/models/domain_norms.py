"""Batch norms of two domains inside one encoder (domain-specific batch normalization, Chang et al. 2019)."""

from __future__ import annotations

import copy

from gcl_fast.models.identity_encoder import IdentityEncoder


def of_another_domain(encoder: IdentityEncoder) -> IdentityEncoder:
    """Return an encoder of another domain, which shares every parameter and has its own running statistics.

    In training mode each encoder normalizes by its own batch and follows the statistics of its own domain. In eval mode
    each uses the statistics it has followed. A step of the optimizer on one trains the other. Scales and shifts are
    shared as well: a domain without labels could not train its own.

    Args:
        encoder: encoder of the first domain.

    Returns:
        An encoder with the same tensor names and device, not compiled.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> target = IdentityEncoder(ModelConfig.demo().identity)
        >>> source = of_another_domain(target)
        >>> source.conv1.weight is target.conv1.weight, source.bn1.running_mean is target.bn1.running_mean
        (True, False)
    """
    shared = {id(parameter): parameter for parameter in encoder.parameters()}
    return copy.deepcopy(encoder, shared)
