"""The learning rate of each optimizer at each step, as an update finds it, in the stages that schedule it."""

from dataclasses import replace

import pytest
import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import make_joint
from gcl_fast.stages.warmups import make_warmup

ALONE = Ranks(0, 1, torch.device("cpu"))
# Eight steps: a rise over two, one up to half of them, then cos^2 of 0, 22.5, 45 and 67.5 degrees
FACTORS = [0.5, 1.0, 1.0, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]
SCHEDULE = {"epochs": 2, "lr": 2, "ramp_steps": 2, "constant_share": 0.5}
STEPS = 4  # of an epoch


@pytest.fixture(scope="module")
def inputs(world):
    return open_inputs(override(preset("demo"), [f"data_root={world}", "height=64", "width=40"]))


@pytest.fixture
def rates(inputs, monkeypatch):
    """rates(make, optimizers, *settings): the rates of the optimizers at each update of two epochs of four steps.

    The updates themselves are left out.
    """

    def record(make, optimizers, *settings: str) -> list[list[float]]:
        config = override(inputs.config, [*PUBLISHED, "generative.weights.mixup=0", *settings])
        gcl = GCL(config.model)
        precision = arithmetic.choose(False, ALONE.device)
        stage = make(config, gcl, replace(inputs, config=config), ALONE, precision)
        found = []

        def update(*_: object) -> dict:
            found.append([float(group["lr"]) for each in optimizers(stage) for group in each.param_groups])
            return {}

        monkeypatch.setattr(stage, "graphs", update)
        for epoch in range(2):
            for position in range(STEPS):
                stage.step(torch.empty(0, 3, 64, 40), torch.empty(0, dtype=torch.long), epoch, position)
        return found

    return record


def scheduled(section: str) -> list[str]:
    """Return the settings of SCHEDULE in a section."""
    return [f"{section}.{name}={value}" for name, value in SCHEDULE.items()]


@pytest.mark.parametrize("reconstruction_epochs", [0, 1])
def test_generative(rates, inputs, reconstruction_epochs):
    settings = [f"generative.batch={len(inputs.dataset.train) // STEPS}"]
    settings += [f"generative.reconstruction_epochs={reconstruction_epochs}"]
    found = rates(Generative, lambda stage: stage.gcl_step.optimizers, *scheduled("generative"), *settings)
    assert found == [pytest.approx([2 * factor] * 2) for factor in FACTORS]


@pytest.mark.parametrize(("decay", "later"), [("all", 0.2), ("identity", 2.0)])
def test_joint(rates, decay, later):
    settings = ["joint.lr=2", "joint.lr_identity=3", "joint.decay_epoch=1", f"joint.decay={decay}"]
    found = rates(make_joint, lambda stage: [*stage.gcl_step.optimizers, stage.optimizer], *settings)
    assert found == [pytest.approx(each) for each in [[2, 2, 3]] * STEPS + [[later, later, 0.3]] * STEPS]


def test_warmup(rates):
    settings = [*scheduled("warmup"), f"warmup.steps_per_epoch={STEPS}"]
    found = rates(make_warmup, lambda stage: stage.optimizers, *settings)
    assert found == [pytest.approx([2 * factor]) for factor in FACTORS]


def test_joint_by_clusters(rates):
    """The encoder follows the schedule of joint.clusters; G, E_str and D keep joint.lr."""
    values = "".join(f", {name}: {value}" for name, value in SCHEDULE.items())
    settings = [f"joint.clusters={{steps_per_epoch: {STEPS}{values}}}", "joint.lr=3", "joint.update_every=1"]
    found = rates(make_joint, lambda stage: [*stage.gcl_step.optimizers, *stage.optimizers], *settings)
    assert found == [pytest.approx([3, 3, 2 * factor]) for factor in FACTORS]
