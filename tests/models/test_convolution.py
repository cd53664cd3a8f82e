"""Compare the convolutions and their derivatives with those of torch."""

from functools import partial

import pytest
import torch
from torch.func import vjp

from gcl_fast.models.convolution import StemConv, convolve

OPTIONS = [(1, 0, 1), (2, 1, 1), (1, 3, 3)]  # stride, padding, dilation


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def inputs(dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    x = draw(2, 3, 9, 8, dtype=dtype).contiguous(memory_format=torch.channels_last)
    return [t.requires_grad_() for t in (x, draw(5, 3, 3, 3, dtype=dtype), draw(5, dtype=dtype))]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_derivatives_to_the_second_order(options):
    def conv(*tensors):
        return convolve(*tensors, *options)

    torch.testing.assert_close(conv(*inputs()), torch.conv2d(*inputs(), *options))
    assert torch.autograd.gradcheck(conv, inputs())
    assert torch.autograd.gradgradcheck(conv, inputs())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_second_derivative_of_a_penalty_by_weights_alone(options):
    penalties = []
    for conv in (convolve, torch.conv2d):
        x, weight, bias = inputs()
        (first,) = torch.autograd.grad(conv(x, weight, bias, *options).square().sum(), x, create_graph=True)
        penalties.append(torch.autograd.grad(first.square().sum(), (x, weight, bias)))
    torch.testing.assert_close(*penalties)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_within_a_pull_back_as_in_r1_under_autocast(options):
    def penalty(conv, dtype, autocast):
        x, weight, bias = inputs(dtype)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            made, pull_back = vjp(partial(conv, weight=weight, bias=bias), x.detach())
            gradient = pull_back(torch.ones_like(made))[0].square().sum()
        return torch.autograd.grad(gradient, weight)[0]

    def ours(x, weight, bias):
        return convolve(x, weight, bias, *options)

    def plain(x, weight, bias):
        return torch.conv2d(x, weight, bias, *options)

    truth = penalty(plain, torch.float64, autocast=False)
    torch.testing.assert_close(penalty(ours, torch.float64, autocast=False), truth)
    ours16, plain16 = (penalty(conv, torch.float32, autocast=True).double() for conv in (ours, plain))
    assert (ours16 - truth).abs().max() <= 2 * (plain16 - truth).abs().max() + 1e-3 * truth.abs().max()


def test_autocast_makes_bfloat16_and_gradients_stay_float32():
    tensors = inputs(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(*tensors)
    assert y.dtype == torch.bfloat16
    gradients = torch.autograd.grad(y.float().square().sum(), tensors)
    assert {g.dtype for g in gradients} == {torch.float32}


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("size", [(8, 12), (7, 6)], ids=str)
def test_stem_and_its_gradients(kernel, size):
    stem = StemConv(3, 5, kernel).double()
    x = draw(2, 3, *size).requires_grad_()
    plain = torch.conv2d(x, stem.weight, None, 2, kernel // 2)
    torch.testing.assert_close(stem(x), plain)
    ours, truth = (torch.autograd.grad(y.square().sum(), (x, stem.weight)) for y in (stem(x), plain))
    torch.testing.assert_close(ours, truth)


def test_stem_under_autocast():
    stem, x = StemConv(3, 32, 7), draw(2, 3, 32, 16, dtype=torch.float32).contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = stem(x)
    assert y.dtype == torch.bfloat16
    by_x, by_weight = torch.autograd.grad(y.float().square().sum(), (x, stem.weight))
    plain = torch.conv2d(x, stem.weight, None, 2, 3)
    for ours, truth in zip((by_x, by_weight), torch.autograd.grad(plain.square().sum(), (x, stem.weight)), strict=True):
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, truth, rtol=0, atol=0.02 * truth.abs().max().item())
