"""Arithmetic: float16 with scaled losses, and which GPU gets which; lazy R1 in the step."""

import pytest
import torch
from torch import nn

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import COMPILING, Precision, choose, planned_steps
from gcl_fast.optim.update import GROWTH_STEPS, descend, scale_losses
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint

ALONE = Ranks(0, 1, torch.device("cpu"))


def weight_and_optimizer(device: str = "cpu") -> tuple[nn.Parameter, torch.optim.Optimizer]:
    weight = nn.Parameter(torch.tensor([1.0, -2.0], device=device))
    optimizer = torch.optim.SGD([weight], lr=1.0, fused=True)
    scale_losses(optimizer, weight.device)
    return weight, optimizer


def test_scaled_loss_takes_the_same_step_with_gradients_below_float16(device):
    weight, optimizer = weight_and_optimizer(device)
    tiny = (weight.half() * 1e-4).half()  # its own gradient, 1e-4 * 1e-5, is no float16
    descend(tiny.float().sum() * 1e-5, ALONE, optimizer)
    torch.testing.assert_close(weight.detach().cpu(), torch.tensor([1.0, -2.0]) - 1e-9, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight.grad.cpu(), torch.full((2,), 1e-9), rtol=1e-2, atol=0)


def test_scale_halves_when_a_step_is_skipped_and_grows_after_many(device):
    weight, optimizer = weight_and_optimizer(device)
    group = optimizer.param_groups[0]
    before = weight.detach().clone()
    skipped = descend((weight.half() * 40.0).float().sum(), ALONE, optimizer)  # 40 * 65536 is no float16
    assert skipped == 1
    assert torch.equal(weight, before)
    assert group["loss_scale"] == 32768
    group["good_steps"].fill_(GROWTH_STEPS - 1)
    assert descend(weight.sum(), ALONE, optimizer) == 0
    assert (group["loss_scale"], group["good_steps"]) == (65536, 0)


def test_scale_is_saved_with_the_optimizer(device):
    optimizer, other = weight_and_optimizer(device)[1], weight_and_optimizer(device)[1]
    optimizer.param_groups[0]["loss_scale"].fill_(512)
    other.load_state_dict(optimizer.state_dict())
    assert other.param_groups[0]["loss_scale"] == 512
    weight = nn.Parameter(torch.zeros(2, device=device))
    plain = torch.optim.SGD([weight], lr=1.0, fused=True)  # of a device that needs no scale
    other.load_state_dict(plain.state_dict())
    assert (other.param_groups[0]["loss_scale"], other.param_groups[0]["good_steps"]) == (65536, 0)


@pytest.mark.parametrize(
    ("capability", "dtype", "word"),
    [((6, 1), None, "sm_61"), ((7, 5), torch.float16, "scaled"), ((8, 0), torch.bfloat16, "bf16")],
)
def test_gpu_generations(monkeypatch, capability, dtype, word):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    chosen = choose(True, torch.device("cuda"))
    assert chosen.dtype == dtype
    assert word in chosen.why


