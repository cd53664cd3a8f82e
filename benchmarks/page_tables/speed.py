"""Tables of how fast the parts are: beside their baselines, step by step, and over ranks."""

from __future__ import annotations

import math

from page_tables.rows import MACHINE, Files, Row, caption, newest, one, percent, table, times

# Assumed links of the estimate for many ranks: GB/s between neighbours and microseconds a hop
LINKS = {"NVLink": (300.0, 5.0), "network": (25.0, 20.0)}
BUCKET_BYTES = 25 << 20  # of gradients in one all-reduce, as gcl_fast.distributed.ranks sends them
CASES = ((8, "NVLink"), (8, "network"), (64, "network"))
ASSUMED_TFLOPS = (60, 200, 400)  # of a GPU in bfloat16
SHOWN = (
    *(("loader, JPEG files", 960), ("loader, cached", 960), ("rasterizer", 64), ("structure maps", 32)),
    ("transfer of appearance", 32),
    *(("contrastive loss", 12936), ("bank update", 16), ("neighbours", 12936)),
    *(("Jaccard, with neighbours", 1500), ("DBSCAN", 12936), ("ranking", 842)),
    *(("identity encoder, demo", 16), ("generator, demo", 16), ("discriminator with R1, demo", 16)),
    *(("warmup step, demo", 64), ("generative step, demo", 16), ("joint step, demo", 16)),
)


def part(files: Files, name: str, size: int) -> list[Row]:
    """Return the rows of one hot part in the newest run that has it, ours first."""
    rows = [r for r in files.rows("run") if (r["part"], r["size"]) == (name, str(size)) and MACHINE in r["machine"]]
    ours = one(rows, contender="ours")
    return [ours, *(r for r in rows if r["contender"] != "ours" and r["date"] == ours["date"])]


def factor(files: Files, name: str, size: int, peer: str) -> float:
    """Return how many times faster ours is than `peer`, by medians of one run."""
    rows = part(files, name, size)
    return float(one(rows, contender=peer)["median_ms"]) / float(rows[0]["median_ms"])


def hot_parts(files: Files) -> str:
    """Return the table of the hot parts beside their peers."""
    lines, shown = [], []
    for name, size in SHOWN:
        ours, *peers = part(files, name, size)
        median = float(ours["median_ms"])
        lines.append(
            (
                f"{name}, {size:,} {ours['unit']}",
                f"{median:,.0f}" if median >= 100 else f"{median:.3g}",
                f"{float(ours['per_second']):,.0f}",
                percent(ours["ceiling_fraction"], 0),
                "; ".join(r["contender"] for r in peers),
                "; ".join(times(float(r["median_ms"]) / median, 2) for r in peers),
            )
        )
        shown.append(ours)
    header = ("part", "ours, median ms", "per second", "of ceiling", "baseline", "speed-up")
    return f"{table(header, lines)}\n\n{caption(shown, 'python benchmarks/run.py')}"


def search(files: Files) -> str:
    """Return the table of the search of a gallery, with its limits and peers."""
    newest_of = newest(files.rows("search"), ["N", "Q", "what"])
    lines = []
    for row in newest_of:
        if row["what"] == "ours, mapped from disk":
            others = [r for r in newest_of if (r["N"], r["Q"]) == (row["N"], row["Q"])]
            cells = [(r["what"], times(float(r["median"]) / float(row["median"]), 2)) for r in others]
            peers = [cell for cell in cells if not cell[0].startswith(("ours", "limit"))]
            (limit,) = (r["what"].removeprefix("limit: ") for r in others if r["what"].startswith("limit"))
            lines.append(
                (
                    f"{int(row['Q']):,} among {int(row['N']):,}",
                    f"{1e3 * float(row['median']):,.0f}",
                    f"{percent(row['share'], 0)} of {limit}",
                    "; ".join(name for name, _ in peers),
                    "; ".join(ratio for _, ratio in peers),
                )
            )
    header = ("queries", "ours, median ms", "of the limit", "peer", "its time over ours")
    return f"{table(header, lines)}\n\n{caption(newest_of, 'python benchmarks/search.py')}"


def embedding(files: Files) -> str:
    """Return the table of embedding image files, with its peers."""
    rows = newest(files.rows("embed"), ["what"])
    ours = one(rows, what="ours")
    lines = [
        (
            row["what"],
            row["images_per_s"],
            times(float(row["median"]) / float(ours["median"]), 2),
            row["least_cosine"],
            percent(float(row["gflops"]) / float(row["limit_gflops"]), 0),
        )
        for row in rows
    ]
    header = ("from files to rows", "images per second", "its time over ours", "least cosine", "of the limit")
    return f"{table(header, lines)}\n\n{caption(rows, 'python benchmarks/embed.py')}"


