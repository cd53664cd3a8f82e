"""Test the command that proves the project on a GPU: bounded commands, resuming after a stop, its page."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gpu
import pytest
import torch

from on_gpu import bounded, card_page, rows, state, steps, targets
from on_gpu.commands import PARTS, Command, Part, Setting

ROOT = Path(gpu.__file__).parents[1]
FACTS = {"card": "Test Card 3000 (80 GB)", "commit": "abc1234", "driver": "1.2"}
ROW = {"kind": "time", "what": "joint step", "size": "paper, batch 16", "unit": "images", "contender": "ours, eager",
       "min_ms": 24.0, "median_ms": 25.0, "max_ms": 26.0, "per_second": 640.0, "repeats": 9,
       "peak_mb": 5.0, "flops": 4e12, "arithmetic": "convolution"}  # fmt: skip
CHECK = {"kind": "check", "what": "it adds up", "size": "", "measured": 1e-7, "allowed": 1e-6, "holds": True}
SLEEPER = "import time; time.sleep(60)"


def gone(process: int) -> bool:
    """Return whether a process ends within seconds."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if ") Z " in Path(f"/proc/{process}/stat").read_text():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def run(code: str, folder: Path, seconds: float = 30.0) -> bounded.Outcome:
    return bounded.run([sys.executable, "-c", code], seconds, folder / "log", os.environ, folder)


def test_how_a_command_ended_and_what_it_said(tmp_path):
    done, failed = run("print('a\\rb\\nc')", tmp_path), None
    assert (done.status, done.returncode) == ("done", 0)
    assert bounded.output(tmp_path / "log") == "b\nc"
    failed = run("import sys; print('why', file=sys.stderr); sys.exit(3)", tmp_path)
    assert (failed.status, failed.returncode) == ("failed", 3)
    assert bounded.output(tmp_path / "log") == "why"


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stubborn", [False, True])
def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path, monkeypatch, stubborn):
    monkeypatch.setattr(bounded, "GRACE", 0.5)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if stubborn else ""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True)"
    code = f"import signal, subprocess, sys, time; {ignore}print({child}.pid, flush=True); {SLEEPER}"
    outcome = run(code, tmp_path, seconds=2.0)
    assert outcome.status == "timed out"
    assert outcome.seconds < 10
    assert gone(int(bounded.output(tmp_path / "log")))


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux")
def test_a_command_ends_when_the_script_is_killed(tmp_path):
    code = f"import os; print(os.getpid(), flush=True); {SLEEPER}"
    script = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "benchmarks")!r}]
