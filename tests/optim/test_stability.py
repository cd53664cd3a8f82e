"""Steps that are not finite are skipped and counted, end the run in time, and leave nothing behind; memory errors."""

import json
import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from gcl_fast.data import shuffled_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.memory import MemoryBank
from gcl_fast.optim.optimizers import adam, nesterov
from gcl_fast.optim.stability import NotFinite, RunningStatistics, naming_what_to_lower
from gcl_fast.optim.update import descend
from gcl_fast.random_streams import Stream, numpy_generator
from gcl_fast.run.logs import RunLog
from gcl_fast.run.loop import Interrupted, Interruption, Position, run_stage
from gcl_fast.run.meter import Meter
from gcl_fast.settings import PUBLISHED, ClusteringConfig, override, preset
from gcl_fast.stages.clustering import label_to_train

ALONE = Ranks(0, 1, torch.device("cpu"))
CONFIG = replace(override(preset("demo"), list(PUBLISHED)), log_every=1, checkpoint_seconds=1e9)


@pytest.mark.parametrize("make", [adam, nesterov])
@pytest.mark.parametrize("bad_first", [True, False])
def test_a_skipped_step_is_as_if_it_had_not_been(make, bad_first):
    def trained(factors):
        weight = nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = make([weight], 0.1, weight_decay=0.01)
        skipped = [float(descend((weight * factor).square().sum(), ALONE, optimizer)) for factor in factors]
        return weight.detach(), skipped

    bad = [float("nan"), float("inf"), 1e30] if bad_first else []
    after, skipped = trained([*bad, 1.0, float("nan"), 2.0])
    plain, none = trained([1.0, 2.0])
    assert skipped == [1.0] * len(bad) + [0.0, 1.0, 0.0]
    assert none == [0.0, 0.0]
    assert torch.equal(after, plain)


def test_a_gradient_that_is_not_finite_skips_though_the_loss_is_finite():
    weight = nn.Parameter(torch.zeros(3))
    optimizer = adam([weight], 0.1)
    loss = weight.sqrt().sum()  # 0, with an infinite slope
    assert loss.isfinite()
    assert descend(loss, ALONE, optimizer) == 1
    assert torch.equal(weight.detach(), torch.zeros(3))


def test_one_bad_optimizer_holds_back_the_other():
    good, bad = nn.Parameter(torch.ones(2)), nn.Parameter(torch.zeros(2))
    optimizers = adam([good], 0.1), nesterov([bad], 0.1)
    assert descend(good.sum() + bad.sqrt().sum(), ALONE, *optimizers) == 1
    assert torch.equal(good.detach(), torch.ones(2))


def test_a_meter_averages_what_is_finite_and_names_what_is_not():
    meter = Meter(ALONE)
    nan = torch.tensor(float("nan"))
    zero, one = torch.zeros(()), torch.ones(())
    meter.add({"loss": one, "r1": one, "skipped": zero})
    meter.add({"loss": nan, "r1": nan, "skipped": one})
    meter.add({"loss": 3 * one, "skipped": zero})  # another kind of step
    reading = meter.read()
    assert reading.means == {"loss": 2.0, "r1": 1.0}
    assert (reading.skipped, reading.streak, reading.causes) == (1, 1, "loss, r1")
    for _ in range(3):
        meter.add({"loss": one, "skipped_generator": one})
    assert meter.read().causes == "gradients of generator"
    meter.add({"loss": one, "skipped_generator": one})
    reading = meter.read()
    assert (reading.skipped, reading.streak) == (1, 4)  # the streak goes over the read
    meter.add({"loss": nan})  # no word of skipping: the loss decides
    assert meter.read().streak == 5


class Stage:
    """A stage of one epoch whose loss is not finite at the steps `bad`."""

    name, epochs = "joint", 1

    def __init__(self, steps: int, bad: set[int]) -> None:
        self.steps, self.bad, self.loader = steps, bad, self
        self.weight = nn.Parameter(torch.zeros(2))
        self.optimizer = adam([self.weight], 0.1)
        self.saved: list[float] = []
        self.full = False  # the disk

    def begin_epoch(self, epoch):
        return {}

    def plan(self, epoch):
        return torch.zeros(self.steps, 1, dtype=torch.int64)

    def epoch(self, plan, epoch, start=0):
        return ((torch.zeros(1), row) for row in plan[start:])

    def step(self, images, index, epoch, position):
        term = torch.tensor(float("inf") if position in self.bad else 1.0)
        loss = (self.weight - term).square().sum()
        return {"loss": loss, "r1": term, "skipped": descend(loss, ALONE, self.optimizer)}

    def save(self):
        self.saved.append(self.weight[0].item())
        return not self.full

    def run(self, folder, config=CONFIG, signal=None):
        log, at = RunLog(folder, True), Position()
        try:
            run_stage(self, at, log, ALONE, Interruption(signal), self.save, RunningStatistics(nn.Identity()), config)
        finally:
            log.close()
        return at