def test_a_run_in_float32_states_what_tf32_rounds(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert "convolutions in TF32, matrix products in full float32" in choose(False, torch.device("cuda")).why
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert "convolutions in full float32" in choose(False, torch.device("cuda")).why
    assert "TF32" not in choose(False, ALONE.device).why
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose(False, torch.device("cuda")).why == "fp32 (--amp for mixed precision)"


def test_compiling_is_decided_by_the_planned_steps(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    cost, saved, _ = COMPILING["cuda"]
    many = round(cost / saved) + 1
    for steps, word in ((many - 2, "off"), (many, "on")):
        chosen = choose(False, torch.device("cuda"), "auto", steps)
        assert chosen.compiled == (word == "on")
        assert chosen.why_compiled.startswith(f"{word}: ")
        assert f"{steps:,}" in chosen.why_compiled
    assert not choose(False, ALONE.device, "auto", 10**9).compiled  # no step is saved anything
    assert choose(False, ALONE.device, "on").compiled
    assert not choose(False, torch.device("cuda"), "off", many).compiled


def test_planned_steps_are_those_of_the_generator_and_discriminator():
    demo = override(preset("demo"), [*PUBLISHED, "joint.epochs=3"])
    assert planned_steps(demo, 1000, 1) == 4 * (1000 // 16)
    assert planned_steps(demo, 1000, 2) == 4 * (1000 // 32)
    assert planned_steps(override(demo, ["stages=[warmup, joint]", "joint.batch=10"]), 1000, 1) == 300
    assert planned_steps(preset("paper"), 12936, 1) == 60 * 808
    shorter = override(demo, ["generative.epochs=2", "generative.reconstruction_epochs=8", "stages=[generative]"])
    assert planned_steps(shorter, 1000, 1) == 0


def open_stage(kind, world, precision: Precision, *settings: str):
    tiny = ["world.identities=6", "world.cameras=3", "world.crops=2", f"data_root={world}", "generative.batch=2"]
    tiny += ["height=48", "width=40", "generative.reconstruction_epochs=0", "joint.batch=4"]
    config = override(preset("demo"), [*PUBLISHED, *tiny, *settings])
    inputs = open_inputs(config)
    torch.manual_seed(0)
    return kind(config, GCL(config.model), inputs, ALONE, precision)


def test_float16_scales_the_losses_of_every_update(world):
    for dtype, scaled in ((torch.float16, True), (torch.bfloat16, False)):
        states = open_stage(Generative, world, Precision("cpu", dtype, "")).gcl_step.state_dict()
        assert all(("loss_scale" in state["param_groups"][0]) == scaled for state in states.values())


@pytest.mark.parametrize("kind", [Generative, Joint])
def test_float16_lowers_the_scale_and_then_takes_the_step_of_float32(world, kind):
    """What a GPU before sm_80 runs, in this CPU's float16."""
    plain, half = (open_stage(kind, world, Precision("cpu", dtype, "")) for dtype in (None, torch.float16))
    images, index = next(iter(plain.loader.epoch(torch.tensor([[0, 7, 14, 21]]), 0)))

    def step(stage):
        if isinstance(stage, Joint):
            noise = torch.randn(stage.bank.features.shape, generator=torch.Generator().manual_seed(0))
            stage.bank.features.copy_(nn.functional.normalize(noise, dim=1))
            stage.bank.labels.copy_(torch.arange(len(noise)) // 6)
            stage.bank.stream.zero_()  # of its draws
        return stage.step(images, index, 0, 0)

    expected = step(plain)
    first = half.optimizer if isinstance(half, Joint) else half.gcl_step.optimizers[1]
    first.param_groups[0]["loss_scale"].fill_(2.0**18)
    trained = [p for group in first.param_groups for p in group["params"]]
    before = [p.detach().clone() for p in trained]
    scales, made = [], {"skipped_generator": torch.ones(())}
    while made["skipped_generator"] and len(scales) < 18:
        assert all(torch.equal(p, old) for p, old in zip(trained, before, strict=True))
        made = step(half)
        assert made["skipped_discriminator"] == 0
        scales.append(first.param_groups[0]["loss_scale"].item())
    assert scales[-1] == scales[-2] < scales[0] == 2.0**17
    assert {name: made[name].item() for name in expected} == pytest.approx(
        {name: value.item() for name, value in expected.items()}, rel=2e-2, abs=1e-3
    )
    groups = plain.optimizer.param_groups if isinstance(plain, Joint) else plain.gcl_step.optimizers[1].param_groups
    ours, theirs = (torch.cat([p.grad.flatten() for p in ps]) for ps in (trained, groups[0]["params"]))
    assert nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.99
    assert not any(torch.equal(p, old) for p, old in zip(trained, before, strict=True) if p.dim() > 1)


def test_lazy_r1_penalizes_every_nth_step(world):
    stage = open_stage(Generative, world, Precision("cpu", None, ""), "generative.r1_every=2")
    images, index = next(iter(stage.loader.epoch(stage.plan(0), 0)))
    assert ["r1" in stage.step(images, index, 0, position) for position in range(3)] == [True, False, True]
