"""Counts from a trace's arguments agree with counts from the tensors."""

import json

import pytest
import torch
from networks import Flops
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile
from work import flops_and_bytes


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (1, 3, 2)])
def test_convolutions_count_as_in_torch(tmp_path, stride, padding, dilation):
    x = torch.randn(3, 5, 13, 9, requires_grad=True)
    weight, bias = torch.randn(7, 5, 3, 3, requires_grad=True), torch.randn(7, requires_grad=True)

    def work():
        F.conv2d(x, weight, bias, stride, padding, dilation).sum().backward()

    with Flops() as counted:
        work()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        work()
    assert _traced(profiler, tmp_path) == counted.total > 0


def test_products_count_as_in_torch(tmp_path):
    left, right, bias = torch.randn(4, 6), torch.randn(6, 5), torch.randn(5)

    def work():
        torch.addmm(bias, left, right) @ torch.randn(5, 3)
        torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 5))

    with Flops() as counted:
        work()
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        work()
    assert _traced(profiler, tmp_path) == counted.total == 2 * (4 * 6 * 5 + 4 * 5 * 3 + 2 * 3 * 4 * 5)


def test_bytes_are_inputs_and_output():
    arguments = {"Input Dims": [[4, 6], [6, 5]], "Input type": ["float", "float"]}
    assert flops_and_bytes("aten::mm", arguments) == (240, 4 * (24 + 30 + 20))
    arguments = {
        "Input Dims": [[8, 2], [2], [[3], [4]], []],
        "Input type": ["c10::BFloat16", "float", "TensorList", ""],
    }
    assert flops_and_bytes("aten::add", arguments) == (0, 32 + 8 + 32)


def _traced(profiler, folder):
    profiler.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    return sum(flops_and_bytes(e["name"], e["args"])[0] for e in events if e.get("cat") == "cpu_op")
