"""Every op is called with a grid of bad arguments, in a child process: an error or a right answer each time."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from op_calls import ARGUMENTS, registered

SCRIPT = Path(__file__).parents[1] / "bad_calls.py"


def make_calls(*flags: str, script: Path = SCRIPT, **environment: str) -> list[dict]:
    """Make the bad calls in child processes: one, and another one behind each call that ended its process."""
    calls: list[dict] = []
    while True:
        command = [sys.executable, str(script), *flags, str(len(calls))]
        child = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=120)
        lines = [json.loads(line) for line in child.stdout.splitlines()]
        calls += [line for line in lines if "op" in line]
        for call, outcome in zip(calls[-len(lines) // 2 :], [line for line in lines if "op" not in line]):
            call |= outcome
        if child.returncode == 0:
            return calls
        assert child.returncode < 0, child.stderr
        calls[-1] |= {"outcome": "signal", "fault": f"{signal.Signals(-child.returncode).name} {child.stderr[-2000:]}"}


def check(calls: list[dict], expected: set[str]) -> Counter:
    faults = [f"{call['op']}, {call['change']}: {call['fault']}" for call in calls if call["fault"]]
    assert not faults, "\n".join(faults)
    assert {call["op"] for call in calls} == expected
    return Counter(call["outcome"] for call in calls)


def test_a_new_op_needs_a_valid_call():
    assert set(registered()) == ARGUMENTS.keys()


def test_every_op_refuses_bad_arguments_or_answers_rightly(record_property):
    counts = check(make_calls(), set(registered()))
    print(f"{len(ARGUMENTS)} ops, {counts.total()} bad calls: {dict(counts)}, no signal")
    record_property("bad calls", dict(counts))
    assert counts["raised"] > 2000
    assert counts["answered"] > 800


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
def test_every_launcher_refuses_bad_arguments_or_answers_rightly():
    launched = {name for name in registered() if not name.startswith(("rasterize", "structure", "transfer"))}
    on_the_cpu = {"merge_top_k", "negative_lse", "rank_queries", "sample_crops"}  # negative_lse: by contrastive_rows
    counts = check(make_calls("--launchers", TRITON_INTERPRET="1"), launched - on_the_cpu)
    assert counts["raised"] > 900
    assert counts["answered"] > 100


def test_a_signal_is_seen_and_the_calls_behind_it_are_made(tmp_path):
    """The check can fail: a child that kills itself at one call."""
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import json, os, sys\n"
        "for number in range(int(sys.argv[1]), 4):\n"
        "    print(json.dumps({'op': 'one', 'change': str(number)}), flush=True)\n"
        "    if number == 2: os.kill(os.getpid(), 9)\n"
        "    print(json.dumps({'outcome': 'raised', 'fault': ''}), flush=True)\n"
    )
    calls = make_calls(script=broken)
    assert [call["outcome"] for call in calls] == ["raised", "raised", "signal", "raised"]
    with pytest.raises(AssertionError, match="one, 2: SIGKILL"):
        check(calls, {"one"})
