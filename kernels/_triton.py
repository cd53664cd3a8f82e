"""Triton where it is installed; without it kernels are plain functions that nobody launches, and CPU paths serve."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl

    jit = triton.jit
except ModuleNotFoundError:
    triton = tl = None

    def jit(function: Any) -> Any:
        return function


P = ParamSpec("P")
R = TypeVar("R")


def on_its_device(launch: Callable[Concatenate[Tensor, P], R]) -> Callable[Concatenate[Tensor, P], R]:
    """Make the device of a launcher's first tensor the current one while it runs.

    Triton launches on the current device, wherever the tensors lie. Nothing changes for tensors on the CPU.
    """

    @wraps(launch)
    def guarded(first: Tensor, *others: P.args, **named: P.kwargs) -> R:
        with torch.cuda.device_of(first):
            return launch(first, *others, **named)

    return guarded


def triton_serves(x: Tensor) -> bool:
    """Tell whether Triton's kernels for images serve x: on a GPU, in a type that they know, in an eager run."""
    known = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return x.device.type == "cuda" and triton is not None and known and not torch.compiler.is_compiling()
