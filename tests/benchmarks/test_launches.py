"""Count launches of ops and of small networks on paper."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lib import kernel_counts

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
ON_PAPER = """
import json, torch
from lib.kernel_counts import Count
from lib.paper_gpu import paper_gpu
from gcl_fast.models.layers import ConvBlock
from gcl_fast.models.upsampled_conv import UpsampledConv

count = Count()
with paper_gpu(lambda *seen: count(*seen)):
    device = torch.device("cuda", 0)
    network = torch.nn.Sequential(ConvBlock(3, 16, 3, norm="instance"), UpsampledConv(16, 8)).to(device)
    x = torch.empty(2, 3, 1024, 512, device=device)
    network[1](network[0](x))  # sends lists of pixels
    count.launches.clear()
    with torch.autocast("cuda", torch.bfloat16):
        y = network[1](network[0](x)) + network[1](network[0](x))
    types, forward = [str(y.dtype), str(y.device)], dict(count.launches)
    y.float().mean().backward()
    backward = count.launches - type(count.launches)(forward)
    try:
        y.sum().item()
        read = "read"
    except Exception as error:
        read = type(error).__name__
print(json.dumps([types, forward, dict(backward), str(network[0].conv.weight.grad.dtype), read]))
"""


def test_a_step_on_paper():
    """Count two passes under autocast: a weight is cast once, padding and norm are one launch each."""
    done = subprocess.run([sys.executable, "-c", ON_PAPER], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    types, forward, backward, weight, read = json.loads(done.stdout)
    assert types == ["torch.bfloat16", "cuda:0"]
    assert weight == "torch.float32"
    assert read == "DataDependentOutputException"
    assert forward["gcl_fast::reflect_pad"] == forward["gcl_fast::styled_norm"] == 2
    assert forward["gcl_fast::gather_pixels"] == 6
    assert forward["_to_copy"] == 2 + 3  # the padded image, twice; two weights and a bias
    assert forward["convolution"] == 2 * 2 + 2 * 3  # with a bias, and three without
    assert backward["convolution_backward"] == 2 * 2 + 2 * 3 * 2  # nobody asks for the gradient by x
    assert backward["gcl_fast::styled_norm_backward"] == 2


def test_launches_of_many_tensors():
    small, large = torch.zeros(3), torch.zeros(400 * kernel_counts.CHUNK)
    assert kernel_counts._chunks([[small] * 36] * 4) == 1
    assert kernel_counts._chunks([[small] * 37] * 4) == 2
    assert kernel_counts._chunks([[small] * 110]) == 1
    assert kernel_counts._chunks([[large]]) == 2  # 320 chunks each
    assert kernel_counts._chunks([[large, small]]) == 2
    assert kernel_counts._chunks([[torch.zeros(0)]]) == 0


def test_kernels_of_an_op():
    aten = torch.ops.aten
    x = torch.zeros(2, 3, 4, 4)
    assert kernel_counts.kernels_of(aten.view.default, (x, [-1])) == 0
    assert kernel_counts.kernels_of(aten.split.Tensor, (x, 1)) == 0
    assert kernel_counts.kernels_of(aten.empty.memory_format, ([2],)) == 0
    assert kernel_counts.kernels_of(aten.add_.Tensor, (x, x)) == 1
    assert kernel_counts.kernels_of(aten._foreach_add_.Scalar, ([x] * 200, 1)) == 2
    assert kernel_counts.kernels_of(aten.convolution.default, (x, x, None)) == 1
    assert kernel_counts.kernels_of(aten.convolution.default, (x, x, x)) == 2
    assert kernel_counts.kernels_of(aten.convolution_backward.default, (x, [True, False, True])) == 2


def test_bytes():
    count = kernel_counts.Count()
    x, row = torch.zeros(4, 8), torch.zeros(1, 8).expand(4, 8)
    count(torch.ops.aten.add.Tensor, (x, row), {}, x + row)
    assert (count.read["add"], count.written["add"]) == (4 * 32 + 4 * 8, 4 * 32)
    count(torch.ops.aten.copy_.default, (x, row), {}, x)
    assert count.written["copy_"] == 4 * 32
    count(torch.ops.aten.add.Tensor, (x[:0], x[:0]), {}, x[:0])
    assert count.launches["add"] == 1


def test_the_table_says_what_launchers_launch(monkeypatch):
    pytest.importorskip("triton")
    from gcl_fast.kernels import _instance_norm, _sample_norm, gather_pixels, reflect_pad, styled_norm

    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *args, **constants: launched.append(grid)

    for module in (gather_pixels, reflect_pad, _instance_norm, _sample_norm):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            monkeypatch.setattr(module, name, Kernel())
    x = torch.zeros(2, 16, 5, 4).contiguous(memory_format=torch.channels_last)
    moments = torch.zeros(2, 2, 16)
    row, column = (gather_pixels.Line.of([0, 1], size, x.device) for size in x.shape[2:])
    lines = row[0], column[0], row[1], column[1]
    ops = torch.ops.gcl_fast
    calls = [
        *((ops.styled_norm, styled_norm.styled_norm_triton, (x, None, None, None, 1.0, whole)) for whole in (0, 1)),
        *(
            (ops.styled_norm_backward, styled_norm.styled_norm_backward_triton, (x, x, None, None, moments, 1.0, whole))
            for whole in (0, 1)
        ),
        (ops.reflect_pad, reflect_pad.reflect_pad_triton, (x, None, 1, 0.2)),
        (ops.reflect_pad_adjoint, reflect_pad.reflect_pad_adjoint_triton, (x, x, 1, 0.2)),
        (ops.gather_pixels, gather_pixels.gather_pixels_triton, (x, *lines)),
        (
            ops.gather_pixels_adjoint,
            gather_pixels.gather_pixels_adjoint_triton,
            (x[..., :2, :2], *lines),
        ),
    ]
    for op, launch, arguments in calls:
        launched.clear()
        launch(*arguments)
        assert len(launched) == kernel_counts.kernels_of(op.default, arguments), op


@pytest.mark.slow
def test_the_command_counts_a_stage_s_step(tmp_path):
    command = [sys.executable, str(BENCHMARKS / "launches.py"), "--preset", "demo", "--stage", "warmup"]
    variables = os.environ | {"GCL_FAST_RESULTS": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (tmp_path / "launches.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert int(row["launches"]) > 100
    assert row["waits"] == "0"
