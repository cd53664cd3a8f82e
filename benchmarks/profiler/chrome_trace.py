"""Read time by region, kernels and memory of training steps from a profiler's Chrome trace."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from profiler.arithmetic import flops_and_bytes

PREFIX = "gcl_fast::"  # of the regions that the training step names
EVALUATE = "autograd::engine::evaluate_function: "
REST = "rest of the step"
Event = dict[str, Any]


@dataclass
class Span:
    """Represents the time from `start` to `end` (µs) that a step spent in a region, forward or backward."""

    start: float
    end: float
    region: str
    backward: bool


@dataclass
class Kernel:
    """Sums all calls of one operation on the same shapes (of one kernel, on a GPU); `us` without what it called."""

    name: str
    shapes: str
    us: float = 0.0
    calls: int = 0
    flops: float = 0.0
    bytes: float = 0.0
    occupancy: list[float] = field(default_factory=list)


@dataclass
class Profile:
    """Holds a profile. steps: (start, end) in µs. memory: (µs, bytes in use). launch_gap: share without a kernel."""

    steps: list[tuple[float, float]]
    spans: list[Span]
    kernels: list[Kernel]
    memory: list[tuple[float, float]]
    device_us: dict[str, float]
    launch_gap: float | None

    @property
    def wall(self) -> float:
        """Return the µs of all steps."""
        return sum(end - start for start, end in self.steps)

    def regions(self) -> dict[str, tuple[float, float]]:
        """Return (µs forward, µs backward) by region; largest first, the unnamed rest last."""
        total: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
        for span in self.spans:
            total[span.region][span.backward] += span.end - span.start
        order = sorted(total, key=lambda region: (region == REST, -sum(total[region])))
        return {region: (total[region][0], total[region][1]) for region in order}

    @property
    def coverage(self) -> float:
        """Return the share of the steps' wall time inside named regions."""
        return 1 - sum(self.regions().get(REST, (0.0, 0.0))) / self.wall


def read(path: Path) -> Profile:
    """Return the profile in the Chrome trace at `path`.

    Raises:
        ValueError: no complete step in it.
    """
    events = [event for event in json.loads(path.read_text())["traceEvents"] if "cat" in event]
    events.sort(key=lambda event: (event["ts"], -event.get("dur", 0)))
    marks = [event for event in events if event["cat"] == "user_annotation"]
    steps = [(e["ts"], e["ts"] + e["dur"]) for e in marks if e["name"].startswith("ProfilerStep")]
    if not steps:
        raise ValueError(f"{path}: no complete training step was recorded")
    events = [event for event in events if steps[0][0] <= event["ts"] <= steps[-1][1]]
    spans, region_at = _spans(events, steps)
    on_gpu = [event for event in events if event["cat"] == "kernel"]
    operations = {e["args"].get("External id"): e for e in events if e["cat"] == "cpu_op"}
    kernels = _gpu_kernels(on_gpu, operations) if on_gpu else _cpu_operations(events)
    device_us: dict[str, float] = defaultdict(float)
    for event in on_gpu:
        launched = operations.get(event["args"].get("External id"))
        device_us[region_at(launched["ts"] if launched else event["ts"])] += event["dur"]
    held = [e for e in events if e["name"] == "[memory]" and e["args"]["Device Type"] == (1 if on_gpu else 0)]
    memory = [(e["ts"], float(e["args"]["Total Allocated"])) for e in held]
    gap = _idle(on_gpu, steps) if on_gpu else None
    return Profile(steps, spans, kernels, memory, dict(device_us), gap)


