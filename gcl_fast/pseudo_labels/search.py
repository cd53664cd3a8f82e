"""Which neighbour search runs, exact or approximate, and what it says of itself."""

from __future__ import annotations

import importlib.util
import logging
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from gcl_fast.errors import UserError
from gcl_fast.pseudo_labels.approximate_neighbours import ENOUGH, SAMPLE, approximate_neighbours
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours

log = logging.getLogger(__name__)

# Rows from which "auto" is approximate on the CPU. CPU seconds at D = 512, k = 30, exact beside approximate: 2.0 and
# 3.6 at 12,936 rows, 9 and 14 at 33,000. One grows with N^2, the other with N log N: they meet near 60,000 rows, and
# here they would be 330 and 100. Below, what exactness costs is minutes at most.
MANY = 200_000
ENGINES = ("auto", "exact", "approximate")


@dataclass(frozen=True)
class Search:
    """How neighbours were found."""

    engine: str  # "exact" or "approximate"
    recall: float  # share of the exact neighbours that sampled rows found; 1 where all are exact
    notice: str  # one line for a person


def choose(N: int, engine: str, device: torch.device) -> tuple[str, str]:
    """The search that `engine` means for N rows on `device`, "exact" or "approximate", and why.

    Raises:
        ValueError: unknown engine. UserError: "approximate" without faiss.
    """
    if engine not in ENGINES:
        raise ValueError(f"neighbour search: unknown engine {engine!r}; there are {', '.join(ENGINES)}")
    installed = importlib.util.find_spec("faiss") is not None
    if engine == "approximate" and not installed:
        raise UserError(
            'neighbour search: engine "approximate" is not installed; pip install faiss-cpu, or use engine "exact"'
        )
    if engine != "auto":
        return engine, f"{engine}, as asked"
    if device.type != "cpu":
        return "exact", f"exact, {N:,} rows on a GPU"
    if N < MANY:
        return "exact", f"exact, {N:,} rows are fewer than {MANY:,}"
    if installed:
        return "approximate", f"approximate, {N:,} rows are {MANY:,} or more"
    return "exact", f"exact; pip install faiss-cpu for an approximate search, faster for {N:,} rows"


def find_neighbours(
    features: Tensor, k: int, rows: tuple[int, int] | None = None, engine: str = "auto"
) -> tuple[Tensor, Search]:
    """The nearest neighbours (rows, k) int32 of each row, itself included, best first, and how they were found.

    Args:
        features, k, rows: see `nearest_neighbours`.
        engine: "exact", "approximate" (faiss, on the CPU), or "auto": approximate for `MANY` rows or more on the CPU,
            where faiss is installed.

    Raises:
        ValueError, UserError: as `choose`.
    """
    N = len(features)
    chosen, why = choose(N, engine, features.device)
    if chosen == "exact" or N == 0:
        log.debug("nearest neighbours: %s", why)
        return nearest_neighbours(features, k, rows)[1], Search("exact", 1.0, why)
    _, index, recall, effort = approximate_neighbours(features.cpu(), k, rows)
    notice = (
        f"{why}: recall@{min(k, N)} {recall:.3f} on {min(SAMPLE, N):,} sampled rows (faiss HNSW, {effort} candidates)"
    )
    log.debug("nearest neighbours: %s", notice)
    if recall < ENOUGH:
        warnings.warn(
            f"nearest neighbours: {notice}, below {ENOUGH}: these embeddings have little structure to follow; "
            'engine "exact" finds all',
            stacklevel=2,
        )
    return index, Search("approximate", recall, notice)
