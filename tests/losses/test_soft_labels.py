"""Compare partners, mixed part features and soft labels with results by hand."""

import torch
from torch.nn.functional import normalize

from gcl_fast.losses.soft_labels import Mix, choose_partners, mix_parts, soft_label_loss


def mix_of(weight, partner, clusters=None, centroids=None):
    return Mix(torch.tensor(weight), torch.tensor(partner), torch.tensor(clusters or []), centroids, 0.05)


def test_partners_are_the_next_of_other_clusters():
    everyone = torch.tensor([5, 5, 2, 7, 2])
    assert choose_partners(everyone, everyone, torch.tensor([0, 1, 4, 3, 2])).tolist() == [2, 2, 0, 4, 3]
    assert choose_partners(everyone[3:], everyone, torch.tensor([3, 4])).tolist() == [4, 0]  # the second rank's crops
    same = torch.tensor([1, 1, 1])
    assert choose_partners(same, same, torch.tensor([2, 0, 1])).tolist() == [2, 0, 1]


def test_mixed_features_and_where_their_gradient_goes():
    everyone = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mix = mix_of([0.6, 0.9], [3, 0])
    mixed = mix_parts(everyone[1:3], everyone, mix)
    rows = [0.6 * everyone[1] + 0.4 * everyone[3], 0.9 * everyone[2] + 0.1 * everyone[0]]
    torch.testing.assert_close(mixed, torch.stack(rows))
    (gradient,) = torch.autograd.grad(mixed.sum(), everyone)
    torch.testing.assert_close(gradient, torch.tensor([0, 0.6, 0.9, 0])[:, None].expand(4, 6))
    assert mix_parts(everyone[1:3].bfloat16(), everyone.bfloat16(), mix).dtype == torch.bfloat16


def test_loss_by_its_definition_and_its_gradient():
    generator = torch.Generator().manual_seed(0)
    centroids = normalize(torch.randn(5, 6, generator=generator, dtype=torch.float64), dim=1)
    f = torch.randn(3, 6, generator=generator, dtype=torch.float64, requires_grad=True)
    weight, clusters = [0.9, 0.6, 0.5], [[0, 4], [2, 1], [4, 0]]
    rows = []
    for i, (own, other) in enumerate(clusters):
        logit = [f[i] @ c / f[i].norm() / 0.05 for c in centroids]
        total = torch.stack(logit).exp().sum().log()
        rows.append(weight[i] * (total - logit[own]) + (1 - weight[i]) * (total - logit[other]))
    expected = torch.stack(rows).mean()
    loss = soft_label_loss(f, mix_of(weight, [0, 0, 0], clusters, centroids.float()))
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    ours, theirs = (torch.autograd.grad(value, f)[0] for value in (loss, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(soft_label_loss(f, mix_of(weight, [0, 0, 0], clusters, centroids.float())), loss)
