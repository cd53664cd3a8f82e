"""Captured steps: they train as plain ones do, whatever changes between them, and a run survives where they fail.

Everything runs on emulated graphs of CPU tensors, and on a GPU where there is one.
"""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import emulated_graphs
import pytest
import torch
from torch import Tensor, nn

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.kernels import rasterize
from gcl_fast.optim.optimizers import adam, nesterov
from gcl_fast.optim.schedule import set_learning_rate
from gcl_fast.optim.update import descend, scale_losses
from gcl_fast.settings import preset
from gcl_fast.stages.graphs import EAGER, KEPT, PAYS, TRIALS, StepGraphs, choose

CUDA = Ranks(0, 1, torch.device("cuda", 0))
AUTO, ON, OFF = (replace(preset("demo"), cuda_graphs=mode) for mode in ("auto", "on", "off"))
RATES = (0.1, 0.2, 0.05, 0.3, 0.1, 0.15, 0.02, 0.25, 0.1)


@pytest.fixture(params=["emulated", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request, monkeypatch) -> torch.device:
    """Of the tensors."""
    monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", True)  # however the ops were built here
    if request.param == "cuda":
        monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)
        return CUDA.device
    emulated_graphs.install(monkeypatch.setattr)
    monkeypatch.setattr(emulated_graphs.graph, "mode", emulated_graphs.PlainOps)
    return torch.device("cpu")


class Learner:
    """A network, its optimizers and a bank, learning from random batches."""

    def __init__(self, device: torch.device, config=ON, scaled: bool = False) -> None:
        torch.manual_seed(0)
        self.network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(36, 2)).to(device)
        self.network.to(memory_format=torch.channels_last)
        first, last = self.network[0].parameters(), self.network[3].parameters()
        self.optimizers = [adam(first, 0.1), nesterov(last, 0.1)]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = torch.as_tensor(group["lr"])  # as on a GPU
            if scaled:
                scale_losses(optimizer, device)
        self.bank, self.device = torch.zeros(2, device=device), device
        self.graphs = StepGraphs(config, CUDA, "joint", self.optimizers)
        self.factor = 1.0
        self.runs = 0  # of the Python of a step

    def step(self, sign: int, images: Tensor) -> dict[str, Tensor]:
        self.runs += 1
        with torch.autocast(self.device.type, torch.bfloat16):
            y = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = sign * self.factor * y.float().square().mean()
        skipped = descend(loss, Ranks(0, 1, self.device), *self.optimizers)
        self.bank.lerp_(y.detach().float().mean(0), 0.5)
        return {"loss": loss, "skipped": skipped}

    def run(self, *signs: int, batches=(4,), bad: tuple[int, ...] = ()) -> Iterator[list[float]]:
        """(loss, skipped) of a step for each of `signs`, with a learning rate and a batch of its own."""
        for at, sign in enumerate(signs):
            generator = torch.Generator().manual_seed(at)
            images = torch.randn(batches[at % len(batches)], 3, 5, 5, generator=generator)
            images[0, 0, 0, 0] = torch.inf if at in bad else 1.0
            for optimizer in self.optimizers:
                set_learning_rate(optimizer, RATES[at % len(RATES)])
            measured = self.graphs(self.step, (images.to(self.device),), (sign,))
            yield torch.stack([value.detach() for value in measured.values()]).tolist()

    def state(self) -> dict[str, Tensor]:
        scales = {str(i): o.param_groups[0].get("loss_scale", self.bank) for i, o in enumerate(self.optimizers)}
        return {**self.network.state_dict(), "bank": self.bank, **scales}


def same(learner: Learner, plain: Learner) -> bool:
    """Whether all that they hold is equal to the last bit; a skipped step has been through the norms and the bank."""
    theirs = plain.state()
    return all(
        torch.equal(*(held.nan_to_num(7.0) for held in (value, theirs[name])))
        for name, value in learner.state().items()
    )


@pytest.mark.parametrize("scaled", [False, True])
def test_replayed_steps_are_the_plain_ones(device, scaled):
    """Under autocast, with other learning rates, batches, and a step that is skipped."""
    learner, plain = Learner(device, ON, scaled), Learner(device, OFF, scaled)
    for ours, theirs in zip(*(each.run(*[1] * 9, bad=(5,)) for each in (learner, plain)), strict=True):
        assert ours == pytest.approx(theirs, rel=0, abs=0, nan_ok=True)
    assert same(learner, plain)
    assert (learner.runs, plain.runs) == (EAGER + 1, 9)
    assert learner.graphs.release() == f"{9 - EAGER} of 9 steps were CUDA graphs (1 captured)"
    assert plain.graphs.release() == ""
    assert all(not group["capturable"] for o in learner.optimizers[:1] for group in o.param_groups)


def test_what_is_baked_and_each_shape_have_graphs_of_their_own(device):
    learner, plain = Learner(device, ON), Learner(device, OFF)
    signs, batches = [1, 1, -1, 1, -1] * 6, (4, 2, 4)
    assert list(learner.run(*signs, batches=batches)) == list(plain.run(*signs, batches=batches))
    assert same(learner, plain)
    assert learner.runs == 4 * (EAGER + 1)


def test_old_graphs_leave(device):
    learner, plain = Learner(device, ON), Learner(device, OFF)
    signs = [sign for sign in range(1, KEPT + 3) for _ in range(EAGER + 2)] + [1, 1]
    assert list(learner.run(*signs)) == list(plain.run(*signs))
    assert same(learner, plain)
    assert learner.runs == (KEPT + 2) * (EAGER + 1) + 1  # that of 1 was captured once more
    assert len(learner.graphs._captured) == KEPT


