"""Prove gcl_fast on a GPU by one command: build, test, compare and measure, and leave one page.

    python benchmarks/gpu.py                                  # half an hour; the same command resumes where it stopped
    python benchmarks/gpu.py --minutes 9 --parts build tests  # some parts, in less time
    python benchmarks/gpu.py --device cpu                     # no GPU: tries the whole script with tiny sizes

Leaves in --out gpu-CARD.md (machine, targets, a table for every part, failures with the last lines of their output),
gpu-CARD.csv with the same rows, and gpu-CARD.json, from which a later call goes on: a command that has ended well with
these sources of the package is not run again unless --again. All three are written after every command. A command that
takes longer than its limit is ended with everything it started, and the rest goes on.

Nothing needs to be installed or downloaded: PYTHONPATH names the checkout. Data sets, runs, logs and the caches of
compilers go to --work. Exit status: 0 everything ended well, 1 something did not, 2 no GPU here.

A trial on the CPU writes into a temporary folder or --out, and its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from on_gpu import bounded, card_page, rows  # noqa: E402
from on_gpu.commands import PARTS, Command, Setting  # noqa: E402
from on_gpu.state import State, sources  # noqa: E402

RESULTS, WORK = ROOT / "benchmarks" / "results", ROOT / "runs" / "gpu"
LEAST = 15.0  # seconds: with less left no command is begun
ASKING = 180.0  # seconds: of the facts of the machine
SHOWN, TAIL = 60, 25  # lines of output that the page takes of a command that shows it, and of one that failed


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flag = parser.add_argument
    flag("--parts", nargs="+", choices=list(PARTS), default=list(PARTS), help="default: all, in this order")
    flag("--minutes", type=float, default=30.0, help="for this call, all its parts together (default: 30)")
    flag("--out", type=Path, help="folder of the page (default: benchmarks/results; on a CPU a temporary one)")
    flag("--work", type=Path, help="folder of data, runs, logs, caches (default: runs/gpu; on a CPU OUT/work)")
    flag("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a trial with tiny sizes")
    flag("--again", action="store_true", help="run what is done as well")
    options = parser.parse_args(arguments)
    if not options.minutes > 0:
        parser.error(f"--minutes {options.minutes:g}: expected more than 0")
    return options


def environment(work: Path, trial: bool) -> dict[str, str]:
    """Return the commands' environment: the checkout on the path, and for a card empty caches below `work`."""
    path = [str(ROOT), str(ROOT / "benchmarks"), *filter(None, [os.environ.get("PYTHONPATH")])]
    caches = {
        "GCL_FAST_CACHE": work / "cache",
        "TORCHINDUCTOR_CACHE_DIR": work / "inductor",
        "TRITON_CACHE_DIR": work / "triton",
    }
    overrides = {} if trial else {name: str(folder) for name, folder in caches.items()}
    return {**os.environ, **overrides, "PYTHONPATH": os.pathsep.join(path), "PYTHONUNBUFFERED": "1"}


def facts_of(setting: Setting, variables: Mapping[str, str]) -> dict[str, Any] | str:
    """Return the facts of the machine from a process of their own, or a sentence where there is no GPU."""
    command = [sys.executable, "-m", "on_gpu.facts", "--device", setting.device]
    options: dict[str, Any] = {"env": dict(variables), "cwd": setting.work, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, **options, timeout=ASKING)
    except subprocess.TimeoutExpired:
        return f"benchmarks/gpu.py: the GPU did not answer within {ASKING:.0f} s"
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr.strip()


