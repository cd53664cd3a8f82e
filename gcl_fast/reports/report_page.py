"""Compose the page on one run: what its files say, and the sections that were measured."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml

from gcl_fast import __version__
from gcl_fast.data.broken_images import UNREADABLE
from gcl_fast.errors import UserError
from gcl_fast.pseudo_labels.cluster_health import NO_CLUSTER, ONE_CLUSTER
from gcl_fast.reports.drawings import curves
from gcl_fast.reports.images import view_image
from gcl_fast.reports.page import render
from gcl_fast.reports.tables import metric_cell, metric_columns
from gcl_fast.run.run_files import PLACE, RunFiles, finished_stages
from gcl_fast.settings import difference, preset, to_dict

Reading = Mapping[str, Any]
NOT_MEASURED = {"left_out": "--files-only was given, so nothing was measured"}


def choose_stage(run: RunFiles, stage: str | None) -> str:
    """Return the stage that the page shows.

    Args:
        run: the files of the run.
        stage: the one asked for; None for the last finished.

    Raises:
        UserError: the run has finished no stage, or not this one.
    """
    finished = finished_stages(run.path)
    if stage is not None and stage not in finished:
        raise UserError(f"--stage {stage}: {run.path} has weights of {', '.join(finished)}; name one of these")
    return stage or finished[-1]


def views_of_run(run: RunFiles, stage: str) -> dict[str, Any]:
    """Return the section of the novel views that the run left, or {} where it left none."""
    path = run.path / "views" / f"{stage}.png"
    if not path.is_file():
        return {}
    try:
        return {"views": view_image(path, "Drawn by the run when the stage ended.")}
    except UNREADABLE as error:
        raise UserError(f"{path} is no readable image ({error}); delete it, and the report draws views") from error


def report_page(run: RunFiles, stage: str, readings: Sequence[Reading], sections: Mapping[str, Any]) -> str:
    """Return the page.

    Args:
        run: the files of the run.
        stage: the stage that was measured.
        readings: of the run, as `read_readings` returns them.
        sections: by name, those of `measured.measure` and `views_of_run`; any may be missing.
    """
    stages = list(dict.fromkeys(reading["stage"] for reading in readings))
    figures = {name: figure for name in stages if (figure := curves(readings, name, clustering=False)) is not None}
    return render(
        "report.html",
        title=run.name,
        stage=stage,
        run=run,
        facts=_facts(run),
        environment=_environment(run),
        changed=_changed(run),
        settings=yaml.safe_dump(to_dict(run.config), sort_keys=False, allow_unicode=True),
        results=_results(run),
        curves=figures,
        clusters=_clusters(readings),
        made=f"gcl_fast {__version__}, torch {torch.__version__}, {time.strftime('%Y-%m-%d %H:%M')}",
        **{name: sections.get(name, NOT_MEASURED) for name in ("data", "retrieval", "lists", "pairs", "map", "views")},
    )


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    """Return what the settings say first about a run."""
    config = run.config
    source = "none" if config.source is None else config.source.dataset
    return [
        ("folder", str(run.path.resolve())),
        ("preset", config.preset),
        ("dataset", f"{config.dataset}, {config.data_root or 'in its default folder'}"),
        ("labelled source", source),
        ("warm-up", "none" if config.warmup is None else config.warmup.method),
        ("stages", " → ".join(config.stages)),
        ("seed", str(config.seed)),
        ("crops", f"{config.height} x {config.width}"),
        ("precision", "mixed" if config.amp else "float32"),
    ]


def _environment(run: RunFiles) -> list[tuple[str, str]]:
    """Return what the last command ran on, and when and how the earlier ones were started."""
    facts = [(name, _text(value)) for name, value in run.environment.items() if value != ""]
    earlier = [_text([command.get("started", ""), *command.get("command", [])]) for command in run.environments[:-1]]
    return facts + [("earlier command", text) for text in earlier]


def _text(value: Any) -> str:
    """Return a fact of environment.json as text."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_text(one)}" for name, one in value.items())
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _changed(run: RunFiles) -> list[tuple[str, str, str]] | None:
    """Return (setting, value of the preset, value of the run) where they differ; None for an unknown preset."""
    try:
        base = to_dict(preset(run.config.preset))
    except UserError:
        return None
    lines = [line.partition(": ") for line in difference(base, to_dict(run.config))]
    return [(key, *values.split(" -> ", 1)) for key, _, values in lines if key not in PLACE]  # type: ignore[misc]


def _results(run: RunFiles) -> dict[str, Any]:
    """Return the table of summary.json: names of columns, and (stage, cells)."""
    names = metric_columns(list(run.results.values()))
    rows = [
        (stage, [metric_cell(name, [metrics.get(name)]) for name in names]) for stage, metrics in run.results.items()
    ]
    return {"names": names, "rows": rows}


def _clusters(readings: Sequence[Reading]) -> list[dict[str, Any]]:
    """Return, for each stage with clusterings, the figure, the last clustering, and how many were degenerate."""
    clusters = []
    for stage in dict.fromkeys(reading["stage"] for reading in readings):
        records = [reading for reading in readings if reading["stage"] == stage and "clusters" in reading]
        figure = curves(readings, stage, clustering=True)
        if not records or figure is None:
            continue
        faults = [
            (f"step {record['step']}", text)
            for record in records
            for name, limit, text in (
                ("outliers", NO_CLUSTER, "outliers: nothing is left to learn from"),
                ("largest", ONE_CLUSTER, "of the crops in one cluster"),
            )
            if record.get(name, 0) >= limit
        ]
        last = records[-1]
        clusters.append({"stage": stage, "count": len(records), "figure": figure, "last": last, "faults": faults})
    return clusters
