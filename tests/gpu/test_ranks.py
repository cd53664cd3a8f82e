"""One rank in a process group of its own: NCCL beside gloo on a GPU, gloo on a CPU."""

from collections.abc import Iterator

import pytest
import torch
import torch.distributed as dist
from torch import nn

from gcl_fast.distributed import ranks as processes
from gcl_fast.distributed.ranks import Ranks, backend_of


@pytest.fixture
def alone(device, monkeypatch, tmp_path) -> Iterator[Ranks]:
    """Rank 0 of 1 whose collectives go through the process group that more ranks would have."""
    monkeypatch.delenv(processes.SHARING, raising=False)
    place = torch.device(device)
    dist.init_process_group(backend_of(place), init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        yield Ranks(0, 1, place)
    finally:
        dist.destroy_process_group()


def test_every_collective_runs_and_changes_nothing(alone, device):
    expected = "nccl" if device == "cuda" else "gloo"
    group = dist.group.WORLD._get_backend(alone.device)
    assert group.name() == expected
    x = torch.arange(6.0, device=device).view(2, 3)
    largest, first = lambda t: dist.all_reduce(t, dist.ReduceOp.MAX), lambda t: dist.broadcast(t, 0)
    for collective in (dist.all_reduce, largest, first):
        y = x.clone()
        collective(y)
        assert torch.equal(y, x)
    parts = [torch.empty_like(x)]
    dist.all_gather(parts, x)
    assert torch.equal(parts[0], x)
    dist.barrier()
    flags = torch.tensor([True, False]).to(torch.uint8)  # on the CPU, where flags agree without the GPU
    dist.all_reduce(flags, dist.ReduceOp.MAX)
    assert flags.tolist() == [1, 0]


def test_buckets_leave_the_gradients_of_one_rank_alone(alone, device, monkeypatch):
    monkeypatch.setattr(processes, "BUCKET_BYTES", 64)  # several
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)).to(device)
    network.to(memory_format=torch.channels_last)
    x = torch.randn(2, 3, 4, 4, device=device)
    expected = torch.autograd.grad(network(x).square().sum(), list(network.parameters()))
    buckets = processes._Buckets(list(network.parameters()), 1)
    hooks = [p.register_post_accumulate_grad_hook(buckets.ready) for p in buckets.parameters]
    network(x).square().sum().backward()
    for hook in hooks:
        hook.remove()
    buckets.finish()
    assert len(buckets._sent) > 1
    for parameter, gradient in zip(network.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
        assert parameter.grad.stride() == gradient.stride()
