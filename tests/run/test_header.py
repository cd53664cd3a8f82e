"""The run's header names second choices, and the source where there is one."""

from types import SimpleNamespace

import numpy as np
import torch

from gcl_fast.kernels import rasterize
from gcl_fast.run import header


class Crops(list):
    """Training records as the header reads them: their number, and the identity of each."""

    @property
    def identity(self) -> np.ndarray:
        return np.array(self)


def test_a_rasterizer_without_cuda_kernels_is_named(monkeypatch):
    monkeypatch.setenv("NO_CUDA", "1")
    monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", False)
    assert header._rasterizer(torch.device("cpu")) == {}
    said = header._rasterizer(torch.device("cuda"))["rasterizer"]
    assert said == "on the CPU, between two copies; the C++ ops were built for CPU only"
    monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", True)
    assert header._rasterizer(torch.device("cuda")) == {}


def test_the_source_is_named():
    assert header._source(SimpleNamespace(source=None)) == {}
    train = Crops([4, 4, 7])
    facts = {"name": "msmt17", "root": "DIR", "train": train, "notes": ("one image left out",)}
    line = "msmt17 in DIR: 3 train, 2 identities; one image left out"
    source = SimpleNamespace(**facts, can_be_ranked=True)
    assert header._source(SimpleNamespace(source=source)) == {"source": line}
    source = SimpleNamespace(**facts, can_be_ranked=False, why_unranked="has no query")
    line += "; its test set is not evaluated: it has no query"
    assert header._source(SimpleNamespace(source=source)) == {"source": line}
