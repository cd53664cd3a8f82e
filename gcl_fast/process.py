"""Settings that must stand before a process loads its libraries: the C library's allocator, OpenMP's waiting."""

from __future__ import annotations

import os
import platform
import sys

# Kept memory instead of a page fault per tensor: glibc gives large tensors back to the kernel at every free, which took
# more than half of a training step on 2 cores. Huge pages, and no trimming below 16 GiB.
ALLOCATOR = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={8 << 30}",
        f"glibc.malloc.trim_threshold={16 << 30}",
        f"glibc.malloc.top_pad={256 << 20}",
    )
)
# How often an idle thread of GNU OpenMP looks for work before it sleeps. Its own 300,000 times keep a core that another
# program, or the threads of torch's backward pass, wait for. Seconds of the demo's joint step in float32 on two cores,
# alone and beside one busy program: 3.0 and 23.9; with 10,000 times 2.9 and 6.7; without looking 3.5 and 4.6.
SPINS = "10000"
_MARK = "GCL_FAST_ALLOCATOR"  # holds what was decided; its presence ends the recursion


def set_openmp_waiting() -> None:
    """Let OpenMP's idle threads sleep soon, unless the user chose how they wait. Call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def prepare_process() -> None:
    """Let OpenMP's idle threads sleep soon, and restart this process once with an allocator that keeps its memory.

    A user's own settings of either win. Call it before torch is imported: it reads them then, and the restart costs
    milliseconds. What was chosen of allocators is in `allocator()`.
    """
    set_openmp_waiting()
    if _MARK in os.environ:
        return
    if platform.libc_ver()[0] != "glibc":
        os.environ[_MARK] = "system"
    elif "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        os.environ[_MARK] = "GLIBC_TUNABLES of the environment"
    elif os.environ.get("LD_PRELOAD"):
        os.environ[_MARK] = f"LD_PRELOAD={os.environ['LD_PRELOAD']}"
    else:
        before = os.environ.get("GLIBC_TUNABLES")
        os.environ["GLIBC_TUNABLES"] = f"{before}:{ALLOCATOR}" if before else ALLOCATOR
        os.environ[_MARK] = "glibc that keeps its memory (restarted once for it)"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def allocator() -> str:
    """Return which allocator settings this process runs with, for the header."""
    return os.environ.get(_MARK, "system")
