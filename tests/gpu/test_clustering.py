"""DBSCAN of cuML, where it is installed, and of scikit-learn beside our own; a clustering of Market-1501's size."""

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.pseudo_labels import cluster, k_reciprocal_jaccard
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.dbscan import dbscan

on_gpu = pytest.mark.gpu
ENGINES = [  # device, engine, N, noise that leaves some outliers
    ("cpu", "sklearn", 400, 0.12),
    pytest.param("cuda", "sklearn", 3000, 0.11, marks=on_gpu),
    pytest.param("cuda", "cuml", 3000, 0.11, marks=on_gpu),
]
SIZES = [("cpu", 600), pytest.param("cuda", 12_936, marks=on_gpu)]


def people(N: int, noise: float) -> torch.Tensor:
    """(N, 512) unit rows, about 17 a person."""
    generator = torch.Generator().manual_seed(N)
    centre = normalize(torch.randn(N // 17, 512, generator=generator))
    return normalize(centre[torch.arange(N) % len(centre)] + noise * torch.randn(N, 512, generator=generator))


@pytest.mark.parametrize("eps", [0.45, 0.6])
@pytest.mark.parametrize(("device", "engine", "N", "noise"), ENGINES)
def test_engines_find_the_same_clusters(device, engine, N, noise, eps):
    """cuML numbers clusters in its own order, and may give a border point to another of its clusters."""
    if engine == "cuml":
        pytest.importorskip("cuml")
    graph = k_reciprocal_jaccard(people(N, noise).to(device))
    ours, theirs = (dbscan(graph, eps, 4, name) for name in ("own", engine))
    assert ours.device.type == theirs.device.type == device
    assert torch.equal(ours < 0, theirs < 0)
    assert 0 < (ours < 0).sum() < N // 2
    assert adjusted_rand_index(ours.cpu(), theirs.cpu()) > 0.999


@pytest.mark.parametrize("how", [{"eps": "auto"}, {"rho": 0.01}])
@pytest.mark.parametrize(("device", "N"), SIZES)
def test_a_device_clusters_as_the_cpu_and_alike_every_time(device, N, how):
    features = people(N, 0.045)
    there = features.to(device)
    ours, again, cpu = cluster(there, **how), cluster(there, **how), cluster(features, **how)
    assert torch.equal(ours.labels, again.labels)
    assert ours.labels.device.type == device
    assert adjusted_rand_index(ours.labels.cpu(), cpu.labels) > 0.99
    assert ours.num_clusters > 0.5 * (N // 17)
