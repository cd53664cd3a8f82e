"""The GPU's kernels of the pseudo-labels against the CPU's ops: in Triton's interpreter, hence in a child process,
and on a GPU where there is one."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch.nn.functional import normalize

pytest.importorskip("triton")
from gcl_fast.evaluation.reranking import Reranking, reranked_distances
from gcl_fast.kernels import csr_dbscan, expand_queries, jaccard_rows, reciprocal_weights
from gcl_fast.pseudo_labels import cluster, k_reciprocal_jaccard, nearest_neighbours
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.dbscan import csr_arrays
from gcl_fast.pseudo_labels.eps import eps_auto, eps_by_rho
from gcl_fast.pseudo_labels.jaccard import neighbourhoods
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours_cuda, nearest_neighbours_reference

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_kernels_in_the_interpreter")
on_each = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
)
everywhere = pytest.mark.parametrize(
    "device",
    [
        pytest.param("cpu", marks=pytest.mark.skipif(INTERPRETED, reason="needs no interpreter")),
        pytest.param("cuda", marks=pytest.mark.gpu),
    ],
)
ops = torch.ops.gcl_fast
CASES = [(1, 1, 30, 6), (7, 3, 3, 1), (26, 140, 9, 3), (36, 9, 34, 2)]  # N, D, k1, k2; the last with larger blocks
each_case = pytest.mark.parametrize(("N", "D", "k1", "k2"), CASES)


def case(N, D, k1, k2):
    """Features, neighbours, length of the half lists, weights and expanded sets, all of them the CPU's."""
    generator = torch.Generator().manual_seed(N)
    centre = torch.randn(max(1, N // 9), D, generator=generator)
    rows = centre[torch.arange(N) % len(centre)] + 0.7 * torch.randn(N, D, generator=generator)
    if N >= 8:  # duplicates and zero rows
        rows[N // 2 : N // 2 + N // 8] = rows[: N // 8]
        rows[3] = rows[N - 1] = 0
    features = normalize(rows)
    neighbours = nearest_neighbours(features, k1)[1]
    half = min(int(np.around(k1 / 2)) + 1, N)
    weights = ops.reciprocal_weights(features, neighbours, half, 0, N)
    sets = ops.expand_queries(*weights, neighbours[:, :k2].contiguous(), 0, N)
    return features, neighbours, half, weights, sets


def same_rows(ours, cpu) -> None:
    """The same entries, values within rounding."""
    assert torch.equal(ours[0].cpu(), cpu[0])
    assert torch.equal(ours[1].cpu(), cpu[1])
    torch.testing.assert_close(ours[2].cpu(), cpu[2], atol=1e-6, rtol=0)


def on(device, arguments):
    """The arguments of an op, tensors on `device`."""
    return tuple(x.to(device) if isinstance(x, torch.Tensor) else x for x in arguments)


@on_each
@each_case
def test_reciprocal_weights(N, D, k1, k2, device):
    features, neighbours, half, weights, _ = case(N, D, k1, k2)
    if N < 30:
        whole = features, neighbours, half, 0, N
        same_rows(reciprocal_weights.reciprocal_weights_triton(*on(device, whole)), weights)
    some = features, neighbours, half, N // 3, N // 2
    same_rows(reciprocal_weights.reciprocal_weights_triton(*on(device, some)), ops.reciprocal_weights(*some))


@on_each
@each_case
def test_expand_queries(N, D, k1, k2, device):
    _, neighbours, _, weights, _ = case(N, D, k1, k2)
    some = *weights, neighbours[:, :k2].contiguous(), N // 3, min(N, N // 3 + 6)
    same_rows(expand_queries.expand_queries_triton(*on(device, some)), ops.expand_queries(*some))


@on_each
@each_case
@pytest.mark.parametrize("min_similarity", [0.0, 0.3])
def test_jaccard_rows(N, D, k1, k2, min_similarity, device):
    sets = case(N, D, k1, k2)[-1]
    some = *sets, min_similarity, N // 3, min(N, N // 3 + 4)
    ours, cpu = jaccard_rows.jaccard_rows_triton(*on(device, some)), ops.jaccard_rows(*some)
    assert min_similarity == 0 or N < 8 or len(cpu[1]) < len(ops.jaccard_rows(*sets, 0.0, *some[-2:])[1])
    same_rows(ours, cpu)


@on_each
def test_similarity_is_symmetric_to_the_bit(device):
    sets = case(9, 8, 6, 3)[-1]
    start, column, value = (x.cpu() for x in jaccard_rows.jaccard_rows_triton(*on(device, sets), 0.0, 0, 9))
    dense = torch.zeros(9, 9).index_put_((torch.repeat_interleave(start.diff()), column.long()), value)
    assert (dense.diagonal() > 1 - 1e-6).all()
    assert torch.equal(dense, dense.T)


def long_row(columns: int):
    """A set of `columns` members, and two that share a few with it."""
    lengths = torch.tensor([columns, 3, 2] + [0] * (columns - 3))
    start = torch.cat((torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)))
    column = torch.cat((torch.arange(columns), torch.tensor([0, 130, columns - 1, 1, 2]))).int()
    return start, column, torch.full((len(column),), 2**-10)  # sums are exact in any order


@on_each
@pytest.mark.parametrize("columns", [140, 600])
def test_rows_of_many_lists_take_larger_blocks(columns, device):
    sets = long_row(columns)
    same_rows(jaccard_rows.jaccard_rows_triton(*on(device, sets), 0.0, 0, 4), ops.jaccard_rows(*sets, 0.0, 0, 4))


@on_each
@pytest.mark.parametrize("kind", ["path", "cliques", "random", "none"])
def test_components_in_any_order_of_edges(kind, device):
    N, generator = 700, torch.Generator().manual_seed(1)
    edges = {
        "path": torch.stack((torch.arange(N - 1), torch.arange(1, N))),  # the longest chain of parents
        "cliques": torch.combinations(torch.arange(24)).T * 7,
        "random": torch.randint(N, (2, N // 2 + 50), generator=generator),
        "none": torch.zeros(2, 0, dtype=torch.int64),
    }[kind]
    named = torch.randperm(N, generator=generator)[edges]  # indices say nothing of the place in the chain
    ones = torch.ones(named.shape[1])
    _, label = connected_components(coo_matrix((ones, named), shape=(N, N)), directed=False)
    label = torch.from_numpy(label).long()
    least = torch.full((N,), N).scatter_reduce_(0, label, torch.arange(N), "amin")[label]
    for order in (torch.arange(len(ones)), torch.randperm(len(ones), generator=generator)):
        a, b = (ends.contiguous() for ends in on(device, named[:, order].int()))
        assert torch.equal(csr_dbscan.components(a, b, N).long().cpu(), least)


@on_each
@pytest.mark.parametrize("seed", range(3))
def test_dbscan(seed, device):
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(8, 16, generator=generator)[torch.randint(8, (120,), generator=generator)]
    rows = normalize(rows + (0.7 + 0.2 * seed) * torch.randn(120, 16, generator=generator))
    graph = csr_arrays(k_reciprocal_jaccard(rows, 12, 4))
    for eps in (0.0, 0.35, 0.5, 0.8):
        for min_samples in (1, 2, 4, 9):
            ours = csr_dbscan.csr_dbscan_triton(*on(device, graph), eps, min_samples)
            assert torch.equal(ours.cpu(), ops.csr_dbscan(*graph, eps, min_samples))
            assert torch.equal(ours.cpu(), csr_dbscan.csr_dbscan_reference(*graph, eps, min_samples))


@on_each
def test_radius_is_not_rounded_to_float32(device):
    graph = on(device, csr_arrays(torch.tensor([[1, 0.4], [0.4, 1]]).to_sparse_csr()))
    distance = float(1 - graph[2][1])
    assert csr_dbscan.csr_dbscan_triton(*graph, distance, 2).tolist() == [0, 0]
    assert csr_dbscan.csr_dbscan_triton(*graph, float(np.nextafter(distance, 0)), 2).tolist() == [-1, -1]


@on_each
def test_border_point_joins_the_lowest_numbered_cluster(device):
    graph = torch.eye(12)
    graph[:5, :5] = graph[6:11, 6:11] = 0.9  # two cliques of core points
    for a, b in [(4, 5), (5, 6), (5, 11)]:  # 5 lies between them and is no core; 11 is near 5 only
        graph[a, b] = graph[b, a] = 0.9
    for turned, expected in [(graph, [0] * 6 + [1] * 5 + [-1]), (graph.flip(0, 1), [-1] + [0] * 6 + [1] * 5)]:
        arrays = on(device, csr_arrays(turned.to_sparse_csr()))
        assert csr_dbscan.csr_dbscan_triton(*arrays, 0.2, 5).tolist() == expected
    nothing = on(device, csr_arrays(torch.zeros(0, 0).to_sparse_csr()))
    assert csr_dbscan.csr_dbscan_triton(*nothing, 0.2, 5).tolist() == []


@on_each
@pytest.mark.parametrize("k1", [20, 30])
def test_official_arrays(golden, k1, device):
    arrays = np.load(golden / "clustering.npz")
    features = torch.from_numpy(arrays["features"])
    half, some = int(np.around(k1 / 2)) + 1, (60, 61)
    neighbours = nearest_neighbours(features, k1)[1]
    given = features, neighbours, half, *some
    same_rows(reciprocal_weights.reciprocal_weights_triton(*on(device, given)), ops.reciprocal_weights(*given))
    sets = on(device, neighbourhoods(features, k1, 6))
    _, column, value = (x.cpu() for x in jaccard_rows.jaccard_rows_triton(*sets, 0.0, *some))
    distance = torch.ones(500).index_put_((column.long(),), 1 - value)
    np.testing.assert_allclose(distance, arrays[f"k1_{k1}_jaccard"][some[0]], atol=1e-6, rtol=0)
    graph = csr_arrays(k_reciprocal_jaccard(features, k1, 6))
    for eps, labels in [(float(arrays[f"k1_{k1}_eps"]), "labels"), (0.5, "labels_eps0.5")]:
        found = csr_dbscan.csr_dbscan_triton(*on(device, graph), eps, 4).cpu()
        np.testing.assert_array_equal(found, arrays[f"k1_{k1}_{labels}"])


@pytest.mark.skipif(INTERPRETED, reason="is the parent of the interpreted run")
def test_kernels_in_the_interpreter():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not gpu",
        "-k",
        "not bad_input",
        str(Path(__file__)),
    ]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{len(CASES) * 4 + 14} passed" in done.stdout, done.stdout


@pytest.mark.skipif(INTERPRETED, reason="needs no interpreter")
def test_search_of_a_gpu_ranks_ties_by_index():
    rows = torch.randint(-2, 3, (90, 8), generator=torch.Generator().manual_seed(0)).float()  # exact products
    similarity, index = nearest_neighbours_cuda(rows, 25, 10, 80)
    everything, order = nearest_neighbours_reference(rows, 90)
    assert torch.equal(similarity, everything[10:80, :25])
    settled = similarity > everything[10:80, 25:26]  # not equal to the first that was left out
    assert torch.equal(index[settled], order[10:80, :25][settled])
    assert (similarity.diff() == 0).sum() > 500
    assert [found.shape for found in nearest_neighbours_cuda(rows[:0], 0, 0, 0)] == [(0, 0), (0, 0)]


@pytest.mark.skipif(INTERPRETED, reason="needs no interpreter")
def test_every_op_has_a_cuda_kernel():
    for op in ("reciprocal_weights", "expand_queries", "jaccard_rows", "csr_dbscan"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gcl_fast::{op}", "CUDA"), op


@pytest.mark.skipif(INTERPRETED, reason="needs no interpreter")
def test_bad_input_is_named():
    features, neighbours, half, _, sets = case(26, 140, 20, 6)
    graph, weights = reciprocal_weights.reciprocal_weights_triton, expand_queries.expand_queries_triton
    with pytest.raises(ValueError, match=r"a neighbour lies outside 0\.\.25"):
        graph(features, neighbours + 7, half, 0, 26)
    with pytest.raises(ValueError, match="half 21 of 20"):
        graph(features, neighbours, 21, 0, 26)
    with pytest.raises(ValueError, match="k1 is 127, half 60, and the GPU's kernels hold 126 neighbours, half 64"):
        graph(features, torch.zeros(26, 127, dtype=torch.int32), 60, 0, 26)
    with pytest.raises(ValueError, match=r"contiguous int32 \(N, k\), k > 0, not torch.int64"):
        weights(*sets, neighbours.long(), 0, 26)
    with pytest.raises(ValueError, match=r"rows 3\.\.27 of 26"):
        jaccard_rows.jaccard_rows_triton(*sets, 0.0, 3, 27)
    with pytest.raises(ValueError, match=r"a column lies outside 0\.\.25"):
        jaccard_rows.jaccard_rows_triton(sets[0], sets[1] + 3, sets[2], 0.0, 0, 26)
    with pytest.raises(ValueError, match=r"dbscan: expected contiguous start .* got torch.int32 \(27,\) on cpu"):
        csr_dbscan.csr_dbscan_triton(sets[0].int(), *sets[1:], 0.5, 4)
    with pytest.raises(ValueError, match="a row has 2,049 lists, more than the 2,048"):
        jaccard_rows.jaccard_rows_triton(*long_row(2049), 0.0, 0, 1)


@everywhere
def test_ops_on_a_gpu_equal_the_cpus(device):
    features, neighbours, half, weights, sets = case(3000, 64, 30, 6)
    graph = ops.jaccard_rows(*sets, 0.0, 0, 3000)
    for op, arguments, cpu in [
        (ops.reciprocal_weights, (features, neighbours, half, 0, 3000), weights),
        (ops.expand_queries, (*weights, neighbours[:, :6].contiguous(), 0, 3000), sets),
        (ops.jaccard_rows, (*sets, 0.0, 0, 3000), graph),
    ]:
        ours, again = op(*on(device, arguments)), op(*on(device, arguments))
        assert all(tensor.device.type == device for tensor in ours)
        assert all(torch.equal(a, b) for a, b in zip(ours, again))
        same_rows(ours, cpu)
    for eps in (0.3, 0.5, 0.7):
        assert torch.equal(ops.csr_dbscan(*on(device, graph), eps, 4).cpu(), ops.csr_dbscan(*graph, eps, 4))


@everywhere
@pytest.mark.parametrize("how", [{"eps": 0.5}, {"eps": "auto"}, {"rho": 0.002}])
def test_clusters_on_a_gpu(how, device):
    features = normalize(
        case(3000, 64, 30, 6)[0] + 0.01 * torch.randn(3000, 64)
    )  # no ties: a GPU settles them otherwise
    there = features.to(device)
    ours, cpu = cluster(there, **how), cluster(features, **how)
    assert ours.labels.device.type == device
    assert ours.eps == pytest.approx(cpu.eps, abs=2e-3)
    assert adjusted_rand_index(ours.labels.cpu(), cpu.labels) > 0.99
    similarity, theirs = k_reciprocal_jaccard(there), k_reciprocal_jaccard(features)
    assert eps_by_rho(similarity.cpu(), 0.002) == pytest.approx(eps_by_rho(similarity, 0.002), abs=1e-9)
    assert eps_auto(similarity, 4) == eps_auto(theirs, 4)


@everywhere
def test_reranking_on_a_gpu(device):
    features = normalize(case(3000, 64, 30, 6)[0] + 0.01 * torch.randn(3000, 64))
    query, gallery = features[:200], features[200:]
    tiles = [slice(0, 120), slice(120, 200)]
    ours, cpu = (
        torch.cat(list(reranked_distances(query.to(place), gallery.to(place), tiles, Reranking())))
        for place in (device, "cpu")
    )
    assert ((ours - cpu).abs() < 1e-5).double().mean() > 0.999
