"""Lines of the log and warnings, as a command prints them."""

import logging
import subprocess
import sys

import pytest

from gcl_fast.console import Console, printable, say
from gcl_fast.entry import print_error

SCRIPT = """
import logging, warnings
from gcl_fast.console import open_console

open_console()
open_console()  # prints nothing twice
log = logging.getLogger("gcl_fast.somewhere")
log.debug("detail")
log.info("fact")
log.warning("doubt")
for _ in range(2):
    warnings.warn("strange")
    with warnings.catch_warnings():  # after which Python prints the same text again
        warnings.simplefilter("ignore")
"""


@pytest.mark.parametrize(
    ("rank", "lines"),
    [
        (None, ["gcl_fast: fact", "gcl_fast: warning: doubt", "gcl_fast: warning: strange"]),
        ("3", ["gcl_fast: rank 3: warning: doubt", "gcl_fast: rank 3: warning: strange"]),
    ],
)
def test_one_line_each(monkeypatch, rank, lines):
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert (done.stderr.splitlines(), done.stdout) == (lines, "")


def test_a_name_cannot_act_on_the_terminal(capsys):
    hostile, plain = "a\x1b[2J\rb\u202e.jpg", "a\\x1b[2J\\rb\\u202e.jpg"
    print_error(f"no {hostile}")
    say(hostile)
    console = Console(0)
    console.emit(logging.makeLogRecord({"levelno": logging.WARNING, "levelname": "WARNING", "msg": hostile}))
    printed = capsys.readouterr()
    assert printed.out == f"{plain}\n"
    assert printed.err == f"gcl_fast: no {plain}\ngcl_fast: warning: {plain}\n"
    assert console.warning(hostile) == f"gcl_fast: warning: {plain}\n"
    assert printable("lines\n  of one error: é 行 ✓") == "lines\n  of one error: é 行 ✓"
