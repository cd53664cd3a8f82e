"""torchrun --max-restarts: processes of a second attempt find one another, know which run is theirs, and draw on."""

import subprocess
import sys

import pytest
import torch

from gcl_fast.distributed.random_state import random_state, seed_all, set_random_state
from gcl_fast.distributed.ranks import Ranks

WORK = """
import os, signal, sys
from pathlib import Path
import torch
from gcl_fast.distributed import ranks as processes
from gcl_fast.distributed.restarts import mark_launch, restarted

folder = Path(sys.argv[1])
ranks = processes.start("cpu")
again = ranks.any(restarted(folder / "ours"), restarted(folder / "another"))
ranks.barrier()
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    assert again == [False, False]
    if ranks.main:
        mark_launch(folder / "ours")
    ranks.barrier()
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
total = ranks.sum(torch.ones(1))
(folder / f"rank{ranks.rank}").write_text(f"{again} {total.item()}")
processes.stop()
"""


def test_a_killed_rank_is_started_again_and_goes_on_with_its_own_run(tmp_path):
    for name in ("ours", "another"):
        (tmp_path / name).mkdir()
    (tmp_path / "another" / "launch").write_text("another torchrun")
    (tmp_path / "work.py").write_text(WORK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    done = subprocess.run(
        [*torchrun, str(tmp_path / "work.py"), str(tmp_path)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    for rank in range(2):
        assert (tmp_path / f"rank{rank}").read_text() == "[True, False] 2.0"


@pytest.mark.parametrize("rank", range(3))
def test_each_rank_draws_on_where_it_was(rank):
    def draw():
        return torch.randn(3).tolist()

    states, expected = [], []
    for seed in range(2):
        seed_all(seed)
        draw()
        states.append(random_state(Ranks(0, 1, torch.device("cpu"))))
        expected.append(draw())
    both = {name: torch.cat([state[name] for state in states]) for name in states[0]}
    set_random_state(both, Ranks(rank, 3, torch.device("cpu")))
    assert draw() == expected[rank % 2]
