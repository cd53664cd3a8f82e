"""Report rows from a command of the proof, in a file that benchmarks/gpu.py reads when the command has ended.

A row is a dict with a `kind`:
    time   of a call: what, size, unit, contender ("ours" or a peer), min_ms, median_ms, max_ms, repeats, per_second,
           peak_mb, and flops, moved, arithmetic (of RATES) or a ceiling_fraction of its own
    check  of a claim: what, size, measured, allowed, holds
    fact   a sentence: what, measured
    rate   a ceiling: what (of RATES), value in FLOP/s, bytes/s or s
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

Row = dict[str, Any]

FOLDER = "GCL_FAST_RESULTS"  # environment: where a command leaves its rows, and benchmarks their CSVs
FILE = "rows.jsonl"
RATES = {  # name -> (unit, by which a value is divided for it)
    "bf16 matrix product": ("TFLOP/s", 1e12),
    "fp16 matrix product": ("TFLOP/s", 1e12),
    "tf32 matrix product": ("TFLOP/s", 1e12),
    "fp32 matrix product": ("TFLOP/s", 1e12),
    "convolution": ("TFLOP/s", 1e12),
    "copy": ("GB/s", 1e9),
    "launch": ("us", 1e-6),
    "launch and wait": ("us", 1e-6),
}


def emit(*rows: Row) -> None:
    """Print `rows` and append them to this command's file one by one, so that measured rows survive a kill."""
    folder = os.environ.get(FOLDER)
    for row in rows:
        rounded = {key: float(f"{value:.6g}") if isinstance(value, float) else value for key, value in row.items()}
        print("  ".join(str(value) for value in rounded.values()), flush=True)
        if folder:
            with (Path(folder) / FILE).open("a") as file:
                file.write(json.dumps(row) + "\n")


def check(what: str, size: str, measured: float, allowed: float, **more: Any) -> Row:
    """Return a row that holds where `measured` is at most `allowed` (NaN is not)."""
    holds = bool(measured <= allowed)
    return {
        "kind": "check",
        "what": what,
        "size": size,
        "measured": measured,
        "allowed": allowed,
        "holds": holds,
        **more,
    }


def read(folder: Path) -> list[Row]:
    """Return the rows that a command left in `folder`, also from the CSVs of other benchmarks and from pytest."""
    rows: list[Row] = []
    if (folder / FILE).is_file():
        lines = (folder / FILE).read_text().splitlines(keepends=True)
        rows += [json.loads(line) for line in lines if line.endswith("\n")]  # the last may have been cut short
    for path in sorted(folder.glob("*.csv")):
        with path.open(newline="") as file:
            convert = CONVERTERS[path.stem]
            rows += [row for line in csv.DictReader(file) for row in convert(line)]
    for path in sorted(folder.glob("*.xml")):
        rows += _of_pytest(path)
    return rows


def _milliseconds(line: Mapping[str, str], seconds: tuple[str, str, str] = ("min", "median", "max")) -> Row:
    names = ("min_ms", "median_ms", "max_ms")
    row: Row = {name: 1e3 * float(line[key]) for name, key in zip(names, seconds)}
    return row | {"repeats": int(line["repeats"]), "peak_mb": float(line["peak_mb"])}


def _of_run(line: Mapping[str, str]) -> Iterator[Row]:
    numbers = {name: float(line[name]) for name in ("min_ms", "median_ms", "max_ms", "per_second", "peak_mb")}
    row: Row = {"kind": "time", "what": line["part"], "size": f"{int(line['size']):,}", "unit": line["unit"]}
    row |= {"contender": line["contender"], "repeats": int(line["repeats"]), **numbers}
    note = {"note": "on the CPU"} if line["device"] == "cpu" else {}
    yield row | {"ceiling_fraction": float(line["ceiling_fraction"]), **note}


