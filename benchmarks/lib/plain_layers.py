"""Layers made of PyTorch's own operations, as the official code has them: the peers of the fused ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from torch import Tensor, conv2d
from torch.nn import functional as F

from gcl_fast.kernels.reflect_pad import reflect_pad_reference
from gcl_fast.models import generator, layers
from gcl_fast.models.upsampled_conv import UpsampledConv


def plain_norm(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    slope: float = 1.0,
    whole: bool = False,
) -> Tensor:
    """`styled_norm` as one would write it with PyTorch's own operations."""
    y = F.group_norm(x, 1) if whole else F.instance_norm(x)
    if scale is not None and shift is not None:
        y = y * scale[:, :, None, None] + shift[:, :, None, None]
    y = F.leaky_relu(y, slope)
    return y if residual is None else y + residual


def plain_upsampling(self: UpsampledConv, x: Tensor) -> Tensor:
    """`UpsampledConv.forward` by its definition."""
    return F.conv2d(reflect_pad_reference(F.interpolate(x, scale_factor=2), 2), self.weight, self.bias)


Patch = Callable[[], object]
PLAIN: dict[str, list[Patch]] = {
    "norm": [
        lambda: patch.object(layers, "styled_norm", plain_norm),
        lambda: patch.object(generator, "styled_norm", plain_norm),
    ],
    "padding": [lambda: patch.object(layers, "reflect_pad", reflect_pad_reference)],
    "second": [lambda: patch.object(layers, "convolve", conv2d)],
    "upsampling": [lambda: patch.object(UpsampledConv, "forward", plain_upsampling)],
}


@contextmanager
def plain_layers(*names: str) -> Iterator[None]:
    """Within, layers called `names` (all of PLAIN by default) are made of PyTorch's own operations."""
    with ExitStack() as stack:
        for name in names or PLAIN:
            for make in PLAIN[name]:
                stack.enter_context(make())  # type: ignore[arg-type]
        yield