def test_skipped_steps_are_counted_and_the_run_goes_on(tmp_path, capsys):
    at = Stage(30, {*range(3, 12), *range(13, 22)}).run(tmp_path)  # nine in a row, twice
    assert (at.step, at.skipped) == (30, 18)
    said = capsys.readouterr().out
    assert said.count("not finite: loss, r1") == 18
    assert '"skipped": 1.0' in (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text()


def test_the_tenth_in_a_row_ends_the_run_with_a_checkpoint(tmp_path):
    stage = Stage(30, set(range(3, 40)))
    told = r"joint: 10 steps in a row .* step 13, .*loss, r1.* are saved.*joint.lr=0.0002 joint.lr_identity=1.75e-05 "
    with pytest.raises(NotFinite, match=told):
        stage.run(tmp_path)
    untouched = Stage(3, set())
    untouched.run(tmp_path)
    assert stage.saved == [untouched.weight[0].item()]


def test_the_last_steps_are_read_however_few_they_are(tmp_path):
    rarely = replace(CONFIG, log_every=100)
    at = Stage(7, {3, 5}).run(tmp_path, rarely)
    assert (at.step, at.skipped) == (7, 2)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["step"], record["skipped"]) for record in records if "loss" in record] == [(7, 2.0)]
    with pytest.raises(NotFinite, match="joint: 12 steps in a row"):
        Stage(12, set(range(12))).run(tmp_path, rarely)


@pytest.mark.parametrize(("full", "told"), [(False, "^saved in"), (True, "^not saved in .* older checkpoint")])
def test_who_stops_says_whether_it_is_saved(tmp_path, full, told):
    stage = Stage(30, set())
    stage.full = full
    with pytest.raises(Interrupted, match=told):
        stage.run(tmp_path, signal=2)
    stage = Stage(30, set(range(40)))
    stage.full = full
    with pytest.raises(NotFinite, match="could not be saved .make room" if full else "are saved"):
        stage.run(tmp_path)


def test_outliers_alone_name_the_settings_of_their_stage():
    settings = ClusteringConfig(k1=6, eps=0.1, min_samples=50)
    features = nn.functional.normalize(torch.randn(16, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    told = (
        r"joint: every crop is an outlier at eps 0.1, .*clustering.eps .now 0.1.*joint.clustering.min_samples .now 50"
    )
    with pytest.raises(UserError, match=told):
        label_to_train(features, torch.zeros(16, dtype=torch.int64), settings, ALONE, "joint")


def test_running_statistics_do_not_keep_what_is_not_finite():
    network = nn.Sequential(nn.BatchNorm1d(2))
    statistics = RunningStatistics(network)
    network(torch.randn(8, 2))
    statistics.mend()
    before = {name: value.clone() for name, value in network.state_dict().items() if "running" in name}
    network(torch.tensor([[float("nan"), 1.0], [0.0, 0.0]]))
    assert network[0].running_mean.isnan().any()
    statistics.mend()
    for name, value in before.items():
        assert torch.equal(network.state_dict()[name], value)


def test_the_bank_keeps_its_entry_where_an_embedding_is_not_finite():
    bank = MemoryBank(3, 4)
    bank.features.copy_(nn.functional.normalize(torch.randn(3, 4), dim=1))
    before = bank.features.clone()
    f = torch.randn(2, 4)
    f[0, 1] = float("inf")
    bank.update_(torch.tensor([0, 2]), f)
    torch.testing.assert_close(bank.features[:2], before[:2])
    assert not torch.allclose(bank.features[2], before[2])


def test_too_little_memory_names_the_settings():
    told = r"generative: out of memory on cpu .*generative.batch \(now 16\).*128x64.*auto"
    with pytest.raises(UserError, match=told), naming_what_to_lower("generative", CONFIG, torch.device("cpu")):
        torch.empty(1 << 50)
    told = r"warmup.identities \(now 16\)"
    with pytest.raises(UserError, match=told), naming_what_to_lower("warmup", CONFIG, torch.device("cuda", 0)):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    for text in (
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)",
    ):
        with pytest.raises(UserError, match=told), naming_what_to_lower("warmup", CONFIG, torch.device("cuda", 0)):
            raise RuntimeError(text)
    with pytest.raises(RuntimeError, match="another"), naming_what_to_lower("joint", CONFIG, torch.device("cpu")):
        raise RuntimeError("another error")


def test_a_log_that_cannot_be_written_does_not_end_the_run(tmp_path):
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = RunLog(tmp_path, True)
    with pytest.warns(UserWarning, match="metrics.jsonl could not be written .No space left"):
        log.metrics("joint", 1, {"loss": 1.0})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        log.close()


def test_a_position_in_a_pass_moves_with_the_number_of_ranks():
    at = Position(position=6, steps=10, batch=16)
    at.follow(20, 8)
    assert at.position == 12  # the same 96 crops
    at.follow(6, 24)
    assert at.position == 4
    at.follow(4, 40)
    assert at.position == 2  # 16 of the 96 come again
    same = Position(position=6, steps=10, batch=16)
    same.follow(10, 32)  # a fixed number of steps
    assert same.position == 6


@pytest.mark.parametrize(("ranks", "batch"), [(1, 8), (4, 8), (3, 5)])
def test_no_crop_is_missed_where_the_number_of_ranks_changes(ranks, batch):
    def seen(world_size, batch, first, last):
        plans = [shuffled_plan(200, batch, seed=1, epoch=2, rank=r, world_size=world_size) for r in range(world_size)]
        return torch.stack(plans, 1)[first:last].flatten().tolist()

    at = Position(position=5, steps=12, batch=16)  # two ranks of 8
    before = seen(2, 8, 0, 5)
    at.follow(200 // (ranks * batch), ranks * batch)
    after = seen(ranks, batch, at.position, None)
    order = numpy_generator(1, 2, 0, Stream.ORDER).permutation(200).tolist()
    assert before == order[:80]
    again = 80 % (ranks * batch)  # of the batch that was under way
    assert after == order[80 - again : 200 // (ranks * batch) * ranks * batch]
