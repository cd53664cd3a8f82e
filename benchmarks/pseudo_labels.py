"""Time pseudo-labels step by step, with a bare matrix product and the dense formulation in NumPy as peers.

    python benchmarks/pseudo_labels.py                          # N = 12,936, D = 512, as Market-1501
    python benchmarks/pseudo_labels.py --rows 3000 12936 --dense
    python benchmarks/pseudo_labels.py --features bank --device cuda
    python benchmarks/pseudo_labels.py --rows 3000 12936 33000 100000 300000 1000000 --features bank --repeats 1
    python benchmarks/pseudo_labels.py --rows --plot            # draw what the CSV holds; scale.md reads it

"ours" takes eps by rho, "ours, eps auto" chooses it. Seconds are min, median and max of the repeats; cpu: CPU seconds
of all threads, which tell more than the clock where cores are shared; peak_mb: memory above what was held before, for
the wholes above the features; resident memory, on a GPU that of tensors. Appends to results/pseudo_labels.csv; --plot
draws the newest line of each N and engine on the features of a memory bank.
"""

from __future__ import annotations

import argparse
import csv
import ctypes
import gc
import os
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from gcl_fast.process import prepare_process
from gcl_fast.pseudo_labels.dbscan import dbscan
from gcl_fast.pseudo_labels.eps import RADII, eps_auto
from gcl_fast.pseudo_labels.jaccard import ALONE, checked, fuzzy_sets, jaccard_similarity, neighbour_lists
from gcl_fast.pseudo_labels.jaccard_labels import graph_and_eps_by_rho
from gcl_fast.pseudo_labels.search import ENGINES, Search
from lib.embeddings import FEATURES
from lib.reporting import RESULTS, measure, report, spread, with_cpu_seconds

BARE_ROWS = 33_000  # the bare product of more takes longer than it tells
RHO_ROWS = 100_000  # rho is a share of all pairs: beyond, it asks for hundreds of neighbours a row
DRAWN = {"median": "seconds", "cpu": "CPU seconds of all threads", "peak_mb": "peak MB above the features"}
CURVES = {
    ("dense", "exact"): "ks-",
    ("ours", "exact"): "C0o-",
    ("ours, eps auto", "exact"): "C2o--",
    ("ours, eps auto", "approximate"): "C1o-",
    ("neighbours", "exact"): "C0x:",
    ("neighbours", "approximate"): "C1x:",
}


def dense_labels(features: np.ndarray, k1: int, k2: int, rho: float) -> np.ndarray:
    """Return the labels by the official formulation, in which V and the distances are N x N."""
    from sklearn.cluster import DBSCAN

    N = len(features)
    rank = np.argsort(-features @ features.T, axis=1, kind="stable")[:, :k1]

    def reciprocal(i: int, k: int) -> np.ndarray:
        forward = rank[i, :k]
        return forward[(rank[forward, :k] == i).any(1)]

    full = [reciprocal(i, k1) for i in range(N)]
    half = [reciprocal(i, int(np.around(k1 / 2)) + 1) for i in range(N)]
    V = np.zeros((N, N), np.float32)
    for i, own in enumerate(full):
        grown = [half[j] for j in own if len(np.intersect1d(half[j], own)) > 2 / 3 * len(half[j])]
        members = np.unique(np.concatenate([own, *grown]))
        weight = np.exp(-(2 - 2 * features[members] @ features[i]))
        V[i, members] = weight / weight.sum()
    V = np.stack([V[rank[i, :k2]].mean(0) for i in range(N)])
    holders = [np.where(V[:, j] != 0)[0] for j in range(N)]
    distance = np.zeros((N, N), np.float32)
    for i in range(N):
        shared = np.zeros(N, np.float32)
        for j in np.where(V[i] != 0)[0]:
            shared[holders[j]] += np.minimum(V[i, j], V[holders[j], j])
        distance[i] = np.maximum(1 - shared / (2 - shared), 0)
    upper = np.triu(distance, 1)
    upper = np.sort(upper[np.nonzero(upper)])
    eps = upper[: int(np.round(rho * upper.size))].mean()
    return DBSCAN(eps=eps, min_samples=4, metric="precomputed").fit_predict(distance)


class Measured:
    """Measures steps in a row: seconds, CPU seconds of all threads, memory of the device."""

    def __init__(self, device: str) -> None:
        self.rows: dict[str, dict[str, float]] = {}
        self._device = device
        self._floor = _held(device)

    def step(self, what: str, work: Callable[[], Any]) -> Any:
        """Measure `work` as the step `what` and return its result."""
        results: list[Any] = []
        timed, spent = with_cpu_seconds(lambda: results.append(work()))
        held = _held(self._device)
        figures = measure(timed, 1, self._device)
        above = held + figures["peak_mb"] - self._floor
        self.rows[what] = {
            "seconds": figures["min"],
            "cpu": spent[0],
            "peak_mb": figures["peak_mb"],
            "above_mb": above,
        }
        return results[0]

    def whole(self, what: str, steps: list[str]) -> None:
        """Sum up `steps` as `what`: the times are added, the memory is the highest above what was in use before."""
        rows = [self.rows[step] for step in steps]
        total = {name: sum(row[name] for row in rows) for name in ("seconds", "cpu")}
        self.rows[what] = {**total, "peak_mb": max(row["above_mb"] for row in rows)}


