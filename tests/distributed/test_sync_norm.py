"""Two gloo processes normalize as one does on the whole batch: outputs, gradients, running statistics."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from gcl_fast.distributed.ranks import SHARING, Ranks
from gcl_fast.distributed.sync_norm import synchronize_norms
from gcl_fast.errors import UserError

WORK = """
import sys
import torch
from torch import nn
from gcl_fast.distributed import ranks as processes
from gcl_fast.distributed.sync_norm import synchronize_norms

ranks = processes.start(sys.argv[3])
torch.backends.cudnn.allow_tf32 = False
given = torch.load(sys.argv[1], weights_only=True, map_location=ranks.device)
x, weight = given["x"], given["weight"]
network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36))
network.load_state_dict(given["network"])
network.to(ranks.device)
synchronize_norms(network, ranks)
x = x.chunk(2)[ranks.rank].requires_grad_()
with ranks.averaging(network.parameters()):
    y = network(x)
    (y * weight.chunk(2)[ranks.rank]).square().mean().backward()
out = {"y": ranks.gather(y.detach()), "x": ranks.gather(x.grad) / 2, "state": network.state_dict()}
out |= {name: p.grad for name, p in network.named_parameters()}
network.eval()
out["eval"] = ranks.gather(network(x).detach())
if ranks.main:
    torch.save(out, sys.argv[2])
processes.stop()
"""


def test_two_processes_normalize_as_one(tmp_path, device):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36))
    x, weight = torch.randn(6, 3, 5, 5), torch.randn(6, 36)
    x[3:] += 2  # the ranks' own statistics are far apart
    torch.save({"x": x, "weight": weight, "network": network.state_dict()}, tmp_path / "in.pt")
    (tmp_path / "work.py").write_text(WORK)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*torchrun, *(str(tmp_path / name) for name in ("work.py", "in.pt", "out.pt")), device],
        env=os.environ | {SHARING: "1"},
        capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    out = torch.load(tmp_path / "out.pt", weights_only=True, map_location="cpu")
    x.requires_grad_()
    y = network(x)
    (y * weight).square().mean().backward()
    close = lambda a, b: torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    close(out["y"], y.detach())
    close(out["x"], x.grad)
    for name, parameter in network.named_parameters():
        close(out[name], parameter.grad)
    assert out["state"].keys() == network.state_dict().keys()
    for name, value in network.state_dict().items():
        close(out["state"][name], value)
    network.eval()
    close(out["eval"], network(x).detach())


class NormWithActivation(nn.BatchNorm2d):
    """A batch norm as timm has it: its forward does more."""

    def forward(self, x):
        return super().forward(x).relu()


def test_a_norm_that_does_more_is_not_replaced():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), NormWithActivation(4))
    with pytest.raises(UserError, match="--sync-bn: NormWithActivation of this backbone cannot be synchronized"):
        synchronize_norms(network, Ranks(0, 2, torch.device("cpu")))
    assert type(network[1]) is nn.BatchNorm2d
    synchronize_norms(network, Ranks(0, 1, torch.device("cpu")))  # alone there is nothing to do
