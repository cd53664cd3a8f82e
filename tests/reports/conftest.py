"""Runs on a tiny world whose weights are random, one of them with crops of hostile names."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from gcl_fast.models import GCL
from gcl_fast.run.checkpoint import save_weights
from gcl_fast.settings import override, preset, to_dict

SIZE = ["height=64", "width=40", "world.identities=6", "world.cameras=3", "world.crops=2"]
HOSTILE = "<img src=x onerror=\"document.title='broken out'\">"
METRICS = {"mAP": 0.5, "rank1": 0.75, "seconds": 12.0, "steps": 30}


@pytest.fixture(autouse=True)
def _no_restart(monkeypatch):
    monkeypatch.setenv("GCL_FAST_ALLOCATOR", "decided")


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


@pytest.fixture(scope="session")
def hostile_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose dataset has a query, and its match, with HTML in their names."""
    folder = tmp_path_factory.mktemp("hostile")
    data = Path(shutil.copytree(world, folder / "data"))
    for split, number in (("query", 1), ("bounding_box_test", 2)):
        Image.new("RGB", (64, 128), "purple").save(data / split / f"0099_c{number}s1_000001_01{HOSTILE}.jpg")
    return write_run(folder / "hostile", f"data_root={data}", results={"warmup": METRICS}, weights=("warmup",))