def _spans(events: list[Event], steps: list[tuple[float, float]]) -> tuple[list[Span], Any]:
    """Cut the steps into spans; the innermost of nested regions counts.

    A function of the backward pass belongs to the region that ran its forward: autograd gave both the same sequence
    number.
    """
    spans: list[Span] = []
    open_: list[tuple[float, str, bool]] = []  # (end, region, backward), innermost last
    region_of: dict[int, str] = {}  # sequence number -> region
    now = steps[0][0]

    def advance(to: float) -> None:
        nonlocal now
        while open_ and open_[-1][0] <= to:
            close = open_.pop()
            emit(close[0], close[1], close[2])
        if open_:
            emit(to, open_[-1][1], open_[-1][2])
        now = max(now, to)

    def emit(end: float, region: str, backward: bool) -> None:
        nonlocal now
        if end > now:
            if spans and (spans[-1].region, spans[-1].backward, spans[-1].end) == (region, backward, now):
                spans[-1].end = end
            else:
                spans.append(Span(now, end, region, backward))
            now = end

    for event in events:
        name, start, end = event["name"], event["ts"], event["ts"] + event.get("dur", 0)
        number = event.get("args", {}).get("Sequence number", -1)
        if event["cat"] == "user_annotation" and (label := _label(name)):
            advance(start)
            open_.append((min(end, open_[-1][0] if open_ else end), label, label == "backward"))
        elif name.startswith(EVALUATE) and open_:
            advance(start)
            _, region, backward = open_[-1]
            if region == "discriminate" and not backward:
                region = "R1"  # the only backward pass inside a forward
            elif backward:
                region = region_of.get(number, "backward")
            open_.append((min(end, open_[-1][0]), region, backward))
        elif event["cat"] == "cpu_op" and number >= 0 and not re.search(r"Backward\d*$", name):
            inner = [entry for entry in open_ if entry[0] > start]
            if inner and not inner[-1][2]:
                region_of[number] = inner[-1][1]
    advance(steps[-1][1])
    starts = [span.start for span in spans]
    return spans, lambda ts: spans[max(0, bisect_right(starts, ts) - 1)].region


def _label(name: str) -> str | None:
    if name.startswith(PREFIX):
        return name.removeprefix(PREFIX)
    if name.startswith("Optimizer."):
        return "optimizer"
    return REST if name.startswith("ProfilerStep") else None


def _cpu_operations(events: Iterable[Event]) -> list[Kernel]:
    found: dict[tuple[str, str], Kernel] = {}
    open_: dict[Any, list[tuple[float, Kernel]]] = defaultdict(list)  # by thread
    for event in events:
        if event["cat"] != "cpu_op" or event["name"].startswith(EVALUATE):
            continue
        end, stack = event["ts"] + event["dur"], open_[event["tid"]]
        while stack and stack[-1][0] <= event["ts"]:
            stack.pop()
        if stack:
            stack[-1][1].us -= event["dur"]
        stack.append((end, _count(found, event["name"], event, event["dur"])))
    return sorted(found.values(), key=lambda kernel: -kernel.us)


def _gpu_kernels(on_gpu: Iterable[Event], operations: dict[Any, Event]) -> list[Kernel]:
    found: dict[tuple[str, str], Kernel] = {}
    counted: set[Any] = set()
    for event in sorted(on_gpu, key=lambda event: -event["dur"]):
        key = event["args"].get("External id")
        launched = operations.get(key, {"name": "", "args": {}})
        work = {"name": "", "args": {}} if key in counted else launched  # its longest kernel does an operation's work
        counted.add(key)
        kernel = _count(found, event["name"], work, event["dur"])
        if (share := event["args"].get("est. achieved occupancy %")) is not None:
            kernel.occupancy.append(float(share))
    return sorted(found.values(), key=lambda kernel: -kernel.us)


def _count(found: dict[tuple[str, str], Kernel], name: str, operation: Event, us: float) -> Kernel:
    flops, moved = flops_and_bytes(operation["name"], operation["args"])
    shapes = [shape for shape in operation["args"].get("Input Dims", []) if shape and isinstance(shape[0], int)][:2]
    text = " ".join("x".join(map(str, shape)) for shape in shapes)
    kernel = found.setdefault((name, text), Kernel(name, text))
    kernel.us, kernel.calls = kernel.us + us, kernel.calls + 1
    kernel.flops, kernel.bytes = kernel.flops + flops, kernel.bytes + moved
    return kernel


def _idle(kernels: list[Event], steps: list[tuple[float, float]]) -> float:
    busy, until = 0.0, steps[0][0]
    for event in kernels:
        start, end = max(event["ts"], until), event["ts"] + event["dur"]
        busy, until = busy + max(0.0, end - start), max(until, end)
    return 1 - busy / (steps[-1][1] - steps[0][0])
