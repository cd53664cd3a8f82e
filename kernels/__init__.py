"""The one room of ops: a file holds one op, named as the op is, with all that belongs to it.

That is the public function, its definition in plain PyTorch with the same signature (`OP_reference`), the Triton
kernels and their launchers, and what torch must know: fake, gradient, and which kernel serves which device. The CPU's
kernels are C++ and the rasterizer's GPU kernels CUDA (csrc/); the first import of an op builds these.

`gcl_fast.kernels.OP` is always the public function, also once its file of the same name is imported. Everything else in
a file is imported by `from gcl_fast.kernels.OP import NAME`. Importing this package alone imports no torch, imports no
Triton and builds nothing.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcl_fast.kernels.contrastive_draw import contrastive_draw
    from gcl_fast.kernels.csr_dbscan import csr_dbscan
    from gcl_fast.kernels.expand_queries import expand_queries
    from gcl_fast.kernels.gather_pixels import gather_pixels
    from gcl_fast.kernels.jaccard_rows import jaccard_rows
    from gcl_fast.kernels.memory_update import memory_update
    from gcl_fast.kernels.merge_top_k import merge_top_k
    from gcl_fast.kernels.negative_lse import negative_lse
    from gcl_fast.kernels.rank_queries import rank_queries
    from gcl_fast.kernels.rasterize import rasterize
    from gcl_fast.kernels.reciprocal_weights import reciprocal_weights
    from gcl_fast.kernels.reflect_pad import reflect_pad
    from gcl_fast.kernels.sample_crops import sample_crops
    from gcl_fast.kernels.structure_maps import structure_maps
    from gcl_fast.kernels.styled_norm import styled_norm
    from gcl_fast.kernels.view_contrastive import view_contrastive

__all__ = [
    "contrastive_draw",
    "csr_dbscan",
    "expand_queries",
    "gather_pixels",
    "jaccard_rows",
    "memory_update",
    "merge_top_k",
    "negative_lse",
    "rank_queries",
    "rasterize",
    "reciprocal_weights",
    "reflect_pad",
    "sample_crops",
    "structure_maps",
    "styled_norm",
    "view_contrastive",
]


class _Room(ModuleType):
    """A package whose attribute OP is the function OP, where Python would bind the file OP at its import."""

    def __setattr__(self, name: str, value: object) -> None:
        is_file = name in __all__ and isinstance(value, ModuleType)
        super().__setattr__(name, getattr(value, name) if is_file else value)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{name}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Room
