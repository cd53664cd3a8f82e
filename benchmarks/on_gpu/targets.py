"""Define the targets of a card, and measure each from the rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from on_gpu.rows import Row

BANK_BATCH, BANK_ROWS = 256, 1_000_000  # of the contrastive loss that the targets speak of


def least_seconds(row: Mapping[str, Any], rates: Mapping[str, float]) -> float | None:
    """Return the least possible time of a call by the measured ceilings; None where they are not known."""
    arithmetic = row.get("arithmetic", "")
    if not rates.get(arithmetic) or not rates.get("copy"):
        return None
    return max(row.get("flops", 0) / rates[arithmetic], row.get("moved", 0) / rates["copy"])


def fraction(row: Mapping[str, Any], rates: Mapping[str, float]) -> float | None:
    """Return the least possible time over the time taken; None where it is not known."""
    if row.get("ceiling_fraction") is not None:
        return float(row["ceiling_fraction"])
    least = least_seconds(row, rates)
    return None if least is None else 1e3 * least / row["median_ms"]


@dataclass(frozen=True)
class Target:
    """Represents a target. measure: (rows, ceilings) -> the figure, or None where it was not measured."""

    what: str
    wanted: float
    unit: str
    at_least: bool
    measure: Callable[[Sequence[Row], Mapping[str, float]], float | None]

    def verdict(self, rows: Sequence[Row], rates: Mapping[str, float]) -> tuple[float | None, str]:
        """Return the figure, and "met", "not met" or "not measured"."""
        measured = self.measure(rows, rates)
        if measured is None:
            return None, "not measured"
        met = measured >= self.wanted if self.at_least else measured <= self.wanted
        return measured, "met" if met else "not met"


def times(rows: Iterable[Row], what: str, contender: str = "", size: str = "", command: str = "") -> list[Row]:
    """Return the time rows whose `what`, contender and command begin so, and whose size contains this."""
    return [
        row
        for row in rows
        if row["kind"] == "time"
        and row["what"].startswith(what)
        and row["contender"].startswith(contender)
        and row["command"].startswith(command)
        and size in row["size"]
    ]


def median(what: str, size: str = "", seconds: float = 1e-3, command: str = "") -> Callable[..., float | None]:
    """Measure the smallest median of ours, in units of `seconds`."""

    def measure(rows: Sequence[Row], rates: Mapping[str, float]) -> float | None:
        medians = [row["median_ms"] for row in times(rows, what, "ours", size, command)]
        return min(medians) * 1e-3 / seconds if medians else None

    return measure


def speedup(what: str, peer: str, size: str = "") -> Callable[..., float | None]:
    """Measure how many times as long as the best of ours the peer takes, in the command that measured both."""

    def measure(rows: Sequence[Row], rates: Mapping[str, float]) -> float | None:
        ratios = []
        for theirs in times(rows, what, peer, size):
            ours = [row["median_ms"] for row in times(rows, what, "ours", theirs["size"], theirs["command"])]
            ratios += [theirs["median_ms"] / min(ours)] if ours else []
        return min(ratios, default=None)

    return measure


def of_ceiling(what: str, size: str = "") -> Callable[..., float | None]:
    """Measure the best share of the ceiling that ours reaches, in per cent."""

    def measure(rows: Sequence[Row], rates: Mapping[str, float]) -> float | None:
        shares = [share for row in times(rows, what, "ours", size) if (share := fraction(row, rates)) is not None]
        return 100 * max(shares) if shares else None

    return measure


def over_roofline(rows: Sequence[Row], rates: Mapping[str, float]) -> float | None:
    """Measure the time of the contrastive loss over the least possible one."""
    shares = [fraction(row, rates) for row in times(rows, LOSS, "ours", MANY)]
    known = [share for share in shares if share]
    return 1 / max(known) if known else None


def memory_share(rows: Sequence[Row], rates: Mapping[str, float]) -> float | None:
    """Measure the contrastive loss's peak memory in per cent of one float32 matrix of crops by bank rows."""
    peaks = [row["peak_mb"] for row in times(rows, LOSS, "ours", MANY)]
    return 100 * max(peaks) * 2**20 / (4 * BANK_BATCH * BANK_ROWS) if peaks else None


def epochs(rows: Sequence[Row], rates: Mapping[str, float]) -> float | None:
    """Measure the extrapolated minutes of both stages' epochs; None where one of them was not measured."""
    stages = [median(f"{EPOCHS}, {stage}", seconds=60)(rows, rates) for stage in ("generative", "joint")]
    return None if None in stages else sum(filter(None, stages))


EPOCHS = "epochs of the paper preset"  # how epochs.py calls what it extrapolates
OFFICIAL = "official, eager, TF32"  # the name of that contender in steps.py
LOSS, MANY = "contrastive loss, backward, update", f"B {BANK_BATCH:,}, N {BANK_ROWS:,}"
MARKET, BODIES = "12,936 rows", "16 meshes of 27,"
TARGETS = [
    Target("joint step, paper, over the official", 4, "x", True, speedup("joint step", OFFICIAL, "paper")),
    Target("generative step, paper, over the official", 5, "x", True, speedup("generative step", OFFICIAL, "paper")),
    Target("joint step, paper, of the convolution ceiling", 40, "%", True, of_ceiling("joint step", "paper")),
    Target("generative step, of the convolution ceiling", 40, "%", True, of_ceiling("generative step", "paper")),
    Target(f"contrastive loss, {MANY}, over torch.compile", 2, "x", True, speedup(LOSS, "compiled reference", MANY)),
    Target(f"contrastive loss, {MANY}, over its roofline", 1.5, "x", False, over_roofline),
    Target(f"contrastive loss, {MANY}, memory beside B x N float32", 10, "%", False, memory_share),
    Target("bank update, 16 rows, calls queued", 15, "us", False, median("memory_update", "B 16,", 1e-6)),
    Target("rasterizer, 16 bodies at 256x128", 0.25, "ms", False, median("rasterizer", BODIES, command="rasterize.py")),
    Target("rasterizer over PyTorch3D", 10, "x", True, speedup("rasterizer", "PyTorch3D", BODIES)),
    Target("clustering of Market-1501's size", 0.3, "s", False, median("pseudo-labels, eps by rho", MARKET, 1)),
    Target("first command", 90, "s", False, median("first command", seconds=1)),
    Target("paper preset, 60 epochs, 12,936 crops, extrapolated", 25, "min", False, epochs),
]
