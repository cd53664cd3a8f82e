"""Pseudo-labels of a memory bank by appearance: k-reciprocal Jaccard graph, radius, DBSCAN."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from gcl_fast.distributed.row_sharing import SparseRows, Team
from gcl_fast.pseudo_labels.dbscan import ENGINES, dbscan
from gcl_fast.pseudo_labels.eps import FAINT, FAINT_BINS, RADII, eps_auto, eps_by_rho
from gcl_fast.pseudo_labels.jaccard import checked, faint_pairs, fuzzy_sets, jaccard_similarity, neighbour_lists
from gcl_fast.pseudo_labels.search import Search
from gcl_fast.settings import is_eps


@dataclass(frozen=True)
class PseudoLabels:
    """Holds the result of one clustering."""

    labels: Tensor  # (N,) int64 on the device of the features, clusters 0..num_clusters-1, outlier = -1
    eps: float  # radius of DBSCAN, a distance in 0..1
    num_clusters: int
    num_outliers: int
    engine: str  # of DBSCAN: "own", "sklearn" or "cuml"
    search: Search  # how the neighbours were found


def cluster(
    features: Tensor,
    k1: int = 30,
    k2: int = 6,
    rho: float = 0.002,
    eps: float | str | None = None,
    min_samples: int = 4,
    backend: str = "auto",
    engine: str = "auto",
    group: dist.ProcessGroup | None = None,
) -> PseudoLabels:
    """Cluster L2-normalized embeddings by DBSCAN on their k-reciprocal Jaccard distance.

    Args:
        features: (N, D) floating point, L2-normalized rows.
        k1: neighbours that make a neighbourhood, see `k_reciprocal_jaccard`.
        k2: neighbourhoods that are averaged, see `k_reciprocal_jaccard`.
        rho: share of all pairs whose mean distance is the radius, 0..1; used where `eps` is None.
        eps: radius in 0..1, 1 excluded; None: by `rho`; "auto": by `eps_auto`, without a number to choose.
        min_samples: number of points within the radius that make a core point, the point itself included.
        backend: of DBSCAN: "own", "sklearn", "cuml", or "auto", which is "own": it reads the sparse graph, while cuML
            needs a dense matrix.
        engine: of the neighbour search: "exact", "approximate", or "auto", which chooses by N, see `find_neighbours`.
        group: ranks that share the work. Each passes the same features, and all get the same labels. None: this process
            works alone; ranks with equal features still get equal labels.

    Returns:
        Pseudo-labels, the radius, and the counts of clusters and outliers.

    Raises:
        ValueError: bad features (NaN rows are named), an unknown backend or engine, or eps outside 0..1.
        UserError: `engine` is "approximate" and faiss is not installed.
        ModuleNotFoundError: `backend` is "cuml", which is not installed.

    Example:
        >>> from torch import eye
        >>> features = eye(3).repeat_interleave(5, 0)  # three people, five equal crops each
        >>> clustering = cluster(features, k1=5, k2=2, eps=0.5)
        >>> clustering.num_clusters, clustering.labels.tolist()
        (3, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2])
    """
    dbscan_engine = "own" if backend == "auto" else backend
    if dbscan_engine not in ENGINES:
        raise ValueError(f"cluster: unknown backend {backend!r}; there are auto, {', '.join(ENGINES)}")
    if not is_eps(eps):
        raise ValueError(
            f'cluster: eps must be a distance in 0..1 (1 excluded: every pair), None or "auto"; got {eps!r}'
        )
    team = Team(group)
    features = checked(features, k1, k2)
    neighbours, search = neighbour_lists(features, k1, team, engine)
    sets = fuzzy_sets(features, neighbours, k1, k2, team)
    similarity, radius = _graph_and_radius(sets, eps, rho, min_samples, team)
    labels = dbscan(similarity, radius, min_samples, dbscan_engine)
    return PseudoLabels(
        labels=labels.to(features.device),
        eps=radius,
        num_clusters=int(labels.max()) + 1 if len(labels) else 0,
        num_outliers=int((labels < 0).sum()),
        engine=dbscan_engine,
        search=search,
    )


def _graph_and_radius(
    sets: SparseRows, eps: float | str | None, rho: float, min_samples: int, team: Team
) -> tuple[Tensor, float]:
    """Compute the radius, and the similarity graph as far as the radius and DBSCAN need it."""
    if eps is not None:
        radius = RADII[-1] if eps == "auto" else float(eps)
        similarity = jaccard_similarity(sets, max(0.0, 1 - radius - 1e-6), team)  # rounding must not cost a neighbour
        return similarity, eps_auto(similarity, min_samples) if eps == "auto" else radius
    return graph_and_eps_by_rho(sets, rho, team)


def graph_and_eps_by_rho(sets: SparseRows, rho: float, team: Team) -> tuple[Tensor, float]:
    """Compute the radius by `eps_by_rho`, and a similarity graph with all pairs within it.

    Args:
        sets: fuzzy set of each of the N rows (`fuzzy_sets`).
        rho: share of all pairs, 0..1.
        team: ranks that share the work.

    Returns:
        The graph (N, N) as sparse CSR, and the radius.
    """
    similarity = jaccard_similarity(sets, FAINT, team)
    radius = eps_by_rho(similarity, rho, complete=False)
    if radius is None:
        radius = eps_by_rho(similarity, rho, faint=faint_pairs(sets, FAINT, FAINT_BINS, team))
        assert radius is not None
        if 1 - radius - 1e-6 < FAINT:
            similarity = jaccard_similarity(sets, max(0.0, 1 - radius - 1e-6), team)
    return similarity, radius
