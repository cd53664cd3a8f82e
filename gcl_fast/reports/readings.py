"""Read what a run measured while it trained: the lines of metrics.jsonl."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcl_fast.errors import UserError
from gcl_fast.evaluation.figures import read_metrics
from gcl_fast.run.run_files import first_line
from gcl_fast.settings import ALL_STAGES


def read_readings(run: Path) -> list[dict[str, Any]]:
    """Return the readings of a run's stages, {"stage", "step", "time", name: value, ...} each, in order.

    Args:
        run: the folder of the run; without metrics.jsonl, as in a shared folder, it has no readings.

    Raises:
        UserError: the file cannot be read.
    """
    path = run / "metrics.jsonl"
    if not path.is_file():
        return []
    try:
        records = read_metrics(path)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read ({first_line(error)}); restore it from a copy") from error
    return [record for record in records if record["stage"] in ALL_STAGES]
