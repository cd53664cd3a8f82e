"""How much arithmetic and traffic an operation is, from what the profiler recorded of its arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

SIZES = {"float": 4, "double": 8, "long int": 8, "int": 4, "c10::BFloat16": 2, "c10::Half": 2, "unsigned char": 1}


def flops_and_bytes(name: str, arguments: dict[str, Any]) -> tuple[float, float]:
    """Floating-point operations, and bytes when each input is read once and the output written once.

    Products and convolutions count; of anything else the arithmetic is taken as none and the output as large as the
    largest input.

    Args:
        name: of the operation, as in a trace ("aten::mm").
        arguments: "Input Dims", "Input type" and "Concrete Inputs" of its event; nothing is counted without them.
    """
    shapes, types = arguments.get("Input Dims", []), arguments.get("Input type", [])
    sizes = [math.prod(shape) if shape and isinstance(shape[0], int) else 0 for shape in shapes]  # 0: a list of tensors
    moved = [size * SIZES.get(kind, 0) for size, kind in zip(sizes, types)]
    width = next((SIZES[kind] for kind in types if kind in SIZES), 4)
    operation = name.removeprefix("aten::")
    if operation in ("mkldnn_convolution", "cudnn_convolution"):
        outputs, taps = _output(shapes, arguments["Concrete Inputs"]), math.prod(shapes[1][1:])
        return 2.0 * outputs * taps, sum(moved) + outputs * width
    if operation == "convolution_backward":
        wanted = arguments["Concrete Inputs"][-1].lower().split(",")[:2]  # of the input's and the weight's gradient
        gradients = [moved[1 + i] for i, word in enumerate(wanted) if "true" in word]
        return 2.0 * sizes[0] * math.prod(shapes[2][1:]) * len(gradients), sum(moved) + sum(gradients)
    if operation in ("mm", "bmm", "addmm", "baddbmm"):
        left, right = shapes[1:3] if "add" in operation else shapes[:2]
        outputs = math.prod(left[:-1]) * right[-1]
        return 2.0 * outputs * left[-1], sum(moved) + outputs * width
    return 0.0, sum(moved) + max(moved, default=0)


def _output(shapes: Sequence[Sequence[int]], values: Sequence[str]) -> int:
    """Elements that a convolution (x, weight, ..., padding, stride, dilation, ...) makes."""
    lists = [
        [int(number) for number in value[1:-1].split(",")] for value in values if value[:1] == "[" and value != "[]"
    ]
    padding, stride, dilation = lists[:3]
    (batch, _, *field), (channels, _, *kernel) = shapes[:2]
    spatial = (
        (n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, p, s, d in zip(field, kernel, padding, stride, dilation)
    )
    return batch * channels * math.prod(spatial)
