"""Two gloo processes: gathered rows, averaged gradients, one flag; which device and backend ranks take."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from gcl_fast.distributed.ranks import SHARING, Ranks, backend_of, placed
from gcl_fast.errors import UserError
from gcl_fast.run.header import describe_ranks
from gcl_fast.stages.clustering import camera_centred
from gcl_fast.stages.gcl_step import draw_yaw

ALONE = Ranks(0, 1, torch.device("cpu"))

WORK = """
import sys
import torch
from torch import nn
from gcl_fast.distributed import ranks as processes

ranks = processes.start(sys.argv[2])
assert ranks.device.type == sys.argv[2]
torch.manual_seed(ranks.rank)
layer = nn.Linear(3, 2).to(ranks.device)
ranks.broadcast_(layer)
x = torch.arange(6.0, device=ranks.device).view(2, 3)[ranks.rank : ranks.rank + 1]
with ranks.averaging(layer.parameters()):
    layer(x).square().sum().backward()
out = {
    "weight": layer.weight.detach(),
    "bias": layer.bias.detach(),
    "grad": layer.weight.grad,
    "gathered": ranks.gather(x),
    "sum": ranks.sum(x.clone()),
    "largest": ranks.max(x.clone()),
}
out = {name: value.cpu() for name, value in out.items()} | {"any": ranks.any(ranks.rank == 1, False)}
torch.save(out, f"{sys.argv[1]}/{ranks.rank}.pt")
processes.stop()
"""


def test_two_processes_agree(tmp_path, device):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, str(script), str(tmp_path), device],
        env=os.environ | {SHARING: "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = torch.arange(6.0).view(2, 3)
    for out in (one, two):
        assert torch.equal(out["gathered"], whole)
        assert torch.equal(out["sum"], whole.sum(0, keepdim=True))
        assert torch.equal(out["largest"], whole[1:])
        assert out["any"] == [True, False]
        assert torch.equal(out["weight"], one["weight"])
    layer = nn.Linear(3, 2)
    layer.load_state_dict({"weight": one["weight"], "bias": one["bias"]})
    (layer(whole).square().sum() / 2).backward()
    for out in (one, two):
        torch.testing.assert_close(out["grad"], layer.weight.grad)


def test_ranks_share_a_gpu_only_where_they_are_told_to(monkeypatch):
    monkeypatch.delenv(SHARING, raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = torch.device("cuda", 1)
    assert [placed("cuda", local).index for local in range(2)] == [0, 1]
    with pytest.raises(UserError, match=f"2 GPUs here, but this is local rank 2; {SHARING}=1 lets ranks share"):
        placed("cuda", 2)
    assert backend_of(gpu) == "cpu:gloo,cuda:nccl"
    assert describe_ranks(Ranks(0, 3, gpu)) == ", 3 ranks"
    monkeypatch.setenv(SHARING, "1")
    assert [placed("cuda", local).index for local in range(5)] == [0, 1, 0, 1, 0]
    assert backend_of(gpu) == backend_of(ALONE.device) == "gloo"  # NCCL refuses two ranks on one device
    assert f"3 ranks that share GPUs by gloo ({SHARING}=1)" in describe_ranks(Ranks(0, 3, gpu))
    assert describe_ranks(Ranks(0, 3, ALONE.device)) == ", 3 ranks"
    assert placed("cpu", 7) == ALONE.device
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(UserError, match=r"0 GPUs here, but this is local rank 0; --device cpu"):
        placed("cuda", 0)
    with pytest.raises(UserError, match="expected auto, cpu or cuda"):
        placed("tpu", 0)


def test_yaws_are_uniform_and_repeatable():
    yaw = torch.cat([draw_yaw(16, 0, 0, position, ALONE) for position in range(700)])
    values, counts = yaw.unique(return_counts=True)
    assert values.tolist() == [45.0 * k for k in range(1, 8)]
    assert ((counts - 1600).abs() < 5 * 1600**0.5).all()
    assert torch.equal(draw_yaw(16, 1, 2, 3, ALONE), draw_yaw(16, 1, 2, 3, ALONE))
    halves = [draw_yaw(8, 1, 2, 3, Ranks(rank, 2, ALONE.device)) for rank in range(2)]
    assert torch.equal(torch.cat(halves), draw_yaw(16, 1, 2, 3, ALONE))


def test_camera_centring_removes_what_a_camera_adds():
    torch.manual_seed(0)
    persons, cameras = torch.randn(20, 8), 4 * torch.randn(3, 8)
    camera = torch.arange(3).repeat_interleave(20)
    features = persons.repeat(3, 1) + cameras[camera]
    centred = camera_centred(features, camera * 7)
    torch.testing.assert_close(centred[:20], centred[20:40])
    torch.testing.assert_close(centred.norm(dim=1), torch.ones(60))
