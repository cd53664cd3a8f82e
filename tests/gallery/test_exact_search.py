"""The search is exact: equal to float64 products of all pairs, ties by row, whatever is searched together."""

import numpy as np
import pytest

from gcl_fast.gallery import exact_search as module
from gcl_fast.gallery.exact_search import top_k, top_k_reference


def unit(*shape, seed=0):
    rows = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "ROWS", 50)  # several tiles, the last one of another size
    monkeypatch.setattr(module, "SCORES", 150)
    monkeypatch.setattr(module, "QUERIES", 4)
    monkeypatch.setattr(module, "RESCORED", 5000)


def assert_exact(found, expected):
    scores, index = found
    assert np.array_equal(scores, expected[0])
    assert np.array_equal(index[scores > -np.inf], expected[1][scores > -np.inf])


@pytest.mark.parametrize(
    ("N", "Q", "D", "k"), [(230, 1, 33, 5), (230, 7, 33, 10), (40, 3, 8, 40), (1, 1, 1, 1), (9, 0, 4, 2)]
)
def test_matches_are_those_of_float64(N, Q, D, k):
    rows, queries = unit(N, D), unit(max(Q, 1), D, seed=1)[:Q]
    scores, index = top_k(rows, queries, k)
    assert scores.shape == index.shape == (Q, k)
    if Q:
        assert_exact((scores, index), top_k_reference(rows, queries, k))


def test_ties_rank_by_row_however_many_there_are():
    rows = np.repeat(unit(3, 17), [70, 90, 60], axis=0)[np.random.default_rng(2).permutation(220)]
    queries = np.concatenate([rows[:2], unit(3, 17, seed=3)])
    assert_exact(top_k(rows, queries, 100), top_k_reference(rows, queries, 100))


def test_rows_closer_than_float32_resolves_are_ranked_by_float64(monkeypatch):
    """Float32 products in another order rank such rows otherwise: they only propose."""
    query = unit(1, 64)
    rows = query + 3e-4 * np.random.default_rng(0).standard_normal((500, 64)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    expected = top_k_reference(rows, query, 5)
    assert_exact(top_k(rows, query, 5), expected)
    assert_exact(top_k(rows, np.repeat(query, 3, axis=0), 5), tuple(np.repeat(part, 3, axis=0) for part in expected))


def test_a_query_has_the_same_result_alone_and_among_others():
    rows, queries = unit(500, 24), unit(9, 24, seed=1)
    together = top_k(rows, queries, 12)
    for place in range(9):
        alone = top_k(rows, queries[place : place + 1], 12)
        assert_exact(alone, (together[0][place : place + 1], together[1][place : place + 1]))


@pytest.mark.parametrize("Q", [1, 3])
def test_rows_of_nan_and_excluded_rows_never_match(Q):
    rows, queries = unit(130, 16), unit(Q, 16, seed=1)
    rows[::7] = np.nan
    allowed = np.random.default_rng(0).random(130) < 0.3
    assert_exact(top_k(rows, queries, 20), top_k_reference(rows, queries, 20))
    assert_exact(top_k(rows, queries, 20, allowed), top_k_reference(rows, queries, 20, allowed))
    few = np.zeros(130, bool)
    few[[3, 8]] = True
    scores, index = top_k(rows, queries, 4, few)
    assert (scores[:, 2:] == -np.inf).all()
    assert (np.sort(index[:, :2]) == [3, 8]).all()


def test_a_query_of_nan_matches_nothing():
    queries = unit(3, 16)
    queries[1] = np.nan
    scores, _ = top_k(unit(60, 16, seed=4), queries, 2)
    assert np.isfinite(scores).all(1).tolist() == [True, False, True]
    assert (scores[1] == -np.inf).all()


def test_products_in_bfloat16_are_noticed(monkeypatch):
    """As a process may allow them in place of float32."""
    rows, queries = unit(400, 128), unit(8, 128, seed=1)
    expected = top_k_reference(rows, queries, 5)
    coarse = lambda a, b, out: out.copy_(a.bfloat16() @ b.bfloat16())
    monkeypatch.setattr(module.torch, "mm", coarse)
    assert_exact(top_k(rows, queries, 5), expected)


def test_usual_rows_need_no_search_in_float64(monkeypatch):
    monkeypatch.setattr(module, "_search_in_float64", None)
    rows, queries = unit(3000, 256), unit(8, 256, seed=1)
    assert_exact(top_k(rows, queries, 5), top_k_reference(rows, queries, 5))


def test_wrong_arguments_are_named():
    rows = unit(5, 4)
    for wrong, message in [
        ((rows.astype(np.float64), rows, 1), "rows must be contiguous float32"),
        ((rows, rows[:, :3], 1), "queries must be contiguous"),
        ((rows, unit(2, 3), 1), "rows of 4 numbers"),
        ((rows, 2 * rows, 1), "no unit rows"),
        ((rows, rows, 6), "k=6 of 5"),
        ((rows, rows, 1, np.ones(4, bool)), "allowed"),
    ]:
        with pytest.raises(ValueError, match=message):
            top_k(*wrong)
