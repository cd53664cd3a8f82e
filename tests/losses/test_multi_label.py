"""Compare the loss of MMCL with its formula, row by row."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.losses.multi_label import multi_label_loss

PENALTY = {
    "squared": lambda s, y: (s - y) ** 2,
    "logistic": lambda s, y: torch.log(1 + torch.exp(-y * s)),
}


def by_definition(f, features, positives, delta, hard_share, form):
    """Compute eq. 7 to 9 of Wang and Zhang 2020, one crop at a time."""
    rows = []
    for row, labels in zip(f, positives.tolist()):
        labels = [j for j in labels if j >= 0]
        similarity = features @ (row / row.norm())
        others = [j for j in range(len(features)) if j not in labels]
        others.sort(key=lambda j: -similarity[j].item())
        hard = others[: max(1, math.floor(len(others) * hard_share))]
        loss = delta * torch.stack([PENALTY[form](similarity[j], 1) for j in labels]).mean()
        if hard:
            loss = loss + torch.stack([PENALTY[form](similarity[j], -1) for j in hard]).mean()
        rows.append(loss)
    return torch.stack(rows).mean()


def case(N=23, D=8):
    generator = torch.Generator().manual_seed(1)
    features = normalize(torch.randn(N, D, generator=generator), dim=1)
    f = torch.randn(4, D, generator=generator, requires_grad=True)
    positives = torch.tensor([[3, -1, -1, -1], [0, 7, 22, 5], [7, 0, -1, -1], [9, 1, 2, -1]])
    return f, features, positives


@pytest.mark.parametrize("form", ["squared", "logistic"])
@pytest.mark.parametrize("hard_share", [0.01, 0.2, 1.0])
def test_value_and_gradient_follow_the_formula(form, hard_share):
    f, features, positives = case()
    losses = [
        loss(f, features, positives, delta=5.0, hard_share=hard_share, form=form)
        for loss in (multi_label_loss, by_definition)
    ]
    torch.testing.assert_close(*losses)
    gradients = [torch.autograd.grad(loss, f)[0] for loss in losses]
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_a_crop_with_every_row_for_a_label_pushes_nothing():
    f, features, _ = case(N=4)
    positives = torch.arange(4).repeat(4, 1)
    loss = multi_label_loss(f, features, positives, delta=2.0, hard_share=0.5)
    torch.testing.assert_close(loss, by_definition(f, features, positives, 2.0, 0.5, "squared"))


def test_under_autocast_it_is_float32():
    f, features, positives = case(D=64)
    truth = multi_label_loss(f, features, positives)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(multi_label_loss(f, features, positives), truth)
