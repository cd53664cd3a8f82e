"""The sparse ops against the dense definition, and what they refuse."""

import itertools

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.pseudo_labels import k_reciprocal_jaccard, nearest_neighbours
from gcl_fast.pseudo_labels.jaccard import k_reciprocal_jaccard_reference, neighbourhoods
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours_reference

ops = torch.ops.gcl_fast


def features(N: int, D: int, seed: int = 0) -> torch.Tensor:
    """Unit rows in clumps, with exact duplicates and zero rows from N = 8 on."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(max(1, N // 9), D, generator=generator)
    rows = centre[torch.arange(N) % len(centre)] + 0.7 * torch.randn(N, D, generator=generator)
    if N >= 8:
        rows[N // 2 : N // 2 + N // 8] = rows[: N // 8]
        rows[3] = rows[N - 1] = 0
    return normalize(rows)


@pytest.mark.parametrize(
    ("N", "D", "k1", "k2"),
    [(1, 1, 30, 6), (2, 5, 20, 6), (7, 3, 3, 1), (30, 1, 8, 2), (64, 16, 20, 1), (150, 64, 30, 6), (800, 24, 10, 4)],
)
def test_sparse_equals_dense(N, D, k1, k2, device):
    """Which of many equal rows a GPU's lists hold is not specified: there no two rows are equal."""
    rows = features(N, D)
    if device == "cuda":
        rows = features(N, max(D, 2))
        rows = normalize(rows + 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(1)))
    ours, dense = k_reciprocal_jaccard(rows.to(device), k1, k2), k_reciprocal_jaccard_reference(rows, k1, k2)
    assert ours.device.type == device
    ours = ours.cpu()
    torch.testing.assert_close(ours.to_dense(), dense, atol=1e-6, rtol=0)
    column, start = ours.col_indices(), ours.crow_indices()
    assert all((column[a:b].diff() > 0).all() for a, b in itertools.pairwise(start.tolist()))
    assert torch.equal(ours.to_dense(), ours.to_dense().T)


def test_faint_entries_can_be_left_out():
    rows = features(300, 16)
    whole, part = k_reciprocal_jaccard(rows, 15, 4).to_dense(), k_reciprocal_jaccard(rows, 15, 4, min_similarity=0.1)
    near = (whole - 0.1).abs() < 1e-6  # rounding decides
    assert torch.equal(torch.where(near, 0, part.to_dense()), torch.where((whole >= 0.1) & ~near, whole, 0))
    assert len(part.values()) < 0.7 * int((whole > 0).sum())


@pytest.mark.parametrize("tile", [7, 64, 2048])
@pytest.mark.parametrize(("N", "D", "k"), [(1, 4, 3), (40, 8, 40), (130, 32, 11)])
def test_neighbours_for_any_tile(monkeypatch, tile, N, D, k):
    monkeypatch.setattr("gcl_fast.pseudo_labels.neighbours.TILE", tile)
    rows = torch.randint(-2, 3, (N, D), generator=torch.Generator().manual_seed(N)).float()  # exact products, many ties
    similarity, index = nearest_neighbours(rows, k)
    expected, order = nearest_neighbours_reference(rows, k)
    assert torch.equal(similarity, expected)
    assert torch.equal(index, order)
    shares = [nearest_neighbours(rows, k, (a, b)) for a, b in [(0, N // 3), (N // 3, N // 3), (N // 3, N)]]
    assert torch.equal(torch.cat([part[1] for part in shares]), index)


def test_threads_and_strides_do_not_matter():
    rows = features(500, 20)
    before = torch.get_num_threads()
    found = []
    for threads, given in [(1, rows), (3, rows.T.contiguous().T), (2, rows.double())]:
        torch.set_num_threads(threads)
        found.append(k_reciprocal_jaccard(given).to_dense())
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_rows_can_be_shared_out():
    rows = features(200, 16)
    neighbours = nearest_neighbours(rows, 12)[1]
    sets = neighbourhoods(rows, 12, 6)
    for op, arguments in [
        (ops.reciprocal_weights, (rows, neighbours, 7)),
        (ops.expand_queries, (*sets, neighbours)),
        (ops.jaccard_rows, (*sets, 0.0)),
    ]:
        whole, parts = op(*arguments, 0, 200), [op(*arguments, a, b) for a, b in [(0, 70), (70, 70), (70, 200)]]
        for whole_part, joined in zip(whole[1:], zip(*(part[1:] for part in parts))):
            assert torch.equal(whole_part, torch.cat(joined))
        assert torch.equal(whole[0].diff(), torch.cat([part[0].diff() for part in parts]))


def test_bad_input_is_named():
    rows = features(20, 8)
    bad = rows.clone()
    bad[4, 1], bad[17, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match=r"2 of 20 rows hold NaN or infinity \(rows 4, 17\)"):
        k_reciprocal_jaccard(bad)
    with pytest.raises(ValueError, match=r"shape \(N, D\), not torch.int64 \(20,\)"):
        k_reciprocal_jaccard(torch.arange(20))
    with pytest.raises(ValueError, match="got 0 and 6"):
        k_reciprocal_jaccard(rows, k1=0)
    with pytest.raises(RuntimeError, match=r"a neighbour lies outside 0\.\.19"):
        ops.reciprocal_weights(rows, torch.full((20, 3), 20, dtype=torch.int32), 2, 0, 20)
    with pytest.raises(RuntimeError, match=r"rows 0\.\.21 of 20"):
        ops.jaccard_rows(*neighbourhoods(rows, 6, 3), 0.0, 0, 21)
    assert k_reciprocal_jaccard(torch.zeros(0, 8)).shape == (0, 0)
