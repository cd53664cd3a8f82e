"""The generator's norms and padding at the networks' sizes on a device, against float64."""

import pytest
import torch
from torch import Tensor

from gcl_fast.kernels.reflect_pad import reflect_pad, reflect_pad_reference
from gcl_fast.kernels.styled_norm import styled_norm

# On a GPU maps of the paper's and the demo's generator, and an odd one; on a CPU small ones
SHAPES = [
    ("cpu", (2, 16, 9, 7)),
    ("cpu", (3, 8, 16, 8)),
    *(
        pytest.param("cuda", shape, marks=pytest.mark.gpu)
        for shape in [(4, 256, 64, 32), (4, 64, 256, 128), (16, 64, 32, 16), (3, 33, 17, 9), (1, 3, 5, 4)]
    ),
]
# dtype -> how far a value may be off, as a share of the largest
ROUNDING = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
CASES = [(dtype, allowed) for dtype, allowed in ROUNDING.items()]


def draw(shape: tuple[int, ...], shift: float = 0.0) -> Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape) + int(shift)), dtype=torch.float64)
    return (values + shift).bfloat16().double()  # which every dtype here holds exactly, or nearly


def away_from_the_kink(direction: Tensor, before: Tensor) -> Tensor:
    """`direction`, zero where rounding of what ReLU sees may decide its side: there gradients are not comparable."""
    return direction * (before.abs() > 0.05)


def check(ours: list[Tensor], truth: list[Tensor], allowed: float) -> None:
    for mine, exact in zip(ours, truth, strict=True):
        assert (mine.cpu().double() - exact).abs().max() <= allowed * exact.abs().max()


@pytest.mark.parametrize(("dtype", "allowed"), CASES)
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize(("device", "shape"), SHAPES)
def test_styled_norm(device, shape, whole, dtype, allowed):
    B, C = shape[:2]
    given = {"x": draw(shape, 2), "scale": draw((B, C)), "shift": draw((B, C), 1), "residual": draw(shape, 3)}
    before = styled_norm(given["x"], given["scale"], given["shift"], whole=whole)
    direction = away_from_the_kink(draw(shape, 4), before)
    results = []
    for place, wide in ((device, False), ("cpu", True)):
        maps = torch.float64 if wide else dtype
        styles = torch.promote_types(maps, torch.float32)
        kinds = {name: maps if value.ndim == 4 else styles for name, value in given.items()}
        leaves = {name: value.to(place, kinds[name]).requires_grad_() for name, value in given.items()}
        x = leaves["x"].to(memory_format=torch.channels_last)
        y = styled_norm(x, leaves["scale"], leaves["shift"], residual=leaves["residual"], slope=0.2, whole=whole)
        assert y.dtype == maps
        gradients = torch.autograd.grad(y, list(leaves.values()), direction.to(place, maps))
        results.append([y.detach(), *gradients])
    check(*results, 2 * allowed)


@pytest.mark.parametrize(("dtype", "allowed"), CASES)
@pytest.mark.parametrize("padding", [1, 3])
@pytest.mark.parametrize(("device", "shape"), SHAPES)
def test_reflect_pad(device, shape, padding, dtype, allowed):
    """Values, gradient and, as R1 needs it, the gradient's gradient."""
    padded = (*shape[:2], shape[2] + 2 * padding, shape[3] + 2 * padding)
    results = []
    for pad, place, kind in ((reflect_pad, device, dtype), (reflect_pad_reference, "cpu", torch.float64)):
        x = draw(shape).to(place, kind).to(memory_format=torch.channels_last).requires_grad_()
        direction = draw(padded, 1).to(place, kind).requires_grad_()
        y = pad(x, padding, 0.2)
        (first,) = torch.autograd.grad(y, x, direction, create_graph=True)
        (second,) = torch.autograd.grad(first, direction, draw(shape, 2).to(place, kind))
        results.append([y.detach(), first.detach(), second])
    check(*results, allowed)
