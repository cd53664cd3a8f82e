"""Runs of train.py that are killed on one device and go on on another, and are evaluated on a third."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gcl_fast import evaluate, train
from gcl_fast.run.session import Session

on_gpu = pytest.mark.gpu
CASES = [  # stage, device it is killed on, device it goes on on
    ("warmup", "cpu", "cpu"),
    pytest.param("warmup", "cuda", "cuda", marks=on_gpu),
    pytest.param("generative", "cuda", "cpu", marks=on_gpu),
    pytest.param("joint", "cpu", "cuda", marks=on_gpu),
    pytest.param("joint", "cuda", "cuda", marks=on_gpu),
]


class Killed(BaseException):
    """Nothing is saved on the way out, as when the kernel kills a process."""


@pytest.fixture
def killed_at(monkeypatch) -> Callable[[int], None]:
    """killed_at(step): from now on a stage dies in that step; at 0 none does."""
    begin = Session.begin

    def at(last: int) -> None:
        def opened(session: Session, name: str, make):
            stage = begin(session, name, make)
            step, taken = stage.step, []

            def dying(*arguments):
                taken.append(1)
                if len(taken) == last:
                    raise Killed
                return step(*arguments)

            stage.step = dying
            return stage

        monkeypatch.setattr(Session, "begin", opened)

    return at


def losses(run: Path) -> dict[int, float]:
    """Step -> loss."""
    records = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.parametrize(("stage", "first", "second"), CASES)
def test_a_killed_run_goes_on_and_is_evaluated_on_another_device(
    command, tmp_path, monkeypatch, capsys, killed_at, stage, first, second
):
    monkeypatch.setenv("GCL_FAST_ALLOCATOR", "decided")  # no restart
    flags = ("--resume", "--stages", stage, "--device")
    start = lambda device: train.main(command(tmp_path, "run", *flags, device)[2:])
    killed_at(4)
    with pytest.raises(Killed):
        start(first)
    before = losses(tmp_path / "run")
    assert list(before) == [1, 2, 3]
    killed_at(0)
    assert start(second) == 0
    assert f"resumed: {stage} at step 3" in capsys.readouterr().out
    after = losses(tmp_path / "run")
    assert list(after) == [*range(1, len(after) + 1)]
    assert len(after) > 4
    assert all(after[step] == loss for step, loss in before.items())
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())["stages"][stage]
    assert evaluate.main([str(tmp_path / "run"), "--device", first, "--amp", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)[stage]
    assert again["mAP"] == pytest.approx(summary["mAP"], abs=1e-6 if first == second == "cpu" else 0.05)


@pytest.mark.parametrize("flags", [[], ["--amp"]], ids=["fp32", "amp"])
@pytest.mark.parametrize("device", [pytest.param("cuda", marks=on_gpu)])
def test_all_stages_leave_finite_metrics(command, tmp_path, monkeypatch, capsys, flags, device):
    """Its twin on a CPU are the tests of the fixture `finished`."""
    monkeypatch.setenv("GCL_FAST_ALLOCATOR", "decided")
    arguments = command(tmp_path, "run", "--device", device)[2:]
    arguments = [argument for argument in arguments if argument != "--amp"]
    assert train.main([*flags, *arguments]) == 0
    output = capsys.readouterr().out
    assert ("bf16 autocast" in output or "fp16 autocast" in output) if flags else "fp32" in output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert list(summary["stages"]) == ["warmup", "generative", "joint"]
    assert all(0 < measured["mAP"] <= 1 for measured in summary["stages"].values())
    assert all(loss == loss for loss in losses(tmp_path / "run").values())
