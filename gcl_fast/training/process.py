"""Settings that must stand before a process starts: the C library's allocator."""

from __future__ import annotations

import os
import platform
import sys

# Kept memory instead of a page fault per tensor: glibc gives large tensors back to the kernel at every free, which took
# more than half of a training step on 2 cores. Huge pages, and no trimming below 16 GiB.
ALLOCATOR = {
    "glibc.malloc.hugetlb": 1,
    "glibc.malloc.mmap_threshold": 8 << 30,
    "glibc.malloc.trim_threshold": 16 << 30,
    "glibc.malloc.top_pad": 256 << 20,
}
_MARK = "GCL_FAST_ALLOCATOR"  # holds what was decided; its presence ends the recursion


def apply_allocator_settings() -> None:
    """Restart this process once, with glibc's allocator told to keep its memory. A user's own settings win.

    Call it before torch is imported: the restart then costs milliseconds. What was chosen is in `allocator()`.
    """
    if _MARK in os.environ:
        return
    if platform.libc_ver()[0] != "glibc":
        os.environ[_MARK] = "system"
    elif "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        os.environ[_MARK] = "GLIBC_TUNABLES of the environment"
    elif os.environ.get("LD_PRELOAD"):
        os.environ[_MARK] = f"LD_PRELOAD={os.environ['LD_PRELOAD']}"
    else:
        tunables = ":".join(f"{key}={value}" for key, value in ALLOCATOR.items())
        before = os.environ.get("GLIBC_TUNABLES")
        os.environ["GLIBC_TUNABLES"] = f"{before}:{tunables}" if before else tunables
        os.environ[_MARK] = "glibc that keeps its memory (restarted once for it)"
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def allocator() -> str:
    """Which allocator settings this process runs with, for the header."""
    return os.environ.get(_MARK, "system")
