"""A step of every stage on a GPU: it trains, in every arithmetic, waits for nothing, and goes on on any device."""

from functools import partialmethod

import pytest
import torch
from torch import nn

from gcl_fast.run.checkpoint import load_state, save_state

on_gpu = pytest.mark.gpu
KINDS = ["cluster", "cluster, hardest", "cluster, cameras", "mmcl", "jvtc", "source", "reconstruction", "generative",
         "joint"]  # fmt: skip
ARITHMETIC = [
    ("cpu", "fp32"),
    *(pytest.param("cuda", name, marks=on_gpu) for name in ("fp32", "bf16", "fp16")),
]
DEVICES = [
    ("cpu", "cpu"),
    *(pytest.param(*pair, marks=on_gpu) for pair in (("cuda", "cuda"), ("cuda", "cpu"), ("cpu", "cuda"))),
]


def skipped(measured: dict[str, torch.Tensor]) -> bool:
    return any(bool(value) for name, value in measured.items() if name.startswith("skipped"))


def trained(kind: str, gcl: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Copies of the weights that a stage of `kind` trains."""
    networks = {"joint": gcl, "generative": gcl.generator, "reconstruction": gcl.generator}
    return {name: p.detach().clone() for name, p in networks.get(kind, gcl.identity).named_parameters() if p.dim() > 1}


@pytest.mark.parametrize(("device", "arithmetic"), ARITHMETIC)
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_trains_and_waits_for_nothing(opened, refusing_waits, kind, device, arithmetic):
    it = opened(kind, device, arithmetic)
    before = trained(kind, it.gcl)
    for _ in range(20):  # kernels are compiled; a loss scale falls until float16 holds the gradients of both batches
        if not (skipped(it.step(0)) or skipped(it.step(1))):
            break
    with refusing_waits(device):
        measured = it.step(1)
    assert not skipped(measured)
    assert all(value.device.type == device and bool(value.isfinite()) for value in measured.values()), measured
    after = trained(kind, it.gcl)
    assert all(not torch.equal(after[name], weight) for name, weight in before.items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["cluster", "generative", "joint"])
def test_a_compiled_step_is_the_eager_one(opened, exact_float32, monkeypatch, kind, device):
    if device == "cpu":  # as far as AOT autograd: g++ would take minutes, and has its own tests
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend="aot_eager"))
    torch.compiler.reset()
    eager, compiled = (opened(kind, device, name).step(0) for name in ("fp32", "fp32, compiled"))
    assert {name: value.item() for name, value in compiled.items()} == pytest.approx(
        {name: value.item() for name, value in eager.items()}, rel=1e-2, abs=1e-4
    )


@pytest.mark.parametrize(("first", "second"), DEVICES)
@pytest.mark.parametrize("kind", ["cluster, hardest", "mmcl", "jvtc", "source", "generative", "joint"])
def test_a_checkpoint_goes_on_on_another_device(opened, exact_float32, tmp_path, kind, first, second):
    it = opened(kind, first)
    it.step(0)
    save_state(tmp_path, 1, {"gcl": it.gcl.state_dict(), "stage": it.stage.state_dict()})
    expected = it.step(1)
    state = load_state(tmp_path)
    again = opened(kind, second, begin=False)
    again.gcl.load_state_dict(state["gcl"])
    again.stage.load_state_dict(state["stage"])
    again.batches = it.batches  # decoders of devices differ by a level
    measured = again.step(1, device=second)
    allowed = 1e-5 if first == second else 1e-2
    assert {name: value.item() for name, value in measured.items()} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=allowed, abs=1e-4
    )
    for optimizer in optimizers_of(again.stage):
        for parameter, held in optimizer.state.items():
            for name, value in held.items():
                assert value.device.type == second, name
                if value.shape == parameter.shape:  # fused optimizers pair them with the weight by position in memory
                    assert value.stride() == parameter.stride(), name


def optimizers_of(stage) -> list[torch.optim.Optimizer]:
    """All optimizers of a stage, whatever it calls them."""
    holders = [stage, getattr(stage, "gcl_step", stage)]
    listed = [o for holder in holders for o in getattr(holder, "optimizers", [])]
    alone = [stage.optimizer] if hasattr(stage, "optimizer") else []
    assert listed or alone
    return [*listed, *alone]
