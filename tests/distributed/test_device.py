"""What is said of a GPU that cannot be used: a driver too old, a torch without CUDA, a card too old for torch."""

import dataclasses

import pytest
import torch

from gcl_fast.distributed import device, ranks
from gcl_fast.errors import UserError
from gcl_fast.run import header
from gcl_fast.settings import RunConfig


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """A machine with an NVIDIA driver of which torch can make nothing."""
    monkeypatch.setattr(device, "DRIVER", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_a_machine_without_a_driver_has_nothing_to_say(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "DRIVER", tmp_path / "none")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert device.why_no_gpu() == ""


def test_a_driver_that_is_too_old_is_named(driver, monkeypatch):
    def init() -> None:
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040). Please update it.")

    monkeypatch.setattr(torch.cuda, "init", init)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert "too old (found version 12040)): update the driver to one for CUDA 13.0" in device.why_no_gpu()
    with pytest.raises(UserError, match="0 GPUs here, but this is local rank 0; an NVIDIA driver is here"):
        ranks.start("cuda")
    auto = ranks.start("auto")
    assert auto.device.type == "cpu"
    assert "too old" in header._second_choice(RunConfig(), auto)
    assert header._second_choice(dataclasses.replace(RunConfig(), device="cpu"), auto) == ""


def test_a_torch_without_cuda_is_named(driver, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA: install a CUDA build" in device.why_no_gpu()


@pytest.mark.parametrize(("capability", "refused"), [((7, 0), True), ((7, 5), False), ((12, 0), False)])
def test_a_card_older_than_torch_s_kernels_is_refused(capability, refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: ["sm_80", "sm_75", "sm_120", "compute_120"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Tesla V100")
    if refused:
        with pytest.raises(UserError, match=r"Tesla V100 is sm_70, and torch .* has kernels from sm_75 on"):
            device.check_architecture(torch.device("cuda", 0))
    else:
        device.check_architecture(torch.device("cuda", 0))
