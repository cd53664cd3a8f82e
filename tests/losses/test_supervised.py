"""Compare the losses of known identities with their definitions, crop by crop."""

import math

import pytest
import torch

from gcl_fast.losses.supervised import batch_hard_triplet_loss, identity_loss


def gradient_by_differences(function, x, step=1e-6):
    """Compute the gradient of the scalar `function` at x by central differences, in float64."""
    slope = torch.zeros_like(x)
    for place in range(x.numel()):
        moved = torch.zeros(x.numel(), dtype=x.dtype)
        moved[place] = step
        moved = moved.view_as(x)
        slope.view(-1)[place] = (function(x + moved) - function(x - moved)) / (2 * step)
    return slope


def identity_by_hand(f, weight, target, smoothing):
    total = 0.0
    for crop, own in zip(f.tolist(), target.tolist()):
        logits = [sum(a * b for a, b in zip(row, crop)) for row in weight.tolist()]
        normalizer = math.log(sum(math.exp(logit) for logit in logits))
        for identity, logit in enumerate(logits):
            wanted = smoothing / len(logits) + (1 - smoothing if identity == own else 0)
            total -= wanted * (logit - normalizer)
    return total / len(f)


def triplet_by_hand(f, target, others, others_target, margin):
    total = 0.0
    for crop, own in zip(f, target.tolist()):
        fellows, strangers = [], []
        for other, identity in zip(others, others_target.tolist()):
            distance = float((crop / crop.norm() - other / other.norm()).norm())
            (fellows if identity == own else strangers).append(distance)
        if strangers:
            total += max(0.0, margin + max(fellows) - min(strangers))
    return total / len(f)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_identity_loss_is_its_definition(smoothing):
    generator = torch.Generator().manual_seed(0)
    f, weight = torch.randn(5, 3, generator=generator).double(), torch.randn(4, 3, generator=generator).double()
    target = torch.tensor([0, 3, 3, 1, 2])
    leaves = [f.float().requires_grad_(), weight.float().requires_grad_()]
    loss = identity_loss(leaves[0], leaves[1], target, smoothing)
    loss.backward()
    assert loss.item() == pytest.approx(identity_by_hand(f, weight, target, smoothing), rel=1e-5)
    slopes = (
        gradient_by_differences(lambda x: identity_by_hand(x, weight, target, smoothing), f),
        gradient_by_differences(lambda x: identity_by_hand(f, x, target, smoothing), weight),
    )
    for leaf, slope in zip(leaves, slopes):
        torch.testing.assert_close(leaf.grad.double(), slope, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.5])
def test_triplet_loss_is_its_definition(margin):
    generator = torch.Generator().manual_seed(1)
    others = torch.randn(9, 4, generator=generator).double()
    others_target = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 7])
    mine = slice(3, 6)
    leaf = others.float().requires_grad_()
    loss = batch_hard_triplet_loss(leaf[mine], others_target[mine], leaf, others_target, margin)
    loss.backward()
    by_hand = lambda x: triplet_by_hand(x[mine], others_target[mine], x, others_target, margin)
    assert loss.item() == pytest.approx(by_hand(others), rel=1e-5)
    assert loss.item() > 0
    torch.testing.assert_close(leaf.grad.double(), gradient_by_differences(by_hand, others), rtol=1e-3, atol=1e-5)


def test_triplets_without_strangers_or_with_wide_distances_cost_nothing():
    f = torch.eye(4)[[0, 0, 1, 1]].requires_grad_()
    target = torch.tensor([0, 0, 1, 1])
    loss = batch_hard_triplet_loss(f, target, f, target, margin=1.4)  # the identities are sqrt(2) apart
    assert loss.item() == 0
    assert batch_hard_triplet_loss(f, target, f, target, margin=1.5).item() == pytest.approx(1.5 - 2**0.5, abs=2e-6)
    alone = batch_hard_triplet_loss(f, torch.zeros(4, dtype=torch.int64), f, torch.zeros(4, dtype=torch.int64))
    alone.backward()
    assert alone.item() == 0
    assert torch.equal(f.grad, torch.zeros(4, 4))


def test_half_precision_embeddings_give_float32_losses():
    f = torch.randn(6, 8, generator=torch.Generator().manual_seed(2))
    target = torch.tensor([0, 0, 1, 1, 2, 2])
    with torch.autocast("cpu", torch.bfloat16):
        half = batch_hard_triplet_loss(f, target, f, target), identity_loss(f, f[:3], target)
    whole = batch_hard_triplet_loss(f, target, f, target), identity_loss(f, f[:3], target)
    assert half == whole
    assert half[0].dtype == torch.float32
