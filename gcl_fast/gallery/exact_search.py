"""Search exactly for the most similar rows: float32 products propose them, float64 products rank them.

A float32 product errs by D 2^-24 at most for unit rows, in whatever order it is summed. So the search keeps `SPARE`
candidates more than it returns, and computes their products again in float64. The list is complete where the last
candidate is worse than the k-th match by more than the error. All rows are multiplied in float64 where it is not,
which many equal rows cause. So a result depends neither on the number of queries nor on the number of threads.

The limit of one query is the time to read the rows once, which is that of their sum. The limit of many queries is the
time of their products by `torch.mm`. Both reach 0.9 of it among 200,000 rows of 512 numbers, on one core of an AMD EPYC
(`benchmarks/search.py`). So a copy of the rows in fewer bits, which would have to be kept and bounded, is not needed.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from gcl_fast.kernels.merge_top_k import merge_top_k

SCORES = 2**21  # of one tile: 8 MB, which stay in cache
ROWS = 2**16  # of one tile at most
QUERIES = 1024  # of one pass over the rows
SPARE = 16  # candidates more than k
RESCORED = 2**18  # numbers that are multiplied in float64 at a time: 2 MB, which stay in cache
LONGEST = 1.001  # length of a row; unit rows of float32 are shorter


def top_k_reference(
    rows: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Define `top_k` by float64 products of all pairs and a stable sort."""
    scores = np.stack([_products(rows, query) for query in queries])
    scores[np.isnan(scores)] = -np.inf
    if allowed is not None:
        scores[:, ~allowed] = -np.inf
    index = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, index, 1), index