def _held(device: str) -> float:
    """Return the MB that this process has in use."""
    gc.collect()
    if device == "cuda":
        return torch.cuda.memory_allocated() / 2**20
    ctypes.CDLL(None).malloc_trim(0)
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def clustering(features: Tensor, k1: int, k2: int, rho: float, engine: str) -> tuple[dict[str, Any], Search]:
    """Measure the steps of `cluster`, with "eps auto" and, where there are few rows, with `rho`."""
    run = Measured(features.device.type)
    clean = run.step("check", lambda: checked(features, k1, k2))
    lists, how = run.step("neighbours", lambda: neighbour_lists(clean, k1, ALONE, engine))
    sets = run.step("sets", lambda: fuzzy_sets(clean, lists, k1, k2))
    shared = list(run.rows)
    graph = run.step("jaccard", lambda: jaccard_similarity(sets, 1 - RADII[-1] - 1e-6))
    eps = run.step("eps auto", lambda: eps_auto(graph, 4))
    run.step("dbscan", lambda: dbscan(graph, eps, 4, "own"))
    run.whole("ours, eps auto", list(run.rows))
    del graph
    if len(features) <= RHO_ROWS:
        graph, eps = run.step("jaccard and eps by rho", lambda: graph_and_eps_by_rho(sets, rho, ALONE))
        run.step("dbscan by rho", lambda: dbscan(graph, eps, 4, "own"))
        run.whole("ours", [*shared, "jaccard and eps by rho", "dbscan by rho"])
    return run.rows, how


def lines(N: int, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of the CSV for one size."""
    features = FEATURES[arguments.features](N, arguments.dim).to(arguments.device)
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    for _ in range(arguments.repeats):
        rows, how = clustering(features, arguments.k1, arguments.k2, arguments.rho, arguments.engine)
        if N <= BARE_ROWS:
            bare = Measured(arguments.device)
            bare.step("bare product", lambda: [rows @ features.T for rows in features.split(2048)] and None)
            rows |= bare.rows
        for what, row in rows.items():
            found[what].append(row)
    if arguments.dense:
        dense = Measured("cpu")
        dense.step("dense", lambda: dense_labels(features.cpu().numpy(), arguments.k1, arguments.k2, arguments.rho))
        found["dense"] = list(dense.rows.values())
    return [
        {
            "N": N,
            "what": what,
            **spread([row["seconds"] for row in rows]),
            "peak_mb": round(max(row["peak_mb"] for row in rows), 1),
            "repeats": len(rows),
            "cpu": round(min(row["cpu"] for row in rows), 3),
            "features": arguments.features,
            "engine": how.engine,
            "recall": round(how.recall, 4),
        }
        for what, rows in found.items()
    ]


def plot() -> None:
    """Draw seconds and peak memory against N, both axes logarithmic; the legend gives the slopes."""
    with (RESULTS / "pseudo_labels.csv").open() as file:
        points = list(csv.DictReader(file))
    figure = Figure(figsize=(14, 4.2), layout="constrained")
    for axes, (column, title) in zip(figure.subplots(1, 3), DRAWN.items()):
        for (what, engine), style in CURVES.items():
            newest = {
                int(row["N"]): float(row[column])
                for row in points
                if (row["what"], row["engine"], row["features"]) == (what, engine, "bank") and row[column]
            }
            curve = sorted((n, value) for n, value in newest.items() if value > 0)
            if not curve:
                continue
            label = what if what == "dense" else f"{what}, {engine}"
            if len(curve) > 1:
                sizes, values = np.log(curve).T
                slope = np.polyfit(sizes, values, 1)[0]
                label += f": slope {slope:.2f}"
                print(f"{title}: {label} from N = {curve[0][0]:,} to {curve[-1][0]:,}")
            axes.loglog(*zip(*curve), style, label=label)
        axes.set(xlabel="N", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7)
    figure.savefig(RESULTS / "pseudo_labels.png", dpi=120)


def main() -> None:
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[12936], help="N; none: measure nothing")
    parser.add_argument("--dim", type=int, default=512, help="D")
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--rho", type=float, default=0.002)
    parser.add_argument("--features", choices=FEATURES, default="isotropic", help="how they are drawn")
    parser.add_argument("--engine", choices=ENGINES, default="auto", help="of the neighbour search")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dense", action="store_true", help="also the dense formulation, once: N^2 memory, minutes")
    parser.add_argument("--plot", action="store_true", help="draw results/pseudo_labels.png from the whole CSV")
    arguments = parser.parse_args()
    for N in arguments.rows:
        report("pseudo_labels", lines(N, arguments), arguments.device)
    if arguments.plot:
        plot()


if __name__ == "__main__":
    main()
