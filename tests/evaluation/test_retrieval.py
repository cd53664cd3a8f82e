"""Compare rankings with the official arrays and with the definition by sorting."""

import numpy as np
import pytest
import torch

from gcl_fast.evaluation import Reranking, evaluate, rank
from gcl_fast.evaluation.reranking import reranked_distances
from gcl_fast.kernels.rank_queries import identity_ranges, rank_queries_reference
from gcl_fast.pseudo_labels.jaccard import k_reciprocal_jaccard_reference


def people(Q, G, identities, cameras, seed):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda high, size: torch.randint(high, (size,), generator=generator)
    return draw(identities, Q), draw(identities, G), draw(cameras, Q), draw(cameras, G)


def test_official_arrays(golden):
    arrays = {name: torch.from_numpy(values) for name, values in np.load(golden / "ranking.npz").items()}
    found = rank(*(arrays[n] for n in ("dist", "query_ids", "gallery_ids", "query_cams", "gallery_cams")))
    assert found.mAP == pytest.approx(float(arrays["mAP"]), abs=1e-12)
    torch.testing.assert_close(found.cmc, arrays["cmc"], rtol=0, atol=1e-12)


@pytest.mark.parametrize(("Q", "G", "levels"), [(1, 1, 3), (7, 33, 4), (40, 500, 20), (25, 300, 10**6)])
def test_ties_and_junk_as_by_sorting(Q, G, levels, device):
    identities = people(Q, G, 5, 3, Q)
    identities[1][0], identities[3][0] = identities[0][0], identities[2][0] + 1  # at least one match
    distance = torch.randint(levels, (Q, G), generator=torch.Generator().manual_seed(G)).float()
    precision, first, penalty = rank_queries_reference(distance, *identity_ranges(*identities[:2]), *identities[2:])
    valid = first >= 0
    found = rank(distance.to(device), *(values.to(device) for values in identities))
    assert found.num_queries == int(valid.sum())
    assert found.mAP == pytest.approx(float(precision[valid].mean()), abs=1e-6)
    assert found.mINP == pytest.approx(float(penalty[valid].mean()), abs=1e-6)
    expected = torch.stack([(first[valid] <= r).double().mean() for r in range(50)])
    torch.testing.assert_close(found.cmc, expected)


def test_tiles_equal_one_matrix(monkeypatch, device):
    query, gallery = torch.randn(37, 16), torch.randn(210, 16)
    identities = people(37, 210, 9, 4, 0)
    distance = torch.cdist(
        torch.nn.functional.normalize(query).double(), torch.nn.functional.normalize(gallery).double()
    )
    whole = rank(distance, *identities)
    monkeypatch.setattr("gcl_fast.evaluation.retrieval.TILE_ENTRIES", 1000)
    tiled = evaluate(3 * query.to(device), gallery.to(device), *identities)
    assert tiled.mAP == pytest.approx(whole.mAP, abs=1e-6)
    assert torch.equal(tiled.cmc, whole.cmc)


def test_input_that_cannot_be_ranked_is_refused():
    identities = people(3, 8, 2, 2, 0)
    distance = torch.rand(3, 8)
    with pytest.raises(ValueError, match="none of the 3 queries has a match"):
        rank(distance, identities[0] + 5, *identities[1:])
    with pytest.raises(ValueError, match=r"query_cameras must be 3 integers, not torch.int64 \(8,\)"):
        rank(distance, identities[0], identities[1], identities[3], identities[3])
    with pytest.raises(ValueError, match="must be 3 integers"):
        rank(distance, identities[0].float(), *identities[1:])
    distance[1, 4] = torch.nan
    with pytest.raises(RuntimeError, match="query 1 hold NaN"):
        rank(distance, *identities)
    with pytest.raises(ValueError, match="0 queries"):
        evaluate(torch.zeros(0, 4), torch.rand(8, 4), *(t[:0] if i % 2 == 0 else t for i, t in enumerate(identities)))


def clumps(noise):
    generator = torch.Generator().manual_seed(3)
    ids = torch.arange(240) % 20
    rows = torch.randn(20, 32, generator=generator)[ids] + noise * torch.randn(240, 32, generator=generator)
    identities = ids[:40], ids[40:], torch.zeros(40).long(), torch.ones(200).long()
    return torch.nn.functional.normalize(rows[:40]), torch.nn.functional.normalize(rows[40:]), identities


def test_reranking_is_the_weighted_sum_and_helps():
    query, gallery, identities = clumps(1.6)
    everyone = torch.cat((query, gallery))
    plain = 2 - 2 * query @ everyone.T
    plain = plain[:, 40:] / plain.amax(1, keepdim=True)
    expected = 0.3 * plain + 0.7 * (1 - k_reciprocal_jaccard_reference(everyone, 10, 4)[:40, 40:])
    found = torch.cat(list(reranked_distances(query, gallery, [slice(0, 11), slice(11, 40)], Reranking(10, 4))))
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=0)
    before, after = (evaluate(query, gallery, *identities, rerank=how).mAP for how in (None, Reranking(10, 4)))
    assert after > before + 0.03
