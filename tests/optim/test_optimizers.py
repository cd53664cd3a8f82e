"""Whose optimizers a run takes: PyTorch's, NVIDIA apex's, and never those of the other project called apex."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.optim.optimizers import adam, describe, nesterov
from gcl_fast.optim.schedule import set_learning_rate
from gcl_fast.optim.update import descend

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
# Signatures and limits of NVIDIA apex: keyword names of its constructors, zero_grad() and step() without arguments, no
# found_inf; without its CUDA extensions the constructors raise RuntimeError.
NVIDIA = """
import torch

class _Fused(torch.optim.Optimizer):
    def __init__(self, params, **settings):
        super().__init__(params, settings)
    def zero_grad(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                p.data.sub_(p.grad, alpha=group["lr"])

class FusedAdam(_Fused):
    def __init__(self, params, lr=1e-3, bias_correction=True, betas=(0.9, 0.999), eps=1e-8, adam_w_mode=True,
                 weight_decay=0.0, amsgrad=False, set_grad_none=True):
        super().__init__(params, lr=lr, betas=betas, weight_decay=weight_decay, decoupled=adam_w_mode)

class FusedSGD(_Fused):
    def __init__(self, params, lr, momentum=0, dampening=0, weight_decay=0, nesterov=False):
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=nesterov)
"""
UNBUILT = """
class FusedAdam:
    def __init__(self, params, **settings):
        raise RuntimeError("apex.optimizers.FusedAdam requires cuda extensions")
