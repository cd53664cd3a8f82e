"""Momentum update of memory-bank rows.  M[i] <- normalize(a * M[i] + (1 - a) * normalize(f))  (Chen et al. 2021, eq. 5)

An embedding that is not finite leaves its row alone.

Roofline: 3 rows of D numbers move per crop. At B=16, D=512, fp32 that is 0.1 MB: 33 ns on an H100 (3.0 TB/s), so the
launch is all there is, and one launch it is. At B=1024, D=2048: 25 MB, 8.4 us; one program per batch position, one row
in the registers of D / 256 warps, 132 SMs full from B = 132 on. Estimate only; not measured on a GPU.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import (
    INDEX,
    NARROW,
    WIDE,
    Expected,
    check_number,
    check_rows_exist,
    check_tensors,
    register_fake,
)
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton

__all__ = ["memory_update"]


def memory_update_reference(bank: Tensor, index: Tensor, features: Tensor, momentum: float) -> None:
    """Define `memory_update` in plain PyTorch: in batch order and fp32, rounded to the bank's dtype once.

    Round k applies the k-th occurrence of every index at once: one vectorized pass when no index repeats.
    """
    order = index.argsort(stable=True)  # (B,), equal indices stay in batch order
    usable = features.isfinite().all(1)[order]
    index, features = index[order], normalize(features.float(), dim=1)[order]
    occurrence = torch.arange(len(index), device=index.device) - torch.searchsorted(index, index)  # (B,), 0 = first
    rows, inverse = index.unique_consecutive(return_inverse=True)
    updated = bank[rows].float()  # (unique, D)
    for k in range(int(occurrence.max()) + 1 if len(index) else 0):
        now = usable & (occurrence == k)
        updated[inverse[now]] = normalize(momentum * updated[inverse[now]] + (1 - momentum) * features[now], dim=1)
    bank[rows] = updated.to(bank.dtype)


def _check(bank: Tensor, index: Tensor, features: Tensor, momentum: float) -> None:
    check_tensors(
        "memory_update",
        bank=Expected(bank, "N D", WIDE, "in rows of their own"),
        index=Expected(index, "B", INDEX, "in any order"),
        features=Expected(features, "B D", NARROW, "in any order"),
    )
    check_rows_exist("memory_update", index, "bank", len(bank))
    check_number("memory_update", "momentum", momentum, 0, 1)


@jit
def _normalize(row):
    """Scale a row to length 1, as torch.nn.functional.normalize does."""
    return row / tl.maximum(tl.sqrt(tl.sum(row * row, 0)), 1e-12)


@jit
def _memory_update_kernel(
    bank, index, features, momentum, N, B, D, bank_stride, feature_stride, BLOCK_B: tl.constexpr, BLOCK_D: tl.constexpr
):
    """Update the row of one batch position in each program.

    The first occurrence of an index owns its row and walks through the later ones in batch order; their own programs
    leave at once. So a row has one writer: no race, no atomics, one result, one launch. Each program reads the whole
    index (B int64 from L2), which for B <= 1024 is less than its row.
    """
    position = tl.program_id(0)
    positions = tl.arange(0, BLOCK_B)
    row = tl.load(index + position)
    tl.device_assert((row >= 0) & (row < N), "memory_update: index out of range")
    same = tl.load(index + positions, mask=positions < B, other=-1) == row  # (BLOCK_B,)
    if tl.min(tl.where(same, positions, BLOCK_B), 0) == position:
        columns = tl.arange(0, BLOCK_D)
        inside = columns < D
        memory = tl.load(bank + row * bank_stride + columns, mask=inside, other=0.0).to(tl.float32)  # (BLOCK_D,)
        while position < BLOCK_B:
            # fp32 before any arithmetic: bf16 would round each step, and is wrong under the interpreter
            feature = tl.load(features + position.to(tl.int64) * feature_stride + columns, mask=inside, other=0.0)
            feature = feature.to(tl.float32)
            finite = tl.min((tl.abs(feature) < float("inf")).to(tl.int32), 0) > 0  # tl.max passes over NaN
            blend = momentum * memory + (1.0 - momentum) * _normalize(feature)
            memory = tl.where(finite, _normalize(blend), memory)
            position = tl.min(tl.where(same & (positions > position), positions, BLOCK_B), 0)
        tl.store(bank + row * bank_stride + columns, memory.to(bank.dtype.element_ty), mask=inside)


MAX_LAUNCH = 512  # crops; kernels for more of them spill registers on sm_100 and later


def launch_configuration(D: int) -> dict:
    """Choose the constants of a launch. aot.py compiles every value for D up to 2048."""
    block = 128 if D <= 128 else triton.next_power_of_2(D)
    return {"BLOCK_B": MAX_LAUNCH, "BLOCK_D": block, "num_warps": min(block // 128, 8)}


@on_its_device
def memory_update_triton(bank: Tensor, index: Tensor, features: Tensor, momentum: float) -> None:
    """Launch the kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit.
    """
    _check(bank, index, features, momentum)
    B, D = features.shape
    features = features if features.stride(1) == 1 else features.contiguous()
    index = index.contiguous()
    for begin in range(0, B, MAX_LAUNCH):  # one launch for any batch one meets; a second one continues in batch order
        now = slice(begin, begin + MAX_LAUNCH)
        _memory_update_kernel[(len(index[now]),)](
            bank, index[now], features[now], momentum, len(bank), len(index[now]), D, bank.stride(0),
            features.stride(0), **launch_configuration(D),
        )  # fmt: skip


def memory_update(bank: Tensor, index: Tensor, features: Tensor, momentum: float) -> None:
    """Update rows of the memory bank in place; call it after the backward pass, on detached features.

    M[i] <- normalize(momentum * M[i] + (1 - momentum) * normalize(f)), normalize(x) = x / max(|x|, 1e-12).

    Args:
        bank: (N, D) unit rows, float32 or bfloat16, contiguous in D; written.
        index: (B,) int64 rows, 0 <= index < N. A repeated index is updated once per occurrence, in batch order.
        features: (B, D) embeddings before L2 normalization, float32, bfloat16 or float16, as autocast gives them. One
            with a number that is not finite leaves its row alone.
        momentum: weight of the old row, 0..1.

    Raises:
        ValueError: shapes, types or devices that do not fit, bank rows that are not contiguous, a momentum outside
            0..1.
        RuntimeError: on the CPU, an index out of range. On a GPU that is a device assertion under TRITON_DEBUG=1, else
            undefined: telling the host would cost a synchronization.

    There is no autograd formula (the bank is state), and no register_autocast: it would cast a bfloat16 bank to a
    float32 copy and update that copy.

    Example:
        >>> bank = torch.eye(3)
        >>> memory_update(bank, torch.tensor([0]), torch.tensor([[0.0, 5.0, 0.0]]), momentum=0.5)
        >>> bank[0]
        tensor([0.7071, 0.7071, 0.0000])
    """
    _check(bank, index, features, momentum)
    torch.ops.gcl_fast.memory_update(bank, index, features, momentum)


load()
torch.library.register_kernel("gcl_fast::memory_update", "cuda", memory_update_triton)


@register_fake("memory_update")
def _(bank: Tensor, index: Tensor, features: Tensor, momentum: float) -> None:
    return None
