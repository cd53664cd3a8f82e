"""Mixup in the joint stage: its draws, that it is off unless asked for, and that it goes on bit for bit."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import normalize

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.losses.cluster_memory import Clusters
from gcl_fast.memory import MemoryBank
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.pseudo_labels import cluster
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.joint import Joint
from gcl_fast.stages.mixup import draw_mix

CPU = torch.device("cpu")


@pytest.fixture
def joint(world, monkeypatch):
    """joint(weight): the joint stage on the tiny world with mixup of that weight, and its networks.

    Its clusters are told: what a random encoder sees is one cluster.
    """
    labels = torch.arange(36) // 6
    labels[::8] = -1
    monkeypatch.setattr(
        "gcl_fast.stages.joint.label_to_train", lambda *_: replace(cluster(torch.eye(36)), labels=labels)
    )
    settings = ["world.identities=6", "world.cameras=3", "world.crops=2", f"data_root={world}", "height=64", "width=40"]
    settings += ["joint.batch=6", "joint.epochs=2", "joint.clustering.k1=6"]
    inputs = open_inputs(override(preset("demo"), [*PUBLISHED, *settings]))
    ranks = Ranks(0, 1, CPU)

    def make(weight: float) -> tuple[Joint, GCL]:
        torch.manual_seed(0)
        gcl = GCL(inputs.config.model)
        config = override(inputs.config, [f"generative.weights.mixup={weight}"])
        return Joint(config, gcl, inputs, ranks, arithmetic.choose(False, CPU, "off")), gcl

    return make


class Half(Ranks):
    """One of two ranks, whose peer's crops are told instead of sent."""

    def gather(self, tensor):
        return torch.arange(8)


def bank_of(labels):
    bank = MemoryBank(len(labels), 4)
    bank.features.copy_(normalize(torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(0)), dim=1))
    bank.labels.copy_(torch.tensor(labels))
    return bank, Clusters.from_labels(bank.labels)


def test_weights_follow_the_folded_beta_and_depend_on_the_step_alone():
    bank, clusters = bank_of([0, 1] * 700)

    def draw(seed, epoch, position):
        return draw_mix(bank, clusters, torch.arange(1400), seed, epoch, position, Ranks(0, 1, CPU))

    mix = draw(0, 1, 2)
    assert torch.equal(mix.weight, draw(0, 1, 2).weight)
    for other in ((1, 1, 2), (0, 2, 2), (0, 1, 3)):
        assert not torch.equal(mix.weight, draw(*other).weight)
        assert not torch.equal(mix.partner, draw(*other).partner)
    assert mix.weight.min() >= 0.5
    w = torch.linspace(1e-6, 1 - 1e-6, 2_000_001, dtype=torch.float64)
    density = (w * (1 - w)) ** -0.4
    expected = float((torch.maximum(w, 1 - w) * density).sum() / density.sum())  # about 0.82
    assert mix.weight.mean().item() == pytest.approx(expected, abs=0.015)
    assert bool((mix.clusters == torch.stack((torch.arange(1400) % 2, 1 - torch.arange(1400) % 2), 1)).all())


def test_two_ranks_draw_as_one():
    bank, clusters = bank_of([0, 0, 1, -1, 2, 1, 0, 2])
    whole = draw_mix(bank, clusters, torch.arange(8), 3, 1, 4, Ranks(0, 1, CPU))
    halves = [draw_mix(bank, clusters, torch.arange(4) + 4 * rank, 3, 1, 4, Half(rank, 2, CPU)) for rank in range(2)]
    for name in ("weight", "partner", "clusters"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name)), name
    assert all(torch.equal(half.centroids, whole.centroids) for half in halves)


def drive(stage, start=(0, 0), stop=None):
    """Metrics of two steps an epoch, from `start` to before `stop`, (epoch, position) each, as the loop takes them."""
    metrics = []
    for epoch in range(start[0], stage.epochs):
        begin = start[1] if epoch == start[0] else 0
        if begin == 0:
            stage.begin_epoch(epoch)
        for position, (images, index) in enumerate(stage.loader.epoch(stage.plan(epoch)[:2], epoch, begin), begin):
            if (epoch, position) == stop:
                return metrics
            metrics.append(stage.step(images, index, epoch, position))
    return metrics


def test_a_stage_with_mixup_goes_on_bit_for_bit(joint, saved):
    stage, gcl = joint(1.0)
    first = drive(stage, stop=(1, 1))
    weights, state = saved(gcl.state_dict()), saved(stage.state_dict())
    rest = drive(stage, start=(1, 1))
    assert len(first) > 2
    assert all(metrics["mixup"] > 0 for metrics in first + rest)
    again, gcl_again = joint(1.0)
    gcl_again.load_state_dict(weights)
    again.load_state_dict(state)
    assert [m["mixup"].item() for m in drive(again, start=(1, 1))] == [m["mixup"].item() for m in rest]
    assert all(torch.equal(tensor, gcl_again.state_dict()[name]) for name, tensor in gcl.state_dict().items())
    assert torch.equal(stage.bank.features, again.bank.features)


def test_its_gradient_reaches_generator_and_identity_encoder(joint):
    """One step with mixup and one without differ in E_id, E_str and G, and in nothing before them."""
    after, logged = {}, {}
    for weight in (0.0, 1.0):
        stage, gcl = joint(weight)
        stage.begin_epoch(0)
        images, index = next(iter(stage.loader.epoch(stage.plan(0), 0)))
        logged[weight] = stage.step(images, index, 0, 0)
        after[weight] = copy.deepcopy(gcl)
    assert "mixup" not in logged[0.0]
    same = {name: value for name, value in logged[1.0].items() if name not in ("mixup", "loss")}
    assert all(torch.equal(value, logged[0.0][name]) for name, value in same.items())
    torch.testing.assert_close(logged[1.0]["loss"], logged[0.0]["loss"] + logged[1.0]["mixup"])
    for network, differs in (("discriminator", False), ("identity", True), ("structure", True), ("generator", True)):
        pairs = zip(*(dict(getattr(after[w], network).named_parameters()).values() for w in (0.0, 1.0)))
        changed = [not torch.equal(a, b) for a, b in pairs]
        assert any(changed) == differs, network
