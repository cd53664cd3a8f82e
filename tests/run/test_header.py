"""The run's header names second choices."""

import torch

from gcl_fast.kernels import rasterize
from gcl_fast.run import header


def test_a_rasterizer_without_cuda_kernels_is_named(monkeypatch):
    monkeypatch.setenv("NO_CUDA", "1")
    monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", False)
    assert header._rasterizer(torch.device("cpu")) == {}
    said = header._rasterizer(torch.device("cuda"))["rasterizer"]
    assert said == "on the CPU, between two copies; the C++ ops were built for CPU only"
    monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", True)
    assert header._rasterizer(torch.device("cuda")) == {}
