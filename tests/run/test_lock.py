"""One process trains a run at a time, and the folder of a run is none of crops."""

import errno
import fcntl
import os
import re
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.run.folder import RunFolder
from gcl_fast.run.lock import NAME, RunLock
from gcl_fast.settings import preset

HOLD = """
import sys
from pathlib import Path
from gcl_fast.run.lock import RunLock

lock = RunLock(Path(sys.argv[1]))
lock.acquire()
print("held", flush=True)
sys.stdin.read()
"""
ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock on tmp_path/run."""
    (tmp_path / "run").mkdir()
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def folder(tmp_path: Path, resume: bool = False) -> RunFolder:
    return RunFolder(replace(preset("demo"), runs=str(tmp_path), name="run"), ALONE, resume)


def test_a_held_run_is_refused_by_the_name_of_its_holder_until_that_is_killed(tmp_path, holder):
    other = RunLock(tmp_path / "run")
    who = f"process {holder.pid} on {socket.gethostname()} since 2"
    with pytest.raises(UserError, match=rf"run is trained by {who}.* now; wait for it, or choose another --name"):
        other.acquire(patience=0)
    assert not other.held
    holder.kill()
    other.acquire()  # waits until the system has freed it
    assert other.held
    assert (tmp_path / "run" / NAME).read_text().startswith(f"process {os.getpid()} on ")
    again = RunLock(tmp_path / "run")
    again.acquire(patience=0)  # of the same process
    other.release()
    again.release()


@pytest.mark.parametrize("resume", [False, True])
def test_no_run_begins_or_goes_on_beside_another(tmp_path, holder, resume, monkeypatch):
    monkeypatch.setattr(RunLock.acquire, "__defaults__", (0,))
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match=f"is trained by process {holder.pid}"):
        folder(tmp_path, resume)
    assert sorted(tmp_path.rglob("*")) == before
    holder.kill()
    holder.wait()
    with folder(tmp_path, resume) as opened:
        opened.open({})


def test_a_run_that_another_command_trained_meanwhile_is_not_begun_again(tmp_path):
    late, resumed = folder(tmp_path), folder(tmp_path, resume=True)
    with folder(tmp_path) as first:
        first.open({})
        first.log.metrics("warmup", 1, {"loss": 1.0})
        assert first.save_state("warmup", 1, {})
    with pytest.raises(UserError, match="holds a run already"):
        late.open({})
    with pytest.raises(UserError, match="was trained by another command meanwhile; repeat this one with --resume"):
        resumed.open({})


def test_a_file_system_without_locks_causes_a_warning(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    lock = RunLock(tmp_path)
    with pytest.warns(UserWarning, match="a file system without locks .Function not implemented.: take care"):
        lock.acquire()
    lock.release()


@pytest.mark.parametrize("name", [".lock", "run.log", "metrics.jsonl"])
def test_a_link_does_not_lead_out_of_the_folder_of_a_run(tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "notes.txt").write_text("kept")
    (tmp_path / "run" / name).symlink_to(tmp_path / "notes.txt")
    with pytest.raises(UserError, match=rf"run/{re.escape(name)} is a link"):
        folder(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_a_run_is_not_written_among_images(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").touch()  # of a scheduler
    folder(tmp_path)
    (tmp_path / "run" / "0001.jpg").touch()
    with pytest.raises(UserError, match=r"holds images and no run .it looks like --dataset folder.; choose another"):
        folder(tmp_path)
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["0001.jpg", "log.txt"]
