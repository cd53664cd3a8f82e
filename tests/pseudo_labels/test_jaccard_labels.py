"""Compare the engines of DBSCAN, and check edge cases of `cluster`."""

import sys
import types

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.pseudo_labels import cluster, k_reciprocal_jaccard
from gcl_fast.pseudo_labels.dbscan import dbscan
from gcl_fast.pseudo_labels.eps import FAINT


def clumps(N: int, noise: float, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(max(1, N // 12), 24, generator=generator)
    return normalize(
        centre[torch.randint(len(centre), (N,), generator=generator)] + noise * torch.randn(N, 24, generator=generator)
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("min_samples", [1, 2, 4, 9])
@pytest.mark.parametrize("eps", [0.0, 0.35, 0.6, 0.8])
def test_own_equals_sklearn(seed, min_samples, eps, device):
    similarity = k_reciprocal_jaccard(clumps(50 + 70 * seed, 0.5 + 0.1 * seed, seed).to(device), 12, 4)
    own, theirs = (dbscan(similarity, eps, min_samples, engine) for engine in ("own", "sklearn"))
    assert torch.equal(own, theirs)


@pytest.mark.parametrize("engine", ["own", "sklearn"])
def test_border_point_joins_the_lowest_numbered_cluster(engine, device):
    graph = torch.eye(12, device=device)
    graph[:5, :5] = graph[6:11, 6:11] = 0.9  # two cliques of core points
    for a, b in [(4, 5), (5, 6), (5, 11)]:  # 5 lies between them and is no core point; 11 is near 5 only
        graph[a, b] = graph[b, a] = 0.9
    assert dbscan(graph.to_sparse_csr(), 0.2, 5, engine).tolist() == [0] * 6 + [1] * 5 + [-1]
    turned = graph.flip(0, 1)
    assert dbscan(turned.to_sparse_csr(), 0.2, 5, engine).tolist() == [-1] + [0] * 6 + [1] * 5
    assert dbscan(graph.to_sparse_csr(), 0.2, 4, engine).tolist() == [0] * 12  # now 5 is a core point


def test_edges(device):
    assert cluster(torch.zeros(0, 4, device=device)).labels.shape == (0,)
    one = cluster(torch.ones(1, 4, device=device) / 2)
    assert (one.num_clusters, one.num_outliers, one.eps) == (0, 1, 0.0)
    count = 50 if device == "cpu" else 20  # of more than k1 equal rows a GPU may take any
    equal = cluster(torch.ones(count, 4, device=device) / 2)
    assert (equal.num_clusters, equal.num_outliers) == (1, 0)
    apart = cluster(torch.eye(9, device=device), k1=4, k2=1, eps=0.01)
    assert (apart.num_clusters, apart.num_outliers) == (0, 9)
    few = cluster(normalize(torch.randn(6, 4, device=device)), k1=30)  # fewer rows than k1
    assert few.labels.shape == (6,)
    features = clumps(80, 0.5, 0).double().to(device).requires_grad_()
    assert not cluster(features).labels.requires_grad


def test_rho_may_ask_for_faint_pairs():
    features = clumps(400, 0.9, 1)
    whole = k_reciprocal_jaccard(features, 10, 4)
    assert (whole.values() < FAINT).any()
    kept = int((k_reciprocal_jaccard(features, 10, 4, FAINT).values() < 1).sum()) // 2
    rho = (kept + 50) / (400 * 399 / 2)
    found = cluster(features, 10, 4, rho=rho)
    assert torch.equal(found.labels, dbscan(whole, found.eps, 4, "sklearn"))
    smallest = (1 - whole.to_dense())[torch.ones(400, 400).triu(1).bool()].sort().values
    assert found.eps == pytest.approx(float(smallest[smallest > 0][: kept + 50].double().mean()), abs=2e-4)


def test_wrong_arguments():
    features = clumps(30, 0.5, 0)
    with pytest.raises(ValueError, match="unknown backend 'faiss'; there are auto, own, sklearn, cuml"):
        cluster(features, backend="faiss")
    for eps in (1.5, -0.1, "best"):
        with pytest.raises(ValueError, match='None or "auto"; got'):
            cluster(features, eps=eps)
    if "cuml" not in sys.modules:
        with pytest.raises(ModuleNotFoundError, match="pip install cuml-cu13"):
            cluster(features, backend="cuml")


def test_cuml_is_called_as_documented(monkeypatch):
    """Check the call of cuml.cluster.DBSCAN(eps=, min_samples=, metric="precomputed").fit_predict(dense N x N)."""
    calls = []

    class DBSCAN:
        def __init__(self, *, eps, min_samples, metric):
            self.given = (eps, min_samples, metric)

        def fit_predict(self, distance):
            calls.append((self.given, distance))
            from sklearn.cluster import DBSCAN as Reference

            eps, min_samples, metric = self.given
            return Reference(eps=eps, min_samples=min_samples, metric=metric).fit_predict(distance.numpy())

    package, module = types.ModuleType("cuml"), types.ModuleType("cuml.cluster")
    module.DBSCAN = DBSCAN
    monkeypatch.setitem(sys.modules, "cuml", package)
    monkeypatch.setitem(sys.modules, "cuml.cluster", module)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: package)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self: self)
    features = clumps(90, 0.4, 2)
    found, own = cluster(features, eps=0.5, backend="cuml"), cluster(features, eps=0.5, backend="own")
    assert found.engine == "cuml"
    assert torch.equal(found.labels, own.labels)
    assert calls[0][0] == (0.5, 4, "precomputed")
    assert calls[0][1].shape == (90, 90)
