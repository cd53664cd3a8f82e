"""Approximate nearest neighbours for large N: a faiss graph proposes candidates, and float32 products rank them.

The graph is HNSW (Malkov and Yashunin 2018). It stores each value in 8 bits and takes D + 256 bytes per row. The recall
is measured on sampled rows. Equal rows, as of a crop that was copied, are one row of the graph.
"""

from __future__ import annotations

import importlib
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from gcl_fast.pseudo_labels.neighbours import search_for

ENOUGH = 0.95  # recall from which the number of candidates grows no more
SAMPLE = 1000  # rows that are searched exactly as well: the recall has a standard error below 0.003 for lists of 30
LINKS, BUILD_EFFORT = 32, 40  # of the graph: edges per node, candidates visited when a row is added
LAST_EFFORT = 2048  # most candidates that a search visits; the first search visits k + SPARE
SPARE = 10  # candidates more than k that float32 products rank: the 8-bit order is off by a few positions


class Neighbours(NamedTuple):
    """Holds what `approximate_neighbours` finds, for R rows and k neighbours of each."""

    similarity: Tensor  # (R, k) float32, best first
    rows: Tensor  # (R, k) int32, equal similarities by row
    recall: float  # share of the exact neighbours that the sampled rows find
    effort: int  # number of candidates that a search visits
    sampled: int  # number of distinct rows on which the recall was measured


def approximate_neighbours(features: Tensor, k: int, rows: tuple[int, int] | None = None) -> Neighbours:
    """Find most of the k rows with the largest inner product with each row, best first.

    The search doubles the number of candidates until `SAMPLE` rows find a share of `ENOUGH` of their exact neighbours.
    Equal features give equal lists for any number of threads: one thread builds the graph, row by row.

    The graph holds one of each set of equal rows, as copies of a row would be linked to one another alone. A row is a
    candidate of its own list, whatever the graph finds. Only distinct rows are sampled.

    Args:
        features: (N, D) float32 on the CPU, contiguous.
        k: neighbours per row; cut to N.
        rows: first and end of the range of rows to search for; None: all.

    Returns:
        The neighbours. Where the graph reaches fewer than k rows, the row itself fills the list, with similarity -inf.
    """
    k = min(k, len(features))
    begin, end = rows or (0, len(features))
    copies = _Copies(features)
    order = torch.randperm(len(copies.first), generator=torch.Generator().manual_seed(0))
    graph = _Graph(features, copies, order[:65536])
    sample = order[:SAMPLE]
    truth = search_for(features[copies.first[sample]], features, k)[0]
    effort = k + SPARE
    while True:
        similarity, _ = graph.search(sample, k, effort)
        recall = float((similarity >= truth[:, -1:] - 1e-6).double().mean())  # a tie with the last one is as good
        if recall >= ENOUGH or effort >= min(LAST_EFFORT, len(copies.first)):
            break
        effort *= 2
    wanted, place = copies.number[begin:end].unique(return_inverse=True)
    similarity, index = graph.search(wanted, k, effort)
    return Neighbours(similarity[place], index[place], recall, effort, len(sample))


class _Copies:
    """Groups equal rows: the U distinct ones are numbered in the order of their first copy.

    Attributes:
        number: (N,) int64 number of each row among the distinct ones.
        first: (U,) int64 first row of each number.
        count: (U,) int64 rows of each number.
        members: (N,) int64 rows, those of a number side by side and ascending.
        begin: (U,) int64 place in `members` at which the rows of a number begin.
    """

    def __init__(self, features: Tensor) -> None:
        N = len(features)
        text = np.ascontiguousarray(features.numpy()).view(np.dtype((np.void, 4 * features.shape[1])))[:, 0]
        _, first, number = np.unique(text, return_index=True, return_inverse=True)
        rank = np.empty_like(first)
        rank[first.argsort()] = np.arange(len(first))  # by the first copy, not by bytes
        self.number = torch.from_numpy(rank[number.reshape(N)])
        self.first = torch.from_numpy(np.sort(first))
        self.count = self.number.bincount(minlength=len(first))
        self.members = self.number.argsort(stable=True)
        self.begin = self.count.cumsum(0) - self.count

    def expand(self, similarity: Tensor, number: Tensor, k: int) -> tuple[Tensor, Tensor]:
        """Replace distinct rows by all of their copies, and return the first k of each list.

        Args:
            similarity: (R, K) best first.
            number: (R, K) distinct rows, -1 for none.
            k: length of the lists that are returned.

        Returns:
            Similarity and row (R, k), equal similarities by row; -inf and -1 at the end of a list that is too short.
        """
        size = torch.where(number < 0, 0, self.count[number.clamp_min(0)].clamp_max(k))
        size = torch.where(size.cumsum(1) - size < k, size, 0)  # later ones do not come into the list
        total, flat = size.sum(1), size.flatten()
        width = max(k, int(total.max()))
        row = torch.arange(len(number)).repeat_interleave(total)
        column = torch.arange(len(row)) - (total.cumsum(0) - total)[row]
        copy = torch.arange(len(row)) - (flat.cumsum(0) - flat).repeat_interleave(flat)
        rows = self.members[self.begin[number.flatten().clamp_min(0)].repeat_interleave(flat) + copy]
        index = torch.full((len(number), width), len(self.number))  # beyond all rows: sorts to the end
        values = similarity.new_full((len(number), width), -torch.inf)
        index[row, column], values[row, column] = rows, similarity.flatten().repeat_interleave(flat)
        index, order = index.sort(1)
        values, best = values.gather(1, order).sort(dim=1, descending=True, stable=True)
        index = index.gather(1, best)[:, :k]
        return values[:, :k], torch.where(index < len(self.number), index, -1)


class _Graph:
    """Holds the faiss graph of the distinct rows of `features`.

    Args:
        features: (N, D) float32.
        copies: its equal rows.
        sample: distinct rows on which the 8-bit code is trained.
    """

    def __init__(self, features: Tensor, copies: _Copies, sample: Tensor) -> None:
        faiss = importlib.import_module("faiss")
        self._faiss, self._copies = faiss, copies
        self._features = features if len(copies.first) == len(features) else features[copies.first]
        eight_bits = faiss.ScalarQuantizer.QT_8bit
        self._index = faiss.IndexHNSWSQ(features.shape[1], eight_bits, LINKS, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = BUILD_EFFORT
        threads = torch.get_num_threads()  # faiss may share torch's OpenMP, and then its number of threads
        faiss.omp_set_num_threads(1)  # several threads would link rows in another order in every run
        self._index.train(self._features[sample].numpy())
        self._index.add(self._features.numpy())
        faiss.omp_set_num_threads(threads)

    def search(self, rows: Tensor, k: int, effort: int) -> tuple[Tensor, Tensor]:
        """Find the k best rows (R, k), copies among them, for distinct rows numbered `rows` (R,)."""
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
        """Rank the candidates of `rows`, themselves among them, by products in float32; return the first k rows."""
        others = candidates.masked_fill(candidates == rows.unsqueeze(1), -1)
        candidates = torch.cat([others, rows.unsqueeze(1)], 1).sort(1).values  # equal similarities by index
        features = self._features[candidates.clamp_min(0)]  # (R, k + SPARE + 1, D)
        similarity = (features @ self._features[rows].unsqueeze(2)).squeeze(2).masked_fill_(candidates < 0, -torch.inf)
        similarity, order = similarity.sort(dim=1, descending=True, stable=True)
        similarity, index = self._copies.expand(similarity, candidates.gather(1, order), k)
        return similarity, torch.where(index < 0, self._copies.first[rows].unsqueeze(1), index).int()
