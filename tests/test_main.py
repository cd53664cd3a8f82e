"""gcl-fast and every command: what they answer before anything heavy is imported, and how they are restarted."""

import importlib
import itertools
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gcl_fast import __version__
from gcl_fast.__main__ import COMMANDS, main
from gcl_fast.command_line import parse
from gcl_fast.process import ALLOCATOR

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "numpy", "scipy", "sklearn", "matplotlib", "PIL", "nvidia", "triton"}
CALLS = [
    ("-m", "gcl_fast"),
    *(("-m", "gcl_fast", name) for name in COMMANDS),
    (str(ROOT / "gcl_fast" / "train.py"),),
    ("-m", "gcl_fast.synthetic"),
    ("-m", "gcl_fast.estimator_training"),
]


@pytest.mark.parametrize("call", CALLS, ids=lambda call: " ".join(call[-2:]))
@pytest.mark.parametrize(
    ("flag", "status", "answer"),
    [
        ("--help", 0, r"usage: [\s\S]*--version"),
        ("--version", 0, rf"gcl_fast {re.escape(__version__)}"),
        ("--vresion", 2, r"gcl_fast: there is no flag --vresion; did you mean --version\? \(.* --help lists .*\)"),
    ],
)
def test_a_command_answers_without_what_takes_seconds(call, flag, status, answer, tmp_path):
    environment = os.environ | {"GCL_FAST_CACHE": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    command = [sys.executable, "-X", "importtime", *call, flag]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    timing = re.compile(r"import time:.*\|\s+([\w.]+)$")
    lines = [line for line in done.stderr.splitlines() if not line.startswith("import time:")]
    imported = {match[1].partition(".")[0] for match in map(timing.match, done.stderr.splitlines()) if match}
    assert re.match(answer, done.stdout + "\n".join(lines))
    assert done.returncode == status
    assert "gcl_fast" in imported
    assert imported & HEAVY == set()
    assert list(tmp_path.iterdir()) == []  # no cache: nothing was built


def test_help_names_every_command_in_one_line(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    for name, (_, purpose) in COMMANDS.items():
        assert len([line for line in lines if re.fullmatch(rf"  {name} +{re.escape(purpose)}", line)]) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "there is no command trian; did you mean train?"),
        (["xyzzy", "--help"], "there is no command xyzzy "),
        (["--hlep"], "there is no flag --hlep; did you mean --help?"),
        ([], "name a command"),
        (["train", "--stages", "warmpu"], "invalid choice: 'warmpu' (choose from"),
        (["train", "--set", "joint.epoch=5"], "there is no setting 'epoch' here; there are epochs"),
        (["train", "--dataset", "market"], "there is no such dataset; did you mean market1501?"),
        (["evaluate"], "the following arguments are required: run"),
        (["evaluate", "--reank"], "there is no flag --reank; did you mean --rerank?"),
        (["evaluate", "runs/x", "--dataset", "market"], "invalid choice: 'market'"),
    ],
)
def test_a_wrong_word_is_answered_in_one_line(arguments, message, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("gcl_fast: ")
    assert message in line


def test_a_command_gets_the_arguments_after_its_name(monkeypatch):
    module = importlib.import_module(COMMANDS["synthetic"][0])
    monkeypatch.setattr(module, "main", lambda arguments: len(arguments))
    assert main(["synthetic", "--out", "train"]) == 2


PROBE = """
import json, sys
from gcl_fast.arguments import Parser
from gcl_fast.entry import entry
from gcl_fast.process import allocator, prepare_process

@entry
def main(arguments):
    parser = Parser("gcl-fast probe", "Show the process.")
    parser.add_argument("--word")
    options = parser.parse_args(arguments)
    print("parsed", flush=True)
    prepare_process()
    import os
    print(json.dumps([options.word, allocator(), os.environ.get("GLIBC_TUNABLES", "")]))
    return 7
"""


@pytest.mark.skipif("glibc" not in os.confstr("CS_GNU_LIBC_VERSION"), reason="the allocator is chosen for glibc alone")
@pytest.mark.parametrize("how", ["script", "statement"])
def test_a_command_of_the_console_script_is_restarted_once(tmp_path, how):
    """With the same arguments, by the script that pip writes from pyproject.toml and by python -c."""
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["gcl-fast"]
    module, _, function = target.partition(":")
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "sitecustomize.py").write_text(
        "from gcl_fast import __main__ as start\nstart.COMMANDS['probe'] = ('probe', '')\n"
    )
    (tmp_path / "gcl-fast").write_text(f"import sys\nfrom {module} import {function}\nsys.exit({function}())\n")
    call = {"script": [str(tmp_path / "gcl-fast")], "statement": ["-c", f"from {module} import *; sys.exit(main())"]}[
        how
    ]
    ours = ("GLIBC_TUNABLES", "GCL_FAST_ALLOCATOR", "LD_PRELOAD")
    environment = {key: value for key, value in os.environ.items() if key not in ours}
    environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, *call, "probe", "--word", "two words"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 7, done.stderr
    *before, after = done.stdout.splitlines()
    assert before == ["parsed", "parsed"]
    assert after.startswith('["two words", "glibc that keeps its memory (restarted once')
    assert ALLOCATOR in after
    done = subprocess.run([*command, "--version"], env=environment, capture_output=True, text=True)
    assert done.stdout == f"gcl_fast {__version__}\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_a_list_that_is_given_twice_is_one_list(name):
    module = "gcl_fast.command_line" if name == "train" else COMMANDS[name][0]
    parser = importlib.import_module(module).parser()
    lists = [action for action in parser._actions if action.option_strings and action.nargs in ("+", "*")]
    for action in lists:
        values = [str(choice) for choice in action.choices or ("1", "2")][:2]
        flag = action.option_strings[0]
        needed = [[*other.option_strings[:1], "x"] for other in parser._actions if other.required]
        words = [*itertools.chain(*needed), flag, values[0], flag, values[1]]
        assert [str(value).removesuffix(".0") for value in getattr(parser.parse_args(words), action.dest)] == values
    assert lists or name not in ("train", "evaluate", "generate", "compare")


def test_settings_of_two_flags_count():
    sets = ["--set", "height=64", "width=40", "--set", "warmup.lr=1e-4"]
    config, _ = parse([*sets, "--stages", "joint", "--stages", "warmup"])
    assert (config.size, config.warmup.lr, config.stages) == ((64, 40), 1e-4, ("warmup", "joint"))
