"""Two gloo processes: gathered rows, averaged gradients, one flag."""

import subprocess
import sys

import torch
from torch import nn

from gcl_fast.training.clustering import camera_centred
from gcl_fast.training.ranks import Ranks
from gcl_fast.training.step import draw_yaw

ALONE = Ranks(0, 1, torch.device("cpu"))

WORK = """
import sys
import torch
from torch import nn
from gcl_fast.training import ranks as processes

ranks = processes.start("cpu")
torch.manual_seed(ranks.rank)
layer = nn.Linear(3, 2)
ranks.broadcast_(layer)
x = torch.arange(6.0).view(2, 3)[ranks.rank : ranks.rank + 1]
with ranks.averaging(layer.parameters()):
    layer(x).square().sum().backward()
out = {
    "weight": layer.weight.detach(),
    "bias": layer.bias.detach(),
    "grad": layer.weight.grad,
    "gathered": ranks.gather(x),
    "any": ranks.any(ranks.rank == 1, False),
}
torch.save(out, f"{sys.argv[1]}/{ranks.rank}.pt")
processes.stop()
"""


def test_two_processes_agree(tmp_path):
    script = tmp_path / "work.py"
    script.write_text(WORK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*torchrun, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    whole = torch.arange(6.0).view(2, 3)
    for out in (one, two):
        assert torch.equal(out["gathered"], whole)
        assert out["any"] == [True, False]
        assert torch.equal(out["weight"], one["weight"])
    layer = nn.Linear(3, 2)
    layer.load_state_dict({"weight": one["weight"], "bias": one["bias"]})
    (layer(whole).square().sum() / 2).backward()
    for out in (one, two):
        torch.testing.assert_close(out["grad"], layer.weight.grad)


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
