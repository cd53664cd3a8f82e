"""Compare Triton's norms, padding and choice of pixels with their definitions in float64.

They run on a GPU where there is one, and in Triton's interpreter, hence in a child process. There the CPU's ops are
compared as well.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.func import vjp
from torch.nn import functional as F

pytest.importorskip("triton")
from gcl_fast.kernels import _instance_norm, _sample_norm
from gcl_fast.kernels import gather_pixels as gather
from gcl_fast.kernels import reflect_pad as pad
from gcl_fast.kernels import styled_norm as norm

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
OPS = {
    "styled_norm": norm.styled_norm_triton,
    "styled_norm_backward": norm.styled_norm_backward_triton,
    "reflect_pad": pad.reflect_pad_triton,
    "reflect_pad_adjoint": pad.reflect_pad_adjoint_triton,
    "gather_pixels": gather.gather_pixels_triton,
    "gather_pixels_adjoint": gather.gather_pixels_adjoint_triton,
}
WAYS = [(False, True, 0.2, True), (False, False, 1.0, False), (True, False, 0.2, True), (True, True, 1.0, False)]
PADS = [(2, 3, 5, 4, 1), (1, 70, 3, 20, 2), (1, 4, 11, 10, 9), (0, 4, 5, 5, 1), (3, 1, 1, 1, 0)]
# Of the largest number. The interpreter cuts a bf16 store off instead of rounding it: one unit in the last place.
TOLERANCES = {torch.float32: 3e-6, torch.bfloat16: 1e-2, torch.float16: 1.5e-3}
each_type = pytest.mark.parametrize("dtype", TOLERANCES, ids=lambda dtype: str(dtype)[6:])
each_way = pytest.mark.parametrize(("whole", "residual", "slope", "styled"), WAYS)
each_norm = pytest.mark.parametrize("size", [(2, 3, 9, 7), (1, 40, 11, 5)], ids=str)  # B, C, H, W
each_pad = pytest.mark.parametrize("size", PADS, ids=str)  # B, C, H, W, padding


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    """Name a GPU, or a CPU whose ops are Triton's kernels in the interpreter."""
    if request.param == "cuda":
        yield "cuda"
        return
    if not INTERPRETED:
        pytest.skip("run by test_kernels_in_the_interpreter")
    library = torch.library.Library("gcl_fast", "IMPL")
    for name, launch in OPS.items():
        library.impl(name, launch, "CPU", allow_override=True)
    yield "cpu"
    library._destroy()


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def channels_last(x):
    return x.contiguous(memory_format=torch.channels_last)


def near(ours, truth, tolerance):
    assert ours.shape == truth.shape
    if truth.numel():
        assert (ours.detach().cpu().double() - truth).abs().max() <= tolerance * truth.abs().max().clamp(min=1e-6)


def inputs(size, dtype, residual, styled):
    """Draw x, scale, shift and residual, and a direction.

    The mean of x lies well above its deviation. The rows of scale are not adjacent. All samples share one shift.
    """
    B, C, *_ = size
    x, skip, direction = (channels_last(t.to(dtype)) for t in (draw(*size) + 5, draw(*size), draw(*size).flip(3)))
    scale, shift = draw(B, 2 * C).to(dtype)[:, :C], (draw(1, C) - 1).float()
    return (x, scale if styled else None, shift if styled else None, skip if residual else None), direction


def results(function, arguments, direction, *options):
    """Return the result of `function` on `arguments`, and its gradient by each."""
    leaves = [t if t is None else t.detach().requires_grad_() for t in arguments]
    y = function(*leaves, *options)
    return y, *torch.autograd.grad(y, [t for t in leaves if t is not None], direction)


def norm_op(x, scale, shift, skip, slope, whole):
    """Call the op as `styled_norm` does on a GPU."""
    rows = (t if t is None else t.expand(x.shape[:2]) for t in (scale, shift))
    return torch.ops.gcl_fast.styled_norm(x, *rows, skip, slope, whole)[0]


def to(place, tensors):
    return [t if t is None else t.to(place) for t in tensors]


@each_type
@each_way
@each_norm
def test_norms(device, dtype, size, whole, residual, slope, styled):
    arguments, direction = inputs(size, dtype, residual, styled)
    ours = results(norm_op, to(device, arguments), direction.to(device), slope, whole)
    truth = results(norm.styled_norm_reference, to(torch.float64, arguments), direction.double(), slope, whole)
    assert ours[0].dtype == ours[1].dtype == dtype
    assert ours[0].is_contiguous(memory_format=torch.channels_last)
    for a, b in zip(ours, truth, strict=True):
        near(a, b, TOLERANCES[dtype])


