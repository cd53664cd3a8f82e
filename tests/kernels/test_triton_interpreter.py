"""Triton kernels on the CPU, by its interpreter: it is chosen when a kernel is decorated, hence the child process."""

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
STREAM = torch.tensor([(5 << 40) + 3, 7])
SIZES = [(300, 5, 64, 40), (70, 3, 7, 1000), (33, 18, 130, 8), (1, 1, 1, 1), (600, 2, 300, 300)]  # N, B, D, K


def case(N, B, D, bank_dtype=torch.float32):
    generator = torch.Generator().manual_seed(N + B)
    labels, index = torch.randint(-1, 6, (N,), generator=generator), torch.randint(N, (B,), generator=generator)
    query, bank = (normalize(torch.randn(rows, D, generator=generator), dim=1) for rows in (B, N))
    return query, bank.to(bank_dtype), labels, index


@interpreted
@pytest.mark.parametrize(("N", "B", "D", "K"), SIZES)
def test_draw(N, B, D, K):
    _, _, labels, index = case(N, B, D)
    for ours, cpu in zip(*(draw(labels, index, STREAM, K) for draw in (contrastive_draw_triton, contrastive_draw))):
        assert torch.equal(ours, cpu)


@interpreted
@pytest.mark.parametrize(("N", "B", "D", "K"), SIZES)
@pytest.mark.parametrize("parts", [1, 3])
@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
def test_fused_route_is_the_tiled_route(N, B, D, K, parts, bank_dtype):
    query, bank, labels, index = case(N, B, D, bank_dtype)
    arguments = query, bank, labels, index, contrastive_draw(labels, index, STREAM, K)[1], STREAM, 0.04
    ieee = lse.fused_configuration(B, D, bank_dtype, card_of(bank.device)) | {"PRECISION": "ieee"}  # no bf16 in here
    tiled = lse.negative_lse_tiled(*arguments, tile=50)
    for ours, theirs in zip(lse.negative_lse_fused(*arguments, parts, ieee), tiled, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize(("N", "B", "D", "K"), SIZES)
def test_rows(N, B, D, K):
    query, bank, labels, index = case(N, B, D)
    threshold = contrastive_draw(labels, index, STREAM, K)[1]
    results = []
    for rows in (lse.contrastive_rows_triton, torch.ops.gcl_fast.contrastive_rows):
        state = torch.tensor([[-torch.inf, 0.0]]).repeat(B, 1)
        for first, last in ((0, N // 3), (N // 3, N)):
            scores = query @ bank[first:last].T
            factor = rows(scores, state, labels, index, threshold, STREAM, first, 0.04)
        results.append((scores, state, factor))
    for ours, cpu in zip(*results, strict=True):
        torch.testing.assert_close(ours, cpu, rtol=1e-5, atol=1e-6)


@interpreted
@pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rows", [[4, 0, 7], [3, 5, 3, 3, 0, 5, 3], []])
@pytest.mark.parametrize("kind", ["random", "not finite", "zero"])
def test_update(rows, bank_dtype, kind):
    index = torch.tensor(rows, dtype=torch.int64)
    features = 3 * torch.randn(len(rows), 36)[:, :33]  # rows not adjacent
    if kind == "zero":
        features[1:4] = 0
    if kind == "not finite":
        features[1:4, 7] = torch.tensor([torch.nan, torch.inf, -torch.inf])[: len(features[1:4])]
    bank = normalize(torch.randn(8, 33), dim=1).to(bank_dtype)
    expected = bank.clone()
    torch.ops.gcl_fast.memory_update(expected, index, features, 0.2)
    memory_update_triton(bank, index, features, 0.2)
    # the interpreter cuts a bf16 store off instead of rounding it: one unit in the last place
    torch.testing.assert_close(bank, expected, rtol=torch.finfo(bank_dtype).eps, atol=1e-6)


@pytest.mark.skipif(INTERPRETED, reason="is the parent of the interpreted run")
def test_kernels_in_the_interpreter():
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert f"{len(SIZES) * 6 + 18} passed" in done.stdout, done.stdout
