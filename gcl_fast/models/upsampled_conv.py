"""Convolve maps that are upsampled by 2, in the generator; the convolution runs before the upsampling."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gcl_fast.kernels._triton import triton_serves
from gcl_fast.kernels.gather_pixels import Line, gather_pixels


class UpsampledConv(nn.Conv2d):
    """Upsamples a map by 2 (nearest), then convolves it with a 5x5 kernel under reflect padding.

    Each 2x2 group of outputs sees only 3x3 different inputs. So the convolution runs before the upsampling, with the
    5x5 kernel folded into four of 3x3: 36 multiplications per group instead of 100. Replicate padding of the small map
    is reflect padding of the large one, except for the outermost padded line on each side; the difference of that line
    is added. On a GPU this would be many launches: there the border is convolved by itself (`framed`).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
    """

    bias: nn.Parameter
    taps: Tensor

    def __init__(self, inputs: int, outputs: int):
        super().__init__(inputs, outputs, 5)
        even, odd = ((0, 0, 1, 1, 2), (0, 1, 1, 2, 2))  # the input that each tap of a line falls on
        line = F.one_hot(torch.tensor((even, odd)), 3).float()  # (parity, tap, input)
        taps = torch.einsum("aki,blj->abijkl", line, line).reshape(36, 25)
        self.register_buffer("taps", taps, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map (B, C, H, W) into one of (B, D, 2H, 2W)."""
        if triton_serves(x):
            return self.framed(x)
        weight = self.weight
        kernels_3x3 = _fold(_fold(weight).movedim(2, -1)).permute(4, 2, 0, 1, 5, 3)  # (2, 2, D, C, 3, 3)
        x_with_border, *lines = _Border.apply(x)
        y = F.conv2d(x_with_border, kernels_3x3.flatten(0, 2), self.bias.repeat(4))  # (B, 4D, H, W)
        kernels = (weight[:, :, 0], weight[:, :, 4], weight[..., 0], weight[..., 4])
        paddings = ("reflect", "reflect", "replicate", "replicate")
        return _Interleave.apply(y, *map(_line, lines, kernels, paddings))

    def framed(self, x: Tensor) -> Tensor:
        """Convolve as `forward` does, in few operations: the border is convolved by itself.

        Each line of the border comes from 5 lines of the upsampled map.

        Args:
            x: (B, C, H, W).

        Returns:
            (B, D, 2H, 2W).
        """
        rows, columns = (_places(size, x.device) for size in x.shape[2:])
        kernels_3x3 = _Fold.apply(self.weight, self.taps, x.dtype)
        y = F.conv2d(gather_pixels(x, rows.bordered, columns.bordered), kernels_3x3)  # (B, 4D, H, W)
        lines = gather_pixels(x, rows.outer, columns.upsampled), gather_pixels(x, rows.upsampled, columns.outer)
        across = F.conv2d(lines[0], self.weight, stride=(5, 1))  # (B, D, 2, 2W), the first row and the last
        down = F.conv2d(lines[1], self.weight, stride=(1, 5))  # (B, D, 2H, 2)
        return _Frame.apply(y, across, down, self.bias)


class _Places(NamedTuple):
    """Holds three choices of the n pixels of a line."""

    bordered: Line  # all pixels, the first and the last one more time
    upsampled: Line  # each pixel twice, and two mirrored about each end
    outer: Line  # the 5 upsampled pixels that the first output sees, then the 5 of the last output


