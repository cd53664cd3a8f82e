"""A small gallery on disk: images of one colour, and a model that embeds an image by its mean colour."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.data import Records
from gcl_fast.gallery import write_index
from gcl_fast.gallery.index import Maker

COLOURS = {
    "0001_c1s1_000001_00.jpg": (200, 30, 30),
    "0001_c2s1_000002_00.jpg": (190, 60, 40),
    "0002_c1s1_000003_00.jpg": (20, 200, 30),
    "0002_c3s1_000004_00.jpg": (40, 180, 60),
    "0003_c2s1_000005_00.jpg": (20, 40, 220),
}


class ColourModel:
    """Stands in for a trained model: the row of an image is its mean colour."""

    digest, size, dim = "0123456789abcdef", (128, 64), 3

    def embed(self, images, **_):
        rows = []
        for item in images:
            try:
                pixels = Image.open(item).convert("RGB") if isinstance(item, Path) else item
                rows.append(np.asarray(pixels, np.float32).mean((0, 1)))
            except OSError:
                rows.append(np.full(3, np.nan, np.float32))
        return torch.nn.functional.normalize(torch.from_numpy(np.stack(rows)), dim=1)


@pytest.fixture
def model():
    return ColourModel()


@pytest.fixture
def crops(tmp_path) -> Records:
    """Five crops of three people and three cameras; the folder has a crop that does not decode as well."""
    root = tmp_path / "crops"
    root.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (64, 128), colour).save(root / name)
    (root / "0003_c3s1_000006_00.jpg").write_bytes(b"no image")
    paths = sorted(root.iterdir())
    camera = [int(path.name[6]) for path in paths]
    return Records(root, paths, np.full(6, -1), np.array(camera), np.zeros(6))


@pytest.fixture
def folder(crops, model, tmp_path) -> Path:
    """The index of `crops`."""
    rows = model.embed(crops.paths).numpy()
    write_index(tmp_path / "index", [rows[:4], rows[4:]], crops, Maker(model.digest, model.size, "runs/NAME"))
    return tmp_path / "index"