def test_a_number_that_is_not_baked_stays_that_of_the_capture(device):
    """So equal weights with and without graphs prove that there is none."""
    learner, plain = Learner(device, ON), Learner(device, OFF)
    for each in (learner, plain):
        for at, _ in enumerate(each.run(*[1] * 9)):
            each.factor = 1.0 if at < EAGER + 2 else 0.5
    assert not same(learner, plain)


class Waiting(Learner):
    """Its steps ask the device for a value."""

    def step(self, sign: int, images: Tensor) -> dict[str, Tensor]:
        measured = super().step(sign, images)
        self.seen = measured["skipped"].item()
        return measured


@pytest.mark.filterwarnings("ignore:.*:UserWarning:torch")
def test_where_a_capture_fails_the_steps_go_on_without(device):
    learner, plain = Waiting(device, AUTO), Waiting(device, OFF)
    with pytest.warns(UserWarning, match="joint: a step cannot be a CUDA graph .*captur.*; steps run without") as told:
        ours = list(learner.run(*[1] * 9))
    assert len([one for one in told if "CUDA graph" in str(one.message)]) == 1
    assert ours == list(plain.run(*[1] * 9))
    assert same(learner, plain)
    assert learner.runs == 10  # one of them in the capture, which left nothing
    assert learner.graphs.release() == ""
    if device.type == "cuda":
        torch.cuda.empty_cache()  # an error where the allocator is left inside the capture


def test_where_graphs_are_asked_for_a_capture_that_fails_ends_the_run(device):
    learner = Waiting(device, ON)
    with pytest.raises(UserError, match=r"joint: --set cuda_graphs=on, and .* cannot be captured .*--resume"):
        list(learner.run(*[1] * 9))


def test_out_of_memory_in_a_capture_is_survived(device, monkeypatch):
    learner, plain = Learner(device, AUTO), Learner(device, OFF)

    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")

    at_the_update = SimpleNamespace(step=full, param_groups=[])
    step = learner.step

    def short_of_memory(sign, images):
        measured = step(sign, images)
        if learner.runs == EAGER + 1:
            at_the_update.step()
        return measured

    learner.step = short_of_memory
    with pytest.warns(UserWarning, match="CUDA graph .CUDA out of memory. Tried to allocate 1 GiB.; steps run"):
        ours = list(learner.run(*[1] * 6))
    assert ours == list(plain.run(*[1] * 6))
    assert same(learner, plain)


def test_graphs_that_are_hardly_replayed_are_given_up(device):
    learner, plain = Learner(device, AUTO), Learner(device, OFF)
    signs = [sign for sign in range(1, TRIALS + 4) for _ in range(EAGER + 2)]
    with pytest.warns(UserWarning, match=f"joint: CUDA graphs of step .*{TRIALS} of them for {2 * TRIALS}") as told:
        ours = list(learner.run(*signs))
    assert len(told) == 1
    assert ours == list(plain.run(*signs))
    assert same(learner, plain)
    often = Learner(device, AUTO)
    list(often.run(*[sign for sign in range(1, TRIALS + 3) for _ in range(EAGER + PAYS)]))
    assert often.runs == (TRIALS + 2) * (EAGER + 1)


def test_memory_that_is_freed_is_not_read_again(monkeypatch):
    """By the emulation, which would otherwise take what a GPU does not."""
    emulated_graphs.install(monkeypatch.setattr)
    monkeypatch.setattr(emulated_graphs.graph, "mode", emulated_graphs.PlainOps)
    held, graph = {"labels": torch.ones(3)}, torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
        total = held["labels"].sum()
    assert total.isnan()
    graph.replay()
    assert total == 3
    held["labels"] = torch.ones(3)
    with pytest.raises(RuntimeError, match="reads memory that was freed"):
        graph.replay()


@pytest.mark.parametrize(
    ("changes", "ranks", "reason"),
    [
        ({}, Ranks(0, 1, torch.device("cpu")), "they need CUDA"),
        ({}, Ranks(0, 2, CUDA.device), "2 ranks"),
        ({"optimizer_backend": "apex"}, CUDA, "optimizers of apex"),
        ({"structure_maps": "rendered"}, CUDA, "pre-rendered structure maps"),
        ({"smpl": "SMPL.npz"}, CUDA, "SMPL body"),
    ],
)
def test_steps_that_cannot_be_captured(monkeypatch, changes, ranks, reason):
    monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", True)
    emulated_graphs.install(monkeypatch.setattr)
    captured, why = choose(replace(AUTO, **changes), ranks)
    assert reason in why
    maps_alone = "structure_maps" in changes or "smpl" in changes
    assert captured == maps_alone  # the warm-up draws none
    for rendering in (False, True):
        graphs = StepGraphs(replace(AUTO, **changes), ranks, "joint", [], rendering=rendering)
        assert graphs.active == (maps_alone and not rendering)
    with pytest.raises(UserError, match=f"cuda_graphs=on: .*{reason}"):
        choose(replace(ON, **changes), ranks)


def test_a_rasterizer_on_the_cpu_is_not_captured(monkeypatch):
    for kernels in (False, True):
        monkeypatch.setattr(rasterize, "HAS_CUDA_KERNELS", kernels)
        assert ("generative and joint stage: the rasterizer" in choose(AUTO, CUDA)[1]) != kernels
    assert choose(OFF, CUDA) == (False, "off, as asked")
    assert choose(ON, CUDA)[0]
