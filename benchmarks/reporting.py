"""What the benchmarks of pseudo-labels and ranking share: time and peak memory of a call, and a CSV to append to."""

from __future__ import annotations

import csv
import ctypes
import gc
import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def _status(field: str) -> float:
    """MB of a memory line of /proc/self/status."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def measure(work: Callable[[], Any], repeats: int) -> dict[str, float]:
    """Seconds (min, median, max) and peak MB above what was held before, over `repeats` calls."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier work freed, or it would hide this work's need
    Path("/proc/self/clear_refs").write_text("5")  # restart the kernel's high-water mark
    before, seconds = _status("VmRSS"), []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return {
        "min": round(min(seconds), 4),
        "median": round(statistics.median(seconds), 4),
        "max": round(max(seconds), 4),
        "peak_mb": round(_status("VmHWM") - before, 1),
    }


def report(name: str, rows: list[dict[str, Any]]) -> Path:
    """Print `rows` and append them to results/NAME.csv with machine, versions, load and date."""
    common = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    path = RESULTS / f"{name}.csv"
    path.parent.mkdir(exist_ok=True)
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, [*common, *rows[0]])
        if fresh:
            writer.writeheader()
        writer.writerows({**common, **row} for row in rows)
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    return path
