"""Batch norms of two domains inside one encoder (Chang et al. 2019, domain-specific batch normalization)."""

from __future__ import annotations

import copy

from gcl_fast.models.identity_encoder import IdentityEncoder


def of_another_domain(encoder: IdentityEncoder) -> IdentityEncoder:
    """`encoder` once more, for crops of another domain: every parameter is shared, running statistics are its own.

    In training mode each normalizes by its own batch and follows its own domain's statistics; in eval mode each uses
    what it has followed. Whatever trains one trains the other. Scales and shifts are shared as well: a set of its own
    would learn nothing from a domain without labels.

    Returns:
        An encoder of the same tensor names and device, not compiled.
    """
    shared = {id(parameter): parameter for parameter in encoder.parameters()}
    return copy.deepcopy(encoder, shared)
