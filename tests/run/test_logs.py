"""The records of a resumed run: metrics.jsonl and the TensorBoard events hold each step once."""

import json

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gcl_fast.run.logs import RunLog


def write(folder, stage, steps, loss, done=None):
    """Write records of a stage as a session does, which goes on after `done` = (stage, step, finished stages)."""
    log = RunLog(folder, main=True)
    if done is not None:
        log.rewind(*done)
    for step in steps:
        log.metrics(stage, step, {"loss": loss + step, "not_finite": float("nan"), "queries": 5})
    log.close()


@pytest.fixture
def curve(tmp_path):
    """curve(tag): (step, value) of the events below tmp_path/events."""

    def read(tag):
        events = EventAccumulator(str(tmp_path / "events"), {"scalars": 0, "images": 0}).Reload()
        if tag.endswith("/views"):
            return [event.step for event in events.Images(tag)]
        return [(event.step, event.value) for event in events.Scalars(tag)]

    return read


def test_a_resumed_run_has_each_step_once(tmp_path, curve):
    write(tmp_path, "warmup", range(1, 6), loss=10.0)
    (tmp_path / "views").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "views" / "generative.png")
    write(tmp_path, "generative", range(1, 9), loss=20.0)
    before = {e.step: e.wall_time for e in EventAccumulator(str(tmp_path / "events")).Reload().Scalars("warmup/loss")}
    with (tmp_path / "metrics.jsonl").open("a") as lines:
        lines.write('3\n{"step": 2}\n{"stage": "generative", "st')  # what a kill or an editor leaves
    write(tmp_path, "generative", range(4, 11), loss=30.0, done=("generative", 3, ["warmup"]))
    assert curve("warmup/loss") == [(step, 10.0 + step) for step in range(1, 6)]
    expected = [(step, 20.0 + step) for step in range(1, 4)] + [(step, 30.0 + step) for step in range(4, 11)]
    assert curve("generative/loss") == expected
    assert curve("generative/queries") == [(step, 5.0) for step in range(1, 11)]
    assert curve("generative/views") == [3]
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(r["step"], r["loss"]) for r in records if r["stage"] == "generative"] == expected
    again = EventAccumulator(str(tmp_path / "events")).Reload().Scalars("warmup/loss")
    assert [e.wall_time for e in again] == pytest.approx([before[e.step] for e in again], abs=2e-3)


def test_a_run_that_begins_again_has_no_events_of_the_first_attempt(tmp_path, curve):
    write(tmp_path, "warmup", range(1, 6), loss=10.0)
    write(tmp_path, "warmup", range(1, 3), loss=20.0, done=("", 0, []))
    assert curve("warmup/loss") == [(1, 21.0), (2, 22.0)]
    assert len(list((tmp_path / "events").iterdir())) == 1
