"""Reflect padding after LeakyReLU: the CPU op against torch's own in float64, to the second derivative."""

import pytest
import torch
from torch.func import vjp
from torch.nn import functional as F

from gcl_fast.kernels.reflect_pad import reflect_pad, reflect_pad_reference

SIZES = [(2, 3, 5, 4, 1), (1, 32, 6, 9, 1), (2, 16, 11, 10, 9), (1, 1, 3, 3, 2), (2, 4, 2, 2, 1), (0, 4, 5, 5, 1)]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def test_definition():
    x = draw(2, 3, 5, 4)
    torch.testing.assert_close(reflect_pad(x, 2, 0.3), F.pad(F.leaky_relu(x, 0.3), (2,) * 4, mode="reflect"))


@pytest.mark.parametrize("slope", [1.0, 0.2])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
def test_op_gradient_and_second_derivative(dtype, tolerance, size, slope):
    *shape, padding = size
    x, direction = draw(*shape, dtype=dtype), draw(*shape[:2], *(s + 2 * padding for s in shape[2:]), dtype=dtype)
    weight = draw(*shape, dtype=dtype).flip(1)
    results = []
    for pad, kind in ((reflect_pad, torch.Tensor.clone), (reflect_pad_reference, torch.Tensor.double)):
        a, g = kind(x).requires_grad_(), kind(direction).requires_grad_()
        y = pad(a, padding, slope)
        (first,) = torch.autograd.grad(y, a, g, create_graph=True)
        (second,) = torch.autograd.grad(first, g, kind(weight))  # linear in g: its adjoint pads with the same slopes
        results.append([y, first, second])
    for ours, truth in zip(*results, strict=True):
        assert ours.shape == truth.shape
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), truth, rtol=tolerance, atol=tolerance)


def test_any_order_in_memory_and_channels_last_out():
    x = draw(2, 16, 7, 6, dtype=torch.float32)
    y = reflect_pad(x, 1, 0.2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(y, reflect_pad(x.to(memory_format=torch.channels_last), 1, 0.2))
    assert torch.equal(reflect_pad(x[..., ::2], 1, 0.2), reflect_pad(x[..., ::2].clone(), 1, 0.2))


def test_within_a_pull_back_as_in_r1():
    x, weight = draw(1, 3, 5, 5, dtype=torch.float32), draw(4, 3, 3, 3, dtype=torch.float32).requires_grad_()

    def penalty(pad):
        made, pull_back = vjp(lambda image: F.conv2d(pad(F.conv2d(image, weight[:3]), 1, 0.2), weight), x)
        return pull_back(torch.ones_like(made))[0].square().sum()

    ours, plain = (torch.autograd.grad(penalty(pad), weight)[0] for pad in (reflect_pad, reflect_pad_reference))
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-5 * plain.abs().max().item())


def test_autocast_keeps_bfloat16():
    with torch.autocast("cpu", torch.bfloat16):
        assert reflect_pad(draw(1, 4, 4, 4, dtype=torch.bfloat16), 1).dtype == torch.bfloat16


def test_padding_wider_than_the_picture_is_refused():
    for dtype in (torch.float32, torch.float64):
        with pytest.raises(RuntimeError, match="less than"):
            reflect_pad(draw(1, 2, 3, 5, dtype=dtype), 3)
