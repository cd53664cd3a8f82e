"""Compiled networks: every graph is made in the first epoch of its kind of step, and evaluation makes none.

Dynamo traces and guards as it does for Inductor; the graphs run as they are, since only their number is looked at.
"""

import functools
import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from gcl_fast.assessment.assess import Assessment
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint
from gcl_fast.stages.warmups.cluster import Warmup

ALONE = Ranks(0, 1, torch.device("cpu"))
TINY = [
    "height=48", "width=40", "warmup.epochs=3", "warmup.steps_per_epoch=2", "warmup.identities=2", "warmup.crops=2",
    "warmup.clustering.k1=6", "generative.epochs=4", "generative.reconstruction_epochs=2", "generative.batch=4",
    "joint.batch=4", "joint.epochs=3", "joint.clustering.k1=6", "joint.clustering.eps=0.95", "joint.decay_epoch=1",
]  # fmt: skip


@pytest.fixture
def compiled(monkeypatch):
    """The networks of a run with --compile on."""
    monkeypatch.setattr(nn.Module, "compile", functools.partialmethod(nn.Module.compile, backend="eager"))
    torch._dynamo.reset()
    with torch._dynamo.config.patch(recompile_limit=8, automatic_dynamic_shapes=True):
        yield Precision("cpu", None, "", compiled=True)
    torch._dynamo.reset()


def graphs() -> int:
    """How many graphs this process has compiled."""
    return counters["stats"]["unique_graphs"]


@pytest.mark.slow
def test_no_stage_compiles_after_the_first_epoch_of_a_kind_of_step(compiled, world):
    config = override(preset("demo"), [*PUBLISHED, f"data_root={world}", *TINY])
    inputs = open_inputs(config)
    torch.manual_seed(0)
    gcl = GCL(config.model).to(memory_format=torch.channels_last)
    compiled.compile(*gcl.children())
    assessment = Assessment(config, inputs, ALONE, compiled)
    counts: dict[str, list[int]] = {}
    for kind in (Warmup, Generative, Joint):
        stage = kind(config, gcl, inputs, ALONE, compiled)
        counts[stage.name] = [graphs()]
        for epoch in range(stage.epochs):
            stage.begin_epoch(epoch)
            for position, (images, index) in enumerate(stage.loader.epoch(stage.plan(epoch), epoch)):
                stage.step(images, index, epoch, position)
                if position == 1:
                    break
            counts[stage.name].append(graphs())
        assessment.retrieval(gcl)  # 18 and 19 crops: other sizes than any batch
        assert graphs() == counts[stage.name][-1]
    made = {name: [after - before for before, after in itertools.pairwise(marks)] for name, marks in counts.items()}
    assert made["warmup"][0] > 0
    assert made["warmup"][1:] == [0, 0]
    reconstruction, whole = made["generative"][:2], made["generative"][2:]
    assert reconstruction[0] > 0
    assert whole[0] > 0
    assert (reconstruction[1], whole[1]) == (0, 0)
    assert made["joint"][1:] == [0, 0]


def test_a_network_may_have_a_graph_for_each_size_and_mode(compiled):
    """More than the eight that torch allows by default: source, warm-up, generative and joint stage have their own."""
    layer = nn.Linear(2, 2)
    compiled.compile(layer)
    before = graphs()
    for size in range(1, 12):
        layer(torch.zeros(size, 2))
    assert graphs() - before == 11


def test_evaluation_is_eager_and_keeps_the_arithmetic(compiled):
    layer = nn.Linear(2, 2)
    compiled.compile(layer)
    mixed = replace(compiled, dtype=torch.bfloat16)
    before = graphs()
    with mixed.evaluating():
        assert layer(torch.zeros(3, 2)).dtype == torch.bfloat16
    assert graphs() == before
    layer(torch.zeros(3, 2))
    assert graphs() == before + 1