@each_way
def test_many_parts_are_one_sample(device, whole, residual, slope, styled, monkeypatch):
    """Cut samples into parts of 4 rows, the last of 3, and channels into blocks of 4 rows."""
    monkeypatch.setattr(_sample_norm, "TILE", 64)
    monkeypatch.setattr(_sample_norm, "PART", 64)
    arguments, direction = inputs((2, 16, 7, 5), torch.float32, residual, styled)
    assert _sample_norm.cut(7 * 5, 16, 4) == (9, 4)
    monkeypatch.setattr(
        _instance_norm, "instance_configuration", lambda *_: {"BLOCK_R": 4, "BLOCK_C": 16, "num_warps": 1}
    )
    ours = results(norm_op, to(device, arguments), direction.to(device), slope, whole)
    truth = results(norm.styled_norm_reference, to(torch.float64, arguments), direction.double(), slope, whole)
    for a, b in zip(ours, truth, strict=True):
        near(a, b, 3e-6)


@pytest.mark.parametrize("whole", [False, True])
def test_a_mean_far_from_zero_cancels_nothing(device, whole):
    x = channels_last((draw(1, 5, 20, 9) + 4000).float())
    ours = norm_op(x.to(device), None, None, None, 1.0, whole)
    near(ours, norm.styled_norm_reference(x.double(), None, None, None, 1.0, whole), 1e-3)


@pytest.mark.parametrize("whole", [False, True])
def test_flat_small_and_empty_samples(device, whole):
    flat = channels_last(torch.full((2, 4, 5, 5), 2.0))
    y, dx, _ = results(norm_op, to(device, (flat, None, torch.full((1, 4), 3.0), None)), flat.to(device), 1.0, whole)
    near(y, torch.full_like(flat, 3.0).double(), 1e-6)
    assert dx.isfinite().all()
    for small in (draw(2, 6, 1, 1).float(), draw(2, 1, 5, 6).float()):
        ours = norm_op(small.to(device), None, None, None, 1.0, whole)
        near(ours, norm.styled_norm_reference(small.double(), None, None, None, 1.0, whole), 1e-5)
    none = torch.zeros(0, 4, 3, 3, device=device)
    scale = torch.ones(0, 4, device=device)
    y, dx, dscale = results(norm_op, (none, scale, None, None), none, 0.2, whole)
    assert y.shape == dx.shape == none.shape
    assert dscale.shape == scale.shape