def execute(
    key: str, command: Command, setting: Setting, variables: Mapping[str, str], seconds: float
) -> dict[str, Any]:
    """Run the command called `key` for `seconds` at most and return its result."""
    tool = _tool(command)
    if tool is None:
        return {"status": "left out", "reason": f"no {command.tool[0]} here"}
    logs = setting.work / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    log = logs / f"{slug(key)}.log"
    results = setting.work / "rows"
    shutil.rmtree(results, ignore_errors=True)  # of a command that was killed
    results.mkdir()
    arguments = [argument.replace("{results}", str(results)) for argument in command.arguments]
    with_rows = {**variables, rows.FOLDER: str(results)}
    ended = bounded.run([*tool, sys.executable, *arguments], seconds, log, with_rows, setting.work)
    left = rows.read(results)
    result: dict[str, Any] = {"status": ended.status, "seconds": round(ended.seconds, 1), "rows": left}
    broken = [row["what"] for row in left if row["kind"] == "check" and not row["holds"]]
    if ended.status == "timed out":
        result["reason"] = f"ended after its limit of {seconds:.0f} s"
    elif broken:
        result |= {"status": "failed", "reason": f"{len(broken)} claims do not hold, the first: {broken[0]}"}
    elif ended.status == "failed":
        result["reason"] = f"exit status {ended.returncode}"
    text = bounded.output(log).replace(str(setting.work), "WORK").replace(str(ROOT), "CHECKOUT")
    if result["status"] != "done":
        result["tail"] = "\n".join(text.splitlines()[-TAIL:])
    if command.shown:
        result["shown"] = "\n".join(text[max(text.find(command.shown), 0) :].splitlines()[:SHOWN])
    return result


def slug(name: str) -> str:
    """Return `name` in the letters of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _tool(command: Command) -> list[str] | None:
    """Return the program that runs a command: [] where it needs none, None where it is missing."""
    if not command.tool:
        return []
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    path = shutil.which(command.tool[0]) or shutil.which(command.tool[0], path=f"{home}/bin")
    return [path, *command.tool[1:]] if path else None


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, write the page after each command, and return the exit status."""
    options = parse(arguments)
    deadline, trial = time.monotonic() + 60 * options.minutes, options.device == "cpu"
    out = options.out or (Path(tempfile.mkdtemp(prefix="gpu-trial-")) if trial else RESULTS)
    work = options.work or (out / "work" if trial else WORK)
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        print(f"benchmarks/gpu.py: cannot write to {work} ({error.strerror}); choose --out or --work", file=sys.stderr)
        return 2
    setting = Setting(options.device, work.resolve())
    variables = environment(setting.work, trial)
    facts = facts_of(setting, variables)
    if isinstance(facts, str):
        print(facts, file=sys.stderr)
        return 2
    card = "trial on a CPU" if trial else str(facts["card"])
    name = "gpu-trial" if trial else f"gpu-{slug(card)}"
    state, digest, failed = State(out / f"{name}.json", card, facts), sources(), list[str]()
    stamp = {"commit": facts["commit"], "sources": digest}
    print(f"{card}; commit {facts['commit']}, sources {digest}; {out / name}.md", flush=True)
    try:
        for part in (part for part in PARTS if part in options.parts):
            for command in PARTS[part].commands(setting):
                key = f"{part}: {command.name}"
                if state.done(key, digest) and not options.again:
                    print(f"-- {key}: done before", flush=True)
                    continue
                left = deadline - time.monotonic()
                result: dict[str, Any] = {"status": "no time", "reason": f"--minutes {options.minutes:g} are over"}
                if left >= LEAST:
                    result = execute(key, command, setting, variables, min(command.seconds, left))
                failed += [key] if result["status"] not in ("done", "left out") else []
                state.keep(key, {**result, **stamp, "date": datetime.now(UTC).isoformat(timespec="seconds")})
                card_page.write(state, PARTS, out, name, trial)
                took = f" in {result['seconds']:.0f} s" if "seconds" in result else ""
                print(f"-- {key}: {result['status']}{took}  {result.get('reason', '')}".rstrip(), flush=True)
    except KeyboardInterrupt:
        print("benchmarks/gpu.py: interrupted; the same command goes on", file=sys.stderr)
        return 130
    card_page.write(state, PARTS, out, name, trial)
    print(f"{out / name}.md" + (f"; not well: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
