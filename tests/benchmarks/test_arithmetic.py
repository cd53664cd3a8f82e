"""Compare counts of arithmetic from a trace and from the tensors with counts by hand."""

import json

import pytest
import torch
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from lib.flops import Flops
from profiler.arithmetic import flops_and_bytes


@pytest.fixture
def counts(tmp_path):
    """Return counts(work): the FLOPs of `work` from the arguments in its trace, and from its tensors."""

    def both(work):
        with Flops() as counted:
            work()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            work()
        profiler.export_chrome_trace(str(tmp_path / "trace.json"))
        events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
        traced = sum(flops_and_bytes(e["name"], e["args"])[0] for e in events if e.get("cat") == "cpu_op")
        return traced, counted.total

    return both


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (1, 3, 2)])
def test_convolutions(counts, stride, padding, dilation):
    x = torch.randn(3, 5, 13, 9, requires_grad=True)
    weight, bias = torch.randn(7, 5, 3, 3, requires_grad=True), torch.randn(7, requires_grad=True)

    def work():
        F.conv2d(x, weight, bias, stride, padding, dilation).sum().backward()

    height, width = ((n + 2 * padding - 2 * dilation - 1) // stride + 1 for n in (13, 9))
    forward = 2 * 3 * 7 * height * width * 5 * 3 * 3
    assert counts(work) == (3 * forward, 3 * forward)  # two gradients, each as much as the forward pass


def test_products(counts):
    left, right, bias = torch.randn(4, 6), torch.randn(6, 5), torch.randn(5)

    def work():
        torch.addmm(bias, left, right, beta=0.5) @ torch.randn(5, 3)
        torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 5), out=torch.empty(2, 3, 5))

    expected = 2 * (4 * 6 * 5 + 4 * 5 * 3 + 2 * 3 * 4 * 5)
    assert counts(work) == (expected, expected)


def test_our_op_counts_its_two_products():
    rows = torch.tensor([0, 1]), torch.tensor([2, 2])
    with Flops() as counted:
        torch.ops.gcl_fast.negative_lse(
            torch.randn(2, 8), torch.randn(30, 8), torch.arange(30), *rows, torch.tensor([0, 0]), 0.1
        )
    assert counted.total == 2 * 2 * 2 * 30 * 8


def test_bytes_are_inputs_and_output():
    arguments = {"Input Dims": [[4, 6], [6, 5]], "Input type": ["float", "float"], "Concrete Inputs": ["", ""]}
    assert flops_and_bytes("aten::mm", arguments) == (240, 4 * (24 + 30 + 20))
    arguments = {
        "Input Dims": [[8, 2], [2], [[3], [4]], []],
        "Input type": ["c10::BFloat16", "float", "TensorList", ""],
        "Concrete Inputs": ["", "", "", ""],
    }
    assert flops_and_bytes("aten::add", arguments) == (0, 32 + 8 + 32)
    assert flops_and_bytes("aten::mm", {}) == (0, 0)