@lru_cache(64)
def _places(n: int, device: torch.device) -> _Places:
    """Choose the pixels of a line of n pixels."""
    mirrored = [abs(i) if i < 2 * n else 4 * n - 2 - i for i in range(-2, 2 * n + 2)]
    first = [1, 0, 0, 0, 1]
    lists = [0, *range(n), n - 1], [i // 2 for i in mirrored], first + [n - 1 - i for i in first]
    return _Places(*(Line.of(pixels, n, device) for pixels in lists))


class _Fold(torch.autograd.Function):
    """Folds 5x5 kernels (D, C, 5, 5) into four of 3x3, (4D, C, 3, 3), one of each parity of rows and columns."""

    @staticmethod
    def forward(weight: Tensor, taps: Tensor, dtype: torch.dtype) -> Tensor:
        D, C = weight.shape[:2]
        with torch.autocast(weight.device.type, enabled=False):
            kernels = taps @ weight.permute(0, 2, 3, 1).reshape(D, 25, C)  # (D, 36, C)
        parities = weight.new_empty((2, 2, D, 3, 3, C), dtype=dtype)
        parities.copy_(kernels.view(D, 2, 2, 3, 3, C).permute(1, 2, 0, 3, 4, 5))
        return parities.flatten(0, 2).permute(0, 3, 1, 2)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (taps,) = ctx.saved_tensors
        D, C = grad.shape[0] // 4, grad.shape[1]
        kernels = grad.new_empty((D, 2, 2, 3, 3, C), dtype=taps.dtype)
        kernels.copy_(grad.permute(0, 2, 3, 1).unflatten(0, (2, 2, D)).permute(2, 0, 1, 3, 4, 5))
        with torch.autocast(grad.device.type, enabled=False):
            weight = taps.T @ kernels.view(D, 36, C)  # (D, 25, C)
        return weight.view(D, 5, 5, C).permute(0, 3, 1, 2), None, None


class _Frame(torch.autograd.Function):
    """Lays out groups of 2x2 outputs (B, 2 * 2 * D, H, W) as an image (B, D, 2H, 2W), frames it, adds a bias (D,).

    The frame is its first and last row (B, D, 2, 2W), then its first and last column (B, D, 2H, 2).
    """

    @staticmethod
    def forward(y: Tensor, across: Tensor, down: Tensor, bias: Tensor) -> Tensor:
        image = _lay_out(y)
        image[:, :, :: image.shape[2] - 1] = across
        image[..., :: image.shape[3] - 1] = down
        return image.add_(bias[:, None, None])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.like = inputs[3].dtype

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        bias = grad.sum((0, 2, 3), dtype=ctx.like)
        down = grad[..., :: grad.shape[3] - 1]
        inner = grad.clone(memory_format=torch.channels_last)
        inner[:, :, :: grad.shape[2] - 1].zero_()
        inner[..., :: grad.shape[3] - 1].zero_()
        across = grad[:, :, :: grad.shape[2] - 1].clone(memory_format=torch.channels_last)
        across[..., :: grad.shape[3] - 1].zero_()  # corners are the columns'
        return _group(inner), across, down, bias


class _Border(torch.autograd.Function):
    """Repeats the border of x (B, C, H, W) once, and subtracts its first line from its second one at each side.

    The first result is (B, C, H + 2, W + 2). The differences are (B, C, W) at the top and the bottom, and (B, C, H) at
    the left and the right. By autograd's own rules the gradient of each line would be a whole image of zeros.
    """

    @staticmethod
    def forward(x: Tensor) -> tuple[Tensor, ...]:
        (batch, channels, height, width), order = x.shape, torch.channels_last
        output = torch.empty(
            batch, channels, height + 2, width + 2, dtype=x.dtype, device=x.device, memory_format=order
        )
        output[:, :, 1:-1, 1:-1] = x
        output[:, :, 1:-1, 0], output[:, :, 1:-1, -1] = x[..., 0], x[..., -1]
        output[:, :, 0], output[:, :, -1] = output[:, :, 1], output[:, :, -2]
        top, bottom = x[:, :, 1] - x[:, :, 0], x[:, :, -2] - x[:, :, -1]
        left, right = x[..., 1] - x[..., 0], x[..., -2] - x[..., -1]
        return output, top, bottom, left, right

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        x = grad[:, :, 1:-1, 1:-1].clone(memory_format=torch.channels_last)
        x[:, :, 0] += grad[:, :, 0, 1:-1] - top
        x[:, :, -1] += grad[:, :, -1, 1:-1] - bottom
        x[:, :, 1] += top
        x[:, :, -2] += bottom
        for column, second, outer, line in ((0, 1, grad[..., 0], left), (-1, -2, grad[..., -1], right)):
            x[..., column] += outer[:, :, 1:-1] - line
            x[..., second] += line
            x[:, :, 0, column] += outer[:, :, 0]
            x[:, :, -1, column] += outer[:, :, -1]
        return x


class _Interleave(torch.autograd.Function):
    """Lays out groups of 2x2 outputs (B, 2 * 2 * D, H, W) as an image (B, D, 2H, 2W), and adds a line at each side.

    The lines at the top and the bottom are (B, D, 2W), at the left and the right (B, D, 2H).
    """

    @staticmethod
    def forward(y: Tensor, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor) -> Tensor:
        image = _lay_out(y)
        image[:, :, 0] += top
        image[:, :, -1] += bottom
        image[..., 0] += left
        image[..., -1] += right
        return image

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        return _group(grad), grad[:, :, 0], grad[:, :, -1], grad[..., 0], grad[..., -1]


def _lay_out(y: Tensor) -> Tensor:
    """Lay out groups of 2x2 pixels (B, 2 * 2 * D, H, W) as an image (B, D, 2H, 2W)."""
    groups = y.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (B, H, W, 2, 2, D)
    return groups.transpose(2, 3).flatten(3, 4).flatten(1, 2).permute(0, 3, 1, 2)


def _group(image: Tensor) -> Tensor:
    """Group an image (B, D, 2H, 2W) by 2x2 pixels, (B, 2 * 2 * D, H, W)."""
    rows = image.permute(0, 2, 3, 1).unflatten(2, (-1, 2)).unflatten(1, (-1, 2))  # (B, H, 2, W, 2, D)
    return rows.transpose(2, 3).flatten(3).permute(0, 3, 1, 2)


def _fold(kernel: Tensor) -> Tensor:
    """Fold the taps (..., 5) of an upsampled line into those of its even and its odd outputs, (..., 2, 3)."""
    return torch.stack([F.pad(kernel, (0, 1)), F.pad(kernel, (1, 0))], -2).unflatten(-1, (3, 2)).sum(-1)


def _line(line: Tensor, kernel: Tensor, padding: str) -> Tensor:
    """Upsample a line (B, C, L) and convolve it with (D, C, 5) -> (B, D, 2L)."""
    return F.conv1d(F.pad(line.repeat_interleave(2, -1), (2, 2), mode=padding), kernel)
