"""Compare the contrast with clusters with its definition, and check the update of the stored rows."""

import torch
from torch.nn.functional import normalize

from gcl_fast.losses.cluster_memory import (
    Clusters,
    cluster_centres,
    cluster_memory_loss,
    instance_memory_loss,
    update_by_hardest_,
)


def case(dim: int = 8):
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([7, -1, 3, 7, 3, -1, 0, 3, 7, 3])
    features = normalize(torch.randn(len(labels), dim, generator=generator), dim=1)
    f = torch.randn(4, dim, generator=generator, requires_grad=True)
    return f, features, labels, torch.tensor([3, 1, 7, 6])


def test_outliers_become_clusters_of_one():
    clusters = Clusters.from_labels(torch.tensor([7, -1, 3, 7, 3, -1]))
    assert clusters.of_row.tolist() == [1, 2, 0, 1, 0, 3]
    assert clusters.order.tolist() == [2, 4, 0, 3, 1, 5]
    assert clusters.offsets.tolist() == [0, 2, 4, 5]
    assert Clusters.from_labels(torch.full((3,), -1)).of_row.tolist() == [0, 1, 2]


def test_logit_is_the_mean_of_the_members_similarities():
    f, features, labels, index = case()
    loss = instance_memory_loss(f, features, Clusters.from_labels(labels), index)
    groups = [[0, 3, 8], [1], [2, 4, 7, 9], [5], [6]]
    similarity = normalize(f, dim=1) @ features.T / 0.05
    logits = torch.stack([similarity[:, group].mean(1) for group in groups], 1)
    target = torch.tensor([0, 1, 2, 4])
    expected = (logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]).mean()
    torch.testing.assert_close(loss, expected)
    grads = [torch.autograd.grad(value, f)[0] for value in (loss, expected)]
    torch.testing.assert_close(*grads)


def test_autocast_and_a_bf16_bank_keep_fp32_logits():
    f, features, labels, index = case(64)
    clusters = Clusters.from_labels(labels)
    truth = instance_memory_loss(f, features.bfloat16().float(), clusters, index)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(instance_memory_loss(f, features.bfloat16(), clusters, index), truth)


def test_one_row_a_cluster():
    f, features, labels, index = case()
    clusters = Clusters.from_labels(labels)
    centres = cluster_centres(features, clusters)
    groups = [[6], [2, 4, 7, 9], [0, 3, 8], [1], [5]]  # labels 0, 3, 7, then the outliers
    torch.testing.assert_close(centres, torch.stack([normalize(features[g].mean(0), dim=0) for g in groups]))
    logits = normalize(f, dim=1) @ centres.T / 0.1
    loss = -logits.log_softmax(1)[range(4), [2, 3, 1, 0]].mean()
    torch.testing.assert_close(cluster_memory_loss(f, centres, clusters.of_row[index], 0.1), loss)


def test_the_hardest_crop_of_each_cluster_moves_its_row():
    centres = torch.eye(3)
    f = torch.tensor([[2.0, 0, 0], [1, 1, 0], [0, 0, 3], [0, 3, 4]])
    update_by_hardest_(centres, torch.tensor([0, 0, 2, 2]), f, crops=2, momentum=0.5)
    expected = torch.eye(3)
    expected[0] = normalize(0.5 * torch.tensor([1.0, 0, 0]) + 0.5 * torch.tensor([0.5**0.5, 0.5**0.5, 0]), dim=0)
    expected[2] = normalize(torch.tensor([0.0, 0.3, 0.5 + 0.4]), dim=0)
    torch.testing.assert_close(centres, expected)


def test_a_crop_that_is_not_finite_moves_no_row():
    centres = torch.eye(2)
    update_by_hardest_(centres, torch.tensor([1, 1]), torch.tensor([[torch.nan, 0], [0, 1.0]]), 2, 0.5)
    torch.testing.assert_close(centres, torch.eye(2))
