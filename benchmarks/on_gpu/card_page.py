"""Make the results page of a card, and the CSV with the same rows, from nothing but the state."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gcl_fast.atomic import write_atomically
from on_gpu.commands import Part
from on_gpu.rows import RATES, Row
from on_gpu.state import State
from on_gpu.targets import TARGETS, fraction

COLUMNS = [
    *("part", "command", "date", "commit", "kind", "what", "size", "unit", "contender", "min_ms", "median_ms"),
    *("max_ms", "repeats", "per_second", "peak_mb", "ceiling_fraction", "ratio", "measured", "allowed", "holds"),
    "note",
]
FAILED = ("failed", "timed out")


def write(state: State, parts: Mapping[str, Part], folder: Path, name: str, trial: bool) -> None:
    """Write NAME.md, with a section for each of `parts`, and NAME.csv into `folder`, each whole or not at all.

    Args:
        trial: nothing was measured that says something of a card; the page claims nothing.
    """
    text, table = page(state, parts, trial).encode(), rows_as_csv(state).encode()
    write_atomically(folder / f"{name}.md", lambda file: file.write(text))
    write_atomically(folder / f"{name}.csv", lambda file: file.write(table))


def page(state: State, parts: Mapping[str, Part], trial: bool) -> str:
    """Return the page as Markdown."""
    title = "Trial on a CPU with tiny sizes: no figure here is of a GPU" if trial else f"gcl_fast on one {state.card}"
    results = state.commands.values()
    counts = {word: sum(r["status"] == word for r in results) for word in ("done", *FAILED, "no time", "left out")}
    summary = ", ".join(f"{count} {word}" for word, count in counts.items() if count) or "nothing yet"
    commits = ", ".join(sorted({result["commit"] for result in results if result.get("rows")})) or "none"
    lines = [f"# {title}", "", f"Written by `python benchmarks/gpu.py`. Commands: {summary}. Commits: {commits}.", ""]
    lines += ["## Machine", "", *_table(["", ""], [[name, str(fact)] for name, fact in state.facts.items()])]
    lines += ["## Targets", "", *(["A trial meets none.", ""] if trial else targets(state))]
    for name, part in parts.items():
        lines += section(state, name, part.heading)
    return "\n".join([*lines, *failures(state)])


def targets(state: State) -> list[str]:
    """Return the table of the targets."""
    rows, rates = state.rows(), state.rates()
    cells = []
    for target in TARGETS:
        measured, verdict = target.verdict(rows, rates)
        wanted = f"{'≥' if target.at_least else '≤'} {target.wanted:g} {target.unit}"
        cells.append([target.what, wanted, "" if measured is None else f"{measured:.3g} {target.unit}", verdict])
    return _table(["target", "wanted", "measured", ""], cells)


def section(state: State, part: str, heading: str) -> list[str]:
    """Return a part's section of the page; nothing where none of its commands was tried."""
    results = {key: result for key, result in state.commands.items() if key.split(": ")[0] == part}
    if not results:
        return []
    rows = [row for row in state.rows() if row["part"] == part]
    lines = [f"## {heading}", ""]
    lines += [f"- {_status(key.split(': ', 1)[1], result)}" for key, result in results.items()] + [""]
    rates = [[r["what"], _rate(r["what"], r["value"]), r.get("note", "")] for r in rows if r["kind"] == "rate"]
    facts = [[r["what"], str(r["measured"])] for r in rows if r["kind"] == "fact"]
    timed = [r for r in rows if r["kind"] == "time"]
    checks = [r for r in rows if r["kind"] == "check"]
    if rates:
        lines += _table(["ceiling", "measured", ""], rates)
    if timed:
        header = ["what", "size", "contender", "median ms", "min", "max", "per second", "of ceiling", "peak MB",
                  "peer", "ours is", "note"]  # fmt: skip
        lines += _table(header, list(_times(timed, state.rates())))
    if checks:
        lines += _table(["claim", "size", "measured", "allowed", "holds"], [_check(row) for row in checks])
    if facts:
        lines += _table(["", ""], facts)
    for key, result in results.items():
        if result.get("shown"):
            lines += [f"{key.split(': ', 1)[1]}:", "", "```", result["shown"], "```", ""]
    return lines