"""
PYPI = "raise SystemExit('a toolkit for web pages was run')"


@pytest.fixture
def apex(tmp_path, monkeypatch):
    """Install a package `apex` with these files: its __init__ and, where given, apex.optimizers."""

    def install(init: str, optimizers: str | None = None) -> Path:
        package = tmp_path / "apex"
        package.mkdir()
        (package / "__init__.py").write_text(init)
        if optimizers is not None:
            (package / "optimizers").mkdir()
            (package / "optimizers" / "__init__.py").write_text(optimizers)
        monkeypatch.syspath_prepend(tmp_path)
        return package

    yield install
    for name in [name for name in sys.modules if name.partition(".")[0] == "apex"]:
        del sys.modules[name]


def test_nvidia_apex_serves_where_it_is_asked_for(apex):
    package = apex("", NVIDIA)
    assert str(package / "optimizers") in describe("apex", CUDA)
    weight = nn.Parameter(torch.ones(2))
    made = adam([weight], 0.5, betas=(0.0, 0.999), weight_decay=5e-4, backend="apex")
    assert type(made).__module__ == "apex.optimizers"
    assert made.defaults == {"lr": 0.5, "betas": (0.0, 0.999), "weight_decay": 5e-4, "decoupled": False}
    assert adam([weight], 0.5, decoupled=True, backend="apex").defaults["decoupled"]
    sgd = nesterov([weight], 0.5, momentum=0.8, weight_decay=1e-4, backend="apex")
    assert sgd.defaults == {"lr": 0.5, "momentum": 0.8, "weight_decay": 1e-4, "nesterov": True}
    alone = Ranks(0, 1, CPU)
    assert descend((weight * torch.nan).sum(), alone, made) == 1  # apex has no word for skipping: step is not called
    assert weight.tolist() == [1.0, 1.0]
    assert descend(weight.sum(), alone, made) == 0
    assert weight.tolist() == [0.5, 0.5]


def test_the_other_project_of_that_name_is_refused_unseen(apex):
    package = apex(PYPI)
    for ask in (lambda: describe("apex", CUDA), lambda: adam([nn.Parameter(torch.ones(1))], 0.1, backend="apex")):
        with pytest.raises(UserError, match=r"is not NVIDIA's .* pip uninstall apex, then build") as raised:
            ask()
        assert str(package) in str(raised.value)
    assert "apex" not in sys.modules


def test_apex_without_its_extensions_or_without_cuda(apex):
    apex("", UNBUILT)
    with pytest.raises(UserError, match="requires cuda extensions; build"):
        adam([nn.Parameter(torch.ones(1))], 0.1, backend="apex")
    with pytest.raises(UserError, match="need CUDA, this run is on cpu"):
        describe("apex", CPU)


@pytest.mark.skipif("apex" in sys.modules, reason="there is an apex here")
def test_no_apex_at_all(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="the package apex is not installed; build "):
        describe("apex", CUDA)


@pytest.mark.parametrize("decoupled", [False, True])
def test_torch_is_the_default_and_fused(decoupled):
    assert describe("torch", CPU) == "fused, of PyTorch"
    made = adam([nn.Parameter(torch.ones(1))], 0.1, decoupled=decoupled)
    assert type(made) is (torch.optim.AdamW if decoupled else torch.optim.Adam)
    assert made.defaults["fused"]


def test_sgd_with_momentum_made_before_the_first_step_is_that_of_torch():
    weights = [nn.Parameter(torch.linspace(-1, 1, 5)) for _ in range(2)]
    ours = nesterov([weights[0]], 0.1, weight_decay=0.01)
    plain = torch.optim.SGD([weights[1]], 0.1, 0.9, nesterov=True, weight_decay=0.01)
    for _ in range(4):
        for weight, optimizer in zip(weights, (ours, plain)):
            optimizer.zero_grad()
            weight.pow(4).sum().backward()
            optimizer.step()
    torch.testing.assert_close(*weights)


KINDS = {"adam": adam, "adamw": partial(adam, decoupled=True), "sgd": nesterov}


def tensors(state: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(state) if isinstance(leaf, torch.Tensor)]


def trained(weight: nn.Parameter, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        batch = torch.randn(weight.shape, generator=torch.Generator().manual_seed(step))
        (weight * batch).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_state_takes_the_memory_order_of_its_weight(saved, make):
    """torch pairs the two by their places in memory, unchecked on a CPU."""

    def begin() -> tuple[nn.Parameter, torch.optim.Optimizer]:
        values = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0))
        weight = nn.Parameter(values.to(memory_format=torch.channels_last))
        return weight, make([weight], 0.1, weight_decay=0.01)

    (weight, optimizer), (again, resumed) = begin(), begin()
    trained(weight, optimizer, range(2))
    contiguous = lambda held: held.contiguous() if isinstance(held, torch.Tensor) else held
    state = tree_map(contiguous, optimizer.state_dict())
    assert any(held.dim() and held.stride() != weight.stride() for held in tensors(state))
    with torch.no_grad():
        again.copy_(weight)
    resumed.load_state_dict(saved(state))
    trained(weight, optimizer, range(2, 5))
    trained(again, resumed, range(2, 5))
    assert torch.equal(weight, again)
    for ours, theirs in zip(tensors(resumed.state_dict()), tensors(optimizer.state_dict()), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


@pytest.mark.parametrize("make", KINDS.values(), ids=KINDS)
def test_a_learning_rate_is_a_number_in_a_file_and_beside_weights_on_a_cpu(saved, make):
    weight = nn.Parameter(torch.ones(2))
    optimizer, other = make([weight], 0.1), make([weight], 0.2)
    (group,) = optimizer.param_groups
    group["lr"] = rate = torch.tensor(0.1)  # as on a GPU
    set_learning_rate(optimizer, 0.25)
    assert group["lr"] is rate
    state = saved(optimizer.state_dict())
    assert state["param_groups"][0]["lr"] == rate == 0.25
    assert type(state["param_groups"][0]["lr"]) is float
    state["param_groups"][0]["lr"] = torch.tensor(0.25)  # whoever wrote it
    other.load_state_dict(state)
    assert type(other.param_groups[0]["lr"]) is float
    set_learning_rate(other, 0.5)
    assert other.param_groups[0]["lr"] == 0.5
