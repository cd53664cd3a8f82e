"""Write the folders of runs that nobody trained."""

import json
from pathlib import Path

import torch
import yaml

from gcl_fast.models import GCL
from gcl_fast.run.weights import save_weights
from gcl_fast.settings import override, preset, to_dict

SIZE = ["height=64", "width=40", "world.identities=6", "world.cameras=3", "world.crops=2"]
METRICS = {"mAP": 0.5, "rank1": 0.75, "seconds": 12.0, "steps": 30}


def write_run(path: Path, *settings: str, results: dict | None = None, weights: tuple[str, ...] = ()) -> Path:
    """Write what a run leaves: settings, summary, readings, and random weights of some stages."""
    config = override(preset("demo"), [*SIZE, *settings])
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (path / "summary.json").write_text(json.dumps({"stages": results or {}}))
    readings = [
        {"stage": "warmup", "step": step, "time": 0.0, "clusters": 5.0 + step, "outliers": 0.99, "loss": 2.0 - step / 9}
        for step in range(3)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(reading) + "\n" for reading in readings) + '{"stage": "wa')
    if weights:
        torch.manual_seed(0)
        state = GCL(config.model).state_dict()
        for stage in weights:
            save_weights(path / "checkpoints" / f"{stage}.safetensors", state)
    return path
