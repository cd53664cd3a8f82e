"""Switches between the paper's text and its official code: what each changes, and that nothing else changes."""

import dataclasses

import pytest
import torch
from torch.nn.functional import normalize, softplus

from gcl_fast.assessment.extract import extract
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.memory import MemoryBank
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.gcl_step import draw_yaw
from gcl_fast.stages.joint import Joint

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture(scope="module")
def joint(world):
    """joint(*settings): the joint stage on the tiny world, ready for its first epoch."""
    tiny = ["world.identities=6", "world.cameras=3", "world.crops=2", f"data_root={world}"]
    tiny += ["joint.batch=6", "joint.clustering.k1=6", "joint.decay_epoch=1"]
    inputs = open_inputs(override(preset("demo"), [*PUBLISHED, *tiny]))
    torch.manual_seed(0)
    gcl = GCL(inputs.config.model)
    precision = arithmetic.choose(False, ALONE.device)
    return lambda *settings: Joint(override(inputs.config, list(settings)), gcl, inputs, ALONE, precision)


def test_defaults_are_the_codes_where_they_can_be():
    paper = preset("paper")
    assert (paper.joint.own_entry, paper.joint.negatives_of) == ("stored", "novel_view")
    assert paper.generative.weights.feature_loss_on == "reconstruction"
    assert (paper.generative.last_yaw, paper.joint.decay) == (315, "all")  # the code's are mistakes
    assert (paper.joint.terms, paper.joint.refresh_outliers) == ((1, 1, 1), False)


def test_the_code_never_draws_315_degrees():
    drawn = {last: draw_yaw(4000, 0, 1, 2, ALONE, last).unique().tolist() for last in (315, 270)}
    assert drawn[315] == [45, 90, 135, 180, 225, 270, 315]
    assert drawn[270] == drawn[315][:-1]


@pytest.mark.parametrize("last", [315, 270])
def test_yaws_reach_the_joint_step(joint, monkeypatch, last):
    stage, seen = joint(f"generative.last_yaw={last}", "joint.batch=300"), []
    monkeypatch.setattr(stage, "gcl_step", Recorder(seen))
    stage.step(torch.zeros(300, 3, 128, 64), torch.zeros(300, dtype=torch.int64), 0, 0)
    assert max(seen[-1].tolist()) == last


class Recorder:
    """In place of a GCLStep: notes learning rates and yaws."""

    def __init__(self, seen: list):
        self.seen = seen

    def set_learning_rate(self, rate):
        self.seen.append(rate)

    def __call__(self, images, index, yaw, position, mix):
        self.seen.append(yaw)
        return {}, torch.ones(len(index), 256)


@pytest.mark.parametrize(("decay", "generator"), [("all", 0.1), ("identity", 1.0)])
def test_who_decays(joint, monkeypatch, decay, generator):
    stage, seen = joint(f"joint.decay={decay}"), []
    monkeypatch.setattr(stage, "gcl_step", Recorder(seen))
    settings = stage.settings
    for epoch, factor in ((0, 1.0), (1, generator)):
        stage.step(torch.zeros(6, 3, 128, 64), torch.arange(6), epoch, 0)
        assert seen[-2] == pytest.approx(settings.lr * factor)
        assert stage.optimizer.param_groups[0]["lr"] == pytest.approx(settings.lr_identity * (1, 0.1)[epoch])


@pytest.mark.parametrize("refresh", [True, False])
def test_refresh_of_outlier_rows(joint, refresh):
    stage = joint(f"joint.refresh_outliers={refresh}")
    bank = stage.bank
    before = normalize(torch.randn(bank.features.shape, generator=torch.Generator().manual_seed(1)), dim=1)
    outlier = torch.arange(len(before)) % 3 == 0
    bank.features.copy_(before)
    bank.labels.copy_(torch.where(outlier, -1, torch.arange(len(before)) // 2))
    stage.begin_epoch(1)
    now = extract(stage.gcl.identity, stage.records, stage.config, ALONE, stage.precision)
    expected = torch.where(outlier[:, None] & refresh, now, before)
    torch.testing.assert_close(bank.features, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("own_entry", ["stored", "live"])
@pytest.mark.parametrize("negatives", ["novel_view", "crop"])
@pytest.mark.parametrize("terms", [(1, 1, 1), (1, 0, 0), (0, 1, 0), (0, 0, 2)])
def test_view_invariant_loss_by_its_terms(joint, own_entry, negatives, terms):
    settings = [f"joint.own_entry={own_entry}", f"joint.negatives_of={negatives}", f"joint.terms={list(terms)}"]
    bank = joint(*settings).bank
    generator = torch.Generator().manual_seed(2)
    f, f_new = (normalize(torch.randn(4, 256, generator=generator), dim=1) for _ in range(2))
    bank.features.copy_(normalize(torch.randn(bank.features.shape, generator=generator), dim=1))
    bank.labels.copy_(torch.arange(len(bank.labels)) // 6)
    index, positives = torch.tensor([0, 7, 13, 2]), torch.tensor([[1, 2], [6, 8], [12, 14], [3, 4]])
    rows, t = bank.features, bank.temperature
    other = bank.labels != bank.labels[index][:, None]

    def term(query, positive, negative):
        against = torch.where(other, negative @ rows.T / t, -torch.inf).logsumexp(1)
        return softplus(against - (query * positive).sum(1) / t).mean()

    expected = (
        terms[0] * term(f_new, f if own_entry == "live" else rows[index], f_new)
        + terms[1] * term(f_new, rows[positives[:, 1]], f_new)
        + terms[2] * term(f, rows[positives[:, 0]], f if negatives == "crop" else f_new)
    )
    torch.testing.assert_close(bank.loss(f, f_new, index, positives), expected, rtol=1e-5, atol=1e-5)


def test_each_switch_is_one_setting():
    base = override(preset("demo"), list(PUBLISHED))
    for name, value in {
        "own_entry": "live",
        "negatives_of": "crop",
        "decay": "identity",
        "refresh_outliers": "true",
    }.items():
        changed = override(base, [f"joint.{name}={value}"])
        assert dataclasses.replace(changed, joint=base.joint) == base
        assert changed.joint != base.joint
    assert MemoryBank(2, 2).terms == (1, 1, 1)


def test_a_learning_rate_reaches_every_optimizer_of_the_step(joint):
    stage = joint()
    stage.gcl_step.set_learning_rate(0.125)
    rates = [float(group["lr"]) for optimizer in stage.gcl_step.optimizers for group in optimizer.param_groups]
    assert rates == [0.125] * 2