def test_results_repeat(device):
    arguments, direction = inputs((2, 16, 20, 31), torch.bfloat16, True, True)
    runs = [results(norm_op, to(device, arguments), direction.to(device), 0.2, True) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@each_type
@each_pad
@pytest.mark.parametrize("slope", [1.0, 0.2])
def test_padding_and_two_derivatives(device, dtype, size, slope):
    """Pad again in the second derivative, with the slopes of the first."""
    *shape, padding = size
    x, weight = draw(*shape).to(dtype), draw(*shape).flip(1).to(dtype)
    direction = draw(*shape[:2], *(side + 2 * padding for side in shape[2:])).flip(1).to(dtype)
    pairs = []
    pad_op = lambda t: pad._Pad.apply(t, None, padding, slope, False)
    for function, kind in (
        (pad_op, lambda t: t.to(device)),
        (lambda t: pad.reflect_pad_reference(t, padding, slope), torch.Tensor.double),
    ):
        a, g = kind(x).requires_grad_(), kind(direction).requires_grad_()
        y = function(a)
        (first,) = torch.autograd.grad(y, a, g, create_graph=True)
        (second,) = torch.autograd.grad(first, g, kind(weight))
        pairs.append((y, first, second))
    for ours, truth in zip(*pairs, strict=True):
        assert ours.dtype == dtype
        near(ours, truth, TOLERANCES[dtype])
    assert pairs[0][0].is_contiguous(memory_format=torch.channels_last)


def test_within_a_pull_back_as_in_r1(device):
    x, weight = draw(1, 3, 5, 5).float(), draw(4, 3, 3, 3).float()

    def gradient(function, place):
        image, w = x.to(place), weight.to(place).requires_grad_()
        made, pull_back = vjp(lambda t: F.conv2d(function(F.conv2d(t, w[:3]), 1, 0.2), w), image)
        return torch.autograd.grad(pull_back(torch.ones_like(made))[0].square().sum(), w)[0]

    near(gradient(pad.reflect_pad, device), gradient(pad.reflect_pad_reference, "cpu").double(), 1e-5)


def test_too_wide_a_padding_is_refused(device):
    with pytest.raises(RuntimeError, match="less than"):
        pad.reflect_pad(torch.zeros(1, 2, 3, 5, device=device), 3)


@each_type
@pytest.mark.parametrize(("rows", "columns"), [([0, 0, 1, 2, 2, 0], [4, 0, 0]), ([1], list(range(5)) * 9), ([], [1])])
def test_gathering_and_its_adjoint(device, dtype, rows, columns):
    """Choose places that repeat and leave others out; more columns and channels than a program has."""
    x, direction = draw(2, 70, 3, 5).to(dtype), draw(2, 70, len(rows), len(columns)).to(dtype)
    pairs = []
    for function, kind in (
        (gather.gather_pixels, lambda t: t.to(device)),
        (gather.gather_pixels_reference, torch.Tensor.double),
    ):
        lines = (gather.Line.of(taken, n, kind(x).device) for taken, n in ((rows, 3), (columns, 5)))
        leaf = kind(x).detach().requires_grad_()
        y = function(leaf, *lines)
        pairs.append((y, *torch.autograd.grad(y, leaf, kind(direction))))
    for ours, truth in zip(*pairs, strict=True):
        assert ours.dtype == dtype
        near(ours, truth, TOLERANCES[dtype])
    assert pairs[0][0].is_contiguous(memory_format=torch.channels_last) or not rows


@each_way
def test_the_cpus_ops_agree(whole, residual, slope, styled):
    if not INTERPRETED:
        pytest.skip("run by test_kernels_in_the_interpreter")
    (x, scale, shift, skip), direction = inputs((2, 5, 9, 6), torch.bfloat16, residual, styled)
    scale, shift = (t if t is None else t.float().expand(2, 5) for t in (scale, shift))
    pairs = []
    for forward, backward in (
        (norm.styled_norm_triton, norm.styled_norm_backward_triton),
        (torch.ops.gcl_fast.styled_norm, torch.ops.gcl_fast.styled_norm_backward),
    ):
        y, moments = forward(x, scale, shift, skip, slope, whole)
        padded = pad.reflect_pad_triton if forward is norm.styled_norm_triton else torch.ops.gcl_fast.reflect_pad
        pairs.append(
            (y, moments, *backward(direction, x, scale, shift, moments, slope, whole), padded(x, None, 2, 0.2))
        )
    for ours, cpu in zip(*pairs, strict=True):
        near(ours, cpu.double(), 1e-2 if ours.dtype == torch.bfloat16 else 1e-5)


def test_ops_are_registered_completely(device):
    """Check schema, autograd and fake of each op."""
    (x, scale, shift, skip), _ = inputs((2, 16, 5, 4), torch.float32, True, True)
    arguments = to(device, (x, scale, shift.expand(2, 16), skip))
    padded = pad.reflect_pad(x.to(device), 1, 0.2)
    (rows, row_readers), (columns, column_readers) = (gather.Line.of([0, 0, 2], n, padded.device) for n in (5, 4))
    leaves = [t.detach().requires_grad_() for t in arguments]
    ops = torch.ops.gcl_fast
    for op, given in (
        (ops.styled_norm, (*leaves, 0.2, False)),
        (ops.styled_norm_backward, (arguments[0], *arguments[:3], torch.ones(2, 2, 16, device=device), 0.2, True)),
        (ops.reflect_pad, (arguments[0], None, 1, 0.2)),
        (ops.reflect_pad_adjoint, (padded, padded, 1, 0.2)),
        (ops.gather_pixels, (leaves[0], rows, columns, row_readers, column_readers)),
        (ops.gather_pixels_adjoint, (padded[:, :, :3, :3], rows, columns, row_readers, column_readers)),
    ):
        checks = ("test_schema", "test_autograd_registration", "test_faketensor")
        torch.library.opcheck(op.default, given, test_utils=checks)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("whole", "size"), [(False, (32, 128, 64, 32)), (True, (16, 32, 256, 128))])
def test_real_sizes(dtype, whole, size):
    """Normalize as the paper's generator does, by the function that the networks call."""
    (x, scale, shift, _), direction = inputs(size, dtype, False, True)
    ours = results(
        lambda *t: norm.styled_norm(*t, slope=0.2, whole=whole), to("cuda", (x, scale, shift)), direction.cuda()
    )
    wide = [t.double().cuda() for t in (x, scale, shift)]
    truth = results(lambda *t: norm.styled_norm_reference(*t, None, 0.2, whole), wide, direction.double().cuda())
    for a, b in zip(ours, truth, strict=True):
        near(a, b.cpu(), 5e-6 if dtype == torch.float32 else 6e-3)


@pytest.mark.skipif(INTERPRETED, reason="is the parent of the interpreted run")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    count = 3 * 4 * 2 + 4 + 2 + 2 + 1 + 3 * 5 * 2 + 1 + 1 + 3 * 3 + 4 + 1
    assert f"{count} passed" in done.stdout, done.stdout
