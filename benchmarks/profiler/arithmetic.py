"""Count the arithmetic and the traffic of an operation from what the profiler recorded of its arguments."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

DTYPES = {
    "float": torch.float32,
    "double": torch.float64,
    "long int": torch.int64,
    "int": torch.int32,
    "c10::BFloat16": torch.bfloat16,
    "c10::Half": torch.float16,
    "unsigned char": torch.uint8,
}
# Operations whose arithmetic counts. Others, such as aten::convolution, only call one of these.
PRODUCTS = {"mm": 2, "bmm": 2, "addmm": 3, "baddbmm": 3}  # how many tensors they take; factors and `out` may follow
CONVOLUTIONS = {"mkldnn_convolution", "cudnn_convolution"}
COUNTED = {*PRODUCTS, *CONVOLUTIONS, "convolution_backward"}


def flops_and_bytes(name: str, arguments: dict[str, Any]) -> tuple[float, float]:
    """Return floating-point operations, and bytes when each input is read once and each output is written once.

    Products and convolutions count by torch's own formulas. Any other operation counts as no arithmetic, with an output
    as large as its largest input.

    Args:
        name: name of the operation in a trace ("aten::mm").
        arguments: "Input Dims", "Input type" and "Concrete Inputs" of its event; nothing is counted without them.
    """
    shapes, types = arguments.get("Input Dims", []), arguments.get("Input type", [])
    operation = name.removeprefix("aten::")
    if operation in COUNTED and shapes:
        return _counted(operation, json.dumps([shapes, types, arguments.get("Concrete Inputs", [""] * len(shapes))]))
    read = [0 if tensor is None else tensor.nbytes for tensor in _tensors(shapes, types)]
    return 0.0, sum(read) + max(read, default=0)


@cache
def _counted(operation: str, recorded: str) -> tuple[float, float]:
    """Return FLOPs and bytes of an operation that torch has a formula for, from its arguments in JSON."""
    shapes, types, texts = json.loads(recorded)
    tensors = _tensors(shapes, types)
    values = [json.loads(text.lower()) if text and x is None else x for text, x in zip(texts, tensors)]
    op = getattr(torch.ops.aten, operation)
    if operation in CONVOLUTIONS:  # they have no formula or cannot run without values
        named = dict(zip((argument.name for argument in op.default._schema.arguments), values))
        op, values = torch.ops.aten.convolution, [named["self"], named["weight"], None]
        values += [named["stride"], named["padding"], named["dilation"], False, [0, 0], named["groups"]]
    values = values[: PRODUCTS.get(operation)]
    results = op(*values)
    moved = [tensor for tensor in [*tensors, *tree_leaves(results)] if isinstance(tensor, Tensor)]
    return float(flop_registry[op](*values, out_val=results)), sum(tensor.nbytes for tensor in moved)


def _tensors(shapes: list[Any], types: list[str]) -> list[Tensor | None]:
    """Return tensors of these shapes without values; None for an argument that is no tensor."""
    return [
        torch.empty(shape, dtype=DTYPES[kind], device="meta") if kind in DTYPES else None
        for shape, kind in zip(shapes, types)
    ]
