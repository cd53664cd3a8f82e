"""Keep decoded crops in memory, so that each file is read once and a batch is one pass over memory."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from gcl_fast.errors import UserError

GIB = 2**30
PROC, CGROUPS = Path("/proc"), Path("/sys/fs/cgroup")


class CropCache:
    """Holds all crops as one uint8 tensor (N, H, W, 3) in host or device memory.

    Args:
        decoded: batches (B, H, W, 3) uint8 of all crops, in order.
        shape: (N, H, W, 3).
        where: "host" or "device".
        device: the training device.
    """

    def __init__(
        self, decoded: Iterator[torch.Tensor], shape: tuple[int, ...], where: str, device: torch.device
    ) -> None:
        self._device = device
        self._crops = torch.empty(shape, dtype=torch.uint8, device=device if where == "device" else "cpu")
        end = 0
        for batch in decoded:
            start, end = end, end + len(batch)
            self._crops[start:end] = batch

    def find(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a tensor on the training device that holds the crops at `positions` (B,), and their rows (B,) in it.

        The tensor is the whole cache where it lies on that device. Otherwise it is a copy of the B crops.
        """
        index = torch.from_numpy(positions)
        if self._crops.device.type == self._device.type:
            return self._crops, index.to(self._device, non_blocking=True)
        batch = self._crops[index].pin_memory().to(self._device, non_blocking=True)
        return batch, torch.arange(len(batch), device=self._device)


def choose_cache(cache: str | None, shape: tuple[int, ...], device: torch.device) -> tuple[str | None, str]:
    """Choose where decoded crops are kept.

    Args:
        cache: None, "host", "device" or "auto". "auto" takes the device (if it is a GPU), else the host, else nothing.
            All ranks that share a memory may together fill a quarter of what is free.
        shape: (N, H, W, 3) of the crops.
        device: the training device.

    Returns:
        "host", "device" or None, and the sentence that gives the reason.

    Raises:
        UserError: `cache` is unknown, or names a memory that is too small.
    """
    if cache is None:
        return None, "off"
    if cache not in ("auto", "host", "device"):
        raise UserError(f"unknown cache {cache!r}; choose one of auto, host, device")
    candidates = ["device", "host"] if device.type == "cuda" else ["host"]
    need, reasons = int(np.prod(shape)), list[str]()
    size = f"{need / GIB:.2f} GiB for {shape[0]:,} crops"
    for where in candidates if cache == "auto" else [cache]:
        free = _free_per_rank(where, device)
        supply = f"{free / GIB:.1f} GiB of {where} memory free per rank"
        if need <= (free // 4 if cache == "auto" else free):
            return where, "; ".join([f"{where}: {size}, {supply}", *reasons])
        reasons.append(f"{supply}, and auto takes a quarter at most")
    if cache != "auto":
        raise UserError(f"the {cache} cache does not fit: {size}, {supply}; use --cache auto or leave it off")
    return None, f"off: {'; '.join([size, *reasons])}"


def _free_per_rank(where: str, device: torch.device) -> int:
    """Return the bytes of host or device memory that each of the ranks sharing it may take."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if where == "host" or device.type == "cpu":
        return free_host_memory() // ranks
    ranks_per_gpu = -(-ranks // max(torch.cuda.device_count(), 1))
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # torch reserves it for later use
    return torch.cuda.mem_get_info(device)[0] // ranks_per_gpu + unused


def free_host_memory() -> int:
    """Return the bytes that this process can still take: the machine's free memory, or its container's if less."""
    meminfo, groups = PROC / "meminfo", PROC / "self" / "cgroup"
    if not meminfo.is_file():  # not Linux
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    for line in groups.read_text().splitlines() if groups.is_file() else ():
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2
            home, files = CGROUPS, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            home, files = CGROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        place = PurePosixPath(path.lstrip("/"))
        # A limit holds for all groups below it. In a container only the outermost group may be visible.
        for group in (place, *place.parents):
            free = int(min(free, _free_in_group(home / group, *files)))
    return free


def _free_in_group(group: Path, limit: str, usage: str, cached: str) -> float:
    """Return the bytes that a control group may still take; infinity where it has no limit."""
    try:
        most, used, lines = ((group / name).read_text() for name in (limit, usage, "memory.stat"))
    except OSError:  # the group has no such limit, or this process may not read it
        return math.inf
    statistics = dict(line.split() for line in lines.splitlines())
    reclaimable = int(statistics.get(cached, 0))  # the kernel drops cached files when memory runs short
    return math.inf if most.strip() == "max" else int(most) - int(used) + reclaimable
