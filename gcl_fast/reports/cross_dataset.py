"""Tabulate mAP by the data that runs were trained on and tested on.

A run with a labelled source is measured three times: on the source's own test set, and on the target before and after
it was trained on it. A run without one is measured on its own dataset.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gcl_fast.reports.tables import ABSENT, Table, mean_text
from gcl_fast.run.run_files import RunFiles
from gcl_fast.settings import OWN_DATASETS


def cross_dataset(runs: Sequence[RunFiles], groups: Sequence[Sequence[int]]) -> Table | None:
    """Return the matrix; None where all runs were tested on one dataset.

    Args:
        runs: the runs.
        groups: positions of runs whose settings are equal but for the seed; a cell has one value for each group.
    """
    cells: dict[tuple[str, str], list[list[float]]] = {}
    for group in groups:
        by_place: dict[tuple[str, str], list[float]] = {}
        for position in group:
            for trained, tested, value in measurements(runs[position]):
                by_place.setdefault((trained, tested), []).append(value)
        for place, values in by_place.items():
            cells.setdefault(place, []).append(values)
    rows, columns = (list(dict.fromkeys(place[axis] for place in cells)) for axis in (0, 1))
    if len(columns) < 2:
        return None
    table = [
        [row, *(" / ".join(map(mean_text, cells.get((row, column), []))) or ABSENT for column in columns)]
        for row in rows
    ]
    note = "mAP in per cent. A slash separates runs with different settings, in their order."
    return Table("Trained on, tested on", [["trained on", *columns], *table], note)


def measurements(run: RunFiles) -> Iterator[tuple[str, str, float]]:
    """Yield (data trained on, data tested on, mAP) of a run."""
    config = run.config
    target = dataset_label(config.dataset, config.data_root, config.world)
    trained = f"{target} without labels" + (f", from {Path(config.init).name}" if config.init else "")
    if config.source is not None and (result := run.results.get("source")):
        source = dataset_label(config.source.dataset, config.source.root, config.source.world)
        trained = f"{source} with labels, then {trained}"
        for key, tested in (("source_test", source), ("source_only", target)):
            if "mAP" in result.get(key, {}):
                yield f"{source} with labels", tested, result[key]["mAP"]
    adapted: list[dict[str, Any]] = [metrics for stage, metrics in run.results.items() if stage != "source"]
    if adapted and "mAP" in adapted[-1]:
        yield trained, target, adapted[-1]["mAP"]


def dataset_label(name: str, root: str, world: Any) -> str:
    """Return what names a dataset: what differs from the default world, or the folder of own crops.

    Args:
        name: as --dataset takes it.
        root: its folder.
        world: the `WorldConfig` of the embedded dataset; for another one it does not count.
    """
    if name in OWN_DATASETS:
        return f"{name} {Path(root).name}"
    if name != "synthetic":
        return name
    default = asdict(type(world)())
    changed = [f"{key} {value}" for key, value in asdict(world).items() if value != default[key]]
    return f"synthetic ({', '.join(changed)})" if changed else "synthetic"
