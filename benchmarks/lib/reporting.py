"""Measure time and peak memory of calls, and append them to a CSV with the facts of the machine."""

from __future__ import annotations

import csv
import ctypes
import gc
import os
import platform
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(os.environ.get("GCL_FAST_RESULTS") or ROOT / "benchmarks" / "results")  # where CSVs are appended to


def _status(field: str) -> float:
    """Return the MB of a memory line of /proc/self/status."""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def seconds_of(work: Callable[[], Any], device: str) -> float:
    """Time one call, to the end of what it has started on the device."""
    start = time.perf_counter()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(work: Callable[[], Any], device: str = "cpu") -> float:
    """Return the MB that `work` needs above what was in use; on the CPU that is resident memory, in whole pages."""
    gc.collect()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        work()
        return round((torch.cuda.max_memory_allocated() - held) / 2**20, 1)
    ctypes.CDLL(None).malloc_trim(0)  # give back what earlier work freed, or it would hide this work's need
    Path("/proc/self/clear_refs").write_text("5")  # restart the kernel's high-water mark
    before = _status("VmRSS")
    work()
    return round(_status("VmHWM") - before, 1)


def measure_all(
    contenders: Mapping[str, Callable[[], Any]], repeats: int, device: str = "cpu", seconds: float = float("inf")
) -> dict[str, dict[str, float]]:
    """Return for each contender seconds (min, median, max), peak MB, and the number of measured calls.

    They run in turns, so that noise of the machine meets everyone, after one call to warm up, one to look at the memory
    and one to get back what was freed for that. Rounds end after `repeats`, or from the third on after `seconds`.
    """
    peaks, times = {}, {name: list[float]() for name in contenders}
    for name, work in contenders.items():
        work()
        peaks[name] = peak_memory(work, device)
        work()
    start = time.perf_counter()
    for n in range(repeats):
        if n >= 3 and time.perf_counter() - start > seconds:
            break
        for name, work in contenders.items():
            times[name].append(seconds_of(work, device))
    return {name: {**spread(times[name]), "peak_mb": peaks[name], "repeats": len(times[name])} for name in contenders}


def measure(work: Callable[[], Any], repeats: int, device: str = "cpu") -> dict[str, float]:
    """Measure one contender as `measure_all` does; with one repeat it is not warmed up, for work that takes minutes."""
    if repeats > 1:
        return measure_all({"it": work}, repeats, device)["it"]
    times: list[float] = []
    peak = peak_memory(lambda: times.append(seconds_of(work, device)), device)
    return {**spread(times), "peak_mb": peak, "repeats": 1}


def with_cpu_seconds(work: Callable[[], Any]) -> tuple[Callable[[], Any], list[float]]:
    """Return `work`, and a list that gets the CPU seconds of all threads for each call of it."""
    spent: list[float] = []

    def timed() -> Any:
        before = time.process_time()
        result = work()
        spent.append(time.process_time() - before)
        return result

    return timed, spent


def spread(values: list[float]) -> dict[str, float]:
    """Return min, median and max, to six significant digits."""
    figures = {"min": min(values), "median": statistics.median(values), "max": max(values)}
    return {name: float(f"{value:.6g}") for name, value in figures.items()}


def facts(device: str = "cpu") -> dict[str, Any]:
    """Return when, on which commit, on which machine and with which versions a figure was measured."""
    describe = ["-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    git = shutil.which("git")
    description = subprocess.run([git, *describe], capture_output=True, text=True).stdout.strip() if git else ""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": description or "unknown",
        "machine": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def _processor() -> str:
    """Return the processor's name and vector width: clouds lend cores with and without AVX-512 under one name."""
    information = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", information.read_text()) if information.exists() else None
    name = found[1].strip() if found else platform.machine()
    return f"{name} {torch.backends.cpu.get_cpu_capability()}"


def append(path: Path, rows: list[dict[str, Any]], device: str = "cpu") -> None:
    """Append `rows`, each with the facts, to the CSV at `path`.

    Raises:
        ValueError: the file has other columns; move it away to start a new one.
    """
    full = [{**facts(device), **row} for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = not path.exists()
    with path.open("a+", newline="") as file:
        file.seek(0)
        columns = list(full[0]) if fresh else next(csv.reader(file), [])
        if columns != list(full[0]):
            raise ValueError(f"{path} has other columns than these rows; move it away to start a new one")
        writer = csv.DictWriter(file, columns)
        if fresh:
            writer.writeheader()
        writer.writerows(full)


def report(name: str, rows: list[dict[str, Any]], device: str = "cpu") -> Path:
    """Print `rows`, append them to results/NAME.csv, and return its path."""
    path = RESULTS / f"{name}.csv"
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    append(path, rows, device)
    return path
