"""DBSCAN on the sparse Jaccard graph: one function, three engines, one result.

The op `kernels.csr_dbscan` states the rule of all engines. (cuML numbers clusters, and settles points between two of
them, in its own order.)
"""

from __future__ import annotations

import importlib.util

import numpy as np
import torch
from torch import Tensor

from gcl_fast.kernels.csr_dbscan import csr_dbscan

ENGINES = ("own", "sklearn", "cuml")


def dbscan(similarity: Tensor, eps: float, min_samples: int, engine: str) -> Tensor:
    """Cluster a symmetric sparse CSR similarity graph; return labels (N,) int64 on its device, outliers -1.

    Args:
        similarity: (N, N) sparse CSR; distance = 1 - similarity, absent pairs are never neighbours.
        eps: radius, a distance in 0..1.
        min_samples: points within eps, itself counted, that make a core point.
        engine: "own" (union-find on the sparse graph, on its device), "sklearn" (sparse graph, CPU) or "cuml" (dense
            N x N on the GPU: it takes no sparse input).

    Raises:
        ValueError: unknown engine. ModuleNotFoundError: "cuml" is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"dbscan: unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    return {"own": _own, "sklearn": _sklearn, "cuml": _cuml}[engine](similarity, eps, min_samples)


def csr_arrays(similarity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return start (int64), column (int32) and value (float32) of a CSR tensor: the layout of our ops."""
    return similarity.crow_indices().long(), similarity.col_indices().int(), similarity.values()


def _own(similarity: Tensor, eps: float, min_samples: int) -> Tensor:
    return csr_dbscan(*csr_arrays(similarity), eps, min_samples)


def _sklearn(similarity: Tensor, eps: float, min_samples: int) -> Tensor:
    from scipy.sparse import csr_matrix
    from sklearn.cluster import DBSCAN

    start, column, value = (array.cpu() for array in csr_arrays(similarity))
    distance = csr_matrix((1 - value.numpy(), column.numpy(), start.numpy()), shape=tuple(similarity.shape))
    distance.setdiag(0)  # rounding may have left it a little above
    eps = max(eps, float(np.finfo(np.float32).tiny))  # it refuses zero, which means "equal points only"
    labels = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit(distance).labels_
    return torch.from_numpy(labels).long().to(similarity.device)


def _cuml(similarity: Tensor, eps: float, min_samples: int) -> Tensor:
    if importlib.util.find_spec("cuml") is None:
        raise ModuleNotFoundError('dbscan: engine "cuml" is not installed; pip install cuml-cu13, or use engine "own"')
    from cuml.cluster import DBSCAN

    distance = 1 - similarity.cuda().to_dense()
    labels = DBSCAN(eps=eps, min_samples=min_samples, metric="precomputed").fit_predict(distance)
    return torch.as_tensor(labels).long().to(similarity.device)
