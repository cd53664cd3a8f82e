"""Check agreement, sizes and advice in the report on a clustering."""

import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from gcl_fast.pseudo_labels import PseudoLabels, health
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index, purity
from gcl_fast.pseudo_labels.search import Search


def found(*labels: int) -> PseudoLabels:
    tensor = torch.tensor(labels)
    return PseudoLabels(tensor, 0.5, int(tensor.max()) + 1, int((tensor < 0).sum()), "own", Search("exact", 1.0, ""))


def test_agreement_is_the_adjusted_rand_index_with_outliers_alone():
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randint(5, (200,), generator=generator), torch.randint(7, (200,), generator=generator)
    b[:120] = a[:120]
    assert adjusted_rand_index(a, b) == pytest.approx(adjusted_rand_score(a, b), abs=1e-12)
    alone = torch.cat((a[:150], 100 + torch.arange(50)))
    outliers = torch.cat((a[:150], torch.full((50,), -1)))
    assert adjusted_rand_index(outliers, b) == pytest.approx(adjusted_rand_score(alone, b), abs=1e-12)
    assert adjusted_rand_index(outliers, outliers) == 1
    assert adjusted_rand_index(torch.full((9,), -1), torch.zeros(9).long()) == 0
    assert adjusted_rand_index(torch.zeros(0).long(), torch.zeros(0).long()) == 1
    assert adjusted_rand_index(torch.tensor([-1, 0, -1, 1]), torch.tensor([0, 0, 1, 1])) == 0  # no pair against two
    assert adjusted_rand_index(torch.tensor([9, 40, 40, -1]), torch.tensor([0, 3, 3, 2])) == 1
    with pytest.raises(ValueError, match="200 labels against 3"):
        adjusted_rand_index(a, torch.zeros(3).long())


def test_purity_is_the_share_of_the_most_frequent_people():
    generator = torch.Generator().manual_seed(0)
    identity, labels = (torch.randint(low, 9, (300,), generator=generator) for low in (0, -1))
    clusters = [identity[labels == cluster].tolist() for cluster in range(9)]
    most = sum(max(map(people.count, people)) for people in clusters)
    assert purity(identity, labels) == most / int((labels >= 0).sum())
    assert purity(identity, identity + 40) == 1
    assert purity(identity, torch.full((300,), -1)) == 1
    assert purity(identity[:0], identity[:0]) == 1


def test_sizes_and_advice():
    good = health(found(0, 0, 1, 1, 1, 2, 2, -1), before=torch.tensor([5, 5, 0, 0, 0, 3, 3, -1]))
    assert (good.sizes.tolist(), good.outlier_share, good.largest_share) == ([3, 2, 2], 1 / 8, 3 / 8)
    assert (good.agreement, good.advice) == (1.0, None)
    merged = health(found(*[0] * 6, 1, 1))
    assert merged.agreement is None
    assert "one cluster holds 75% of the crops at eps 0.5" in merged.advice
    assert "smaller eps" in merged.advice
    none = health(found(*[-1] * 8))
    assert "100% of the crops are outliers" in none.advice
    assert "larger eps" in none.advice
    assert none.largest_share == 0
