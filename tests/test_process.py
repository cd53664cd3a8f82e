"""What a process starts with: an allocator that keeps its memory, OpenMP threads that sleep soon, or a user's own."""

import json
import os
import platform
import subprocess
import sys

import pytest

from gcl_fast.process import ALLOCATOR, SPINS, name_the_user

SCRIPT = """
import json, os, sys
from gcl_fast.process import allocator, prepare_process

prepare_process()
assert "torch" not in sys.modules
print(json.dumps({**os.environ, "allocator": allocator()}))
"""
OURS = ("GLIBC_TUNABLES", "GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "GCL_FAST_ALLOCATOR", "LD_PRELOAD")


def prepared(**own: str) -> dict[str, str]:
    """The environment of a process started in one with `own`, and its allocator()."""
    environment = {key: value for key, value in os.environ.items() if key not in OURS} | own
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_idle_threads_sleep_soon():
    assert prepared()["GOMP_SPINCOUNT"] == SPINS


def test_a_users_own_waiting_stays():
    assert prepared(GOMP_SPINCOUNT="7")["GOMP_SPINCOUNT"] == "7"
    assert "GOMP_SPINCOUNT" not in prepared(OMP_WAIT_POLICY="active")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is chosen for glibc alone")
def test_the_allocator_is_chosen_beside_other_tunables_and_not_over_a_users():
    chosen = prepared(GLIBC_TUNABLES="glibc.rtld.optional_static_tls=512")
    assert chosen["GLIBC_TUNABLES"].split(":") == ["glibc.rtld.optional_static_tls=512", *ALLOCATOR.split(":")]
    assert "restarted once" in chosen["allocator"]
    own = prepared(GLIBC_TUNABLES="glibc.malloc.arena_max=1")
    assert own["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=1"
    assert own["allocator"] == "GLIBC_TUNABLES of the environment"


@pytest.mark.parametrize("begun", ["sys.modules['torch'] = sys", "sys.ps1 = '>>> '"])
def test_a_process_that_has_begun_is_not_restarted(begun):
    script = (
        f"import sys\nfrom gcl_fast.process import *\nprint('begun')\n{begun}\nprepare_process()\nprint(allocator())"
    )
    environment = {key: value for key, value in os.environ.items() if key not in OURS}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "begun\nsystem (a process that has begun is not restarted)\n"


def test_a_user_without_a_name_gets_one(monkeypatch):
    def unknown():
        raise KeyError("getpwuid(): uid not found: 12345")

    names = ("LOGNAME", "USER", "LNAME", "USERNAME")
    for name in names:
        monkeypatch.setenv(name, "")  # restored at the end
    monkeypatch.setattr("getpass.getuser", lambda: "somebody")
    name_the_user()
    assert not any(os.environ[name] for name in names)
    monkeypatch.setattr("getpass.getuser", unknown)
    name_the_user()
    assert os.environ["USER"] == f"uid{os.getuid()}"