def _of_memory_bank(line: Mapping[str, str]) -> Iterator[Row]:
    B, N, D = (int(line[name]) for name in ("batch", "samples", "dim"))
    width = 2 if line["bank_dtype"] == "bfloat16" else 4
    yield {
        "kind": "time",
        "what": "contrastive loss, backward, update",
        "size": f"B {B:,}, N {N:,}, D {D}, {line['bank_dtype']} bank",
        "unit": "crops",
        "contender": line["what"],
        "per_second": B / float(line["median"]),
        **_milliseconds(line),
        "flops": 4 * B * N * D,
        "moved": N * D * width,
        "arithmetic": "bf16 matrix product",
    }


RASTERIZE = {  # contender there -> what, contender here
    "rasterize": ("rasterizer", "ours"),
    "rasterize, culled": ("rasterizer", "ours, culled"),
    "structure": ("structure maps", "ours"),
    "floor": ("rasterizer", "memory floor"),
    "pytorch3d": ("rasterizer", "PyTorch3D"),
}


def _of_rasterize(line: Mapping[str, str]) -> Iterator[Row]:
    meshes = int(line["meshes"])
    what, contender = RASTERIZE.get(line["what"], ("rasterizer", line["what"]))
    yield {
        "kind": "time",
        "what": what,
        "size": f"{meshes} meshes of {int(line['faces']):,} faces",
        "unit": "meshes",
        "contender": contender,
        "per_second": meshes / float(line["median"]),
        **_milliseconds(line),
        "ceiling_fraction": float(line["floor_fraction"]),
    }


WHOLES = {"ours": "pseudo-labels, eps by rho", "ours, eps auto": "pseudo-labels, eps auto"}


def _of_pseudo_labels(line: Mapping[str, str]) -> Iterator[Row]:
    rows = int(line["N"])
    yield {
        "kind": "time",
        "what": WHOLES.get(line["what"], f"pseudo-labels, step: {line['what']}"),
        "size": f"{rows:,} rows, {line['features']}",
        "unit": "rows",
        "contender": "ours",
        "per_second": rows / float(line["median"]),
        **_milliseconds(line),
        "note": line["engine"],
    }


def _of_loader(line: Mapping[str, str]) -> Iterator[Row]:
    yield {
        "kind": "time",
        "what": f"loader: {line['what']}",
        "size": f"{int(line['crops']):,} crops to {line['size']}",
        "unit": "crops",
        "contender": "torchvision" if "torchvision" in line["what"] else "ours",
        "per_second": float(line["crops_per_s"]),
        **_milliseconds(line),
    }


CONVERTERS = {
    "run": _of_run,
    "memory_bank": _of_memory_bank,
    "rasterize": _of_rasterize,
    "pseudo_labels": _of_pseudo_labels,
    "loader": _of_loader,
}


def _of_pytest(path: Path) -> list[Row]:
    """Yield from a junit file a check for each failed test, and one for all (each.xml: one for each test)."""
    rows, counts = [], {"passed": 0, "failed": 0, "skipped": 0}
    for case in ElementTree.parse(path).getroot().iter("testcase"):
        failed = case.find("failure") if case.find("failure") is not None else case.find("error")
        skipped = case.find("skipped") is not None
        counts["failed" if failed is not None else "skipped" if skipped else "passed"] += 1
        if failed is not None or (path.stem == "each" and not skipped):
            name = f"{case.get('classname', '').removeprefix('tests.').replace('.', '/')}: {case.get('name')}"
            message = (failed.get("message") or "").splitlines()[0][:300] if failed is not None else "passed"
            rows.append({"kind": "check", "what": name, "size": "", "measured": message, "allowed": "passes",
                         "holds": failed is None})  # fmt: skip
    summary = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
    whole = {"kind": "check", "what": "tests", "size": "", "measured": summary, "allowed": "none fails"}
    return [{**whole, "holds": counts["failed"] == 0 and counts["passed"] > 0}, *rows]