def top_k(
    rows: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Search for the k rows with the largest inner product with each query, best first.

    A score is the product in float64, rounded to float32. Equal scores rank by row. Besides the result, memory holds
    one tile of scores, and the rows may be mapped from a file.

    Args:
        rows: (N, D) float32 of length 1 (`LONGEST` at most), contiguous; a row with NaN matches nothing.
        queries: (Q, D) float32 of length 1.
        k: matches of a query, 1..N.
        allowed: (N,) bool, the rows to search among; None: all.

    Returns:
        scores (Q, k) float32 and index (Q, k) int64. A place that no row is left for has the score -inf.

    Raises:
        ValueError: wrong shapes or dtypes, or k out of range.

    Example:
        >>> rows = np.array([[1, 0], [0.8, 0.6], [np.nan, 0], [0, 1]], np.float32)
        >>> scores, index = top_k(rows, np.array([[0.6, 0.8]], np.float32), k=2)
        >>> index, scores.round(2)
        (array([[1, 3]]), array([[0.96, 0.8 ]], dtype=float32))
    """
    _check(rows, queries, k, allowed)
    N, D = rows.shape
    table = _tensor(rows)
    mask = None if allowed is None else torch.from_numpy(allowed)
    scores = np.empty((len(queries), k), np.float32)
    index = np.empty((len(queries), k), np.int64)
    count = min(k + SPARE, N)
    error = LONGEST**2 * D * 2.0**-23  # twice the bound, which covers the rounding of the scores as well
    for begin in range(0, len(queries), QUERIES):
        part = queries[begin : begin + QUERIES]
        proposed, candidates = _propose(table, torch.from_numpy(part), count, mask)
        exact = _exact(rows, part, proposed, candidates)
        order = np.lexsort((candidates, -exact), axis=1)[:, :k]
        place = slice(begin, begin + len(part))
        scores[place], index[place] = np.take_along_axis(exact, order, 1), np.take_along_axis(candidates, order, 1)
        last = proposed[:, -1]  # -inf where all rows that can match are candidates
        complete = (last == -np.inf) | (last + error < scores[place, -1]) | (count == N)
        # A process may allow bfloat16 in place of float32 (torch.set_float32_matmul_precision): its errors are larger
        with np.errstate(invalid="ignore"):
            complete &= ~(abs(proposed - exact) > error).any(1)
        for row in np.flatnonzero(~complete):
            scores[begin + row], index[begin + row] = _search_in_float64(table, part[row], k, mask)
    return scores, index


def _propose(table: Tensor, queries: Tensor, count: int, mask: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the `count` best rows of each query by float32 products: scores and index (Q, count)."""
    values = torch.full((len(queries), count), -torch.inf)
    index = torch.zeros(len(queries), count, dtype=torch.int32)
    step = min(ROWS, SCORES // len(queries), len(table))
    buffer = torch.empty(step * len(queries))
    for begin in range(0, len(table), step):
        rows = table[begin : begin + step]
        tile = buffer[: len(rows) * len(queries)].view(len(rows), len(queries))
        if len(queries) == 1:
            # BLAS reads several rows at a time here, which halves the bandwidth (benchmarks/search.py)
            np.einsum("nd,d->n", rows.numpy(), queries[0].numpy(), out=tile[:, 0].numpy())
        else:
            torch.mm(rows, queries.T, out=tile)
        if mask is not None:
            tile.masked_fill_(~mask[begin : begin + step, None], -torch.inf)
        merge_top_k(values, index, tile.T, 0, begin)
    return values.numpy(), index.numpy()


def _exact(rows: np.ndarray, queries: np.ndarray, proposed: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Return the scores (Q, C) of candidates by float64 products; a candidate proposed with -inf is none."""
    scores = np.empty(candidates.shape, np.float32)
    step = max(1, RESCORED // (candidates.shape[1] * rows.shape[1]))
    for begin in range(0, len(queries), step):
        part = slice(begin, begin + step)
        scores[part] = _products(rows[candidates[part]], queries[part, None])
    scores[proposed == -np.inf] = -np.inf
    return scores


def _search_in_float64(table: Tensor, query: np.ndarray, k: int, mask: Tensor | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the k best rows for one query by float64 products with all of them: scores and index (k,)."""
    values, index = torch.full((1, k), -torch.inf), torch.zeros(1, k, dtype=torch.int32)
    step = max(1, RESCORED // table.shape[1])
    for begin in range(0, len(table), step):
        tile = torch.from_numpy(_products(table[begin : begin + step].numpy(), query))[None]
        if mask is not None:
            tile.masked_fill_(~mask[begin : begin + step], -torch.inf)
        merge_top_k(values, index, tile, 0, begin)
    return values[0].numpy(), index[0].numpy()


def _products(rows: np.ndarray, query: np.ndarray) -> np.ndarray:
    """Return the inner products (...) of rows (..., D) with a query, summed in float64 and rounded to float32.

    The sum of a row has one order, wherever the row stands: equal rows have equal products.
    """
    return (rows.astype(np.float64) * query).sum(-1).astype(np.float32)


def _tensor(rows: np.ndarray) -> Tensor:
    """Return the rows as a tensor without a copy; torch warns of a read-only array, which nothing writes here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.from_numpy(rows)


def _check(rows: np.ndarray, queries: np.ndarray, k: int, allowed: np.ndarray | None) -> None:
    """Raise a ValueError that names the argument which does not fit."""
    for name, array in (("rows", rows), ("queries", queries)):
        if array.ndim != 2 or array.dtype != np.float32 or not array.flags.c_contiguous:
            raise ValueError(f"top_k: {name} must be contiguous float32 of two dimensions, not {array.dtype}")
    if rows.shape[1] != queries.shape[1]:
        raise ValueError(f"top_k: rows of {rows.shape[1]} numbers, queries of {queries.shape[1]}")
    if (np.linalg.norm(queries, axis=1) > LONGEST).any():
        raise ValueError("top_k: the queries are no unit rows")
    if not 1 <= k <= len(rows):
        raise ValueError(f"top_k: k={k} of {len(rows)} rows")
    if allowed is not None and (allowed.shape != (len(rows),) or allowed.dtype != np.bool_):
        raise ValueError(f"top_k: allowed must be bool of shape ({len(rows)},)")
