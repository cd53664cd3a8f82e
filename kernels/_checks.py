"""The checks of tensors that Python faces and launchers of Triton kernels share.

The ops in C++ check their own arguments (csrc/checks.h). A kernel on a GPU can refuse nothing, so its launcher does.
What a tensor holds is not checked here: the host would wait for the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

INDEX, FLOAT = (torch.int64,), (torch.float32,)
WIDE = (torch.float32, torch.bfloat16)  # the types of images and of the bank
NARROW = (*WIDE, torch.float16)  # as autocast gives them
LARGEST = torch.finfo(torch.float32).max  # kernels take numbers as float32


class Expected(NamedTuple):
    """Holds a tensor and what it must be."""

    tensor: Tensor
    shape: str  # a word for each dimension: equal letters are equal sizes, a number is a size
    dtypes: tuple[torch.dtype, ...]
    order: Literal["contiguous", "row by row", "in rows of their own", "channels-last", "in any order"] = "contiguous"

    def is_in_order(self) -> bool:
        """Tell whether the numbers lie in memory as `order` says. Rows of their own share no memory, to be written."""
        x = self.tensor
        if not x.numel():
            return True
        if "row" in self.order:
            separate = self.order == "row by row" or len(x) < 2 or x.stride(0) >= x.shape[1]
            return separate and (x.shape[-1] < 2 or x.stride(-1) == 1)
        memory_format = torch.channels_last if self.order == "channels-last" else torch.contiguous_format
        return self.order == "in any order" or x.is_contiguous(memory_format=memory_format)


def _fits(expected: Expected, sizes: dict[str, int], device: torch.device) -> bool:
    """Tell whether a tensor is what it must be. Sizes that stand for the first time are added to `sizes`."""
    x, words = expected.tensor, expected.shape.split()
    if x.ndim != len(words) or x.dtype not in expected.dtypes or x.device != device:
        return False
    for word, size in zip(words, x.shape):
        if sizes.setdefault(word, size) != size:
            return False
    return expected.is_in_order()


def check_tensors(op: str, **tensors: Expected) -> None:
    """Refuse tensors of another shape, type or order in memory, and tensors on several devices.

    Raises:
        ValueError: the message names the op, the first tensor that does not fit, and what it must be.
    """
    device = next(iter(tensors.values())).tensor.device
    sizes = {"2": 2}
    for name, expected in tensors.items():
        if not _fits(expected, sizes, device):
            x, words = expected.tensor, expected.shape.split()
            types = " or ".join(str(dtype).removeprefix("torch.") for dtype in expected.dtypes)
            known = ", ".join(f"{word} = {sizes[word]}" for word in words if word in sizes and word != "2")
            raise ValueError(
                f"{op}: {name} must be {types} of shape ({', '.join(words)}), {expected.order}, on {device}; got "
                f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)} of strides {x.stride()} on {x.device}"
                + (f" where {known}" if known else "")
            )


def check_number(op: str, name: str, value: float, least: float = -LARGEST, most: float = LARGEST) -> None:
    """Refuse a number that is NaN or lies outside least..most.

    Raises:
        ValueError: the message names the op and the number.
    """
    if not least <= value <= most:
        raise ValueError(f"{op}: {name} must be a number within {least:g}..{most:g}, not {value}")


def check_part(op: str, name: str, first: int, count: int, total: int) -> None:
    """Refuse what is no part of `total` things: `count` of them, from `first` on.

    Raises:
        ValueError: the message names the op and the three numbers.
    """
    if not 0 <= first <= total - count:
        raise ValueError(f"{op}: {name} is {first}, and {count} from there on leave the {total} that there are")


def check_rows_exist(op: str, index: Tensor, name: str, rows: int) -> None:
    """Refuse an index into nothing, the one wrong index that a host sees without waiting for the GPU.

    Raises:
        ValueError: the message names the op.
    """
    if len(index) and not rows:
        raise ValueError(f"{op}: index has {len(index)} entries, and {name} has no rows")


def register_fake(op: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the fake of an op, which refuses tensors on several devices.

    Where one tensor of a call is on the meta device, torch runs the fake: the answer would be a tensor without data.

    Raises:
        ValueError: tensors are on several devices; the message names the op and the devices.
    """

    def register(fake: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(fake)
        def checked(*arguments: Any) -> Any:
            if len({x.device for x in arguments if isinstance(x, Tensor)}) > 1:
                names = (argument.name for argument in getattr(torch.ops.gcl_fast, op).default._schema.arguments)
                places = (f"{name} on {x.device}" for name, x in zip(names, arguments) if isinstance(x, Tensor))
                raise ValueError(f"{op}: all tensors must be on one device; got {', '.join(places)}")
            return fake(*arguments)

        torch.library.register_fake(f"gcl_fast::{op}", checked)
        return checked

    return register
