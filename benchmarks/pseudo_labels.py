"""Pseudo-labels: ours by parts and as a whole, beside a bare matrix product and the dense formulation in NumPy.

    python benchmarks/pseudo_labels.py                          # N = 12,936, D = 512, as Market-1501
    python benchmarks/pseudo_labels.py --rows 3000 12936 --dense
    python benchmarks/pseudo_labels.py --rows 3000 12936 33000 100000 --repeats 1 --plot

Appends to results/pseudo_labels.csv; --plot draws time and memory against N of every line in it.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from reporting import RESULTS, measure, report
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.pseudo_labels import cluster
from gcl_fast.pseudo_labels.cluster import FAINT
from gcl_fast.pseudo_labels.dbscan import dbscan
from gcl_fast.pseudo_labels.eps import RADII, eps_auto, eps_by_rho
from gcl_fast.pseudo_labels.jaccard import jaccard_similarity, neighbourhoods
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours
from gcl_fast.training.process import apply_allocator_settings


def crops(N: int, D: int, noise: float = 1.2) -> Tensor:
    """Clustered unit rows, about 17 an identity, as in Market-1501."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(max(1, N // 17), D, generator=generator)
    rows = centre[torch.randint(len(centre), (N,), generator=generator)]
    return normalize(rows.add_(torch.randn(N, D, generator=generator), alpha=noise))


def dense_labels(features: np.ndarray, k1: int, k2: int, rho: float) -> np.ndarray:
    """The official formulation, written from REFERENCE.md: V and the distances are N x N."""
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


def parts(features: Tensor, k1: int, k2: int, rho: float, repeats: int) -> list[dict[str, Any]]:
    """Every step alone, then the whole."""
    sets = neighbourhoods(features, k1, k2)
    graph, near = jaccard_similarity(sets, FAINT), jaccard_similarity(sets, 1 - RADII[-1])
    eps = eps_auto(near, 4)
    steps = {
        "bare product": lambda: [features[i : i + 2048] @ features.T for i in range(0, len(features), 2048)] and None,
        "neighbours": lambda: nearest_neighbours(features, k1),
        "neighbours + sets": lambda: neighbourhoods(features, k1, k2),
        "jaccard": lambda: jaccard_similarity(sets, FAINT),
        "eps by rho": lambda: eps_by_rho(graph, rho, complete=False),
        "eps auto": lambda: eps_auto(near, 4),
        "dbscan": lambda: dbscan(near, eps, 4, "own"),
        "ours": lambda: cluster(features, k1, k2, rho),
        "ours, eps auto": lambda: cluster(features, k1, k2, eps="auto"),
    }
    return [{"N": len(features), "what": name, **measure(work, repeats)} for name, work in steps.items()]


def plot() -> None:
    """Seconds and peak memory against N, both axes logarithmic, for the wholes; the slope stands in the legend."""
    with (RESULTS / "pseudo_labels.csv").open() as file:
        lines = list(csv.DictReader(file))
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for axes, column in zip(figure.subplots(1, 2), ("min", "peak_mb")):
        for what in ("dense", "ours", "ours, eps auto", "neighbours"):
            best: dict[int, float] = {}
            for line in lines:
                if line["what"] == what:
                    best[int(line["N"])] = min(float(line[column]), best.get(int(line["N"]), np.inf))
            points = sorted((n, value) for n, value in best.items() if value > 0)
            if not points:
                continue
            slope = (
                np.polyfit(np.log([n for n, _ in points]), np.log([value for _, value in points]), 1)[0]
                if len(points) > 1
                else np.nan
            )
            axes.loglog(*zip(*points), marker="o", label=f"{what} (slope {slope:.2f})")
        axes.set_xlabel("N")
        axes.set_ylabel("seconds" if column == "min" else "peak MB above the features")
        axes.legend(fontsize=7)
    figure.savefig(RESULTS / "pseudo_labels.png", dpi=120)


def main() -> None:
    apply_allocator_settings()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[12936], help="N")
    parser.add_argument("--dim", type=int, default=512, help="D")
    parser.add_argument("--k1", type=int, default=30)
    parser.add_argument("--k2", type=int, default=6)
    parser.add_argument("--rho", type=float, default=0.002)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--dense", action="store_true", help="also the dense formulation, once: N^2 memory, minutes")
    parser.add_argument("--plot", action="store_true", help="draw results/pseudo_labels.png from all lines of the CSV")
    arguments = parser.parse_args()
    for N in arguments.rows:
        features = crops(N, arguments.dim)
        rows = parts(features, arguments.k1, arguments.k2, arguments.rho, arguments.repeats)
        if arguments.dense:
            dense = lambda: dense_labels(features.numpy(), arguments.k1, arguments.k2, arguments.rho)  # noqa: B023
            rows.append({"N": N, "what": "dense", **measure(dense, 1)})
        report("pseudo_labels", rows)
    if arguments.plot:
        plot()


if __name__ == "__main__":
    main()
