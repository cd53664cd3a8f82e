"""Tables of clustering from thousands to a hundred million crops."""

from __future__ import annotations

from page_tables.rows import Files, Row, caption, duration, newest, table

REST = ("sets", "jaccard", "eps auto", "dbscan")


def clusterings(files: Files) -> dict[int, dict[str, Row]]:
    """Return the newest measured clustering of each number of crops, by part; features have a bank's spectrum."""
    rows = [r for r in files.rows("pseudo_labels") if r["features"] == "bank"]
    sizes: dict[int, dict[str, Row]] = {}
    for row in newest(rows, ["N", "what"]):
        sizes.setdefault(int(row["N"]), {})[row["what"]] = row
    return {N: parts for N, parts in sorted(sizes.items()) if "ours, eps auto" in parts}


def clustering_scale(files: Files) -> str:
    """Return seconds and memory of a clustering for each number of crops."""
    lines = []
    for N, parts in clusterings(files).items():
        search, whole = parts["neighbours"], parts["ours, eps auto"]
        recall = "" if float(search["recall"]) == 1 else f", recall {float(search['recall']):.3f}"
        lines.append(
            (
                f"{N:,}",
                search["engine"] + recall,
                f"{float(search['cpu']):.3g}",
                f"{sum(float(parts[name]['cpu']) for name in REST):.3g}",
                f"{float(whole['median']):,.3g}" if float(whole["median"]) < 1000 else f"{float(whole['median']):,.0f}",
                whole["threads"],
                f"{float(whole['peak_mb']):,.0f}",
                f"{1000 * float(whole['peak_mb']) / N:.1f}",
            )
        )
    header = ("crops", "search", "search, CPU s", "the rest, CPU s", "wall s", "threads", "peak MB", "KB a crop")
    command = "python benchmarks/pseudo_labels.py --features bank --repeats 1 --rows N"
    return f"{table(header, lines)}\n\n{caption([p['ours, eps auto'] for p in clusterings(files).values()], command)}"


def clustering_estimate(files: Files) -> str:
    """Return what 10 and 100 million crops need, at the measured rates of exact search and of a million crops."""
    sizes, dim = clusterings(files), 512
    exact, million = sizes[12936]["neighbours"], sizes[1_000_000]
    rate = 12936**2 * dim / float(exact["median"])  # multiplications and additions of half the product, a second
    search, rest = float(million["neighbours"]["cpu"]) / 1e6, sum(float(million[name]["cpu"]) for name in REST) / 1e6
    memory = float(million["ours, eps auto"]["peak_mb"]) / 1e6  # MB a crop
    counts = [10**6, 10**7, 10**8]
    gigabytes = lambda value: f"{value:,.3g} GB"
    lines = [
        ("features in float32", *(gigabytes(4 * N * dim / 1e9) for N in counts)),
        ("memory above the features", *(gigabytes(N * memory / 1e3) for N in counts)),
        ("exact search on 2 cores", *(duration(N * N * dim / rate) for N in counts)),
        ("approximate search, CPU time at least", *(duration(N * search) for N in counts)),
        ("sets, Jaccard, eps and DBSCAN, CPU time at least", *(duration(N * rest) for N in counts)),
    ]
    return table(("", "1 million", "10 million", "100 million"), lines)
