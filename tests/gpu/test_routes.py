"""The contrastive loss and the bank's update at the sizes that choose their routes, against float64; a fixed result."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.kernels.contrastive_draw import contrastive_draw
from gcl_fast.kernels.memory_update import memory_update
from gcl_fast.kernels.negative_lse import negative_lse
from gcl_fast.kernels.view_contrastive import view_contrastive, view_contrastive_reference

STREAM = torch.tensor([(5 << 40) + 3, 7])
TEMPERATURE = 0.04
# B, N, D, K: one tile; several tiles since D is beyond the fused kernel's registers; the fused kernel
SIZES = [
    ("cpu", (4, 300, 64, 100)),
    *(
        pytest.param("cuda", size, marks=pytest.mark.gpu)
        for size in [(16, 12_936, 512, 8192), (64, 280_000, 640, 8192), (256, 70_000, 512, 8192)]
    ),
]
UPDATES = [  # B, N, D
    ("cpu", (40, 60, 33)),
    *(pytest.param("cuda", size, marks=pytest.mark.gpu) for size in [(16, 12_936, 512), (3000, 900, 2048)]),
]
BANKS = pytest.mark.parametrize("bank_dtype", [torch.float32, torch.bfloat16])


def case(B: int, N: int, D: int, K: int, bank_dtype: torch.dtype, device: str) -> list[Tensor]:
    """f, f_new, bank, labels, index, positives, threshold, stream."""
    generator = torch.Generator(device).manual_seed(N + B)
    f, f_new, bank = (normalize(torch.randn(n, D, generator=generator, device=device)) for n in (B, B, N))
    labels = torch.randint(-1, N // 17, (N,), generator=generator, device=device)
    index = torch.randint(N, (B,), generator=generator, device=device)
    stream = STREAM.to(device)
    return [f, f_new, bank.to(bank_dtype), labels, index, *contrastive_draw(labels, index, stream, K), stream]


@BANKS
@pytest.mark.parametrize(("device", "size"), SIZES)
def test_either_route_is_as_exact_as_float64_allows(device, size, bank_dtype):
    given = case(*size, bank_dtype, device)
    results = []
    for loss, kind in ((view_contrastive, torch.float32), (view_contrastive_reference, torch.float64)):
        f, f_new = (x.to(kind).requires_grad_() for x in given[:2])
        bank = given[2] if kind == torch.float32 else given[2].double()
        rows = loss(f, f_new, bank, *given[3:], TEMPERATURE)
        results.append([rows.detach(), *torch.autograd.grad(rows.sum(), (f, f_new))])
    for ours, truth in zip(*results, strict=True):
        assert (ours.double() - truth).norm() <= 2e-5 * truth.norm()


@BANKS
@pytest.mark.parametrize(("device", "size"), SIZES)
def test_the_result_is_the_same_every_time(device, size, bank_dtype):
    f, _, bank, labels, index, _, threshold, stream = case(*size, bank_dtype, device)
    once, again = (negative_lse(f, bank, labels, index, threshold, stream, TEMPERATURE) for _ in range(2))
    assert torch.equal(once, again)


@BANKS
@pytest.mark.parametrize(("device", "size"), UPDATES)
def test_update_of_many_repeated_rows(device, size, bank_dtype):
    """More crops than one launch takes, most of them of rows that others update too."""
    B, N, D = size
    generator = torch.Generator().manual_seed(B)
    bank = normalize(torch.randn(N, D, generator=generator)).to(bank_dtype)
    index, f = torch.randint(N, (B,), generator=generator), normalize(torch.randn(B, D, generator=generator))
    ours, cpu = bank.to(device, copy=True), bank.clone()
    memory_update(ours, index.to(device), f.to(device), 0.2)
    torch.ops.gcl_fast.memory_update(cpu, index, f, 0.2)
    torch.testing.assert_close(ours.cpu(), cpu, rtol=torch.finfo(bank_dtype).eps, atol=1e-6)
    assert not torch.equal(cpu, bank)
