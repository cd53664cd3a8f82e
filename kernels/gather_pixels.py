"""Choice of an image's pixels by rows and columns that may repeat, and its adjoint: on a GPU one launch each.

An upsampled convolution reads such a choice at the border of its image: the border repeated, and the lines around it
upsampled and mirrored. Torch's own indexing differentiates by atomic sums. Here each pixel adds up the places that read
it, always in the same order.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gcl_fast.kernels._checks import INDEX, NARROW, Expected, check_tensors, register_fake
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton

__all__ = ["gather_pixels"]


class Line(NamedTuple):
    """Choose places of a line of n: the source of each place of the result, and the readers of each source."""

    sources: Tensor  # (I,) int64, 0..n-1
    readers: Tensor  # (n, most) int64, 0..I-1; -1 where there are no more

    @classmethod
    def of(cls, sources: Sequence[int], n: int, device: torch.device) -> Line:
        """Choose the places `sources` of 0..n-1. The host makes the lists and sends them without a wait.

        Raises:
            ValueError: a source lies outside 0..n-1. A GPU's kernels do not check it again.
        """
        if wrong := [place for place in sources if not 0 <= place < n]:
            raise ValueError(f"gather_pixels: sources {wrong} lie outside 0..{n - 1}")
        readers = [[i for i, place in enumerate(sources) if place == p] for p in range(n)]
        most = max(map(len, readers), default=0)
        filled = [line + [-1] * (most - len(line)) for line in readers]
        lists = torch.tensor(sources, dtype=torch.int64), torch.tensor(filled, dtype=torch.int64).view(n, most)
        return cls(*(numbers.to(device, non_blocking=True) for numbers in lists))


def gather_pixels_reference(x: Tensor, rows: Line, columns: Line) -> Tensor:
    """Define `gather_pixels` by torch's own operations."""
    return x[:, :, rows.sources[:, None], columns.sources]


