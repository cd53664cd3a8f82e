"""The fast step and the one-page reference make the same losses, embeddings and updates."""

import copy
from types import SimpleNamespace

import pytest
import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.generative import Generative
from gcl_fast.stages.joint import Joint
from gcl_fast.stages.reference_step import ReferenceStep

ALONE = Ranks(0, 1, torch.device("cpu"))
RATE = 1e-3  # of plain gradient descent: an update is then proportional to the gradient


def descent(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return torch.optim.SGD(parameters, RATE, fused=True)


@pytest.mark.parametrize("statistics", [True, False])
@pytest.mark.parametrize("kind", [Generative, Joint])
def test_steps_agree(exact_float32, world, kind, statistics):
    settings = [f"data_root={world}", "height=48", "width=40", "joint.clustering.k1=6", "joint.clustering.eps=0.95",
                f"joint.batch_statistics={str(statistics).lower()}"]  # fmt: skip
    config = override(preset("demo"), [*PUBLISHED, *settings])
    inputs = open_inputs(config)
    torch.manual_seed(0)
    gcl = GCL(config.model)
    stages = [kind(config, copy.deepcopy(gcl), inputs, ALONE, arithmetic.choose(False, ALONE.device)) for _ in range(2)]
    images, index = torch.randn(6, 3, 48, 40).double(), torch.arange(6)
    yaw = torch.tensor([45.0, 90, 135, 180, 270, 315])
    turn = inputs.structure_maps("train", ALONE.device).turn(index, yaw)
    turn.maps = turn.maps.double()
    results = []
    for stage, reference in zip(stages, (False, True)):
        stage.begin_epoch(0)
        if kind is Joint:
            stage.bank.labels.copy_(torch.arange(len(stage.bank.labels)) // 2)  # so that all have positives, negatives
        stage.gcl.double()  # so that batch norms amplify no rounding
        step = stage.gcl_step
        step.structure_maps = SimpleNamespace(turn=lambda index, yaw: turn)
        step.optimizers = [descent(optimizer) for optimizer in step.optimizers]
        if step.identity is not None:
            step.identity = step.identity._replace(optimizer=descent(step.identity.optimizer))
        before = copy.deepcopy(stage.gcl.state_dict())
        metrics, embedding = (ReferenceStep(step) if reference else step)(images, index, yaw, 0)
        changes = {name: value - before[name] for name, value in stage.gcl.state_dict().items()}
        results.append((metrics["loss"], embedding, changes))
    (loss, embedding, changes), (loss_reference, embedding_reference, changes_reference) = results
    torch.testing.assert_close(loss, loss_reference, rtol=1e-6, atol=0)
    torch.testing.assert_close(embedding, embedding_reference, rtol=1e-6, atol=1e-6)
    for part in ("identity", "structure", "generator", "discriminator"):
        names = [name for name, _ in getattr(gcl, part).named_parameters(part)]
        ours, theirs = (torch.cat([c[name].flatten() for name in names]) for c in (changes, changes_reference))
        moves = kind is Joint or part != "identity"
        assert bool(theirs.any()) == moves == bool(ours.any())
        assert (ours - theirs).norm() <= 1e-6 * theirs.norm(), part
