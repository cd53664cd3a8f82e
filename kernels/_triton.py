"""Triton where it is installed; without it kernels are plain functions that nobody launches, and CPU paths serve."""

from __future__ import annotations

from typing import Any

try:
    import triton
    import triton.language as tl

    jit = triton.jit
except ModuleNotFoundError:
    triton = tl = None

    def jit(function: Any) -> Any:
        return function
