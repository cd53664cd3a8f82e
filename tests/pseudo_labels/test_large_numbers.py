"""Check counts of more than 2^31 pairs, and int64 indices."""

import numpy as np
import pytest
import torch

from gcl_fast.pseudo_labels import PseudoLabels
from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.cluster_health import health
from gcl_fast.pseudo_labels.dbscan import dbscan
from gcl_fast.pseudo_labels.eps import FAINT, FAINT_BINS, eps_by_rho
from gcl_fast.pseudo_labels.search import Search

N = 70_000
PAIRS = N * (N - 1) // 2  # 2,449,965,000


@pytest.fixture
def graph() -> torch.Tensor:
    """Make a graph of ten chains of N / 10 rows, in which each row has similarity 0.5 with the next one."""
    row = torch.arange(N)
    joined = row[(row + 1) % (N // 10) != 0]
    index = torch.stack((torch.cat((row, joined, joined + 1)), torch.cat((row, joined + 1, joined))))
    value = torch.cat((torch.ones(N), torch.full((2 * len(joined),), 0.5)))
    return torch.sparse_coo_tensor(index, value, (N, N), check_invariants=True).to_sparse_csr()  # int64 indices


def test_rho(graph):
    stored = N - 10
    assert PAIRS > 2**31
    assert eps_by_rho(graph, 1.0) == pytest.approx((0.5 * stored + PAIRS - stored) / PAIRS, rel=1e-12)
    faint = torch.zeros(FAINT_BINS, dtype=torch.int64)
    faint[-1] = 2**31 + 5  # all of them just below FAINT
    wanted = round(0.9 * PAIRS)
    far = (wanted - stored - (2**31 + 5)) + (2**31 + 5) * (1 - FAINT)
    assert eps_by_rho(graph, 0.9, faint=faint) == pytest.approx((0.5 * stored + far) / wanted, abs=1e-7)


def test_dbscan_of_long_chains(graph, device):
    labels = dbscan(graph.to(device), 0.5, 2, "own")
    assert torch.equal(labels.cpu(), torch.arange(N) // (N // 10))


def test_agreement_and_health():
    labels = torch.arange(N) % 2  # 1.2 * 10^9 pairs together
    assert adjusted_rand_index(labels, 1 - labels) == 1
    assert adjusted_rand_index(labels, torch.zeros(N).long()) == pytest.approx(0, abs=1e-9)
    found = health(PseudoLabels(labels, 0.5, 2, 0, "own", Search("exact", 1.0, "")), labels)
    assert (found.agreement, found.largest_share) == (1, 0.5)


def test_neighbours_beyond_float32_integers():
    """Check the index 2^24 + 1, which float32 cannot represent."""
    rows = np.full((2**24 + 3, 1), -1, dtype=np.float32)
    rows[[5, 2**24 + 1]] = 1
    lists = torch.full((1, 2), -torch.inf), torch.zeros(1, 2, dtype=torch.int32)
    for start in range(0, len(rows), 2**22):
        torch.ops.gcl_fast.merge_top_k(*lists, torch.from_numpy(rows[start : start + 2**22]).T.contiguous(), 0, start)
    assert lists[1].tolist() == [[5, 2**24 + 1]]
