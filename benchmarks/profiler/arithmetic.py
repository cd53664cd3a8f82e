"""Count the arithmetic and the traffic of an operation from what the profiler recorded of its arguments."""

from __future__ import annotations

import json
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
    tensors = [
        torch.empty(shape, dtype=DTYPES[kind], device="meta") if kind in DTYPES else None
        for shape, kind in zip(shapes, types)
    ]
    read = [0 if tensor is None else tensor.nbytes for tensor in tensors]
    operation = name.removeprefix("aten::")
    if operation not in COUNTED or not tensors:
        return 0.0, sum(read) + max(read, default=0)
    op = getattr(torch.ops.aten, operation)
    values = [
        json.loads(value.lower()) if value and tensor is None else tensor
        for value, tensor in zip(arguments.get("Concrete Inputs", [""] * len(tensors)), tensors)
    ]
    if operation in CONVOLUTIONS:  # they have no formula or cannot run without values
        named = dict(zip((argument.name for argument in op.default._schema.arguments), values))
        op, values = torch.ops.aten.convolution, [named["self"], named["weight"], None]
        values += [named["stride"], named["padding"], named["dilation"], False, [0, 0], named["groups"]]
    values = values[: PRODUCTS.get(operation)]
    result = op(*values)
    written = sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, Tensor))
    return float(flop_registry[op](*values, out_val=result)), sum(read) + written
