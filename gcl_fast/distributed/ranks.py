"""The processes of a torchrun: who am I, what do we share.

What a joint step at the paper's sizes sends (`python benchmarks/ranks.py` counts it): the gradients of D 4 MB, of G and
E_str 54 MB, of E_id 98 MB, and 0.2 MB of running statistics. In a ring each rank passes on 2 (W - 1) / W of it: 273 MB
with 8 ranks, 307 MB with 64, so hardly more. At an assumed 25 GB/s between neighbours and 20 us a hop that takes 13 ms
with 8 ranks and 35 ms with 64. All but the last bucket of each update hides behind its backward pass where that is
longer; what stays is at most 25 MB an update, so with 8 ranks under 5 ms a step. E_id's gradients come last: they are
complete only when all four of its passes are differentiated. `--sync-bn` adds two small messages for each batch norm
and pass, some 400 a joint step that wait for one another: their latency is its price. None of it was measured on GPUs.
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

SHARING = "GCL_FAST_SHARE_GPU"  # environment: 1 lets local ranks share GPUs, which says nothing of speed
BUCKET_BYTES = 25 << 20  # of gradients in one all-reduce: large enough for bandwidth, small enough to begin early


@dataclass(frozen=True)
class Ranks:
    """This process among its peers, and the device it works on. Without torchrun: rank 0 of 1."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Return whether this process writes the files and speaks."""
        return self.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Return the rows of all ranks in rank order. Every rank gives the same shape and gets the same result."""
        if self.world_size == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.world_size)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor)
        return tensor

    def mean(self, tensor: Tensor) -> Tensor:
        """Average over the ranks, in place."""
        return self.sum(tensor).div_(self.world_size)

    @contextmanager
    def averaging(self, parameters: Iterable[nn.Parameter]) -> Iterator[None]:
        """Average the gradients of `parameters` over the ranks: enter this context around one backward pass.

        All-reduces of 25 MB each start while the backward pass goes on, as soon as their gradients are complete: last
        parameters first. Every rank must run the same graph. A gradient is complete when autograd has added all its
        parts, so R1's double backward is in it whatever route made it, and so is a network that ran several times;
        frozen parameters take no part. (DDP sees only what passes through its own forward: it would need one wrapper
        for each loss, and misses R1 through `ddp.module`.)
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

        Then every rank evaluates the same network, and rank 0's checkpoint is everyone's. 0.2 MB for a ResNet-50.
        """
        if self.world_size == 1:
            return
        norms = [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]
        running = [t for m in norms for t in (m.running_mean, m.running_var) if t is not None]
        if running:
            flat = self.mean(torch.cat(running))
            torch._foreach_copy_(running, flat.split([t.numel() for t in running]))

    def broadcast_(self, module: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers."""
        if self.world_size > 1:
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor.data, 0)

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world_size > 1:
            dist.barrier()

    def max(self, tensor: Tensor) -> Tensor:
        """Take the largest over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def any(self, *flags: bool) -> list[bool]:
        """Return whether each of `flags` holds on any rank, the same on all of them. The GPU is not waited for."""
        return [bool(value) for value in self.max(torch.tensor(flags, dtype=torch.uint8)).tolist()]


class _Buckets:
    """Gradients on their way: consecutive parameters, last first, share a flat tensor of about BUCKET_BYTES.

    All-reduces start in the order of the buckets, on every rank the same, however the backward pass completes them.
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
        """Note that the gradient of `parameter` is complete; send what can be sent."""
        self._waiting[self._bucket_of[parameter]] -= 1  # type: ignore[index]
        while len(self._sent) < len(self._members) and self._waiting[len(self._sent)] == 0:
            self._send()

    def finish(self) -> None:
        """Send what is left (parameters that the loss did not reach stay without a gradient), and wait."""
        while len(self._sent) < len(self._members):
            self._send()
        for work in self._sent:
            work.wait()

    def _send(self) -> None:
        reached = [p for p in self._members[len(self._sent)] if p.grad is not None]
        gradients = [p.grad for p in reached if p.grad is not None]
        flat = torch.empty(sum(g.numel() for g in gradients), device=self.parameters[0].device)
        means = [
            part.as_strided(g.shape, g.stride())  # memory order of the gradient, channels-last or not: a plain copy
            for part, g in zip(flat.split([g.numel() for g in gradients]), gradients)
        ]
        torch._foreach_copy_(means, gradients)
        flat /= self._world_size
        for parameter, mean in zip(reached, means):
            parameter.grad = mean  # nothing is added to it any more, and nothing is copied back
        work = dist.all_reduce(flat, async_op=True)
        assert work is not None
        self._sent.append(work)


def placed(device: str, local: int) -> torch.device:
    """Choose the device of local rank `local`: GPU `local`, or with GCL_FAST_SHARE_GPU=1 that modulo the GPUs.

    Args:
        device: "auto" (CUDA where there is one), "cpu" or "cuda".

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
    """Name the process group's backend for ranks on `device`.

    NCCL carries what lies on GPUs of their own; it refuses two ranks on one. There gloo does, by way of pinned host
    memory: of the collectives used here it takes all_gather, all_reduce and broadcast of CUDA tensors. What lies on the
    CPU goes by gloo even beside NCCL: flags and random states need no GPU to agree.
    """
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" and not shares_gpus() else "gloo"


def start(device: str = "auto") -> Ranks:
    """Join the process group that torchrun describes and take this rank's device.

    Args and errors as for `placed`; a GPU that torch has no kernels for is refused as well.
    """
    local, world = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    chosen = placed(device, local)
    if chosen.type == "cuda":
        check_architecture(chosen)
        torch.cuda.set_device(chosen)
    if world > 1:
        store, rank, world = next(dist.rendezvous("env://"))
        # torchrun keeps one store over its restarts (torch 2.14): gloo would look for the addresses of dead processes
        store = dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        dist.init_process_group(backend_of(chosen), store=store, rank=rank, world_size=world)
        return Ranks(dist.get_rank(), world, chosen)
    return Ranks(0, 1, chosen)


def stop() -> None:
    """Leave the process group, where there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()
