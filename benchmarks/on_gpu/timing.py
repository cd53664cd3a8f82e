"""Time rows of calls, one by one or queued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from lib.reporting import measure_all
from on_gpu.rows import Row

Work = Callable[[], Any]


def timed(
    what: str,
    size: str,
    unit: str,
    count: int,
    contenders: Mapping[str, Work],
    device: str,
    *,
    calls: int = 1,
    repeats: int = 10,
    **more: Any,
) -> list[Row]:
    """Return a row for each contender, all measured in turns.

    Args:
        count: how many of `unit` a call works on.
        calls: queued in a row, where the host's launches are to be hidden behind the device's work; their mean counts.
        more: further columns (flops, moved, arithmetic, note).
    """

    def several(work: Work) -> Work:
        return work if calls == 1 else lambda: [work() for _ in range(calls)] and None

    measured = measure_all({name: several(work) for name, work in contenders.items()}, repeats, device)
    rows = []
    for name, figures in measured.items():
        milliseconds = {f"{kind}_ms": 1e3 * figures[kind] / calls for kind in ("min", "median", "max")}
        row: Row = {"kind": "time", "what": what, "size": size, "unit": unit, "contender": name, **milliseconds}
        row |= {"per_second": count * calls / figures["median"], "peak_mb": figures["peak_mb"]}
        rows.append(row | {"repeats": figures["repeats"], **more})
    return rows
