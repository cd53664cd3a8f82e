"""Compute retrieval metrics: mAP, CMC, mINP, from distances or, tile by tile, from embeddings.

Protocol: single query. Gallery entries of the query's identity and camera are dropped. CMC counts the first match.
AP is by step integration (scikit-learn's average_precision_score). Queries without a match elsewhere are in no mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.errors import UserError
from gcl_fast.evaluation.reranking import Reranking, reranked_distances
from gcl_fast.kernels.rank_queries import identity_ranges, rank_queries

MAX_RANK = 50
TILE_ENTRIES = 2**25  # distances held at a time: 128 MB


@dataclass(frozen=True)
class Retrieval:
    """Holds retrieval metrics as fractions in 0..1."""

    mAP: float
    cmc: Tensor  # (50,) float64: cmc[r] = share of queries whose first match is among the first r + 1
    mINP: float  # mean over queries of matches / place of the last match (Ye et al. 2021)
    num_queries: int  # number of queries with a match in another camera
    precision: Tensor  # (Q,) float64, average precision of each query; NaN where it has no match in another camera

    @property
    def metrics(self) -> dict[str, float]:
        """Return mAP, rank1, rank5, rank10, mINP and the number of queries by their names in tables and files.

        Where queries have no match, `queries_left_out` is their number.
        """
        left_out = len(self.precision) - self.num_queries
        return {
            **{"mAP": self.mAP, **{f"rank{k}": float(self.cmc[k - 1]) for k in (1, 5, 10)}, "mINP": self.mINP},
            **{"queries": self.num_queries, **({"queries_left_out": left_out} if left_out else {})},
        }


def rank(
    distance: Tensor, query_ids: Tensor, gallery_ids: Tensor, query_cameras: Tensor, gallery_cameras: Tensor
) -> Retrieval:
    """Compute retrieval metrics from a distance matrix. Entries of the query's identity and camera do not count.

    Args:
        distance: (Q, G) floating point, smaller is nearer; equal distances rank by gallery index.
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.
        query_cameras: (Q,) integers.
        gallery_cameras: (G,) integers.

    Returns:
        The metrics.

    Raises:
        ValueError: shapes or types do not fit, or no query has a match in another camera.
        RuntimeError: NaN among the distances (the query is named).

    Example:
        >>> distance = torch.tensor([[0.1, 0.2, 0.3]])  # the nearest is of another person
        >>> query_ids, gallery_ids = torch.tensor([7]), torch.tensor([8, 7, 7])
        >>> rank(distance, query_ids, gallery_ids, torch.tensor([0]), torch.tensor([1, 1, 0])).mAP
        0.5
    """
    Q, G = distance.shape
    return _Lists(Q, G, query_ids, gallery_ids, query_cameras, gallery_cameras).retrieval([distance])


def rank_tiles(
    distances: Iterable[Tensor],
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
) -> Retrieval:
    """Compute `rank` of a matrix that comes in tiles (rows, G) of the queries in order; one tile is held at a time."""
    lists = _Lists(len(query_ids), len(gallery_ids), query_ids, gallery_ids, query_cameras, gallery_cameras)
    return lists.retrieval(distances)


def evaluate(
    query_embeddings: Tensor,
    gallery_embeddings: Tensor,
    query_ids: Tensor,
    gallery_ids: Tensor,
    query_cameras: Tensor,
    gallery_cameras: Tensor,
    rerank: Reranking | None = None,
) -> Retrieval:
    """Compute retrieval metrics by the Euclidean distance of L2-normalized embeddings, tile by tile of queries.

    Gallery entries of the query's identity and camera do not count.

    Args:
        query_embeddings: (Q, D) floating point; normalized here.
        gallery_embeddings: (G, D) floating point on the same device; normalized here.
        query_ids: (Q,) integers.
        gallery_ids: (G,) integers.
        query_cameras: (Q,) integers.
        gallery_cameras: (G,) integers.
        rerank: settings of k-reciprocal re-ranking; None: the plain distance.

    Returns:
        The metrics.

    Raises:
        ValueError: shapes or types do not fit.
        UserError: no query has a match in another camera.
        RuntimeError: an embedding of a query or of the gallery is NaN (the query is named).

    Example:
        >>> query, gallery = torch.eye(2), torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.6, 0.4]])
        >>> query_ids, gallery_ids = torch.tensor([0, 1]), torch.tensor([0, 1, 1])
        >>> cameras = torch.zeros(2, dtype=torch.int64), torch.ones(3, dtype=torch.int64)
        >>> metrics = evaluate(query, gallery, query_ids, gallery_ids, *cameras)
        >>> metrics.num_queries, round(metrics.mAP, 3), float(metrics.cmc[0])  # mAP, rank-1
        (2, 1.0, 1.0)
    """
    lists = _Lists(
        len(query_embeddings), len(gallery_embeddings), query_ids, gallery_ids, query_cameras, gallery_cameras
    )
    if rerank is None:
        return lists.retrieval(cosines.neg_() for cosines in cosine_tiles(query_embeddings, gallery_embeddings))
    query, gallery = normalize(query_embeddings.float()), normalize(gallery_embeddings.float())
    return lists.retrieval(reranked_distances(query, gallery, query_tiles(len(query), len(gallery)), rerank))


def query_tiles(Q: int, G: int, entries: int = TILE_ENTRIES) -> list[slice]:
    """Return consecutive ranges of Q queries, each with at most `entries` distances to the G gallery entries."""
    rows = max(1, entries // max(1, G))
    return [slice(start, min(start + rows, Q)) for start in range(0, Q, rows)]


def cosine_tiles(
    query_embeddings: Tensor, gallery_embeddings: Tensor, tiles: Sequence[slice] | None = None
) -> Iterator[Tensor]:
    """Yield the cosines (rows, G) float32 of queries and gallery, tile by tile.

    On unit vectors -cosine orders as the Euclidean distance does, and has no cancellation near zero. Equal tiles give
    equal bits, so that lists drawn from them agree with the metrics.

    Args:
        query_embeddings: (Q, D) floating point; normalized here.
        gallery_embeddings: (G, D) floating point on the same device; normalized here.
        tiles: ranges of queries; None for all of `query_tiles`.
    """
    query, gallery = normalize(query_embeddings.float()), gallery_embeddings.float()
    length = gallery.norm(dim=1).clamp_min(1e-12)  # instead of a normalized copy: 1 GB of 500,000 x 512
    for tile in query_tiles(len(query), len(gallery)) if tiles is None else tiles:
        yield (query[tile] @ gallery.T).div_(length)


def retrieve(
    query: Tensor, gallery: Tensor, query_records: Records, gallery_records: Records, rerank: Reranking | None = None
) -> Retrieval:
    """Rank the gallery for each query by the protocol of Market-1501: same identity and camera do not count.

    Args:
        query: (Q, D) unit rows.
        gallery: (G, D) unit rows.
        query_records: identities and cameras of the Q queries.
        gallery_records: identities and cameras of the G crops of the gallery.
        rerank: settings of k-reciprocal re-ranking; None: the plain distance.

    Returns:
        The metrics.

    Raises:
        UserError: no query has a match in another camera.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> def records(camera):  # three people, one crop each
        ...     paths = [Path(f"{i}.jpg") for i in range(3)]
        ...     return Records(Path("."), paths, np.arange(3), np.full(3, camera), np.zeros(3, int))
        >>> retrieve(torch.eye(3), torch.eye(3), records(camera=1), records(camera=2)).mAP
        1.0
    """
    return evaluate(
        query,
        gallery,
        torch.as_tensor(query_records.identity),
        torch.as_tensor(gallery_records.identity),
        torch.as_tensor(query_records.camera),
        torch.as_tensor(gallery_records.camera),
        rerank,
    )


class _Lists:
    """Holds identities and cameras of query and gallery, checked, and indexed by identity."""

    def __init__(
        self, Q: int, G: int, query_ids: Tensor, gallery_ids: Tensor, query_cameras: Tensor, gallery_cameras: Tensor
    ):
        for name, values, size in [
            ("query_ids", query_ids, Q),
            ("query_cameras", query_cameras, Q),
            ("gallery_ids", gallery_ids, G),
            ("gallery_cameras", gallery_cameras, G),
        ]:
            if values.shape != (size,) or values.is_floating_point():
                raise ValueError(f"rank: {name} must be {size} integers, not {values.dtype} {tuple(values.shape)}")
        self.query_cameras, self.gallery_cameras = query_cameras.long().cpu(), gallery_cameras.long().cpu()
        self.order, self.ranges = identity_ranges(query_ids, gallery_ids)

    def retrieval(self, distances: Iterable[Tensor]) -> Retrieval:
        """Compute the metrics of distances (rows, G) of all queries in turn."""
        ranked, begin = [], 0
        for distance in distances:
            ranked.append(self._rank(distance, slice(begin, begin + len(distance))))
            begin += len(distance)
        return self._summary(ranked)

    def _rank(self, distance: Tensor, tile: slice) -> tuple[Tensor, Tensor, Tensor]:
        return rank_queries(
            distance.float().cpu().contiguous(),
            self.order,
            self.ranges[tile].contiguous(),
            self.query_cameras[tile].contiguous(),
            self.gallery_cameras,
        )

    def _summary(self, tiles: list[tuple[Tensor, Tensor, Tensor]]) -> Retrieval:
        precision, first, penalty = (torch.cat(parts) for parts in zip(*tiles)) if tiles else [torch.zeros(0)] * 3
        valid = first >= 0
        if not valid.any():
            raise UserError(
                f"rank: none of the {len(first)} queries has a match of its identity in another camera of the gallery; "
                "check that query and gallery belong together and that cameras were read from the file names"
            )
        hits = torch.bincount(first[valid].clamp_max(MAX_RANK), minlength=MAX_RANK + 1)[:MAX_RANK]
        count = int(valid.sum())
        return Retrieval(
            mAP=float(precision[valid].mean()),
            cmc=hits.cumsum(0).double() / count,
            mINP=float(penalty[valid].mean()),
            num_queries=count,
            precision=torch.where(valid, precision, torch.nan),
        )
