"""Count the kernels that an op launches on a GPU in eager mode, and the bytes that it moves.

Views launch nothing; an op of gcl_fast launches what KERNELS says, a multi-tensor op its chunks, a convolution one
kernel and one for its bias, its backward pass one for each gradient, any other op one. That is an estimate: the
libraries add kernels that transform layouts or split sums. Bytes are those of each argument and result, once.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves

Arguments = tuple[Any, ...]
CHUNK, BLOCKS = 65536, 320  # elements of a chunk, chunks of a launch: torch's multi_tensor_apply
TENSORS = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}  # of a launch, by the number of lists


def _chunks(lists: Sequence[Any]) -> int:
    """Count the launches of multi_tensor_apply over lists of tensors."""
    launches, tensors, blocks = 0, 0, 0
    for tensor in lists[0]:
        tensors += 1
        for _ in range(math.ceil(tensor.numel() / CHUNK)):
            blocks += 1
            if blocks == BLOCKS:
                launches, blocks, tensors = launches + 1, 0, 1  # the tensor may go on in the next launch
        if tensors == TENSORS[min(len(lists), 5)]:
            launches, blocks, tensors = launches + bool(blocks), 0, 0
    return launches + bool(blocks)


def _multi_tensor(args: Arguments) -> int:
    """Count the launches of a foreach op, whose lists of tensors come first."""
    return _chunks([a for a in args if isinstance(a, list | tuple) and a and isinstance(a[0], Tensor)])


# Kernels of an op by its name, where these are not one: a number, or a function of its arguments.
KERNELS: dict[str, int | Callable[[Arguments], int]] = {
    # of gcl_fast: what its launcher for CUDA launches
    "gcl_fast::structure_maps": 6,
    "gcl_fast::negative_lse": 12,  # tiled, one tile: fill 3, two products, rows, scale, log-sum and mean 5
    "gcl_fast::styled_norm": lambda args: 1 + args[-1],  # of whole samples: parts first
    "gcl_fast::styled_norm_backward": lambda args: 1 + args[-1],
    # of torch
    "aten::convolution": lambda args: 1 + (args[2] is not None),  # the bias is added after
    "aten::convolution_backward": lambda args: sum(args[-1]),
    "aten::constant_pad_nd": 2,  # fill, copy
    "aten::slice_backward": 2,
    "aten::select_backward": 2,
    "aten::reflection_pad2d_backward": 2,
    "aten::max_pool2d_with_indices_backward": 2,
    "aten::_foreach_norm": lambda args: _chunks(args[:1]) + 1,
    "aten::_fused_adam_": lambda args: _chunks(args[:4]),
    "aten::_fused_adamw_": lambda args: _chunks(args[:4]),
    "aten::_fused_sgd_": lambda args: _chunks(args[:3]),
    # memory without a kernel
    **dict.fromkeys(
        ("aten::empty", "aten::empty_like", "aten::empty_strided", "aten::new_empty", "aten::new_empty_strided"), 0
    ),
    "aten::_unsafe_view": 0,
    "aten::is_same_size": 0,
}


def kernels_of(op: Any, args: Arguments) -> int:
    """Count the kernels that `op` launches."""
    schema = op._schema
    if any(r.alias_info is not None and not r.alias_info.is_write for r in schema.returns):
        return 0  # a view
    count = KERNELS.get(schema.name)
    if count is None:
        count = _multi_tensor if schema.name.startswith("aten::_foreach") else 1
    return count(args) if callable(count) else count


@dataclass
class Count:
    """Hold launches and bytes of a step, by op."""

    launches: Counter[str] = field(default_factory=Counter)
    read: Counter[str] = field(default_factory=Counter)
    written: Counter[str] = field(default_factory=Counter)

    def __call__(self, op: Any, args: Arguments, kwargs: dict[str, Any], results: Any) -> None:
        """Add one op, of these arguments and results."""
        kernels, name = kernels_of(op, args), op._schema.name.removeprefix("aten::")
        changed = [
            args[n] if n < len(args) else kwargs[argument.name]
            for n, argument in enumerate(op._schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        written = _bytes(changed or results)
        if kernels and written:
            self.launches[name] += kernels
            self.read[name] += _bytes((args, kwargs))
            self.written[name] += written


def _bytes(values: Any) -> int:
    """Count the bytes of all tensors in `values`."""
    return sum(_size(leaf) for leaf in tree_leaves(values) if isinstance(leaf, Tensor))


def _size(tensor: Tensor) -> int:
    """Count the bytes of `tensor`, those of an expanded one once."""
    sizes = (size for size, stride in zip(tensor.shape, tensor.stride()) if stride)
    return math.prod(sizes) * tensor.element_size() if tensor.numel() else 0
