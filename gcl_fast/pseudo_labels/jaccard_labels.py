"""Pseudo-labels of a memory bank: Jaccard graph, radius, DBSCAN."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist
from torch import Tensor

from gcl_fast.pseudo_labels.dbscan import ENGINES, dbscan
from gcl_fast.pseudo_labels.eps import FAINT, FAINT_BINS, RADII, eps_auto, eps_by_rho, is_eps
from gcl_fast.pseudo_labels.jaccard import checked, faint_pairs, fuzzy_sets, jaccard_similarity, neighbour_lists
from gcl_fast.pseudo_labels.search import Search
from gcl_fast.pseudo_labels.sharing import SparseRows, Team


@dataclass(frozen=True)
class PseudoLabels:
    """What one clustering found."""

    labels: Tensor  # (N,) int64 on the device of the features, clusters 0..num_clusters-1, outlier = -1
    eps: float
    num_clusters: int
    num_outliers: int
    engine: str  # of DBSCAN
    search: Search  # of neighbours


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
    """DBSCAN on the k-reciprocal Jaccard distance of L2-normalized embeddings.

    Args:
        features: (N, D) floating point, L2-normalized rows.
        k1, k2: see `k_reciprocal_jaccard`.
        rho: share of all pairs whose mean distance is the radius, where `eps` is None.
        eps: radius; None: by `rho`; "auto": by `eps_auto`, without a number to choose.
        min_samples: points within the radius, itself counted, that make a core point.
        backend: of DBSCAN: "own", "sklearn", "cuml", or "auto": "own", which needs milliseconds where the dense input
            of cuML first has to be filled and moved.
        engine: of the neighbour search: "exact", "approximate", or "auto", which chooses by N, see `find_neighbours`.
        group: ranks that share the work, each calling with the same features, and all getting the same labels; None:
            this process does it alone (ranks with equal features still agree).

    Raises:
        ValueError: bad features (NaN rows are named), an unknown backend or engine, or eps outside 0..1.
    """
    scan = "own" if backend == "auto" else backend
    if scan not in ENGINES:
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
    labels = dbscan(similarity, radius, min_samples, scan)
    return PseudoLabels(
        labels=labels.to(features.device),
        eps=radius,
        num_clusters=int(labels.max()) + 1 if len(labels) else 0,
        num_outliers=int((labels < 0).sum()),
        engine=scan,
        search=search,
    )


def _graph_and_radius(
    sets: SparseRows, eps: float | str | None, rho: float, min_samples: int, team: Team
) -> tuple[Tensor, float]:
    """The similarity graph, as far as it is needed to find the radius and the neighbours within it."""
    if eps is not None:
        radius = RADII[-1] if eps == "auto" else float(eps)
        similarity = jaccard_similarity(sets, max(0.0, 1 - radius - 1e-6), team)  # rounding must not cost a neighbour
        return similarity, eps_auto(similarity, min_samples) if eps == "auto" else radius
    return graph_and_eps_by_rho(sets, rho, team)


def graph_and_eps_by_rho(sets: SparseRows, rho: float, team: Team) -> tuple[Tensor, float]:
    """The radius by `eps_by_rho` and a similarity graph with all pairs within it."""
    similarity = jaccard_similarity(sets, FAINT, team)
    radius = eps_by_rho(similarity, rho, complete=False)
    if radius is None:
        radius = eps_by_rho(similarity, rho, faint=faint_pairs(sets, FAINT, FAINT_BINS, team))
        assert radius is not None
        if 1 - radius - 1e-6 < FAINT:
            similarity = jaccard_similarity(sets, max(0.0, 1 - radius - 1e-6), team)
    return similarity, radius
