"""Approximate nearest neighbours for large N: candidates of a faiss graph, scored again in float32, recall measured.

The graph is HNSW (Malkov and Yashunin 2018) over rows of 8 bits a value, D + 256 bytes a row beside the features.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.neighbours import search_for

ENOUGH = 0.95  # recall at which the search stops growing
SAMPLE = 1000  # rows whose exact neighbours are known: a standard error below 0.003 for lists of 30
LINKS, BUILD_EFFORT = 32, 40  # of the graph: edges a node keeps, candidates looked at when a row enters it
LAST_EFFORT = 2048  # candidates looked at in a search; the first is what is scored again
SPARE = 10  # candidates beside k that are scored again: the 8-bit order is off by a few places


def approximate_neighbours(
    features: Tensor, k: int, rows: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor, float, int]:
    """Most of the k rows with the largest inner product with each row, best first.

    The search looks at twice as many candidates until `SAMPLE` rows find `ENOUGH` of what an exact search finds for
    them. Equal features give equal lists, whatever the number of threads: the graph is built by one, in order of rows.

    Args:
        features: (N, D) float32 on the CPU, contiguous.
        k: neighbours per row; cut to N.
        rows: range of the rows to search for; None: all.

    Returns:
        similarity (rows, k) float32 and index (rows, k) int32, with equal similarities by index; the share of the exact
        neighbours that the sampled rows find; and the effort (candidates looked at) that it took. Where the graph
        reaches fewer than k rows, the row itself stands in for the others, with similarity -inf.
    """
    N, k = len(features), min(k, len(features))
    begin, end = rows or (0, N)
    draw = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    graph = _Graph(features, draw[:65536])
    sample = draw[:SAMPLE]
    truth = search_for(features[sample], features, k)[0]
    effort = k + SPARE
    while True:
        found, _ = graph.search(sample, k, effort)
        recall = float((found >= truth[:, -1:] - 1e-6).double().mean())  # a tie with the last one is as good
        if recall >= ENOUGH or effort >= min(LAST_EFFORT, N):
            break
        effort *= 2
    return *graph.search(torch.arange(begin, end), k, effort), recall, effort


class _Graph:
    def __init__(self, features: Tensor, sample: Tensor) -> None:
        faiss = importlib.import_module("faiss")
        self._faiss, self._features = faiss, features
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        self._index = faiss.IndexHNSWSQ(features.shape[1], eight_bits, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = BUILD_EFFORT
        threads = torch.get_num_threads()  # faiss may share torch's OpenMP, and then its number of threads
        faiss.omp_set_num_threads(1)  # several would link rows in another order every time
        self._index.train(features[sample].numpy())
        self._index.add(features.numpy())
        faiss.omp_set_num_threads(threads)

    def search(self, rows: Tensor, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """The k best for `rows` (R,), as `approximate_neighbours` returns them."""
        how = self._faiss.SearchParametersHNSW(efSearch=effort)
        similarity = self._features.new_empty(len(rows), k)
        index = torch.empty(len(rows), k, dtype=torch.int32)
        for start in range(0, len(rows), 16384):
            part = rows[start : start + 16384]
            _, found = self._index.search(self._features[part].numpy(), min(k + SPARE, len(self._features)), params=how)
            for first in range(0, len(part), 128):  # 10 MB of candidates at a time stay in cache
                piece = slice(first, first + 128)
                place = slice(start + first, start + first + len(part[piece]))
                similarity[place], index[place] = self._best(part[piece], torch.from_numpy(found[piece]), k)
        return similarity, index

    def _best(self, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        candidates = candidates.sort(1).values  # equal similarities by index
        near = self._features[candidates.clamp_min(0)]  # (R, k + SPARE, D)
        similarity = (near @ self._features[rows].unsqueeze(2)).squeeze(2).masked_fill_(candidates < 0, -torch.inf)
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        index = candidates.gather(1, order)
        return similarity[:, :k], torch.where(index < 0, rows.unsqueeze(1), index)[:, :k].int()
