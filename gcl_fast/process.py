"""Set what a process must set before it loads its libraries: the C library's allocator, and OpenMP's waiting."""

from __future__ import annotations

import os
import sys

# By default glibc returns the memory of a large tensor to the kernel at every free, so that each new tensor costs page
# faults. These settings keep the memory: huge pages, and no trimming below 16 GiB.
ALLOCATOR = ":".join(
    (
        "glibc.malloc.hugetlb=1",
        f"glibc.malloc.mmap_threshold={8 << 30}",
        f"glibc.malloc.trim_threshold={16 << 30}",
        f"glibc.malloc.top_pad={256 << 20}",
    )
)
# How often an idle thread of GNU OpenMP checks for work before it sleeps. With its default of 300,000 times it occupies
# a core that another program, or the threads of torch's backward pass, wait for.
SPINS = "10000"
_MARK = "GCL_FAST_ALLOCATOR"  # holds the decision; its presence prevents a second restart


def set_openmp_waiting() -> None:
    """Let OpenMP's idle threads sleep soon, unless the user chose how they wait. Call it before torch is imported."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def name_the_user() -> None:
    """Give a user without an entry in the system's table of users a name, which torch.compile's cache asks for."""
    if not any(os.environ.get(name) for name in ("LOGNAME", "USER", "LNAME", "USERNAME")):
        import getpass  # not for --help

        try:
            getpass.getuser()
        except (KeyError, OSError):  # KeyError before Python 3.13
            os.environ["USER"] = f"uid{os.getuid()}"


def prepare_process() -> None:
    """Let OpenMP's idle threads sleep soon, and restart this process once with an allocator that keeps its memory.

    Settings of the user have priority. Call it before torch is imported, which reads them then. `allocator()` returns
    the decision.
    """
    if "torch" in sys.modules or hasattr(sys, "ps1"):  # too late, or a notebook: a restart would lose what was done
        os.environ.setdefault(_MARK, "system (a process that has begun is not restarted)")
        return
    set_openmp_waiting()
    name_the_user()
    if _MARK in os.environ:
        return
    import platform  # not for --help

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
