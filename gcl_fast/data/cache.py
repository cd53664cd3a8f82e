"""Crops kept decoded in memory: each file is read once, and a batch is one pass over memory."""

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
    """All crops as one uint8 tensor (N, H, W, 3) in host or device memory."""

    def __init__(
        self, decoded: Iterator[torch.Tensor], shape: tuple[int, ...], where: str, device: torch.device
    ) -> None:
        """Take every crop from `decoded`, uint8 batches in order."""
        self._device = device
        self._crops = torch.empty(shape, dtype=torch.uint8, device=device if where == "device" else "cpu")
        end = 0
        for batch in decoded:
            start, end = end, end + len(batch)
            self._crops[start:end] = batch

    def find(self, positions: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Crops on the training device, and where among them those at `positions` are; a batch travels if need be."""
        index = torch.from_numpy(positions)
        if self._crops.device.type == self._device.type:
            return self._crops, index.to(self._device, non_blocking=True)
        batch = self._crops[index].pin_memory().to(self._device, non_blocking=True)
        return batch, torch.arange(len(batch), device=self._device)


def choose_cache(cache: str | None, shape: tuple[int, ...], device: torch.device) -> tuple[str | None, str]:
    """Where the crops of `shape` are kept ("host", "device" or None), and the sentence that says why.

    cache: None, "host", "device", or "auto": the first of device (a GPU's) and host of which all ranks that share it
    together need at most a quarter of the free memory. Raises UserError if a memory that was asked for by name is too
    small.
    """
    if cache is None:
        return None, "off"
    if cache not in ("auto", "host", "device"):
        raise UserError(f"unknown cache {cache!r}; choose one of auto, host, device")
    auto = ["device", "host"] if device.type == "cuda" else ["host"]
    need, small = int(np.prod(shape)), list[str]()
    size = f"{need / GIB:.2f} GiB for {shape[0]:,} crops"
    for where in auto if cache == "auto" else [cache]:
        free = _free_per_rank(where, device)
        left = f"{free / GIB:.1f} GiB of {where} memory free per rank"
        if need <= (free // 4 if cache == "auto" else free):
            return where, "; ".join([f"{where}: {size}, {left}", *small])
        small.append(f"{left}, and auto takes a quarter at most")
    if cache != "auto":
        raise UserError(f"the {cache} cache does not fit: {size}, {left}; use --cache auto or leave it off")
    return None, f"off: {'; '.join([size, *small])}"


def _free_per_rank(where: str, device: torch.device) -> int:
    """Bytes of the host's or the device's memory that each of the ranks sharing it may take."""
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if where == "host" or device.type == "cpu":
        return free_host_memory() // ranks
    sharing = -(-ranks // max(torch.cuda.device_count(), 1))
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # held by torch for what comes
    return torch.cuda.mem_get_info(device)[0] // sharing + unused


def free_host_memory() -> int:
    """Bytes that this process can still take: what the machine has left, or its container or job if that is less."""
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
        for group in (place, *place.parents):  # a limit holds for all below; in a container only the last may be there
            free = int(min(free, _left(home / group, *files)))
    return free


def _left(group: Path, limit: str, usage: str, cached: str) -> float:
    """Bytes that a control group may still take."""
    try:
        most, used, told = ((group / name).read_text() for name in (limit, usage, "memory.stat"))
    except OSError:  # no such limit here, or not ours to read
        return math.inf
    statistics = dict(line.split() for line in told.splitlines())
    return math.inf if most.strip() == "max" else int(most) - int(used) + int(statistics.get(cached, 0))  # cache can go
