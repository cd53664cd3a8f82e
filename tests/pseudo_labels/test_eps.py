"""Check the two rules for the radius."""

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from gcl_fast.distributed.row_sharing import Team
from gcl_fast.pseudo_labels import cluster, k_reciprocal_jaccard
from gcl_fast.pseudo_labels.eps import FAINT, FAINT_BINS, RADII, eps_by_rho
from gcl_fast.pseudo_labels.jaccard import faint_pairs, jaccard_similarity, neighbourhoods
from gcl_fast.pseudo_labels.jaccard_labels import graph_and_eps_by_rho


def planted(signal: float, rank: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Draw 600 points of 40 identities; identity and part of the noise lie in subspaces, as in a network."""
    draw = np.random.default_rng(seed).standard_normal
    identity = np.repeat(np.arange(40), 15)
    centres = draw((40, 2 * rank)) @ draw((2 * rank, 64)) / np.sqrt(2 * rank)
    noise = draw((600, rank)) @ draw((rank, 64)) / np.sqrt(rank) + 0.5 * draw((600, 64))
    features = torch.from_numpy(signal * centres[identity] + noise).float()
    return torch.nn.functional.normalize(features), identity


def agreement(labels: torch.Tensor, identity: np.ndarray) -> float:
    """Compute the adjusted Rand index, with every outlier as a cluster of its own."""
    labels = labels.numpy().copy()
    labels[labels < 0] = labels.max() + 1 + np.arange((labels < 0).sum())
    return adjusted_rand_score(identity, labels)


@pytest.mark.parametrize("signal", [0.5, 0.8, 1.2, 2.0, 5.0])
@pytest.mark.parametrize("rank", [4, 12])
def test_auto_is_near_the_best_radius(signal, rank):
    features, identity = planted(signal, rank)
    best = max(agreement(cluster(features, 15, 6, eps=radius).labels, identity) for radius in RADII[::2])
    assert agreement(cluster(features, 15, 6, eps="auto").labels, identity) >= best - 0.05


def test_no_fixed_radius_serves_all():
    loss = {radius: 0.0 for radius in (0.4, 0.48, 0.6)}
    for signal, rank in [(0.8, 4), (1.2, 4), (0.8, 12), (1.2, 12)]:
        features, identity = planted(signal, rank)
        auto = agreement(cluster(features, 15, 6, eps="auto").labels, identity)
        for radius in loss:
            loss[radius] = max(loss[radius], auto - agreement(cluster(features, 15, 6, eps=radius).labels, identity))
    assert min(loss.values()) > 0.05


def test_auto_without_any_cluster_or_with_one():
    scattered = torch.eye(3)  # fewer points than a cluster needs
    assert cluster(scattered, eps="auto").labels.tolist() == [-1, -1, -1]
    assert cluster(torch.ones(40, 2) / 2**0.5, eps="auto").labels.tolist() == [0] * 40


def brute_rho(similarity: torch.Tensor, rho: float) -> float:
    distance = np.triu(1 - similarity.cpu().to_dense().numpy(), 1)
    distance = np.sort(distance[np.nonzero(distance)])
    return distance[: int(np.round(rho * distance.size))].astype(np.float64).mean()


@pytest.mark.parametrize("rho", [0.002, 0.03, 0.2, 0.9, 1.0])  # the last two ask for pairs that are not stored
def test_rho_is_a_mean_over_all_pairs(rho):
    similarity = k_reciprocal_jaccard(planted(1.0, 12)[0], 10, 4)
    assert eps_by_rho(similarity, rho) == pytest.approx(brute_rho(similarity, rho), abs=1e-7)


@pytest.mark.parametrize("rho", [0.03, 0.2, 0.4, 0.9])  # stored pairs; binned ones; the last two ask for all of them
def test_rho_with_faint_pairs_counted_and_not_stored(monkeypatch, rho, device):
    monkeypatch.setattr("gcl_fast.pseudo_labels.jaccard.COUNTED_ROWS", 77)
    features = planted(1.0, 12)[0].to(device)
    sets = neighbourhoods(features, 20, 6)
    whole, stored = jaccard_similarity(sets, 0.0), jaccard_similarity(sets, FAINT)
    faint = faint_pairs(sets, FAINT, FAINT_BINS)
    assert int(faint.sum()) == (len(whole.values()) - len(stored.values())) // 2 > 10_000
    eps = eps_by_rho(stored, rho, faint=faint)
    assert eps == pytest.approx(brute_rho(whole, rho), abs=2e-7)
    graph, radius = graph_and_eps_by_rho(sets, rho, Team())
    assert radius == eps
    assert int((graph.values() >= 1 - eps).sum()) == int((whole.values() >= 1 - eps).sum())


def test_rho_of_equal_points_and_of_few_pairs():
    ones = k_reciprocal_jaccard(torch.ones(12, 2) / 2**0.5)
    assert eps_by_rho(ones, 0.002) == pytest.approx(0, abs=1e-6)
    few = k_reciprocal_jaccard(planted(1.0, 12)[0][:8])
    distance = (1 - few.to_dense())[np.triu_indices(8, 1)]
    assert eps_by_rho(few, 0.002) == pytest.approx(float(distance[distance > 0].min()), abs=1e-7)
