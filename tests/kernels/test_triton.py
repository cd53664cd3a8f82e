"""What all launchers of Triton kernels share."""

import importlib
import pkgutil

import pytest
import torch

from gcl_fast import kernels
from gcl_fast.kernels._triton import on_its_device


class Guarded(Exception):
    """Raised in place of a change of the device."""


def refuse(tensor: torch.Tensor) -> None:
    raise Guarded(tensor.shape)


def launchers() -> dict:
    names = {module.name for module in pkgutil.iter_modules(kernels.__path__)} - {"aot"}
    modules = [importlib.import_module(f"{kernels.__name__}.{name}") for name in names]
    everything = {name: value for module in modules for name, value in vars(module).items()}
    return {
        name: value for name, value in everything.items() if name.endswith(("_triton", "_fused")) and callable(value)
    }


def test_every_launcher_goes_to_the_device_of_its_tensors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_of", refuse)
    assert len(launchers()) == 14
    for launch in launchers().values():
        with pytest.raises(Guarded, match="3"):
            launch(torch.zeros(3))


def test_tensors_on_the_cpu_need_no_gpu():
    assert on_its_device(torch.add)(torch.ones(2), 1, alpha=2).tolist() == [3, 3]
