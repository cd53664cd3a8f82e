"""Triton kernels beside the CPU's: by the interpreter, chosen when a kernel is decorated, hence the child process; and
on a GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

pytest.importorskip("triton")
from gcl_fast.kernels import negative_lse as lse
from gcl_fast.kernels.cards import card_of
from gcl_fast.kernels.contrastive_draw import contrastive_draw, contrastive_draw_triton
from gcl_fast.kernels.memory_update import memory_update_triton

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_kernels_in_the_interpreter")
on_each = pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=interpreted), pytest.param("cuda", marks=pytest.mark.gpu)]
)
STREAM = torch.tensor([(5 << 40) + 3, 7])
SIZES = [(300, 5, 64, 40), (70, 3, 7, 1000), (33, 18, 130, 8), (1, 1, 1, 1), (600, 2, 300, 300)]  # N, B, D, K


def case(N, B, D, bank_dtype=torch.float32):
    generator = torch.Generator().manual_seed(N + B)
    labels, index = torch.randint(-1, 6, (N,), generator=generator), torch.randint(N, (B,), generator=generator)
    query, bank = (normalize(torch.randn(rows, D, generator=generator), dim=1) for rows in (B, N))
    return query, bank.to(bank_dtype), labels, index


def on(device, *tensors) -> tuple[torch.Tensor, ...]:
    """Copies of the tensors on `device`."""
    return tuple(tensor.to(device) for tensor in tensors)


@on_each
@pytest.mark.parametrize(("N", "B", "D", "K"), SIZES)
def test_draw(N, B, D, K, device):
    _, _, labels, index = case(N, B, D)
    ours = contrastive_draw_triton(*on(device, labels, index, STREAM), K)
    for mine, cpu in zip(ours, contrastive_draw(labels, index, STREAM, K), strict=True):
        assert torch.equal(mine.cpu(), cpu)


@on_each
@pytest.mark.parametrize(("N", "B", "D", "K"), SIZES)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
def test_fused_route_is_the_tiled_route(N, B, D, K, parts, bank_dtype, device):
    query, bank, labels, index = case(N, B, D, bank_dtype)
    arguments = query, bank, labels, index, contrastive_draw(labels, index, STREAM, K)[1], STREAM
    rtol, atol = 1e-4, 1e-5  # on a GPU a float32 operand goes in as two numbers of 8 (bf16) or three of 11 bits (TF32)
    configuration = lse.fused_configuration(B, D, bank_dtype, card_of(torch.device(device)))
    if configuration is None:
        pytest.skip("this card has no fused route: the tiled one serves")
    if device == "cpu":  # no bf16 arithmetic in the interpreter
        rtol, atol, configuration = 1e-5, 1e-6, configuration | {"PRECISION": "ieee"}
    tiled = lse.negative_lse_tiled(*arguments, 0.04, tile=50)
    fused = lse.negative_lse_fused(*on(device, *arguments), 0.04, parts, configuration)
    for ours, theirs in zip(fused, tiled, strict=True):
        torch.testing.assert_close(ours.cpu(), theirs, rtol=rtol, atol=atol)


@on_each
@pytest.mark.parametrize(("N", "B", "D", "K"), SIZES)
def test_rows(N, B, D, K, device):
    query, bank, labels, index = case(N, B, D)
    threshold = contrastive_draw(labels, index, STREAM, K)[1]
    results = []
    for rows, place in ((lse.contrastive_rows_triton, device), (torch.ops.gcl_fast.contrastive_rows, "cpu")):
        state = torch.tensor([[-torch.inf, 0.0]], device=place).repeat(B, 1)
        draw = on(place, labels, index, threshold, STREAM)
        for first, last in ((0, N // 3), (N // 3, N)):
            scores = (query @ bank[first:last].T).to(place)
            factor = rows(scores, state, *draw, first, 0.04)
        results.append((scores, state, factor))
    for ours, cpu in zip(*results, strict=True):
        torch.testing.assert_close(ours.cpu(), cpu, rtol=1e-5, atol=1e-6)


@on_each
@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[4, 0, 7], [3, 5, 3, 3, 0, 5, 3], []])
@pytest.mark.parametrize("kind", ["random", "not finite", "zero"])
def test_update(rows, bank_dtype, kind, device):
    index = torch.tensor(rows, dtype=torch.int64)
    features = 3 * torch.randn(len(rows), 36)[:, :33]  # rows not adjacent
    if kind == "zero":
        features[1:4] = 0
    if kind == "not finite":
        features[1:4, 7] = torch.tensor([torch.nan, torch.inf, -torch.inf])[: len(features[1:4])]
    bank = normalize(torch.randn(8, 33), dim=1).to(bank_dtype)
    expected = bank.clone()
    torch.ops.gcl_fast.memory_update(expected, index, features, 0.2)
    bank, index, features = on(device, bank, index, features)
    memory_update_triton(bank, index, features, 0.2)
    # the interpreter cuts a bf16 store off instead of rounding it: one unit in the last place
    torch.testing.assert_close(bank.cpu(), expected, rtol=torch.finfo(bank_dtype).eps, atol=1e-6)


@pytest.mark.skipif(INTERPRETED, reason="is the parent of the interpreted run")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not gpu", str(Path(__file__))]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{len(SIZES) * 6 + 18} passed" in done.stdout, done.stdout
