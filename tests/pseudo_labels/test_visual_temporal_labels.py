"""Check the temporal model on a case by hand, and clustering by appearance and time."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.pseudo_labels import cluster, visual_temporal_labels
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.temporal_model import TemporalModel, joint_similarity
from gcl_fast.pseudo_labels.visual_temporal_labels import Distances, cluster_jointly


def gauss(distance: float, sigma: float) -> float:
    return math.exp(-0.5 * (distance / sigma) ** 2)


def test_model_of_two_walks():
    # Two people walk from camera 2 to camera 5 in 30 and 32 bins; an outlier walks back
    labels = torch.tensor([0, 0, 1, 1, -1, -1])
    cameras = torch.tensor([2, 5, 5, 2, 2, 5])
    frames = torch.tensor([1000, 1300, 9320, 9000, 400, 100])
    model = TemporalModel.fit(labels, cameras, frames, width=10, bins=60, sigma=2.0)
    assert model.cameras.tolist() == [2, 5]
    peak = 2 * gauss(1, 2)  # at bin 31, one away from both
    seen = model.similarity(*(torch.tensor([x]) for x in (5, 1305)), torch.tensor([2, 2]), torch.tensor([995, 975]))
    torch.testing.assert_close(seen, torch.tensor([[1.0, (gauss(1, 2) + gauss(3, 2)) / peak]]))
    back = model.similarity(*(torch.tensor([x]) for x in (2, 1305)), torch.tensor([5, 9]), torch.tensor([995, 995]))
    assert back.tolist() == [[0, 0]]  # no cluster walks back, and the model does not know camera 9
    # the order of the two crops does not matter
    args = torch.tensor([5, 2, 2]), torch.tensor([1305, 975, 1400])
    both = model.similarity(*args, *args)
    torch.testing.assert_close(both, both.T)


def test_beyond_the_last_bin_counts_as_in_it():
    model = TemporalModel.fit(
        torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long), torch.tensor([0, 10**6]), 10, 5, 0.1
    )
    assert model.likelihood[0, 0].tolist() == pytest.approx([0, 0, 0, 0, 1], abs=1e-6)


def test_joint_similarity_by_the_formula():
    visual, temporal = torch.tensor([-1.0, 0.3, 1.0]), torch.tensor([0.0, 0.5, 1.0])
    expected = [1 / (1 + math.exp(-5 * v)) / (1 + 2 * math.exp(-5 * t)) for v, t in zip(visual, temporal)]
    assert joint_similarity(visual, temporal).tolist() == pytest.approx(expected)


def people(noise: float, twins: bool = False):
    """Draw 24 people in 3 cameras with 2 crops each; with `twins`, every two look the same and walk at other times."""
    generator = torch.Generator().manual_seed(0)
    identity = torch.arange(24).repeat_interleave(6)
    look = torch.randn(24, 16, generator=generator)
    if twins:
        look[1::2] = look[::2]
    features = normalize(look[identity] + noise * torch.randn(144, 16, generator=generator), dim=1)
    cameras = (torch.arange(144) % 6) // 2 + 1
    starts = torch.randint(0, 200_000, (24,), generator=generator)
    frames = starts[identity] + 900 * cameras + torch.randint(0, 200, (144,), generator=generator)
    return features, identity, cameras, frames


def test_by_looks_alone_it_is_the_clustering_of_the_engine(monkeypatch):
    monkeypatch.setattr(visual_temporal_labels, "TILE_ENTRIES", 5000)  # several tiles
    features, _, cameras, frames = people(0.5)
    found = cluster_jointly(
        Distances(features, cameras, frames, None), 6, 2, eps=0.5, eps_scale=1.0, min_samples=3, plain_weight=0.0
    )
    expected = cluster(features, 6, 2, eps=0.5, min_samples=3)
    assert torch.equal(found.labels, expected.labels)
    assert (found.num_clusters, found.num_outliers) == (expected.num_clusters, expected.num_outliers)
    assert found.num_clusters > 10


@pytest.mark.parametrize("temporal", [False, True])
def test_the_distance_is_a_mixture_of_plain_and_jaccard(temporal):
    features, identity, cameras, frames = people(0.5)
    model = TemporalModel.fit(identity, cameras, frames) if temporal else None
    plain = (2 - 2 * features @ features.T).clamp_min(0)
    if model is not None:
        plain = 1 - joint_similarity(features @ features.T, model.similarity(cameras, frames, cameras, frames))
    plain.fill_diagonal_(0)
    mixed = 0.3 * plain / plain.max() + 0.7 * jaccard_distance(plain, 6, 2)
    pairs = mixed[*torch.triu_indices(144, 144, 1)].sort().values
    wanted = round(0.01 * len(pairs))
    found = cluster_jointly(Distances(features, cameras, frames, model), 6, 2, rho=0.01, eps_scale=0.8)
    assert found.eps == pytest.approx(0.8 * float(pairs[:wanted].mean()), rel=1e-4)


def jaccard_distance(distance, k1, k2):
    """Compute the Jaccard distance of Zhong et al. 2017 on a dense distance matrix."""
    N = len(distance)
    rank = (distance - torch.eye(N)).argsort(1)

    def reciprocal(i, k):
        return [j for j in rank[i, :k].tolist() if i in rank[j, :k]]

    V = torch.zeros(N, N)
    for i in range(N):
        own = reciprocal(i, k1)
        members = set(own)
        for j in own:
            theirs = reciprocal(j, round(k1 / 2) + 1)
            if 3 * len(set(theirs) & set(own)) > 2 * len(theirs):
                members |= set(theirs)
        members = sorted(members)
        V[i, members] = torch.softmax(-distance[i, members], 0)
    V = V[rank[:, :k2]].mean(1)
    shared = torch.stack([torch.minimum(row, V).sum(1) for row in V])
    return 1 - shared / (2 - shared)


def test_time_tells_twins_apart():
    features, identity, cameras, frames = people(0.2, twins=True)
    settings = {"k1": 8, "k2": 2, "eps": 0.5, "eps_scale": 1.0, "min_samples": 2}
    looks = cluster_jointly(Distances(features, cameras, frames, None), **settings)
    temporal = TemporalModel.fit(looks.labels, cameras, frames, sigma=10.0)
    joint = cluster_jointly(Distances(features, cameras, frames, temporal), **settings)
    before, after = (adjusted_rand_index(identity, found.labels) for found in (looks, joint))
    assert before < 0.75
    assert after > before + 0.15


def test_duplicates_are_one_cluster():
    features = torch.eye(3)[:1].expand(7, 3)
    zeros = torch.zeros(7, dtype=torch.long)
    found = cluster_jointly(Distances(features, zeros, zeros, None), 7, 1, eps=0.1)
    assert found.labels.tolist() == [0] * 7


def test_pairs_come_in_parts(monkeypatch):
    labels = torch.tensor([0, 1, 0, -1, 0, 1, 0, -1, 0])
    cameras, frames = torch.tensor([1, 1, 2, 2, 1, 2, 1, 1, 2]), torch.arange(0, 90, 10)
    whole = TemporalModel.fit(labels, cameras, frames, 10, 12, 0.1)
    monkeypatch.setattr("gcl_fast.pseudo_labels.temporal_model.PAIRS", 11)  # two rows of the larger cluster at a time
    assert torch.equal(TemporalModel.fit(labels, cameras, frames, 10, 12, 0.1).likelihood, whole.likelihood)
    seen = [(later, earlier) for later in range(9) for earlier in range(later) if labels[later] == labels[earlier] >= 0]
    counts = torch.zeros(2, 2, 12)
    for later, earlier in seen:
        counts[cameras[later] - 1, cameras[earlier] - 1, later - earlier] += 1
    torch.testing.assert_close(whole.likelihood, counts / counts.amax(2, keepdim=True).clamp_min(1), atol=1e-6, rtol=0)