def step(files: Files, stage: str) -> list[Row]:
    """Return the rungs of the newest measured step of the paper's networks in `stage`."""
    rows = [
        r for r in files.rows("train_step") if (r["stage"], r["size"]) == (stage, "paper") and MACHINE in r["machine"]
    ]
    return [r for r in rows if r["date"] == rows[-1]["date"]]


def step_table(files: Files, stage: str) -> str:
    """Return the waterfall of a step as a table."""
    rows = step(files, stage)
    first = float(rows[0]["median_s"])
    lines = [
        (
            r["rung"].removeprefix("+ "),
            f"{float(r['median_s']):.1f}",
            times(first / float(r["median_s"])),
            f"{float(r['peak_mb']) / 1024:.1f}",
            percent(r["ceiling_fraction"], 0),
        )
        for r in rows
    ]
    header = ("switched on", "seconds", "speed-up", "GB", "of a convolution's rate")
    command = f"python benchmarks/train_step.py --size paper --stage {stage}"
    return f"{table(header, lines)}\n\n{caption(rows[:1], command)}"


def step_factor(files: Files, stage: str) -> float:
    """Return how many times faster a step of the paper's networks is with everything switched on."""
    first, *_, last = step(files, stage)
    return float(first["median_s"]) / float(last["median_s"])


def launches(files: Files) -> str:
    """Return kernel launches and bytes of each stage's step, counted in eager mode without a GPU."""
    rows = newest(files.rows("launches"), ["preset", "stage"])
    lines = [
        (
            *(r["preset"], r["stage"], r["launches"], r["ours"], r["waits"]),
            *(f"{float(r[name]) / 1000:.1f}" for name in ("read_mb", "written_mb")),
        )
        for r in rows
    ]
    header = ("preset", "stage", "launches", "of them ours", "host waits", "GB read", "GB written")
    return f"{table(header, lines)}\n\n{caption(rows, 'python benchmarks/launches.py')}"


def ranks_measured(files: Files) -> str:
    """Return the seconds of a backward pass on two processes, for each way to average gradients."""
    rows = newest(files.rows("ranks"), ["way"])
    lines = [(r["way"], *(f"{float(r[name]):.2f}" for name in ("min", "median", "max"))) for r in rows]
    command = "torchrun --standalone --nproc-per-node 2 benchmarks/ranks.py"
    return f"{table(('way', 'min s', 'median s', 'max s'), lines)}\n\n{caption(rows, command)}"


def _exchange(size: float, ranks: int, link: str) -> float:
    """Return the milliseconds of a ring all-reduce of `size` bytes over `ranks` ranks, without any overlap."""
    bandwidth, latency = LINKS[link]
    hops = 2 * (ranks - 1)
    return hops / ranks * size / bandwidth / 1e6 + math.ceil(size / BUCKET_BYTES) * hops * latency / 1e3


def ranks_bytes(files: Files) -> str:
    """Return what a joint step of the paper's networks sends, and how long that takes on paper."""
    rows = files.rows("ranks_bytes")
    lines = [(r["all_reduce"], float(r["bytes"])) for r in rows]
    cells = [
        (name, f"{size / 1e6:.1f} MB", *(f"{_exchange(size, *case):.1f}" for case in CASES)) for name, size in lines
    ]
    total = [sum(_exchange(size, *case) for _, size in lines) for case in CASES]
    whole = ("all", f"{sum(size for _, size in lines) / 1e6:.0f} MB", *(f"{value:.1f}" for value in total))
    return table(("all-reduce", "bytes", *(f"{n} ranks, {link}, ms" for n, link in CASES)), [*cells, whole])


def ranks_estimate(files: Files) -> str:
    """Return the estimated time of a joint step, and its efficiency against a rank alone, for assumed GPUs and links.

    The two exchanges of G and E_id hide behind half of the step; the discriminator's and the statistics' hide behind
    nothing.
    """
    needed = float(step(files, "joint")[-1]["needed_tflop"])
    sizes = {r["all_reduce"]: float(r["bytes"]) for r in files.rows("ranks_bytes")}
    hidden = "structure encoder and generator", "identity encoder"
    lines = []
    for speed in ASSUMED_TFLOPS:
        alone = 1000 * needed / speed
        cells = []
        for ranks, link in CASES:
            exchange = {name: _exchange(size, ranks, link) for name, size in sizes.items()}
            waiting = max(0.0, sum(exchange[name] for name in hidden) - alone / 2)
            whole = alone + waiting + sum(value for name, value in exchange.items() if name not in hidden)
            cells.append(f"{whole:.0f} ms, {percent(alone / whole, 0)}")
        lines.append((f"{speed} TFLOP/s", f"{alone:.0f} ms", *cells))
    return table(("assumed speed of a rank", "a rank alone", *(f"{n} ranks, {link}" for n, link in CASES)), lines)
