"""Time ranking in turns: ours from distances and from embeddings, and sorting in NumPy.

    python benchmarks/ranking.py                                # 3,368 x 15,913, as Market-1501
    python benchmarks/ranking.py --gallery 500000 --only-ours --repeats 1   # from embeddings, in tiles

Appends to results/ranking.csv: seconds, CPU seconds of all threads, peak memory above embeddings or distances.
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
import torch
from torch.nn.functional import normalize

from gcl_fast.evaluation import evaluate, rank
from gcl_fast.process import prepare_process
from lib.reporting import measure, measure_all, report, with_cpu_seconds
from lib.sorted_ranking import by_sorting


def main() -> None:
    prepare_process()  # as train.py does
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--queries", type=int, default=3368)
    parser.add_argument("--gallery", type=int, default=15913)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only-ours", action="store_true", help="from embeddings only: the matrix is never stored")
    arguments = parser.parse_args()
    Q, G = arguments.queries, arguments.gallery
    draw = np.random.default_rng(0)
    identities = max(2, G // 21)
    ids = [draw.integers(high, size=size) for high, size in [(identities, Q), (identities, G), (6, Q), (6, G)]]
    tensors = [torch.from_numpy(values) for values in ids]
    query, gallery = (normalize(torch.randn(size, arguments.dim)) for size in (Q, G))
    work: dict[str, Any] = {
        "ours, from embeddings": lambda: evaluate(query, gallery, tensors[0], tensors[1], tensors[2], tensors[3])
    }
    if not arguments.only_ours:
        distance = torch.rand(Q, G)
        expected, found = by_sorting(distance.numpy(), ids), rank(distance, *tensors)
        assert abs(expected[0] - found.mAP) < 1e-9
        assert np.allclose(expected[1], found.cmc)
        work["ours, from distances"] = lambda: rank(distance, *tensors)
        work["sorting in NumPy"] = lambda: by_sorting(distance.numpy(), ids)
    timed = {name: with_cpu_seconds(call) for name, call in work.items()}
    calls = {name: call for name, (call, _) in timed.items()}
    if arguments.only_ours:
        measured = {name: measure(call, arguments.repeats) for name, call in calls.items()}
    else:
        measured = measure_all(calls, arguments.repeats)
    rows = [
        {"Q": Q, "G": G, "what": name, **figures, "cpu": round(min(timed[name][1]), 3)}
        for name, figures in measured.items()
    ]
    report("ranking", rows)


if __name__ == "__main__":
    main()
