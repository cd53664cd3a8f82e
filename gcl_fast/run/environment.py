"""Describe what a command ran on: code, packages, machine."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from gcl_fast import __version__
from gcl_fast.distributed.ranks import Ranks

PACKAGES = (
    *("torch", "torchvision", "triton", "numpy", "scipy", "scikit-learn", "pillow", "safetensors"),
    *("nvidia-dali-cuda130", "faiss-cpu", "smplx", "cuml-cu13", "apex"),
)


def environment(ranks: Ranks) -> dict[str, Any]:
    """Return what a reader needs to repeat a command elsewhere.

    Returns:
        `started` (local time), `command` (the arguments of the process), `folder` (its working directory), `gcl_fast`,
        `commit`, `python`, `platform`, `processor`, `capability`, `device`, `ranks`, `threads` and `packages`.
    """
    cuda = ranks.device.type == "cuda"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "folder": str(Path.cwd()),
        "gcl_fast": __version__,
        "commit": commit(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "device": torch.cuda.get_device_name(ranks.device) if cuda else "cpu",
        "ranks": ranks.world_size,
        "threads": torch.get_num_threads(),
        "packages": {name: number for name in PACKAGES if (number := _version(name))},
    }


@functools.cache
def commit() -> str:
    """Return the commit of the checkout that this package is imported from, with "+" where files differ from it.

    An installed copy belongs to no checkout: then the result is "".
    """
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    try:
        git = lambda *command: subprocess.run(
            ["git", "-C", str(root), *command], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.SubprocessError):  # no git here, or a folder of another owner
        return ""


def _version(package: str) -> str:
    """Return the version of an installed package, or ""."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _processor() -> str:
    """Return the name of the CPU, as Linux gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {os.cpu_count()} cores" if names else platform.processor()
