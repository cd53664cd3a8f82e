"""Check the approximate search: recall, determinism, choice of the engine, and its report."""

import importlib.util
import logging

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.errors import UserError
from gcl_fast.pseudo_labels import cluster, k_reciprocal_jaccard, nearest_neighbours
from gcl_fast.pseudo_labels.approximate_neighbours import approximate_neighbours
from gcl_fast.pseudo_labels.search import MANY, choose, find_neighbours

needs_faiss = pytest.mark.skipif(importlib.util.find_spec("faiss") is None, reason="faiss-cpu is not installed")
CPU = torch.device("cpu")


def crops(N: int, D: int = 64) -> torch.Tensor:
    """Draw unit rows of identities with about 15 crops each; identities and noise lie in subspaces."""
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))
    identity = torch.arange(N) % max(1, N // 15)
    return normalize(draw(N // 15 + 1, 12)[identity] @ draw(12, D) + draw(N, 6) @ draw(6, D) + 0.3 * draw(N, D))


def share(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found[:, :, None] == truth[:, None, :]).any(2).double().mean())


@needs_faiss
def test_measured_recall_is_the_true_one():
    features = crops(3000)
    similarity, index, recall, effort, _ = approximate_neighbours(features, 20)
    exact_similarity, exact = nearest_neighbours(features, 20)
    assert share(index, exact) == pytest.approx(recall, abs=0.02)
    assert recall >= 0.95
    assert effort == 30
    assert (similarity.diff(dim=1) <= 0).all()
    assert torch.equal(index[:, 0], torch.arange(3000, dtype=torch.int32))
    scored = (features.unsqueeze(1) * features[index.long()]).sum(2)  # in float32, not in 8 bits
    torch.testing.assert_close(similarity, scored, atol=1e-6, rtol=0)
    assert (similarity <= exact_similarity + 1e-6).all()


@needs_faiss
def test_ranges_and_threads_do_not_matter():
    features, threads = crops(700), torch.get_num_threads()
    whole = approximate_neighbours(features, 12)[1]
    torch.set_num_threads(3)
    parts = [approximate_neighbours(features, 12, rows)[1] for rows in [(0, 200), (200, 200), (200, 700)]]
    assert torch.get_num_threads() == 3  # the graph is built by one thread, and the setting is restored
    torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts), whole)


@needs_faiss
def test_search_grows_until_it_is_enough_and_warns_where_it_never_is(monkeypatch, caplog):
    scattered = normalize(torch.randn(4000, 256, generator=torch.Generator().manual_seed(0)))
    *_, recall, effort, _ = approximate_neighbours(scattered, 10)
    assert recall >= 0.95
    assert effort > 20
    monkeypatch.setattr("gcl_fast.pseudo_labels.approximate_neighbours.LAST_EFFORT", 20)
    with (
        caplog.at_level(logging.DEBUG, "gcl_fast"),
        pytest.warns(UserWarning, match=r'recall@10 0\.\d+ on 1,000 sampled distinct rows .*"exact"'),
    ):
        _, how = find_neighbours(scattered, 10, engine="approximate")
    assert how.engine == "approximate"
    assert 0.1 < how.recall < 0.95
    assert how.notice in caplog.text


@needs_faiss
@pytest.mark.parametrize("share_of_copies", [0.1, 0.5, 1.0])
def test_copies_of_a_row_hide_no_other_row(share_of_copies, recwarn):
    N, k = 2000, 20
    features = crops(N)
    features[torch.randperm(N, generator=torch.Generator().manual_seed(0))[: int(share_of_copies * N)]] = features[
        0
    ].clone()
    index, how = find_neighbours(features, k, engine="approximate")
    exact_similarity, exact = nearest_neighbours(features, k)
    copies = (features == features[0]).all(1)
    assert torch.equal(index[copies], exact[copies])  # the first of the copies, by index
    others = ~copies
    assert (index[others, 0] == torch.arange(N)[others]).all()  # every distinct row finds itself
    similarity = (features.unsqueeze(1) * features[index.long()]).sum(2)
    recall = (similarity >= exact_similarity[:, -1:] - 1e-6).double().mean(1)
    assert recall[others].numel() == 0 or recall[others].mean() == pytest.approx(how.recall, abs=0.02)
    assert how.recall >= 0.95
    assert f"on {min(1000, int(others.sum()) + 1):,} sampled distinct rows" in how.notice
    assert not [w for w in recwarn if "nearest neighbours" in str(w.message)]


@needs_faiss
def test_sets_of_copies_are_listed_by_similarity_then_index():
    rows = normalize(torch.randn(40, 16, generator=torch.Generator().manual_seed(0)))
    features = rows[torch.randint(40, (300,), generator=torch.Generator().manual_seed(1))].contiguous()
    for part in (None, (100, 180), (5, 5)):
        found, exact = find_neighbours(features, 25, part, "approximate")[0], nearest_neighbours(features, 25, part)[1]
        assert torch.equal(found, exact)


@needs_faiss
@pytest.mark.parametrize("N", [1, 2, 7, 90])
@pytest.mark.parametrize("kind", ["equal", "zero", "apart"])
def test_edges(N, kind):
    features = {"equal": torch.ones(N, 8) / 8**0.5, "zero": torch.zeros(N, 8), "apart": torch.eye(90)[:N]}[kind]
    _, index, recall, *_ = approximate_neighbours(features, 30)
    assert index.shape == (N, min(N, 30))
    assert index.min() >= 0
    assert index.max() < N
    assert recall == 1
    if kind == "equal":
        assert cluster(features, engine="approximate").num_outliers == (0 if N >= 4 else N)


@needs_faiss
def test_labels_are_those_of_the_exact_search():
    features = crops(2000)
    exact, approximate = (cluster(features, 20, 6, eps=0.5, engine=engine) for engine in ("exact", "approximate"))
    assert (exact.search.engine, approximate.search.engine) == ("exact", "approximate")
    assert exact.num_clusters > 50
    assert float((exact.labels == approximate.labels).double().mean()) > 0.99
    graph = k_reciprocal_jaccard(features, 20, 6, engine="approximate").to_dense()
    assert torch.equal(graph, graph.T)


def test_choice(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert choose(MANY - 1, "auto", CPU) == ("exact", "exact, 199,999 rows are fewer than 200,000")
    assert choose(MANY, "auto", CPU)[0] == "approximate"
    assert choose(MANY, "auto", torch.device("cuda")) == ("exact", "exact, 200,000 rows on a GPU")
    assert choose(10**6, "exact", CPU)[0] == "exact"
    with pytest.raises(ValueError, match="unknown engine 'ivf'; there are auto, exact, approximate"):
        cluster(crops(30), engine="ivf")


def test_without_faiss(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("gcl_fast.pseudo_labels.search.MANY", 30)
    index, how = find_neighbours(crops(60), 5)
    assert torch.equal(index, nearest_neighbours(crops(60), 5)[1])
    assert how.notice == "exact; pip install faiss-cpu for an approximate search, faster for 60 rows"
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        find_neighbours(crops(60), 5, engine="approximate")
