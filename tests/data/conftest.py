"""Fixtures: crops of smooth random colours on disk, and the decoders that read them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcl_fast.data import Records, image_files, open_dataset

ENGINES = {
    "dali-cpu": ("gcl_fast.data.dali_decoder", "DaliDecoder"),
    "torchvision": ("gcl_fast.data.torchvision_decoder", "TorchvisionDecoder"),
    "torchvision-gpu": ("gcl_fast.data.nvjpeg_decoder", "NvjpegDecoder"),  # its steps on the CPU
    "pillow": ("gcl_fast.data.pillow_decoder", "PillowDecoder"),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of the only decoder that loaders find."""
    if request.param == "dali-cpu":
        pytest.importorskip("nvidia.dali")
    monkeypatch.setattr(image_files, "DECODERS", [(request.param, *ENGINES[request.param])])
    return request.param


def save_crop(path: Path, seed: int, size: tuple[int, int] = (64, 32)) -> None:
    """Save one JPEG of size (H, W) with a few large blobs of colour, which resizing and JPEG change little."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blobs = np.random.default_rng(seed).integers(0, 256, (4, 2, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize(size[::-1], Image.Resampling.BICUBIC).save(path, quality=95)


@pytest.fixture(scope="session")
def crop_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of 23 crops of different sizes."""
    folder = tmp_path_factory.mktemp("crops")
    for i in range(23):
        save_crop(folder / f"{i:03d}.jpg", seed=i, size=(60 + i, 30 + i % 5))
    return folder


@pytest.fixture
def crops(crop_folder: Path) -> Records:
    return open_dataset("folder", crop_folder).train


@pytest.fixture
def own_crops(tmp_path: Path) -> Records:
    """Return 12 crops that a test may break."""
    for i in range(12):
        save_crop(tmp_path / "own" / f"{i:03d}.jpg", seed=i)
    return open_dataset("folder", tmp_path / "own").train
