"""Lines of the log and warnings, as a command prints them."""

import subprocess
import sys

import pytest

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