from pathlib import Path
from on_gpu import bounded
bounded.run([sys.executable, "-c", {code!r}], 60, Path({str(tmp_path)!r}) / "log", os.environ, Path({str(tmp_path)!r}))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    log = tmp_path / "log"
    while process.poll() is None and not (log.exists() and log.read_text().strip()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert gone(int(log.read_text()))


def emitting(*given: dict) -> list[str]:
    """Return the arguments of a command that reports these rows."""
    return ["-c", f"import json; from on_gpu.rows import emit; emit(*json.loads({json.dumps(given)!r}))"]


def parts_of(folder: Path, limit: float = 0.5) -> dict[str, Part]:
    """Return two parts whose commands end in every way, one by hanging; each leaves a line in folder/calls."""

    def called(name: str, arguments: list[str]) -> list[str]:
        return ["-c", f"open({str(folder / 'calls')!r}, 'a').write({name + chr(10)!r})\n{arguments[1]}"]

    first = [
        Command("good", called("good", emitting(ROW, CHECK)), 30),
        Command("bad", called("bad", ["-c", "raise ValueError('the reason')"]), 30),
        Command("wrong", called("wrong", emitting({**CHECK, "measured": 0.5, "holds": False})), 30),
    ]
    second = [
        Command("slow", called("slow", ["-c", f"{emitting(CHECK)[1]}\n{SLEEPER}"]), limit),
        Command("tool", called("tool", ["-c", ""]), 30, tool=("no-such-tool",)),
        Command("shown", called("shown", ["-c", "print('noise\\nFigures: 1'); print(2)"]), 30, shown="Figures:"),
    ]
    return {"one": Part("Part one", lambda setting: first), "two": Part("Part two", lambda setting: second)}


@pytest.fixture
def prove(monkeypatch, tmp_path):
    """Return prove(*flags): the exit status of the command with parts_of(tmp_path) on a made-up card."""
    monkeypatch.setattr(gpu, "PARTS", parts_of(tmp_path))
    monkeypatch.setattr(gpu, "facts_of", lambda *_: FACTS)
    monkeypatch.setattr(bounded, "GRACE", 0.2)
    return lambda *flags: gpu.main(["--out", str(tmp_path / "out"), "--work", str(tmp_path / "work"), *flags])


def calls(folder: Path) -> list[str]:
    """Return the names of the commands that ran since the last call."""
    path = folder / "calls"
    names = path.read_text().split() if path.exists() else []
    path.unlink(missing_ok=True)
    return names


def test_all_that_can_run_runs_and_the_page_says_how_it_ended(prove, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "PARTS", parts_of(tmp_path, 3))
    assert prove("--device", "cuda") == 1
    assert calls(tmp_path) == ["good", "bad", "wrong", "slow", "shown"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"gpu-test-card-3000-80-gb.{ending}" for ending in ("csv", "json", "md")
    ]
    text = (tmp_path / "out" / "gpu-test-card-3000-80-gb.md").read_text()
    assert text.startswith("# gcl_fast on one Test Card 3000 (80 GB)\n")
    assert "Commands: 2 done, 2 failed, 1 timed out, 1 left out." in text
    for line in ("- good: done, ", "- bad: failed, ", "- slow: timed out, ", "- tool: left out: no no-such-tool here"):
        assert f"\n{line}" in text
    places = [text.index(f"## {name}") for name in ("Machine", "Targets", "Part one", "Part two", "Failures")]
    assert places == sorted(places)
    failures = text[places[-1] :]
    assert "ValueError: the reason" in failures
    assert "- it adds up : 0.5" in failures
    assert "ended after its limit of 3 s" in failures
    assert "shown:\n\n```\nFigures: 1\n2\n```" in text[: places[-1]]
    assert str(tmp_path) not in text
    slow = text[places[3] : places[4]]
    assert "| it adds up | 1e-07 | 1e-06 | yes |" in slow  # what was measured before it was ended


def test_what_is_done_is_not_run_again_until_the_sources_change(prove, tmp_path, monkeypatch, capsys):
    prove()
    calls(tmp_path)
    assert prove() == 1
    assert calls(tmp_path) == ["bad", "wrong", "slow"]
    assert "-- one: good: done before" in capsys.readouterr().out
    assert prove("--parts", "one", "--again") == 1
    assert calls(tmp_path) == ["good", "bad", "wrong"]
    monkeypatch.setattr(gpu, "sources", lambda: "others")
    prove("--parts", "one")
    assert calls(tmp_path) == ["good", "bad", "wrong"]
    monkeypatch.setattr(gpu, "facts_of", lambda *_: {**FACTS, "card": "Another"})
    prove("--parts", "one")
    assert calls(tmp_path) == ["good", "bad", "wrong"]


def test_without_time_nothing_begins_and_figures_stay(prove, tmp_path, monkeypatch):
    assert prove("--minutes", "0.001") == 1
    assert calls(tmp_path) == []
    path = tmp_path / "out" / "gpu-test-card-3000-80-gb.md"
    assert "- good: no time: --minutes 0.001 are over" in path.read_text()
    prove()
    monkeypatch.setattr(gpu, "sources", lambda: "others")
    prove("--minutes", "0.001")
    assert "| joint step | paper, batch 16 | ours, eager | 25 |" in path.read_text()


def test_a_run_that_is_killed_goes_on(prove, tmp_path):
    """Kill the script by SIGKILL while the hanging command runs, and run it again."""
    script = f"""
import sys
sys.path[:0] = [{str(ROOT / "benchmarks")!r}]
import importlib.util
spec = importlib.util.spec_from_file_location("helpers", {__file__!r})
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
from pathlib import Path
folder = Path({str(tmp_path)!r})
helpers.gpu.PARTS = helpers.parts_of(folder, 60)
helpers.gpu.facts_of = lambda *_: helpers.FACTS
helpers.gpu.main(["--out", str(folder / "out"), "--work", str(folder / "work")])
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    reached = tmp_path / "calls"
    while process.poll() is None and not (reached.exists() and "slow" in reached.read_text()):
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    _, complaint = process.communicate()
    assert process.returncode == -signal.SIGKILL, complaint
    assert calls(tmp_path) == ["good", "bad", "wrong", "slow"]
    prove()
    assert calls(tmp_path) == ["bad", "wrong", "slow", "shown"]


def test_ctrl_c_ends_the_command_and_keeps_what_was_measured(prove, tmp_path, monkeypatch, capsys):
    before = bounded.run

    def interrupted(command, *rest):
        if "slow" in command[-1]:
            raise KeyboardInterrupt
        return before(command, *rest)

    monkeypatch.setattr(bounded, "run", interrupted)
    assert prove() == 130
    assert "the same command goes on" in capsys.readouterr().err
    monkeypatch.undo()
    held = json.loads((tmp_path / "out" / "gpu-test-card-3000-80-gb.json").read_text())
    assert list(held["commands"]) == ["one: good", "one: bad", "one: wrong"]


def test_a_trial_claims_nothing(prove, tmp_path):
    assert prove("--device", "cpu") == 1
    text = (tmp_path / "out" / "gpu-trial.md").read_text()
    assert text.startswith("# Trial on a CPU with tiny sizes: no figure here is of a GPU\n")
    assert "A trial meets none." in text
    assert "met |" not in text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_sentence(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--out", str(tmp_path), "--work", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("benchmarks/gpu.py: no GPU here")
    assert line.endswith("--device cpu tries the script with tiny sizes")
    assert list(tmp_path.iterdir()) == []


def test_sources_are_those_of_the_package(tmp_path):
    for folder in state.MEASURED:
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.py").write_text(folder)
    first = state.sources(tmp_path)
    (tmp_path / "gcl_fast" / "kernels").symlink_to(tmp_path / "kernels")
    (tmp_path / "gcl_fast" / "notes.txt").write_text("")
    assert state.sources(tmp_path) == first
    (tmp_path / "csrc" / "a.cu").write_text("")
    assert state.sources(tmp_path) != first


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_every_command_names_what_is_there(device, tmp_path):
    setting, seconds = Setting(device, tmp_path), 0.0
    for name, part in PARTS.items():
        commands = part.commands(setting)
        assert len({command.name for command in commands}) == len(commands) > 0, name
        for command in commands:
            seconds += command.seconds
            script = command.arguments[0]
            if script == "-m":
                module = command.arguments[1]
                assert module == "pytest" or (ROOT / "benchmarks" / f"{module.replace('.', '/')}.py").is_file()
            else:
                assert Path(script).is_file()
            named = [a for a in command.arguments if a.startswith(str(ROOT / "tests")) or a.startswith("--ignore=")]
            assert all(Path(path.removeprefix("--ignore=")).exists() for path in named)
    assert seconds < 6000


def test_csvs_of_other_benchmarks_are_read(tmp_path):
    for name in rows.CONVERTERS:
        lines = (ROOT / "benchmarks" / "results" / f"{name}.csv").read_text().splitlines(keepends=True)
        (tmp_path / f"{name}.csv").write_text("".join([lines[0], *lines[-6:]]))
    read = rows.read(tmp_path)
    assert len(read) == 6 * len(rows.CONVERTERS)
    assert all(row["kind"] == "time" and 0 < row["min_ms"] <= row["median_ms"] <= row["max_ms"] for row in read)
    assert {"ours", "reference"} <= {row["contender"] for row in read}


def test_outcomes_of_pytest_are_read(tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\ndef test_a(): pass\ndef test_b(): assert 1 == 2, 'no'\ndef test_c(): pytest.skip('x')\n"
    )
    for name, count in (("sum", 1), ("each", 2)):
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junit-xml={tmp_path}/{name}.xml"]
        subprocess.run([*command, str(tmp_path / "test_it.py")], capture_output=True, cwd=tmp_path)
        whole, *others = rows.read(tmp_path)
        assert whole["measured"] == "1 passed, 1 failed, 1 skipped"
        assert not whole["holds"]
        assert len(others) == count
        assert [row["what"].split()[-1] for row in others if not row["holds"]] == ["test_b"]
        (tmp_path / f"{name}.xml").unlink()


def test_a_row_cut_short_is_left_out(tmp_path):
    (tmp_path / rows.FILE).write_text(json.dumps(CHECK) + '\n{"kind": "ti')
    assert rows.read(tmp_path) == [CHECK]


def rate(what: str, value: float) -> rows.Row:
    return {"kind": "rate", "what": what, "value": value}


@pytest.fixture
def measured(tmp_path) -> state.State:
    """Return a state with ceilings, a joint step with the official one, and the contrastive loss of a million rows."""
    held = state.State(tmp_path / "gpu.json", "Card", FACTS)
    bank = {**ROW, "what": targets.LOSS, "size": f"{targets.MANY}, D 512, bfloat16 bank", "contender": "ours"}
    bank |= {"median_ms": 2.0, "flops": 5e11, "moved": 1e9, "arithmetic": "bf16 matrix product", "peak_mb": 20.0}
    given = {
        "ceilings: ceilings": [rate("convolution", 4e14), rate("copy", 2e12), rate("bf16 matrix product", 5e14)],
        "steps: joint, paper": [ROW, {**ROW, "contender": targets.OFFICIAL, "median_ms": 110.0}],
        "parts: memory_bank.py": [bank, {**bank, "contender": "compiled reference", "median_ms": 3.0}],
        "demo: first command": [{**ROW, "what": "first command", "contender": "ours", "median_ms": 95e3}],
    }
    for key, told in given.items():
        stamp = {"commit": "abc", "sources": "s", "date": "2026-01-01T00:00:00+00:00"}
        held.keep(key, {"status": "done", "seconds": 1.0, "rows": told, **stamp})
    return held


def test_steps_are_captured_where_the_run_can():
    for compiled in (False, True):
        on_gpu, on_cpu = (steps.contenders(device, compiled) for device in ("cuda", "cpu"))
        assert set(on_gpu) - set(on_cpu) == {"ours, captured"}
        assert on_gpu["ours, captured"].settings == ("cuda_graphs=on",)
        assert next(iter(on_gpu)) == "ours, eager"
    assert targets.OFFICIAL in steps.contenders("cpu", False)


def test_targets_are_held_against_what_was_measured(measured):
    verdicts = {t.what: t.verdict(measured.rows(), measured.rates()) for t in targets.TARGETS}
    many = f"contrastive loss, {targets.MANY}"
    assert verdicts["joint step, paper, over the official"] == (pytest.approx(4.4), "met")
    assert verdicts["joint step, paper, of the convolution ceiling"] == (pytest.approx(40.0), "met")  # 10 ms of 25
    assert verdicts[f"{many}, over torch.compile"] == (pytest.approx(1.5), "not met")
    assert verdicts[f"{many}, over its roofline"] == (pytest.approx(2.0), "not met")  # 1 ms of products
    assert verdicts[f"{many}, memory beside B x N float32"] == (pytest.approx(100 * 20 * 2**20 / 1.024e9), "met")
    assert verdicts["first command"] == (pytest.approx(95), "not met")
    unknown = {what for what, (value, verdict) in verdicts.items() if verdict == "not measured" and value is None}
    assert len(unknown) == len(targets.TARGETS) - 6
    assert "paper preset, 60 epochs, 12,936 crops, extrapolated" in unknown


def test_a_page_puts_peers_and_ceilings_beside_ours(measured, tmp_path):
    card_page.write(measured, PARTS, tmp_path, "page", trial=False)
    text = (tmp_path / "page.md").read_text()
    assert "| joint step, paper, over the official | ≥ 4 x | 4.4 x | met |" in text
    assert "| first command | ≤ 90 s | 95 s | not met |" in text
    line = next(line for line in text.splitlines() if line.startswith("| joint step | paper, batch 16 | ours, eager |"))
    assert [cell.strip() for cell in line.split("|")][4:12] == [
        *("25", "24", "26", "640", "40%", "5", f"{targets.OFFICIAL} 110 ms", "4.40x"),
    ]
    assert "| convolution | 400 TFLOP/s |" in text
    assert "## Failures\n\nNone." in text
    lines = list(csv.DictReader((tmp_path / "page.csv").open()))
    assert len(lines) == len(measured.rows())
    compiled = next(line for line in lines if line["contender"] == "compiled reference")
    assert (compiled["ratio"], compiled["ceiling_fraction"]) == ("1.5", "0.3333")
