"""Time the search of a gallery in turns: ours from an index on disk, torch.mm with topk, NumPy, and faiss.

    python benchmarks/search.py                      # 200,000 rows of 512 numbers, on one core
    python benchmarks/search.py --threads 2          # the same on two
    python benchmarks/search.py --gallery 1000000 --queries 1

Appends to results/search.csv: seconds, peak memory above the gallery, the least CPU seconds of all threads. `share` is
the limit's median over that of a row. The limit of one query is the sum of all rows, which reads them once. The limit
of many queries is the product alone.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch.nn.functional import normalize

from gcl_fast.data import Records
from gcl_fast.gallery import open_index, top_k, write_index
from gcl_fast.gallery.index import Maker
from gcl_fast.process import prepare_process
from lib.reporting import measure_all, report, with_cpu_seconds

TILE = 2048

Work = dict[str, Callable[[], Any]]


def main() -> None:
    prepare_process()  # as search.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gallery", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, nargs="+", default=[1, 1000])
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    N, D, k = arguments.gallery, arguments.dim, arguments.k
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    gallery = normalize(torch.randn(N, D))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, threadpool_limits(arguments.threads):
        images = [Path(f"/crops/camera{i % 6}/{i:08d}.jpg") for i in range(N)]
        records = Records(Path("/crops"), images, np.full(N, -1), np.arange(N) % 6, np.zeros(N))
        write_index(Path(folder) / "index", np.array_split(gallery.numpy(), 64), records, Maker("0", (256, 128), ""))
        del images, records
        index = open_index(Path(folder) / "index")
        opening: Work = {"open the index": lambda: open_index(index.folder).name(N - 1)}
        rows += [{"N": N, "D": D, "Q": 0, "k": k, **row} for row in _measured(opening, arguments.repeats)]
        faiss_index = _faiss(gallery, arguments.threads)
        for Q in arguments.queries:
            query = normalize(torch.randn(Q, D))
            work = _contenders(index.rows, gallery, query, k, faiss_index)
            expected = set(top_k(index.rows, query[:1].numpy(), k)[1][0].tolist())
            for name, call in list(work.items())[1:]:
                assert set(np.asarray(call())[0].tolist()) == expected, f"{name} finds other rows"
            rows += [{"N": N, "D": D, "Q": Q, "k": k, **row} for row in _measured(work, arguments.repeats)]
    report("search", rows)


def _measured(work: Work, repeats: int) -> list[dict[str, Any]]:
    """Measure the contenders in turns; the first one is the limit."""
    timed = {name: with_cpu_seconds(call) for name, call in work.items()}
    measured = measure_all({name: call for name, (call, _) in timed.items()}, repeats, seconds=90)
    limit = next(iter(measured.values()))["median"]
    return [
        {"what": name, **figures, "cpu": round(min(timed[name][1]), 4), "share": round(limit / figures["median"], 3)}
        for name, figures in measured.items()
    ]


def _contenders(mapped: np.ndarray, gallery: torch.Tensor, query: torch.Tensor, k: int, faiss_index: Any) -> Work:
    """Return the limit, ours and the peers; each peer returns the rows (Q, k) that it finds."""
    queries, entries = query.numpy(), gallery.numpy()
    buffer = torch.empty(TILE, len(query))

    def product() -> None:
        """Multiply all rows by all queries, and keep nothing."""
        for begin in range(0, len(gallery), TILE):
            tile = gallery[begin : begin + TILE]
            torch.mm(tile, query.T, out=buffer[: len(tile)])

    def in_numpy() -> np.ndarray:
        """Search as a few lines of NumPy do."""
        scores = queries @ entries.T
        best = np.argpartition(-scores, k, axis=1)[:, :k]
        order = np.take_along_axis(-scores, best, 1).argsort(1)
        return np.take_along_axis(best, order, 1)

    work: Work = {}
    if len(query) == 1:
        work["limit: sum of all rows"] = gallery.sum
    else:
        work["limit: products alone"] = product
    work["ours, mapped from disk"] = lambda: top_k(mapped, queries, k)[1]
    work["torch.mm and topk"] = lambda: (query @ gallery.T).topk(k).indices
    work["NumPy"] = in_numpy
    if faiss_index is not None:
        work["faiss IndexFlatIP"] = lambda: faiss_index.search(queries, k)[1]
    return work


def _faiss(gallery: torch.Tensor, threads: int) -> Any:
    """Return faiss's exact index of the rows; None where faiss is not installed."""
    if importlib.util.find_spec("faiss") is None:
        return None
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(gallery.shape[1])
    index.add(gallery.numpy())
    return index


if __name__ == "__main__":
    main()
