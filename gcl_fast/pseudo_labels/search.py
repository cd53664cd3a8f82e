"""The choice of the neighbour search, exact or approximate, and the report of the search."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.pseudo_labels.approximate_neighbours import ENOUGH, approximate_neighbours
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours

log = logging.getLogger(__name__)

# Rows from which "auto" is approximate on the CPU. The exact search grows with N^2, the approximate one with N log N.
# Below this number the exact search takes minutes at most on two cores (benchmarks/pseudo_labels.py).
MANY = 200_000
ENGINES = ("auto", "exact", "approximate")


@dataclass(frozen=True)
class Search:
    """Holds how neighbours were found."""

    engine: str  # "exact" or "approximate"
    recall: float  # share of the exact neighbours that the search finds for sampled rows; 1 for the exact search
    notice: str  # one line for the user


def choose(N: int, engine: str, device: torch.device) -> tuple[str, str]:
    """Choose the neighbour search for N rows.

    Args:
        N: number of rows.
        engine: "auto", "exact" or "approximate".
        device: of the rows.

    Returns:
        "exact" or "approximate", and the reason in one line.

    Raises:
        ValueError: unknown engine.
        UserError: "approximate", and faiss is not installed.
    """
    if engine not in ENGINES:
        raise ValueError(f"neighbour search: unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    has_faiss = importlib.util.find_spec("faiss") is not None
    if engine == "approximate" and not has_faiss:
        raise UserError(
            'neighbour search: engine "approximate" is not installed; pip install faiss-cpu, or use engine "exact"'
        )
    if engine != "auto":
        return engine, f"{engine}, as asked"
    if device.type != "cpu":
        return "exact", f"exact, {N:,} rows on a GPU"
    if N < MANY:
        return "exact", f"exact, {N:,} rows are fewer than {MANY:,}"
    if has_faiss:
        return "approximate", f"approximate, {N:,} rows are {MANY:,} or more"
    return "exact", f"exact; pip install faiss-cpu for an approximate search, faster for {N:,} rows"


def find_neighbours(
    features: Tensor, k: int, rows: tuple[int, int] | None = None, engine: str = "auto"
) -> tuple[Tensor, Search]:
    """Find the nearest neighbours of each row, itself included, best first, by the search that `engine` names.

    Args:
        features: (N, D) float32, L2-normalized rows.
        k: neighbours per row; cut to N.
        rows: first and end of the range of rows to search for; None: all.
        engine: "exact", "approximate" (faiss, on the CPU), or "auto": approximate for `MANY` rows or more on the CPU,
            where faiss is installed.

    Returns:
        (rows, k) int32 indices, and how they were found.

    Raises:
        ValueError: unknown engine.
        UserError: "approximate", and faiss is not installed.

    Example:
        >>> index, search = find_neighbours(torch.eye(4), k=1)
        >>> index.flatten().tolist(), search.engine
        ([0, 1, 2, 3], 'exact')
    """
    N = len(features)
    search, reason = choose(N, engine, features.device)
    if search == "exact" or N == 0:
        log.debug("nearest neighbours: %s", reason)
        return nearest_neighbours(features, k, rows)[1], Search("exact", 1.0, reason)
    _, index, recall, effort, sampled = approximate_neighbours(features.cpu(), k, rows)
    measurement = f"recall@{min(k, N)} {recall:.3f} on {sampled:,} sampled distinct rows"
    notice = f"{reason}: {measurement} (faiss HNSW, {effort} candidates)"
    log.debug("nearest neighbours: %s", notice)
    if recall < ENOUGH:
        warnings.warn(
            f"nearest neighbours: {notice}, below {ENOUGH}: these embeddings have little structure for a graph; "
            'engine "exact" finds all',
            stacklevel=2,
        )
    return index, Search("approximate", recall, notice)
