"""Batch norm with residual and ReLU: the CPU kernel against torch in float64, what is not finite, bad shapes."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.kernels.batch_norm import batch_norm_relu


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape) + seed), dtype=torch.float64)


def outcome(dtype: torch.dtype, given: dict[str, Tensor], residual: bool, training: bool) -> list[Tensor]:
    """Result, gradients by x, weight, bias and residual, and running statistics."""
    wide = torch.promote_types(dtype, torch.float32)
    x, skip = (given[name].to(dtype).requires_grad_() for name in ("x", "residual"))
    weight, bias = (given[name].to(wide).requires_grad_() for name in ("weight", "bias"))
    mean, variance = given["mean"].to(wide).clone(), given["variance"].to(wide).clone()
    skip_or_none = skip if residual else None
    y = batch_norm_relu(x, mean, variance, weight, bias, skip_or_none, training=training, momentum=0.3, eps=1e-3)
    wanted = [x, weight, bias, *([skip] if residual else [])]
    return [y, *torch.autograd.grad(y, wanted, given["direction"].to(dtype)), mean, variance]


def inputs(channels: int) -> dict[str, Tensor]:
    """In float64, of values that bfloat16 has; x with a mean well above its deviation."""
    size = (3, channels, 9, 7)
    maps = {"x": draw(*size) + 5, "residual": draw(*size, seed=1), "direction": draw(*size, seed=2)}
    of_channels = {name: draw(channels, seed=i) for i, name in enumerate(("weight", "bias", "mean"), start=3)}
    given = {name: value.bfloat16().double() for name, value in maps.items()} | of_channels
    return given | {"variance": draw(channels, seed=6).square() + 0.5}


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("channels", [3, 16, 40])
def test_kernel_and_its_gradient(channels, residual, training):
    given = inputs(channels)
    ours, truth = (outcome(dtype, given, residual, training) for dtype in (torch.bfloat16, torch.float64))
    for found, expected in zip(ours, truth, strict=True):
        wide = found.dtype == torch.float32  # of the channels: sums and statistics
        assert wide == (found.ndim == 1)
        assert (found.double() - expected).abs().max() <= (1e-5 if wide else 8e-3) * expected.abs().max()


def test_float64_is_torch():
    given = inputs(5)
    y, *_ = outcome(torch.float64, given, True, True)
    normal = F.batch_norm(given["x"], None, None, given["weight"], given["bias"], True, 0.3, 1e-3)
    assert torch.equal(y, F.relu(normal + given["residual"]))


def test_sums_of_many_pixels_keep_their_precision():
    x = (draw(2, 4, 192, 96) + 100).bfloat16()
    mean, variance = torch.zeros(4), torch.ones(4)
    batch_norm_relu(x, mean, variance, torch.ones(4), torch.zeros(4), training=True, momentum=1.0, eps=1e-5)
    torch.testing.assert_close(mean, x.double().mean((0, 2, 3)).float(), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance, x.double().var((0, 2, 3)).float(), rtol=2e-6, atol=0)


def test_results_do_not_depend_on_threads_or_memory_order():
    given, threads = inputs(16), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = outcome(torch.bfloat16, given, True, True)
    finally:
        torch.set_num_threads(threads)
    ordered = {k: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in given.items()}
    for once, again in zip(alone, outcome(torch.bfloat16, ordered, True, True), strict=True):
        assert torch.equal(once, again)


@pytest.mark.parametrize("residual", [True, False])
def test_what_is_not_finite_is_seen(residual):
    given = inputs(4)
    given["x"][1, 2, 3, 4] = torch.nan
    y, x, *_, mean, variance = outcome(torch.bfloat16, given, residual, True)
    for found in (y, x):
        assert found[:, 2].isnan().all()
        assert found[:, [0, 1, 3]].isfinite().all()
    assert mean.isnan().tolist() == variance.isnan().tolist() == [False, False, True, False]


@pytest.mark.parametrize("residual", [True, False])
def test_empty_batch(residual):
    given = {name: value[:0] if value.ndim == 4 else value for name, value in inputs(4).items()}
    y, x, *of_channels, mean, _ = outcome(torch.bfloat16, given, residual, False)
    assert y.shape == x.shape == (0, 4, 9, 7)
    assert not any(gradient.any() for gradient in of_channels)
    assert torch.equal(mean, given["mean"].float())


def test_misshaped_arguments_are_named():
    x, of_channels = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16), [torch.zeros(3)] * 4
    with pytest.raises(ValueError, match="residual"):
        batch_norm_relu(x, *of_channels, torch.zeros(2, 3, 4, 5), training=False, momentum=0.1, eps=1e-5)
    with pytest.raises(ValueError, match="more than one value"):
        batch_norm_relu(x[:1, :, :1, :1], *of_channels, training=True, momentum=0.1, eps=1e-5)
    ordered = x.contiguous(memory_format=torch.channels_last)
    with pytest.raises(RuntimeError, match=r"\(C,\)"):
        batch_norm_relu(ordered, *[torch.zeros(4)] * 4, training=False, momentum=0.1, eps=1e-5)
    with pytest.raises(RuntimeError, match="channels-last"):
        torch.ops.gcl_fast.batch_moments(x)