@jit
def _gather_kernel(x, rows, columns, out, H, W, C, high, wide, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr):
    """Copy BLOCK_W pixels of one row of a result, BLOCK_C channels, in each program (row, w, c)."""
    sample, row = (tl.program_id(0) // high).to(tl.int64), tl.program_id(0) % high
    column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (column < wide)[:, None] & (channel < C)[None, :]
    from_row = tl.load(rows + row)
    from_column = tl.load(columns + column, mask=column < wide, other=0)
    value = tl.load(
        x + (sample * H + from_row) * W * C + from_column[:, None] * C + channel[None, :], mask=inside, other=0.0
    )
    tl.store(out + (sample * high + row) * wide * C + column[:, None] * C + channel[None, :], value, mask=inside)


@jit
def _gather_adjoint_kernel(
    grad, rows, columns, out, H, W, C, high, wide, row_most, column_most, BLOCK_W: tl.constexpr, BLOCK_C: tl.constexpr
):
    """Sum up the readers of BLOCK_W pixels of one row of an image, BLOCK_C channels, in each program (row, w, c).

    Each program alone writes its pixels, and adds in the order of rows and columns: no race, no atomics.
    """
    sample, row = (tl.program_id(0) // H).to(tl.int64), tl.program_id(0) % H
    column = tl.program_id(1) * BLOCK_W + tl.arange(0, BLOCK_W)
    channel = tl.program_id(2) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = (column < W)[:, None] & (channel < C)[None, :]
    total = tl.zeros((BLOCK_W, BLOCK_C), tl.float32)
    for m in range(row_most):
        i = tl.load(rows + row * row_most + m)
        if i >= 0:
            line = grad + (sample * high + i) * wide * C
            for n in range(column_most):
                j = tl.load(columns + column * column_most + n, mask=column < W, other=-1)
                place, here = j[:, None] * C + channel[None, :], inside & (j >= 0)[:, None]
                total += tl.load(line + place, mask=here, other=0.0).to(tl.float32)
    place = (sample * H + row) * W * C + column[:, None] * C + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)


def launch_configuration(C: int, dtype: torch.dtype) -> dict:
    """Choose the constants of a launch, 16 bytes a thread. aot.py compiles every value for C >= 16."""
    block = min(triton.next_power_of_2(C), 64)
    return {"BLOCK_W": 2048 // dtype.itemsize // block, "BLOCK_C": block, "num_warps": 4}


def _output(x: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty((x.shape[0], height, width, x.shape[1])).permute(0, 3, 1, 2)


def _check(
    op: str, name: str, images: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor
) -> None:
    """Raise a ValueError where the kernels would leave these tensors.

    What rows, columns and readers name is checked on the CPU alone: it would cost a GPU's host a synchronization.
    `Line.of` has checked it on the host.
    """
    adjoint = name == "grad"
    check_tensors(
        op,
        **{name: Expected(images, "B C I J" if adjoint else "B C H W", (*NARROW, torch.float64), "in any order")},
        rows=Expected(rows, "I", INDEX),
        columns=Expected(columns, "J", INDEX),
        row_readers=Expected(row_readers, "H most", INDEX),
        column_readers=Expected(column_readers, "W many", INDEX),
    )
    if images.device.type == "cpu":
        sides = (("row", rows, row_readers), ("column", columns, column_readers))
        for line, sources, readers in sides:
            for what, x, least, size in (
                (f"{line}s", sources, 0, len(readers)),
                (f"{line}_readers", readers, -1, len(sources)),
            ):
                if x.numel() and not (least <= int(x.min()) and int(x.max()) < size):
                    raise ValueError(f"{op}: {what} name places outside 0..{size - 1}")


@torch.library.custom_op("gcl_fast::gather_pixels", mutates_args=())
def _gather(x: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor) -> Tensor:
    _check("gather_pixels", "x", x, rows, columns, row_readers, column_readers)
    output = _output(x, len(rows), len(columns))
    return output.copy_(x[:, :, rows[:, None], columns])


@register_fake("gather_pixels")
def _(x: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor) -> Tensor:
    return _output(x, len(rows), len(columns))


@_gather.register_kernel("cuda")
@on_its_device
def gather_pixels_triton(
    x: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor
) -> Tensor:
    """Launch the kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    _check("gather_pixels", "x", x, rows, columns, row_readers, column_readers)
    (B, C, H, W), high, wide = x.shape, len(rows), len(columns)
    x, output = x.contiguous(memory_format=torch.channels_last), _output(x, high, wide)
    if output.numel():
        constants = launch_configuration(C, x.dtype)
        grid = B * high, triton.cdiv(wide, constants["BLOCK_W"]), triton.cdiv(C, constants["BLOCK_C"])
        _gather_kernel[grid](x, rows, columns, output, H, W, C, high, wide, **constants)
    return output


@torch.library.custom_op("gcl_fast::gather_pixels_adjoint", mutates_args=())
def _adjoint(grad: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor) -> Tensor:
    _check("gather_pixels_adjoint", "grad", grad, rows, columns, row_readers, column_readers)
    by_row = grad.new_zeros((*grad.shape[:2], len(row_readers), grad.shape[3])).index_add_(2, rows, grad)
    output = _output(grad, len(row_readers), len(column_readers)).zero_()
    return output.index_add_(3, columns, by_row)


@register_fake("gather_pixels_adjoint")
def _(grad: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor) -> Tensor:
    return _output(grad, len(row_readers), len(column_readers))


@_adjoint.register_kernel("cuda")
@on_its_device
def gather_pixels_adjoint_triton(
    grad: Tensor, rows: Tensor, columns: Tensor, row_readers: Tensor, column_readers: Tensor
) -> Tensor:
    """Launch the adjoint kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    _check("gather_pixels_adjoint", "grad", grad, rows, columns, row_readers, column_readers)
    (B, C, high, wide), H, W = grad.shape, len(row_readers), len(column_readers)
    grad, output = grad.contiguous(memory_format=torch.channels_last), _output(grad, H, W)
    if output.numel():
        constants = launch_configuration(C, grad.dtype)
        grid = B * H, triton.cdiv(W, constants["BLOCK_W"]), triton.cdiv(C, constants["BLOCK_C"])
        most = row_readers.shape[1], column_readers.shape[1]
        _gather_adjoint_kernel[grid](grad, row_readers, column_readers, output, H, W, C, high, wide, *most, **constants)
    return output


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[1:])


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return torch.ops.gcl_fast.gather_pixels_adjoint(grad, *ctx.saved_tensors), None, None, None, None


_gather.register_autograd(_backward, setup_context=_setup)


def gather_pixels(x: Tensor, rows: Line, columns: Line) -> Tensor:
    """Choose pixel (rows.sources[i], columns.sources[j]) of x for pixel (i, j) of the result.

    Args:
        x: (B, C, H, W), any float type.
        rows, columns: of H and of W places, on x's device.

    Returns:
        (B, C, I, J) in channels-last order and x's type; differentiable once.

    Example:
        >>> cpu = torch.device("cpu")
        >>> rows, columns = Line.of([1, 0], 2, cpu), Line.of([0, 0, 1], 2, cpu)
        >>> gather_pixels(torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2), rows, columns)[0, 0]
        tensor([[3., 3., 4.],
                [1., 1., 2.]])
    """
    return torch.ops.gcl_fast.gather_pixels(x, rows.sources, columns.sources, rows.readers, columns.readers)
