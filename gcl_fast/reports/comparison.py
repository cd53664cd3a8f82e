"""Compare runs by what their folders hold: metrics, settings that differ, intervals over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gcl_fast.errors import UserError
from gcl_fast.reports.cross_dataset import cross_dataset
from gcl_fast.reports.tables import ABSENT, Table, metric_cell, metric_columns
from gcl_fast.run.run_files import GO_ON, PLACE, RunFiles
from gcl_fast.settings import ALL_STAGES, difference, to_dict

OCCASION = ("started", "command", "folder")  # facts of environment.json that differ between any two runs


def compare(runs: Sequence[RunFiles], stages: Sequence[str] | None = None) -> list[Table]:
    """Return the tables of a comparison.

    Args:
        runs: two or more.
        stages: the stages to compare, which every run must have finished; None for all of each run.

    Raises:
        UserError: fewer than two runs, a run twice, an unknown stage, or a run that has not finished its stages.
    """
    if len(runs) < 2:
        raise UserError(f"{runs[0].path} alone is no comparison; name two runs or more")
    paths = [run.path.resolve() for run in runs]
    if twice := [str(run.path) for run, path in zip(runs, paths) if paths.count(path) > 1]:
        raise UserError(f"{' and '.join(twice)} are the same run; name each run once")
    if unknown := [stage for stage in stages or () if stage not in ALL_STAGES]:
        raise UserError(f"--stages {unknown[0]}: there is no such stage; there are {', '.join(ALL_STAGES)}")
    for run in runs:
        _refuse_unfinished(run, stages)
    names = labels(runs)
    results = [
        {stage: metrics for stage, metrics in run.results.items() if stages is None or stage in stages} for run in runs
    ]
    groups = seed_groups(runs)
    tables = [
        _metrics(names, results),
        _differing("Settings that differ", names, [to_dict(run.config) for run in runs], PLACE),
        _differing("Environments that differ", names, [run.environment for run in runs], OCCASION),
        _over_seeds(names, runs, results, groups),
        cross_dataset(runs, groups),
    ]
    return [table for table in tables if table is not None]


def labels(runs: Sequence[RunFiles]) -> list[str]:
    """Return a label of each run: the name of its folder, or its path where two have the same name."""
    names = [run.name for run in runs]
    return [str(run.path) if names.count(run.name) > 1 else run.name for run in runs]


def seed_groups(runs: Sequence[RunFiles]) -> list[list[int]]:
    """Return the runs, as positions in `runs`, in groups whose settings are equal but for seed and name."""
    groups: dict[str, list[int]] = {}
    for position, run in enumerate(runs):
        settings = {key: value for key, value in to_dict(run.config).items() if key not in ("seed", *PLACE)}
        groups.setdefault(repr(settings), []).append(position)
    return list(groups.values())


def _refuse_unfinished(run: RunFiles, stages: Sequence[str] | None) -> None:
    """Raise a UserError where a run has not finished the stages that are compared."""
    if not run.results:
        raise UserError(f"{run.path} has finished no stage yet; {GO_ON}")
    missing = [stage for stage in (run.config.stages if stages is None else stages) if stage not in run.results]
    if missing:
        finished = " ".join(run.results)
        raise UserError(
            f"{run.path} has not finished {', '.join(missing)}; {GO_ON}, or compare what it has by --stages {finished}"
        )


def _metrics(names: Sequence[str], results: Sequence[dict[str, dict[str, Any]]]) -> Table:
    """Return a line for each stage and run; the runs of a stage stand together."""
    columns = metric_columns([metrics for stages in results for metrics in stages.values()])
    rows = [
        [stage, name, *(metric_cell(column, [stages[stage].get(column)]) for column in columns)]
        for stage in ALL_STAGES
        for name, stages in zip(names, results)
        if stage in stages
    ]
    return Table("Metrics", [["stage", "run", *columns], *rows], "Metrics are in per cent.")


def _differing(
    title: str, names: Sequence[str], facts: Sequence[dict[str, Any]], ignored: Sequence[str]
) -> Table | None:
    """Return a line for each fact that differs between runs; None where none does.

    Args:
        title: of the table.
        names: labels of the runs.
        facts: nested dictionaries, one for each run.
        ignored: keys that do not count.
    """
    keys = {line.partition(": ")[0] for other in facts[1:] for line in difference(facts[0], other)}
    keys -= set(ignored)
    rows = [[key, *(_value(one, key) for one in facts)] for key in sorted(keys)]
    return Table(title, [["name", *names], *rows]) if rows else None


def _over_seeds(
    names: Sequence[str],
    runs: Sequence[RunFiles],
    results: Sequence[dict[str, dict[str, Any]]],
    groups: Sequence[Sequence[int]],
) -> Table | None:
    """Return mean and 95 % interval for each stage of each group; None where no group has several seeds."""
    columns = metric_columns([metrics for stages in results for metrics in stages.values()])
    rows, repeated = [], []
    for group in groups:
        seeds = [runs[position].config.seed for position in group]
        if len(group) < 2:
            continue
        if len(set(seeds)) < len(seeds):  # repetitions of a seed are no samples of their own
            repeated.append(" and ".join(names[position] for position in group))
            continue
        for stage in ALL_STAGES:
            measured = [results[position][stage] for position in group if stage in results[position]]
            if measured:
                label = f"{names[group[0]]} and {len(group) - 1} more"
                cells = [metric_cell(column, [metrics.get(column) for metrics in measured]) for column in columns]
                rows.append([stage, label, ", ".join(map(str, sorted(seeds))), *cells])
    note = "Means with half the width of the 95 % confidence interval (Student's t)."
    if repeated:
        note += f" Left out, as a seed occurs twice with the same settings: {'; '.join(repeated)}."
    if not rows:
        return Table("Over seeds", [["runs"], *([line] for line in repeated)], note) if repeated else None
    return Table("Over seeds", [["stage", "runs", "seeds", *columns], *rows], note)


def _value(facts: dict[str, Any], key: str) -> str:
    """Return a fact by its dotted key; ABSENT where the run does not have it."""
    value: Any = facts
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return ABSENT
        value = value[name]
    if isinstance(value, dict):  # a whole section, which another run lacks
        return f"{len(value)} settings"
    return "null" if value is None else str(value)
