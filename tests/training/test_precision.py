"""Arithmetic: float16 with scaled losses, and which GPU gets which; lazy R1 in the step."""

import pytest
import torch
from torch import nn

from gcl_fast.config import override, preset
from gcl_fast.models import GCL
from gcl_fast.training.generative import Generative
from gcl_fast.training.inputs import open_inputs
from gcl_fast.training.precision import Precision, choose
from gcl_fast.training.ranks import Ranks
from gcl_fast.training.update import GROWTH_STEPS, descend, scale_losses

ALONE = Ranks(0, 1, torch.device("cpu"))


def weight_and_optimizer() -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    scale_losses(optimizer, ALONE.device)
    return weight, optimizer


def test_scaled_loss_takes_the_same_step_with_gradients_below_float16():
    weight, optimizer = weight_and_optimizer()
    tiny = (weight.half() * 1e-4).half()  # its own gradient, 1e-4 * 1e-5, is no float16
    descend(tiny.float().sum() * 1e-5, ALONE, optimizer)
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0, -2.0]) - 1e-9, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight.grad, torch.full((2,), 1e-9), rtol=1e-2, atol=0)


def test_scale_halves_when_a_step_is_skipped_and_grows_after_many():
    weight, optimizer = weight_and_optimizer()
    group = optimizer.param_groups[0]
    before = weight.detach().clone()
    skipped = descend((weight.half() * 40.0).float().sum(), ALONE, optimizer)  # 40 * 65536 is no float16
    assert skipped == 1
    assert torch.equal(weight, before)
    assert group["loss_scale"] == 32768
    group["good_steps"].fill_(GROWTH_STEPS - 1)
    assert descend(weight.sum(), ALONE, optimizer) == 0
    assert (group["loss_scale"], group["good_steps"]) == (65536, 0)


def test_scale_is_saved_with_the_optimizer():
    optimizer, other = weight_and_optimizer()[1], weight_and_optimizer()[1]
    optimizer.param_groups[0]["loss_scale"].fill_(512)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["loss_scale"] == 512


@pytest.mark.parametrize(
    ("capability", "dtype", "word"),
    [((6, 1), None, "sm_61"), ((7, 5), torch.float16, "scaled"), ((8, 0), torch.bfloat16, "bf16")],
)
def test_gpu_generations(monkeypatch, capability, dtype, word):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose(True, torch.device("cuda"))
    assert chosen.dtype == dtype
    assert word in chosen.why


def generative(world, precision: Precision, *settings: str) -> Generative:
    tiny = ["world.identities=6", "world.cameras=3", "world.crops=2", f"data_root={world}", "generative.batch=2"]
    tiny += ["height=48", "width=40", "generative.reconstruction_epochs=0"]
    config = override(preset("demo"), [*tiny, *settings])
    inputs = open_inputs(config)
    torch.manual_seed(0)
    return Generative(config, GCL(config.model), inputs, ALONE, precision)


def test_float16_scales_the_losses_of_every_update(world):
    for dtype, scaled in ((torch.float16, True), (torch.bfloat16, False)):
        states = generative(world, Precision("cpu", dtype, "")).state_dict()
        assert all(("loss_scale" in state["param_groups"][0]) == scaled for state in states.values())


def test_lazy_r1_penalizes_every_nth_step(world):
    stage = generative(world, Precision("cpu", None, ""), "generative.r1_every=2")
    images, index = next(iter(stage.loader.epoch(stage.plan(0), 0)))
    assert ["r1" in stage.step(images, index, 0, position) for position in range(3)] == [True, False, True]
