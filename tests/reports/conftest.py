"""A run on a tiny world whose crops have hostile names."""

import shutil
from pathlib import Path

import pytest
from pages import HOSTILE
from PIL import Image
from written_runs import METRICS, write_run


@pytest.fixture(autouse=True)
def _no_restart(monkeypatch):
    monkeypatch.setenv("GCL_FAST_ALLOCATOR", "decided")


@pytest.fixture(scope="session")
def hostile_run(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose dataset has a query, and its match, with HTML in their names."""
    folder = tmp_path_factory.mktemp("hostile")
    data = Path(shutil.copytree(world, folder / "data"))
    for split, number in (("query", 1), ("bounding_box_test", 2)):
        Image.new("RGB", (64, 128), "purple").save(data / split / f"0099_c{number}s1_000001_01{HOSTILE}.jpg")
    return write_run(folder / "hostile", f"data_root={data}", results={"warmup": METRICS}, weights=("warmup",))
