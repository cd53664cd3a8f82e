"""Retrieval, and fidelity of novel views, of a run's weights: python -m gcl_fast.evaluate runs/NAME"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from gcl_fast.config import STAGES
from gcl_fast.errors import UserError
from gcl_fast.training import precision as arithmetic
from gcl_fast.training import ranks as processes
from gcl_fast.training.assess import Assessment
from gcl_fast.training.inputs import open_inputs
from gcl_fast.training.restore import load_run, restore


def main(arguments: list[str] | None = None) -> int:
    """Print a table (per cent) or JSON (fractions) for each stage asked for. Returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m gcl_fast.evaluate", description=__doc__)
    parser.add_argument("run", type=Path, help="folder of a run, such as runs/NAME")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help="default: every stage the run has finished")
    parser.add_argument("--dataset", help="another dataset than the run's")
    parser.add_argument("--data-root", metavar="DIR", help="where it lies")
    parser.add_argument("--amp", action="store_true", help="mixed precision")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--json", action="store_true", help="one JSON object, metrics as fractions")
    given = parser.parse_args(arguments)
    try:
        config = load_run(given.run, given.dataset, given.data_root)
        ranks = processes.start(given.device)
        precision = arithmetic.choose(given.amp, ranks.device)
        assessment = Assessment(config, open_inputs(config), ranks, precision)
        results: dict[str, dict[str, float]] = {}
        for stage, gcl in restore(given.run, config, given.stages, ranks.device):
            results[stage] = assessment.retrieval(gcl)
            if stage != "warmup":
                results[stage] |= assessment.fidelity(gcl)
    except UserError as error:
        print(f"gcl_fast: {error}", file=sys.stderr)
        return 2
    if given.json:
        print(json.dumps(results, indent=2))
        return 0
    names = list(dict.fromkeys(name for metrics in results.values() for name in metrics))
    print(f"{'per cent':<12}" + "".join(f"{name:>{max(len(name), 6) + 2}}" for name in names))
    for stage, metrics in results.items():
        cells = (f"{100 * metrics[n]:.1f}" if n in metrics else "" for n in names)
        print(f"{stage:<12}" + "".join(f"{cell:>{max(len(n), 6) + 2}}" for n, cell in zip(names, cells)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
