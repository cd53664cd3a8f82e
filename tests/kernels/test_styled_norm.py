"""AdaIN and the decoder's layer norm: the definition against torch, the CPU kernel against it in float64."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from gcl_fast.kernels.styled_norm import styled_norm, styled_norm_reference

CASES = list(itertools.product((False, True), (False, True), (1.0, 0.2)))  # whole, residual, slope


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def inputs(channels: int, residual: bool) -> list[torch.Tensor | None]:
    """x, scale, shift, residual in float64; x with a mean well above its deviation."""
    size = (2, channels, 9, 7)
    return [draw(*size) + 5, draw(2, channels), draw(2, channels) - 1, draw(*size) if residual else None]


def test_definition_is_instance_norm_styled():
    x, scale, shift, residual = inputs(5, True)
    expected = F.leaky_relu(F.instance_norm(x) * scale[:, :, None, None] + shift[:, :, None, None], 0.2) + residual
    torch.testing.assert_close(styled_norm(x, scale, shift, residual=residual, slope=0.2), expected)


def test_definition_of_whole_is_each_sample_by_its_unbiased_deviation():
    x = inputs(3, False)[0]
    normal = torch.stack([(sample - sample.mean()) / (sample.std() + 1e-5) for sample in x])
    torch.testing.assert_close(styled_norm(x, whole=True), normal)


@pytest.mark.parametrize(("whole", "residual", "slope"), CASES)
@pytest.mark.parametrize("channels", [3, 16, 40])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 8e-3)])
def test_kernel_and_its_gradient(dtype, tolerance, channels, whole, residual, slope):
    given = [t if t is None else t.to(dtype if t.ndim == 4 else torch.float32) for t in inputs(channels, residual)]
    results = []
    for kind in (lambda t: t.clone(memory_format=torch.preserve_format), torch.Tensor.double):
        x, scale, shift, skip = (t if t is None else kind(t).requires_grad_() for t in given)
        y = styled_norm(x, scale, shift, residual=skip, slope=slope, whole=whole)
        wanted = [t for t in (x, scale, shift, skip) if t is not None]
        direction = draw(*y.shape).flip(3).to(dtype).to(y.dtype)  # not x: a norm has no gradient along its input
        results.append((y, *torch.autograd.grad(y, wanted, direction)))
    for ours, truth in zip(*results, strict=True):
        assert ours.dtype in (dtype, torch.float32)
        assert (ours.double() - truth).abs().max() <= tolerance * truth.abs().max()


def test_order_in_memory_does_not_matter():
    x = inputs(16, False)[0].float()
    assert torch.equal(styled_norm(x), styled_norm(x.contiguous(memory_format=torch.channels_last)))


def test_a_flat_sample_gives_the_shift_and_finite_gradients():
    x = torch.full((1, 4, 5, 5), 2.0, requires_grad=True)
    for whole in (False, True):
        y = styled_norm(x, torch.ones(1, 4), torch.full((1, 4), 3.0), whole=whole)
        torch.testing.assert_close(y, torch.full_like(y, 3.0))
        assert torch.autograd.grad(y.sum(), x)[0].isfinite().all()


def test_op_is_registered_completely():
    x, scale, shift, residual = (t.float().requires_grad_() for t in inputs(16, True))
    ordered = x.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    skip = residual.detach().contiguous(memory_format=torch.channels_last).requires_grad_()
    torch.library.opcheck(torch.ops.gcl_fast.styled_norm.default, (ordered, scale, shift, skip, 0.2, False))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_equals_eager():
    x, scale, shift, _ = (t if t is None else t.float() for t in inputs(16, False))
    compiled = torch.compile(styled_norm, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, scale, shift, slope=0.2), styled_norm(x, scale, shift, slope=0.2))


def test_misshaped_arguments_are_named():
    x = torch.zeros(2, 3, 4, 4)
    with pytest.raises(ValueError, match=r"scale must be \(B, C\)"):
        styled_norm(x, torch.zeros(2, 4))
    with pytest.raises(ValueError, match="residual"):
        styled_norm(x, residual=torch.zeros(2, 3, 4, 5))
    with pytest.raises(RuntimeError, match="channels-last"):
        torch.ops.gcl_fast.styled_norm(x, torch.zeros(2, 3), torch.zeros(2, 3), None, 1.0, False)


def test_reference_takes_any_float_type():
    x = torch.zeros(1, 2, 3, 3, dtype=torch.float16)
    assert styled_norm_reference(x, x.new_ones(1, 1), x.new_zeros(1, 1), None, 1.0, False).dtype == torch.float16