def failures(state: State) -> list[str]:
    """Return the section of commands that failed, with their last lines, and of claims that do not hold."""
    lines = []
    for key, result in state.commands.items():
        broken = [row for row in result.get("rows", []) if row["kind"] == "check" and not row["holds"]]
        if result["status"] in FAILED or broken:
            lines += [f"### {key}", "", f"{result['status']} after {result['seconds']:.0f} s: {result['reason']}", ""]
            lines += [f"- {row['what']} {row['size']}: {_number(row['measured'])}" for row in broken]
            lines += ["", "```", result.get("tail", ""), "```", ""] if result.get("tail") else [""]
    return ["## Failures", "", *(lines or ["None.", ""])]


def rows_as_csv(state: State) -> str:
    """Return all rows as CSV, with the share of the ceiling and the ratio to ours filled in."""
    out, rates = io.StringIO(), state.rates()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    everything = state.rows()
    ours = {_of(row): row["median_ms"] for row in everything if row["kind"] == "time" and row["contender"] == "ours"}
    for row in everything:
        result = state.commands[f"{row['part']}: {row['command']}"]
        full: dict[str, Any] = {"date": result["date"], "commit": result["commit"], **row}
        if row["kind"] == "time":
            share, base = fraction(row, rates), ours.get(_of(row))
            full["ceiling_fraction"] = "" if share is None else f"{share:.4f}"
            full["ratio"] = f"{row['median_ms'] / base:.4g}" if base else ""
            full |= {name: f"{row[name]:.6g}" for name in ("min_ms", "median_ms", "max_ms", "per_second")}
        if row["kind"] == "rate":
            full |= {"measured": row["value"], "unit": RATES[row["what"]][0]}
        writer.writerow(full)
    return out.getvalue()


def _of(row: Row) -> tuple[str, str, str]:
    return row["command"], row["what"], row["size"]


def _times(rows: Iterable[Row], rates: dict[str, float]) -> Iterable[list[str]]:
    """Yield a line for each of ours (or of a group without it), with its peers."""
    groups: dict[tuple[str, str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault(_of(row), []).append(row)
    for members in groups.values():
        ours = [row for row in members if row["contender"].startswith("ours")] or members
        peers = [row for row in members if row not in ours]
        for row in ours:
            share = fraction(row, rates)
            yield [
                row["what"],
                row["size"],
                row["contender"],
                f"{row['median_ms']:.4g}",
                f"{row['min_ms']:.4g}",
                f"{row['max_ms']:.4g}",
                f"{row['per_second']:,.4g}",
                "" if share is None else f"{share:.0%}",
                f"{row['peak_mb']:,.0f}" if row.get("peak_mb") is not None else "",
                "; ".join(f"{peer['contender']} {peer['median_ms']:.4g} ms" for peer in peers),
                "; ".join(f"{peer['median_ms'] / row['median_ms']:.2f}x" for peer in peers),
                row.get("note", ""),
            ]


def _check(row: Row) -> list[str]:
    numbers = [_number(row["measured"]), _number(row["allowed"])]
    return [row["what"], row["size"], *numbers, "yes" if row["holds"] else "NO"]


def _status(name: str, result: dict[str, Any]) -> str:
    why = f": {result['reason']}" if result.get("reason") else ""
    when = f", {result['seconds']:.0f} s, commit {result['commit']}" if "seconds" in result else ""
    return f"{name}: {result['status']}{when}{why}"


def _rate(what: str, value: float) -> str:
    unit, by = RATES[what]
    return f"{value / by:,.4g} {unit}"


def _number(value: Any) -> str:
    return f"{value:.2g}" if isinstance(value, float) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a Markdown table and an empty line; nothing without rows. Empty columns are left out."""
    if not rows:
        return []
    filled = [i for i in range(len(header)) if any(row[i] for row in rows)]
    escaped = [[row[i].replace("|", "\\|").replace("\n", " ") for i in filled] for row in [header, *rows]]
    lines = ["| " + " | ".join(cells) + " |" for cells in escaped]
    return [lines[0], "|" + "---|" * len(filled), *lines[1:], ""]
