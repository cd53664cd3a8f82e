"""Approximate nearest neighbours for large N: a faiss graph proposes candidates, and float32 products rank them.

The graph is HNSW (Malkov and Yashunin 2018). It stores each value in 8 bits and takes D + 256 bytes per row. The recall
is measured on sampled rows.
"""

from __future__ import annotations

import importlib

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.neighbours import search_for

ENOUGH = 0.95  # recall from which the number of candidates grows no more
SAMPLE = 1000  # rows that are searched exactly as well: the recall has a standard error below 0.003 for lists of 30
LINKS, BUILD_EFFORT = 32, 40  # of the graph: edges per node, candidates visited when a row is added
LAST_EFFORT = 2048  # most candidates that a search visits; the first search visits k + SPARE
SPARE = 10  # candidates more than k that float32 products rank: the 8-bit order is off by a few positions


def approximate_neighbours(
    features: Tensor, k: int, rows: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor, float, int]:
    """Find most of the k rows with the largest inner product with each row, best first.

    The search doubles the number of candidates until the `SAMPLE` rows find a share of `ENOUGH` of their exact
    neighbours. Equal features give equal lists for any number of threads: one thread builds the graph, row by row.

    Args:
        features: (N, D) float32 on the CPU, contiguous.
        k: neighbours per row; cut to N.
        rows: first and end of the range of rows to search for; None: all.

    Returns:
        Similarity (rows, k) float32 and index (rows, k) int32, with equal similarities by index; the recall, which is
        the share of the exact neighbours that the sampled rows find; and the number of candidates that were visited.
        Where the graph reaches fewer than k rows, the row itself fills the list, with similarity -inf.
    """
    N, k = len(features), min(k, len(features))
    begin, end = rows or (0, N)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    graph = _Graph(features, order[:65536])
    sample = order[:SAMPLE]
    truth = search_for(features[sample], features, k)[0]
    effort = k + SPARE
    while True:
        similarity, _ = graph.search(sample, k, effort)
        recall = float((similarity >= truth[:, -1:] - 1e-6).double().mean())  # a tie with the last one is as good
        if recall >= ENOUGH or effort >= min(LAST_EFFORT, N):
            break
        effort *= 2
    return *graph.search(torch.arange(begin, end), k, effort), recall, effort


class _Graph:
    """Holds the faiss graph of `features`, whose 8-bit code is trained on the rows of `sample`."""

    def __init__(self, features: Tensor, sample: Tensor) -> None:
        faiss = importlib.import_module("faiss")
        self._faiss, self._features = faiss, features
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        self._index = faiss.IndexHNSWSQ(features.shape[1], eight_bits, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = BUILD_EFFORT
        threads = torch.get_num_threads()  # faiss may share torch's OpenMP, and then its number of threads
        faiss.omp_set_num_threads(1)  # several threads would link rows in another order in every run
        self._index.train(features[sample].numpy())
        self._index.add(features.numpy())
        faiss.omp_set_num_threads(threads)

    def search(self, rows: Tensor, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """Find the k best rows for `rows` (R,), in the form that `approximate_neighbours` returns."""
        parameters = self._faiss.SearchParametersHNSW(efSearch=effort)
        similarity = self._features.new_empty(len(rows), k)
        index = torch.empty(len(rows), k, dtype=torch.int32)
        for start in range(0, len(rows), 16384):
            part = rows[start : start + 16384]
            count = min(k + SPARE, len(self._features))
            _, candidates = self._index.search(self._features[part].numpy(), count, params=parameters)
            for first in range(0, len(part), 128):  # 10 MB of candidates at a time stay in cache
                piece = slice(first, first + 128)
                place = slice(start + first, start + first + len(part[piece]))
                similarity[place], index[place] = self._best(part[piece], torch.from_numpy(candidates[piece]), k)
        return similarity, index

    def _best(self, rows: Tensor, candidates: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Rank the candidates of `rows` by their products in float32, and return the first k."""
        candidates = candidates.sort(1).values  # equal similarities by index
        features = self._features[candidates.clamp_min(0)]  # (R, k + SPARE, D)
        similarity = (features @ self._features[rows].unsqueeze(2)).squeeze(2).masked_fill_(candidates < 0, -torch.inf)
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        index = candidates.gather(1, order)
        return similarity[:, :k], torch.where(index < 0, rows.unsqueeze(1), index)[:, :k].int()
