"""Pseudo-labels by appearance and, with a temporal model, by time: re-ranked distance, radius, DBSCAN (JVTC)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gcl_fast.distributed.row_sharing import SparseRows
from gcl_fast.kernels.expand_queries import expand_queries
from gcl_fast.kernels.reciprocal_weights import reciprocal_weights
from gcl_fast.pseudo_labels.dbscan import csr_arrays, dbscan
from gcl_fast.pseudo_labels.eps import eps_auto, eps_by_rho
from gcl_fast.pseudo_labels.jaccard import half_length, jaccard_similarity
from gcl_fast.pseudo_labels.jaccard_labels import FAINT, PseudoLabels
from gcl_fast.pseudo_labels.search import Search
from gcl_fast.pseudo_labels.temporal_model import TemporalModel, joint_similarity

TILE_ENTRIES = 2**23  # distances that are in memory at a time


class Distances:
    """Computes the distances of all rows tile by tile: 1 - joint similarity with a temporal model, 2 - 2 cos without.

    Args:
        features: (N, D) unit rows.
        cameras: (N,) int64.
        frames: (N,) int64.
        temporal: temporal model; None: appearance alone.

    Example:
        >>> zeros = torch.zeros(3, dtype=torch.int64)
        >>> distances = Distances(torch.eye(3), cameras=zeros, frames=zeros, temporal=None)
        >>> [tile for _, _, tile in distances.tiles()]
        [tensor([[0., 2., 2.],
                [2., 0., 2.],
                [2., 2., 0.]])]
    """

    def __init__(self, features: Tensor, cameras: Tensor, frames: Tensor, temporal: TemporalModel | None) -> None:
        device = features.device
        self.features = features.float().contiguous()
        self.cameras, self.frames = cameras.to(device), frames.to(device)
        self.temporal = None if temporal is None else temporal.to(device)

    def tiles(self) -> Iterator[tuple[int, int, Tensor]]:
        """Yield the first row and the end of each tile, and its distances (rows, N); the diagonal is 0."""
        N = len(self.features)
        step = max(1, TILE_ENTRIES // max(N, 1))
        for begin in range(0, N, step):
            end = min(begin + step, N)
            yield begin, end, self._tile(slice(begin, end))

    def _tile(self, rows: slice) -> Tensor:
        """Compute the distances of `rows` to all rows."""
        visual = self.features[rows] @ self.features.T
        if self.temporal is None:
            distance = (2 - 2 * visual).clamp_min_(0)
        else:
            time = self.temporal.similarity(self.cameras[rows], self.frames[rows], self.cameras, self.frames)
            distance = 1 - joint_similarity(visual, time)
        distance.diagonal(rows.start).zero_()
        return distance

    def nearest(self, k: int) -> tuple[Tensor, float]:
        """Find the nearest rows of each row.

        Args:
            k: neighbours per row, the row itself included; at most N.

        Returns:
            (N, k) int32 on the CPU, the row itself first; and the largest of all distances.
        """
        index, largest = [], 0.0
        for begin, _, distance in self.tiles():
            largest = max(largest, float(distance.max()))
            distance.diagonal(begin).fill_(-1)  # the row itself comes before its duplicates
            index.append(distance.topk(k, largest=False).indices.int().cpu())
        return torch.cat(index), largest

    def at(self, start: Tensor, column: Tensor) -> Tensor:
        """Compute the distances at the entries of sparse rows.

        Args:
            start: (N + 1,) int64 on the CPU, first entry of each row.
            column: (entries,) int32 on the CPU.

        Returns:
            (entries,) on the CPU.
        """
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
    """Cluster rows by DBSCAN on plain_weight * d + (1 - plain_weight) * d_J.

    d is the distance of `distances` over its largest value. d_J is the Jaccard distance of the k-reciprocal
    neighbourhoods by d (Zhong et al. 2017, eq. 12). Rows with a Jaccard similarity below FAINT count as distance 1: no
    radius reaches them.

    Args:
        distances: of N rows.
        k1: neighbours that make a neighbourhood, see `k_reciprocal_jaccard`.
        k2: neighbourhoods that are averaged, see `k_reciprocal_jaccard`.
        rho: share of all pairs whose mean distance is the radius, 0..1; used where `eps` is None.
        eps: radius in 0..1; None: by `rho`; "auto": by `eps_auto`.
        eps_scale: factor of the radius.
        min_samples: number of points within the radius that make a core point, the point itself included.
        plain_weight: 0..1.

    Returns:
        Pseudo-labels, the radius after `eps_scale`, and the counts of clusters and outliers.

    Example:
        >>> features, zeros = torch.eye(3).repeat_interleave(4, 0), torch.zeros(12, dtype=torch.int64)
        >>> distances = Distances(features, cameras=zeros, frames=zeros, temporal=None)
        >>> cluster_jointly(distances, k1=4, k2=1, eps=0.5).labels.tolist()
        [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    """
    N = len(distances.features)
    neighbours, largest = distances.nearest(min(k1, N))
    half = min(half_length(k1), neighbours.shape[1])
    start, column, _ = reciprocal_weights(distances.features.cpu(), neighbours, half, 0, N)
    weight = torch.exp(-distances.at(start, column))
    row = torch.repeat_interleave(torch.arange(N), start.diff())
    weight /= torch.zeros(N).index_add_(0, row, weight)[row]
    sets = SparseRows(*expand_queries(start, column, weight, neighbours[:, :k2].contiguous(), 0, N))
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
