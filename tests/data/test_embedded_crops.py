"""Every decoder makes the same crops of the embedded dataset."""

import importlib
import importlib.util

import numpy as np
import pytest
import torch

from gcl_fast.data import open_dataset

DALI = ("dali_decoder", "DaliDecoder")
OTHERS = [
    ("torchvision_decoder", "TorchvisionDecoder"),
    ("nvjpeg_decoder", "NvjpegDecoder"),
    ("pillow_decoder", "PillowDecoder"),
]
SIZE = (256, 128)


def crops(world, module: str, source: str, device: str = "cpu") -> torch.Tensor:
    paths = open_dataset("synthetic", world).train.paths
    opened = getattr(importlib.import_module(f"gcl_fast.data.{module}"), source)(paths, SIZE, torch.device(device), 2)
    return torch.cat([batch.cpu() for batch in opened.batches(np.array_split(np.arange(len(paths)), 3))])


def has_dali() -> bool:
    return importlib.util.find_spec("nvidia") is not None and importlib.util.find_spec("nvidia.dali") is not None


@pytest.fixture(scope="module")
def truth(world) -> torch.Tensor:
    """By DALI on the CPU; by Pillow where there is no DALI."""
    return crops(world, *(DALI if has_dali() else OTHERS[-1]))


@pytest.mark.parametrize(("module", "source"), OTHERS)
def test_decoders_agree(world, truth, module, source):
    assert (crops(world, module, source).int() - truth.int()).abs().max() <= 1
    assert len(truth) > 30


@pytest.mark.gpu
@pytest.mark.parametrize(("module", "source"), [DALI, OTHERS[1]])
def test_a_gpu_s_decoders_agree(world, truth, module, source):
    if module == "dali_decoder":
        pytest.importorskip("nvidia.dali")
    apart = 1 if module == "nvjpeg_decoder" else 3  # DALI decodes all of it on the GPU, by another inverse transform
    assert (crops(world, module, source, "cuda").int() - truth.int()).abs().max() <= apart
