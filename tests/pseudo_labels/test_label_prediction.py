"""Compare MPLP with its definition, and check a case by hand."""

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.pseudo_labels import label_prediction
from gcl_fast.pseudo_labels.label_prediction import predict_labels


def on_circle(*degrees: float) -> torch.Tensor:
    angle = torch.deg2rad(torch.tensor(degrees))
    return torch.stack([angle.cos(), angle.sin()], 1)


def sets(labels: torch.Tensor) -> list[set[int]]:
    return [{j for j in row if j >= 0} for row in labels.tolist()]


def test_a_chain_is_cut_where_the_neighbours_are_not_mutual():
    # Row 0 is 10 degrees from row 1; rows 2 and 3 are nearer to row 1. So row 0 has one candidate, row 1, which has
    # nearer neighbours than row 0.
    features = on_circle(0, 10, 14, 17, 90)
    labels = predict_labels(features, threshold=float(torch.cos(torch.deg2rad(torch.tensor(11.0)))))
    assert sets(labels) == [{0}, {1, 2, 3, 0}, {2, 3, 1}, {3, 2, 1}, {4}]
    assert (labels[:, 0] == torch.arange(5)).all()


def by_definition(features: torch.Tensor, threshold: float) -> list[set[int]]:
    similarity = features @ features.T
    N = len(features)
    ranked = [sorted((j for j in range(N) if j != i), key=lambda j, i=i: -similarity[i, j]) for i in range(N)]
    found = []
    for i in range(N):
        k = sum(bool(similarity[i, j] >= threshold) for j in ranked[i])
        labels = {i}
        for j in ranked[i][:k]:
            if i not in ranked[j][:k]:
                break
            labels.add(j)
        found.append(labels)
    return found


@pytest.mark.parametrize("threshold", [-1.0, 0.2, 0.5, 0.8, 0.999999])
def test_it_follows_the_definition(threshold, monkeypatch, device):
    monkeypatch.setattr(label_prediction, "TILE_ENTRIES", 5000)  # several tiles
    generator = torch.Generator().manual_seed(3)
    centres = torch.randn(8, 6, generator=generator).repeat_interleave(5, 0)
    features = normalize(centres + 0.6 * torch.randn(40, 6, generator=generator), dim=1)
    assert sets(predict_labels(features.to(device), threshold)) == by_definition(features, threshold)


def test_no_more_candidates_than_asked_for():
    features = normalize(torch.ones(30, 4) + 0.01 * torch.randn(30, 4, generator=torch.Generator().manual_seed(0)))
    assert predict_labels(features, 0.5, candidates=3).shape[1] <= 4
    assert predict_labels(features, 0.5).shape[1] == 30  # everyone is like everyone


def test_duplicates_and_a_single_row():
    assert sets(predict_labels(on_circle(5, 5, 5, 80), 0.9)) == [{0, 1, 2}, {0, 1, 2}, {0, 1, 2}, {3}]
    assert predict_labels(on_circle(5), 0.9).tolist() == [[0]]
