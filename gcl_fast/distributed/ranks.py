"""Join the processes of a torchrun, and exchange tensors between them.

A joint step sends gradients and running statistics. `python benchmarks/ranks.py` counts their bytes at the paper's
sizes, and computes the time that they take over an assumed link; none of it was measured on GPUs. All-reduces run while
the backward pass goes on, all but the last bucket of each update. E_id's gradients come last: they are complete when
all four of its passes are differentiated. `--sync-bn` adds two small messages for each batch norm and pass. They wait
for one another, so their latency is its price.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gcl_fast.distributed.device import check_architecture, why_no_gpu
from gcl_fast.errors import UserError

SHARING = "GCL_FAST_SHARE_GPU"  # environment variable: 1 lets local ranks share GPUs, to test correctness
BUCKET_BYTES = 25 << 20  # of gradients in one all-reduce: large enough for bandwidth, small enough to begin early


@dataclass(frozen=True)
class Ranks:
    """Represents this process among its peers, and its device. Without torchrun it is rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Return whether this process writes the files and prints."""
        return self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks in rank order; every rank gives the same shape and gets the same result."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over the ranks, in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Average a tensor over the ranks, in place, and return it."""
        return self.sum(tensor).div_(self.world_size)

    @contextmanager
    def averaging(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Enter a context for a backward pass; at its end each gradient of `parameters` is the mean over the ranks.

        All-reduces of BUCKET_BYTES each start while the backward pass goes on, as soon as their gradients are complete:
        last parameters first. Every rank must run the same graph. A gradient is complete when autograd has added all
        its parts, so it includes R1's double backward, and all passes of a network that ran several times. Frozen
        parameters take no part. DDP is no substitute: it sees only what passes through its own forward, so it needs
        one wrapper for each loss and misses R1 through `ddp.module`.
        """
        if self.world_size == 1:
            yield
            return
        buckets = _Buckets([p for p in parameters if p.requires_grad], self.world_size)
        hooks = [p.register_post_accumulate_grad_hook(buckets.ready) for p in buckets.parameters]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()
        buckets.finish()

    def average_norms(self, module: nn.Module) -> None:
        """Replace the running statistics of the batch norms in `module` by their mean over the ranks.

        Every rank then evaluates the same network, and rank 0's checkpoint serves all of them.
        """
        if self.world_size == 1:
            return
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        statistics = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        if statistics:
            flat = self.mean(torch.cat(statistics))
            torch._foreach_copy_(statistics, flat.split([t.numel() for t in statistics]))

    def broadcast_(self, module: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to every rank."""
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def max(self, tensor: Tensor) -> Tensor:
        """Replace each element of a tensor by its maximum over the ranks, in place, and return it."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set on any rank, the same on all of them; no GPU is waited for."""
        return [bool(value) for value in self.max(torch.tensor(flags, dtype=torch.uint8)).tolist()]


class _Buckets:
    """Averages gradients in buckets: consecutive parameters, last first, share a flat tensor of about BUCKET_BYTES.

    All-reduces start in the order of the buckets, the same on every rank, whichever the backward pass completes first.
    """

    def __init__(self, parameters: list[nn.Parameter], world_size: int) -> None:
        self.parameters, self._world_size = parameters[::-1], world_size
        self._members: list[list[nn.Parameter]] = [[]]
        self._bucket_of: dict[nn.Parameter, int] = {}
        filled = 0
        for parameter in self.parameters:
            if filled >= BUCKET_BYTES:
                self._members.append([])
                filled = 0
            self._members[-1].append(parameter)
            self._bucket_of[parameter] = len(self._members) - 1
            filled += parameter.numel() * parameter.element_size()
        self._waiting = [len(members) for members in self._members]
        self._sent: list[dist.Work] = []

    def ready(self, parameter: Tensor) -> None:
        """Note that the gradient of `parameter` is complete, and send the buckets that are complete."""
        self._waiting[self._bucket_of[parameter]] -= 1  # type: ignore[index]
        while len(self._sent) < len(self._members) and self._waiting[len(self._sent)] == 0:
            self._send()

    def finish(self) -> None:
        """Send the buckets that are left, and wait for all; parameters that the loss did not reach get no gradient."""
        while len(self._sent) < len(self._members):
            self._send()
        for work in self._sent:
            work.wait()

    def _send(self) -> None:
        """Start the all-reduce of the next bucket."""
        parameters = [p for p in self._members[len(self._sent)] if p.grad is not None]
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.empty(sum(g.numel() for g in gradients), device=self.parameters[0].device)
        means = [
            part.as_strided(g.shape, g.stride())  # memory order of the gradient, channels-last or not: a plain copy
            for part, g in zip(flat.split([g.numel() for g in gradients]), gradients)
        ]
        torch._foreach_copy_(means, gradients)
        flat /= self._world_size
        for parameter, mean in zip(parameters, means):
            parameter.grad = mean  # it is complete, so the mean needs no copy back
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._sent.append(work)


def placed(device: str, local: int) -> torch.device:
    """Choose the device of a local rank: its GPU, or the CPU.

    Args:
        device: "auto" (CUDA where there is a GPU), "cpu" or "cuda".
        local: the rank on this machine, >= 0. It takes the GPU of that number, with GCL_FAST_SHARE_GPU=1 modulo the
            number of GPUs.

    Raises:
        UserError: an unknown device, CUDA where there is none, or fewer GPUs than local ranks that may not share them.
    """
    if device not in ("auto", "cpu", "cuda"):
        raise UserError(f"--device {device}: expected auto, cpu or cuda")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return torch.device("cpu")
    gpus = torch.cuda.device_count()
    if gpus <= local and not (gpus and shares_gpus()):
        share = f"{SHARING}=1 lets ranks share them, to test correctness"
        way_out = share if gpus else why_no_gpu() or "--device cpu or auto trains without one"
        raise UserError(f"--device cuda: {gpus} GPUs here, but this is local rank {local}; {way_out}")
    return torch.device("cuda", local % gpus)


def sum_over_processes(tensor: Tensor) -> Tensor:
    """Sum a tensor over the processes of the default group, in place; one process alone has it already."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def shares_gpus() -> bool:
    """Return whether the environment lets local ranks share GPUs."""
    return os.environ.get(SHARING) == "1"


def backend_of(device: torch.device) -> str:
    """Return the name of the process group's backend for ranks on `device`.

    NCCL carries the tensors of ranks that have a GPU each; it refuses two ranks on one GPU. Gloo carries theirs, by way
    of pinned host memory: all_gather, all_reduce and broadcast of CUDA tensors. Tensors on the CPU, such as flags and
    random states, always go by gloo.
    """
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and not shares_gpus() else "gloo"


def start(device: str = "auto") -> Ranks:
    """Join the process group that torchrun describes, and take this rank's device.

    Args:
        device: "auto" (CUDA where there is a GPU), "cpu" or "cuda".

    Raises:
        UserError: as `placed` and `check_architecture` raise it.
    """
    local, world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    target = placed(device, local)
    if target.type == "cuda":
        check_architecture(target)
        torch.cuda.set_device(target)
    if world > 1:
        store, rank, world = next(dist.rendezvous("env://"))
        # torchrun keeps one store over its restarts (torch 2.14): gloo would look for the addresses of dead processes
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend_of(target), store=store, rank=rank, world_size=world)
        return Ranks(dist.get_rank(), world, target)
    return Ranks(0, 1, target)


def stop() -> None:
    """Leave the process group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
