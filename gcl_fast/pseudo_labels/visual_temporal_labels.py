"""Pseudo-labels by looks and, where a model of it is given, by time: re-ranked distance, radius, DBSCAN."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gcl_fast.pseudo_labels.dbscan import csr_arrays, dbscan
from gcl_fast.pseudo_labels.eps import eps_auto, eps_by_rho
from gcl_fast.pseudo_labels.jaccard import half_length, jaccard_similarity
from gcl_fast.pseudo_labels.jaccard_labels import FAINT, PseudoLabels
from gcl_fast.pseudo_labels.search import Search
from gcl_fast.pseudo_labels.sharing import SparseRows
from gcl_fast.pseudo_labels.temporal_model import TemporalModel, joint_similarity

TILE_ENTRIES = 2**23  # distances held at a time


class Distances:
    """Distances of all rows, a tile at a time: 1 - joint similarity with a temporal model, 2 - 2 cos without.

    Args:
        features: (N, D) unit rows.
        cameras, frames: (N,) int64.
        temporal: None: looks alone.
    """

    def __init__(self, features: Tensor, cameras: Tensor, frames: Tensor, temporal: TemporalModel | None) -> None:
        device = features.device
        self.features = features.float().contiguous()
        self.cameras, self.frames = cameras.to(device), frames.to(device)
        self.temporal = None if temporal is None else temporal.to(device)

    def tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """(first row, end, distances (rows, N)); the diagonal is 0."""
        N = len(self.features)
        step = max(1, TILE_ENTRIES // max(N, 1))
        for begin in range(0, N, step):
            end = min(begin + step, N)
            yield begin, end, self._tile(slice(begin, end))

    def _tile(self, rows: slice) -> Tensor:
        visual = self.features[rows] @ self.features.T
        if self.temporal is None:
            distance = (2 - 2 * visual).clamp_min_(0)
        else:
            time = self.temporal.similarity(self.cameras[rows], self.frames[rows], self.cameras, self.frames)
            distance = 1 - joint_similarity(visual, time)
        distance.diagonal(rows.start).zero_()
        return distance

    def nearest(self, k: int) -> tuple[Tensor, float]:
        """(N, k) int32 nearest rows, itself first, on the CPU; and the largest distance of all."""
        index, largest = [], 0.0
        for begin, _, distance in self.tiles():
            largest = max(largest, float(distance.max()))
            distance.diagonal(begin).fill_(-1)  # before its duplicates
            index.append(distance.topk(k, largest=False).indices.int().cpu())
        return torch.cat(index), largest

    def at(self, start: Tensor, column: Tensor) -> Tensor:
        """(entries,) distances at the entries of N sparse rows; on the CPU, as these are."""
        lengths, parts = start.diff(), []
        for begin, end, distance in self.tiles():
            row = torch.repeat_interleave(torch.arange(end - begin), lengths[begin:end])
            entries = column[int(start[begin]) : int(start[end])].long()
            parts.append(distance.cpu()[row, entries])
        return torch.cat(parts)


def cluster_jointly(
    distances: Distances,
    k1: int = 20,
    k2: int = 6,
    *,
    rho: float = 1.6e-3,
    eps: float | str | None = None,
    eps_scale: float = 0.8,
    min_samples: int = 1,
    plain_weight: float = 0.3,
) -> PseudoLabels:
    """DBSCAN on plain_weight * d + (1 - plain_weight) * Jaccard distance of k-reciprocal neighbourhoods by d.

    Rows whose neighbourhoods have next to nothing in common, a Jaccard similarity below FAINT, are taken to be at
    distance 1: no radius reaches them.

    Args:
        distances: d; where it counts plainly it is divided by the largest of all.
        k1, k2: neighbours, see `k_reciprocal_jaccard`.
        rho: share of all pairs whose mean distance is the radius, where `eps` is None.
        eps: radius; None: by `rho`; "auto": by `eps_auto`.
        eps_scale: factor of the radius.
        min_samples: points within the radius, itself counted, that make a core point.
        plain_weight: 0..1.
    """
    N, ops = len(distances.features), torch.ops.gcl_fast
    neighbours, largest = distances.nearest(min(k1, N))
    half = min(half_length(k1), neighbours.shape[1])
    start, column, _ = ops.reciprocal_weights(distances.features.cpu(), neighbours, half, 0, N)
    weight = torch.exp(-distances.at(start, column))
    row = torch.repeat_interleave(torch.arange(N), start.diff())
    weight /= torch.zeros(N).index_add_(0, row, weight)[row]
    sets = SparseRows(*ops.expand_queries(start, column, weight, neighbours[:, :k2].contiguous(), 0, N))
    graph = jaccard_similarity(sets, FAINT)
    start, column, similarity = csr_arrays(graph)
    plain = distances.at(start, column) / max(largest, 1e-12)
    similarity.mul_(1 - plain_weight).add_((1 - plain) * plain_weight)
    if eps == "auto":
        radius = eps_auto(graph, min_samples)
    else:
        radius = float(eps) if eps is not None else eps_by_rho(graph, rho) or 0.0
    labels = dbscan(graph, radius * eps_scale, min_samples, "own")
    return PseudoLabels(
        labels=labels.to(distances.features.device),
        eps=radius * eps_scale,
        num_clusters=int(labels.max()) + 1,
        num_outliers=int((labels < 0).sum()),
        engine="own",
        search=Search("exact", 1.0, f"exact nearest neighbours of {N:,} rows"),
    )
