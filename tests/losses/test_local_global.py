"""Compare the losses of JVTC with their formulas, row by row."""

import torch
from torch.nn.functional import normalize

from gcl_fast.losses.cluster_memory import Clusters
from gcl_fast.losses.local_global import global_loss, local_loss, mean_direction


def unit(x):
    return x / x.norm()


def test_local_loss_classifies_each_variant_among_the_crops_of_the_batch():
    f = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)  # 2 crops in 3 variants
    crops = [unit(torch.stack([unit(f[3 * b + k]) for k in range(3)]).mean(0)) for b in range(2)]
    rows = []
    for i in range(6):
        score = torch.stack([unit(f[i]) @ crop for crop in crops]) / 0.1
        rows.append(-torch.log(torch.exp(score[i // 3]) / torch.exp(score).sum()))
    expected, loss = torch.stack(rows).mean(), local_loss(f, variants=3, temperature=0.1)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, f)[0] for value in (loss, expected)))


def test_global_loss_shares_the_target_among_the_members_of_the_cluster():
    generator = torch.Generator().manual_seed(2)
    features = normalize(torch.randn(9, 5, generator=generator), dim=1)
    f = torch.randn(3, 5, generator=generator, requires_grad=True)
    labels = torch.tensor([4, 4, 0, -1, 0, 0, -1, 4, 2])
    index = torch.tensor([2, 6, 7])  # rows of the clusters {2, 4, 5}, {6} and {0, 1, 7}
    members = [[2, 4, 5], [6], [0, 1, 7]]
    rows = []
    for row, same in zip(f, members):
        score = features @ unit(row) / 0.05
        probability = torch.exp(score - score.max()) / torch.exp(score - score.max()).sum()
        rows.append(-torch.stack([torch.log(probability[j]) / len(same) for j in same]).sum())
    expected, loss = torch.stack(rows).mean(), global_loss(f, features, Clusters.from_labels(labels), index)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, f)[0] for value in (loss, expected)))


def test_mean_direction_is_of_neighbouring_rows():
    f = torch.tensor([[1.0, 0], [0, 1], [0, -1], [0, -1]])
    torch.testing.assert_close(mean_direction(f, 2), torch.tensor([[0.5**0.5, 0.5**0.5], [0, -1]]))
