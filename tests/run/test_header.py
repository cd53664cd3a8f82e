"""The run's header names second choices, and the source where there is one."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from gcl_fast.data import Records
from gcl_fast.kernels import rasterize
from gcl_fast.run import header
from gcl_fast.settings import override, preset, warmup_preset


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


def test_tracklets_are_counted_and_stages_without_them_named():
    def line(tracklets, *settings):
        crops = [Path(f"{n}.jpg") for n in range(2000)]
        train = Records(Path("DIR"), crops, *np.zeros((3, 2000), int), np.resize(tracklets, 2000))
        return header._tracklets(override(preset("demo"), list(settings)), train)

    assert line([-1]) == {}
    assert line(np.arange(250)) == {"tracklets": "2,000 crops in 250 tracklets"}
    some = np.where(np.arange(2000) < 500, -1, np.arange(2000) // 100)
    assert line(some) == {"tracklets": "2,000 crops in 15 tracklets, 500 of them in none"}
    off = line([3], "warmup.clustering.tracklets=false", "joint.clusters.clustering.tracklets=false")
    assert off == {"tracklets": "2,000 crops in 1 tracklets; not used by warmup and joint"}
    jvtc = replace(preset("demo"), warmup=warmup_preset("demo", "jvtc"), stages=("warmup",))
    train = Records(Path("DIR"), [Path("a.jpg")], *np.zeros((4, 1), int))
    assert header._tracklets(jvtc, train) == {"tracklets": "1 crops in 1 tracklets; not used by warmup"}
    assert header._clustered_rows(preset("demo"), train) == 1
