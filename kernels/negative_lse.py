"""Log-sum-exp over the drawn negatives, streamed over the memory bank: log sum_n exp(query . M_n / t).

The forward also leaves the softmax-weighted mean of the negatives, all that the backward needs (d lse / d query =
mean / t): the bank is read once, and no (B, N) tensor outlives a tile. Two routes, the same numbers:
- tiled: per tile of the bank a library matrix product, one row kernel (mask, reduce, exponentiate in place), a second
  product while the tile is in the cache. The CPU's route; on CUDA for B * N <= 2^24 (64 MB of scores, about the L2 of
  an H100), for D > 512, where the accumulator of the fused kernel would leave the registers, and on cards without
  matrix units for float32 (NVIDIA before 8.0, AMD's RDNA), where Triton multiplies lane by lane.
- fused: one Triton kernel, flash-attention style, the bank cut into as many parts as fill the GPU.

Roofline: 4 B N D FLOPs and one reading of the bank (N D numbers); H100 at 3.0 TB/s, 798 bf16 TFLOP/s; bf16 bank.
  B=16,   N=12,936,    D=512:   13 MB, 0.4 GFLOP: 4.4 us, memory; D=2048: 53 MB, 18 us, memory. Tiled, one tile.
  B=256,  N=32,621,    D=512:   33 MB,  17 GFLOP: 21 us, products; D=2048: 86 us. Tiled, one tile of 33 MB of scores.
  B=1024, N=1,000,000, D=512: 1.0 GB, 2.1 TFLOP: 2.6 ms, products, twice that as a float32 operand goes in as two bf16
  numbers. Fused, 32 crops a program: the bank is read 32 times, mostly from L2, as programs of one part run together.
Estimate only; not measured on a GPU.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._checks import (
    FLOAT,
    INDEX,
    NARROW,
    WIDE,
    Expected,
    check_part,
    check_rows_exist,
    check_tensors,
    register_fake,
)
from gcl_fast.kernels._triton import jit, on_its_device, tl, triton
from gcl_fast.kernels.cards import Card, card_of
from gcl_fast.kernels.contrastive_draw import NEGATIVES, differs, differs_from, draw_keys, key_of, key_words

__all__ = ["negative_lse"]

CPU_TILE_BYTES = 8 << 20  # of the bank: 1 to 16 MB are equal at B=16, a whole bank is 15 % slower
CUDA_TILE_SCORES = 1 << 24


def negative_lse_reference(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> Tensor:
    """Define `negative_lse` in plain PyTorch, with (B, N) tensors: differentiable, in the dtype of the query."""
    keys = draw_keys(index, stream, NEGATIVES, len(bank))
    drawn = differs_from(labels, index) & (keys <= threshold[:, None])  # (B, N)
    return torch.where(drawn, query @ bank.to(query.dtype).T / temperature, -torch.inf).logsumexp(1)


@jit
def drawn_scores(scores, label, own, n, row, first, second, threshold, N, scale):
    """Return scores * scale where bank row n is a drawn negative of the crop, -inf elsewhere.

    All arguments broadcast.
    """
    drawn = (n < N) & differs(label, own, n, row) & (key_of(n, first, second).to(tl.int64) <= threshold)
    return tl.where(drawn, scores * scale, float("-inf"))


@jit
def _contrastive_rows_kernel(
    scores, state, factor, labels, index, threshold, stream, first_row, T, N, scale, scores_stride, BLOCK: tl.constexpr
):
    """Turn the scores of one crop into weights in each program, which alone touches its row, in two passes.

    The second pass masks again rather than read what the first wrote: other threads may have written it, and no barrier
    would order that.
    """
    position = tl.program_id(0)
    row = tl.load(index + position)
    own = tl.load(labels + row)
    limit = tl.load(threshold + position)
    first, second = key_words(stream, row, 0)
    scores += position.to(tl.int64) * scores_stride
    largest = tl.full((BLOCK,), float("-inf"), tl.float32)
    for start in range(0, T, BLOCK):
        column = start + tl.arange(0, BLOCK)
        n = first_row + column
        value = tl.load(scores + column, mask=column < T, other=float("-inf"))
        label = tl.load(labels + n, mask=column < T, other=0)
        value = drawn_scores(value, label, own, n, row, first, second, limit, first_row + T, scale)
        largest = tl.maximum(largest, value)
    before = tl.load(state + 2 * position)
    running = tl.maximum(before, tl.max(largest, 0))
    reference = tl.where(running == float("-inf"), 0.0, running)  # nothing drawn so far
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, T, BLOCK):
        column = start + tl.arange(0, BLOCK)
        n = first_row + column
        value = tl.load(scores + column, mask=column < T, other=float("-inf"))
        label = tl.load(labels + n, mask=column < T, other=0)
        value = drawn_scores(value, label, own, n, row, first, second, limit, first_row + T, scale)
        weight = tl.exp(value - reference)
        tl.store(scores + column, weight, mask=column < T)
        total += weight
    shrink = tl.exp(before - reference)
    tl.store(factor + position, shrink)
    tl.store(state + 2 * position + 1, tl.load(state + 2 * position + 1) * shrink + tl.sum(total, 0))
    tl.store(state + 2 * position, running)


ROWS_CONFIGURATION = {"BLOCK": 2048, "num_warps": 8}


@on_its_device
def contrastive_rows_triton(
    scores: Tensor, state: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, first: int,
    temperature: float,
) -> Tensor:  # fmt: skip
    """Launch the row kernel. Same arguments as the op; also runs on CPU tensors under TRITON_INTERPRET=1.

    Raises:
        ValueError: arguments that do not fit. An index out of range is undefined: telling would cost a synchronization.
    """
    check_tensors(
        "contrastive_rows",
        scores=Expected(scores, "B T", FLOAT, "in rows of their own"),
        state=Expected(state, "B 2", FLOAT),
        labels=Expected(labels, "N", INDEX),
        index=Expected(index, "B", INDEX),
        threshold=Expected(threshold, "B", INDEX),
        stream=Expected(stream, "2", INDEX),
    )
    check_rows_exist("contrastive_rows", index, "labels", len(labels))
    check_part("contrastive_rows", "first", first, scores.shape[1], len(labels))
    _check_temperature("contrastive_rows", temperature)
    factor = scores.new_empty(len(scores))
    if len(scores):
        _contrastive_rows_kernel[(len(scores),)](
            scores, state, factor, labels, index, threshold, stream, first, scores.shape[1], len(labels),
            1 / temperature, scores.stride(0), **ROWS_CONFIGURATION,
        )  # fmt: skip
    return factor


@jit
def _dot(a, b, PRECISION: tl.constexpr):
    """Multiply float32 a by b with float32 accuracy: by "bf16x2", a is the sum of two bf16 numbers (16 bits)."""
    if PRECISION == "bf16x2":
        high = a.to(tl.bfloat16)
        return tl.dot(high, b) + tl.dot((a - high.to(tl.float32)).to(tl.bfloat16), b)
    else:
        return tl.dot(a, b.to(tl.float32), input_precision=PRECISION)


@jit
def _add_rows(accumulated, shrink, weights, rows, column, valid, D, PRECISION: tl.constexpr):
    """Return accumulated * shrink + weights @ the columns `column` of the bank's rows."""
    tile = tl.load(rows[:, None] + column[None, :], mask=valid[:, None] & (column < D)[None, :], other=0.0)
    return accumulated * shrink[:, None] + _dot(weights, tile, PRECISION)


@jit
def _negative_lse_kernel(
    query, bank, labels, index, threshold, stream, maximum, total, mean, B, N, D, part, parts, query_stride,
    bank_stride, scale, BLOCK_B: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute the softmax of BLOCK_B crops over bank rows s*part .. (s+1)*part-1 in each program (b, s), streamed.

    Each program writes its own slot of the partial results: no race, no atomics, the same sum every time. The
    accumulator is two halves: one product with all of D columns would want both halves of its operand in the registers
    at once.
    """
    split = tl.program_id(1)
    crop = tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B)  # (BLOCK_B,)
    left = tl.arange(0, BLOCK_D // 2)  # columns
    right = left + BLOCK_D // 2
    here = crop < B
    place = crop.to(tl.int64)
    row = tl.load(index + crop, mask=here, other=0)
    own = tl.load(labels + row)
    limit = tl.load(threshold + crop, mask=here, other=-1)
    first, second = key_words(stream, row, 0)
    largest = tl.full((BLOCK_B,), float("-inf"), tl.float32)
    weights_sum = tl.zeros((BLOCK_B,), tl.float32)
    left_sum = tl.zeros((BLOCK_B, BLOCK_D // 2), tl.float32)
    right_sum = tl.zeros((BLOCK_B, BLOCK_D // 2), tl.float32)
    end = tl.minimum((split + 1) * part, N)
    for start in range(split * part, end, BLOCK_N):
        n = start + tl.arange(0, BLOCK_N)  # (BLOCK_N,)
        rows = bank + n.to(tl.int64) * bank_stride
        scores = tl.zeros((BLOCK_B, BLOCK_N), tl.float32)
        for chunk in range(0, D, BLOCK_K):  # a whole query would not fit in the registers beside the accumulator
            k = chunk + tl.arange(0, BLOCK_K)
            q = tl.load(
                query + place[:, None] * query_stride + k[None, :], mask=here[:, None] & (k < D)[None, :], other=0.0
            )
            tile = tl.load(rows[None, :] + k[:, None], mask=(n < end)[None, :] & (k < D)[:, None], other=0.0)
            scores += _dot(q, tile, PRECISION)
        label = tl.load(labels + n, mask=n < end, other=0)
        scores = drawn_scores(
            scores, label[None, :], own[:, None], n[None, :], row[:, None], first[:, None], second[:, None],
            limit[:, None], end, scale,
        )  # fmt: skip
        running = tl.maximum(largest, tl.max(scores, 1))
        reference = tl.where(running == float("-inf"), 0.0, running)
        shrink = tl.exp(largest - reference)
        weights = tl.exp(scores - reference[:, None])  # (BLOCK_B, BLOCK_N)
        weights_sum = weights_sum * shrink + tl.sum(weights, 1)
        left_sum = _add_rows(left_sum, shrink, weights, rows, left, n < end, D, PRECISION)
        right_sum = _add_rows(right_sum, shrink, weights, rows, right, n < end, D, PRECISION)
        largest = running
    slot = place * parts + split
    tl.store(maximum + slot, largest, mask=here)
    tl.store(total + slot, weights_sum, mask=here)
    mean += slot[:, None] * D
    tl.store(mean + left[None, :], left_sum, mask=here[:, None] & (left < D)[None, :])
    tl.store(mean + right[None, :], right_sum, mask=here[:, None] & (right < D)[None, :])


MAX_FUSED_DIM = 512


def fused_configuration(B: int, D: int, bank_dtype: torch.dtype, card: Card) -> dict[str, Any] | None:
    """Choose the constants of a launch of the fused kernel; return None where the tiled route serves.

    That is where registers do not hold the accumulator, and on a card without matrix units for float32, whose library
    has the quicker products. aot.py compiles every value this can return. These are the largest tiles without a spill
    in Triton 3.6 and 3.8.
    """
    precision, few = card.float32_precision, B <= 16
    if D > MAX_FUSED_DIM or precision is None:
        return None
    block = next(block for block in (128, 256, MAX_FUSED_DIM) if block >= D)
    if bank_dtype == torch.bfloat16:
        tiles = (16, 32) if card.backend == "hip" else (16, 64) if few else (32, 16)
        chunk, precision = 64, "bf16x2"
    else:
        tiles, chunk = (16 if few else 32, 16), 16 if block == MAX_FUSED_DIM else 32
    return {
        **dict(zip(("BLOCK_B", "BLOCK_N"), tiles)),
        "BLOCK_D": block,
        "BLOCK_K": chunk,
        "PRECISION": precision,
        "num_warps": 8,
        "num_stages": 2,
        **card.every_register(8),
    }


@on_its_device
def negative_lse_fused(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float,
    parts: int, configuration: dict[str, Any],
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Take the fused route: launch the kernel on `parts` parts of the bank and combine them."""
    (B, D), N = query.shape, len(bank)
    part = triton.cdiv(triton.cdiv(N, parts), configuration["BLOCK_N"]) * configuration["BLOCK_N"]
    maximum, total = query.new_empty(2, B, parts)
    mean = query.new_empty(B, parts, D)
    _negative_lse_kernel[(triton.cdiv(B, configuration["BLOCK_B"]), parts)](
        query, bank, labels, index, threshold, stream, maximum, total, mean, B, N, D, part, parts, query.stride(0),
        bank.stride(0), 1 / temperature, **configuration,
    )  # fmt: skip
    largest = maximum.amax(1, keepdim=True)  # (B, 1)
    share = torch.where(maximum == -torch.inf, 0, (maximum - largest).exp())  # (B, parts)
    return _finish(largest[:, 0], (total * share).sum(1), torch.einsum("bp,bpd->bd", share, mean))


def negative_lse_tiled(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float,
    tile: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Take the tiled route: `tile` rows of the bank at a time."""
    B, D = query.shape
    state = query.new_zeros(B, 2)  # running maximum and sum
    state[:, 0] = -torch.inf
    mean = query.new_zeros(B, D)
    for first in range(0, len(bank), tile):
        rows = bank[first : first + tile].float()  # (T, D), a view of a float32 bank
        weights = query @ rows.T  # (B, T) scores, then weights
        factor = torch.ops.gcl_fast.contrastive_rows(
            weights, state, labels, index, threshold, stream, first, temperature
        )
        mean = torch.addmm(mean * factor[:, None], weights, rows)
    return _finish(state[:, 0], state[:, 1], mean)


def _finish(maximum: Tensor, total: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
    return maximum + total.log(), mean / total.clamp_min(torch.finfo(torch.float32).tiny)[:, None]


def _check_temperature(op: str, temperature: float) -> None:
    if not 0 < temperature < math.inf:
        raise ValueError(f"{op}: temperature is {temperature}, expected a finite number above 0")


def _check(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> None:
    """Raise a ValueError where kernels would leave these tensors.

    An index or a threshold out of range is the CPU's to tell: it would cost a GPU's host a synchronization.
    """
    check_tensors(
        "negative_lse",
        query=Expected(query, "B D", NARROW, "in any order"),
        bank=Expected(bank, "N D", WIDE, "row by row"),
        labels=Expected(labels, "N", INDEX, "in any order"),
        index=Expected(index, "B", INDEX, "in any order"),
        threshold=Expected(threshold, "B", INDEX, "in any order"),
        stream=Expected(stream, "2", INDEX, "in any order"),
    )
    check_rows_exist("negative_lse", index, "bank", len(bank))
    _check_temperature("negative_lse", temperature)
    if query.device.type == "cpu" and len(index):
        for name, x, most in (("index", index, len(bank) - 1), ("threshold", threshold, 2**32 - 1)):
            least, greatest = (int(bound) for bound in x.aminmax())
            if least < 0 or greatest > most:
                raise ValueError(f"negative_lse: {name} holds {least}..{greatest}, outside 0..{most}")


@torch.library.custom_op("gcl_fast::negative_lse", mutates_args=())
def _negative_lse(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    _check(query, bank, labels, index, threshold, stream, temperature)
    (B, D), N = query.shape, len(bank)
    rows = labels.contiguous(), index.contiguous(), threshold.contiguous(), stream.contiguous()
    arguments = query.float().contiguous(), bank, *rows, temperature
    with torch.autocast(query.device.type, enabled=False):
        if not query.is_cuda:
            return negative_lse_tiled(*arguments, tile=max(CPU_TILE_BYTES // (4 * max(B, D)), 1))
        configuration = fused_configuration(B, D, bank.dtype, card_of(query.device))
        if B * N <= CUDA_TILE_SCORES or configuration is None:
            return negative_lse_tiled(*arguments, tile=max(CUDA_TILE_SCORES // max(B, 1), 1))
        processors = torch.cuda.get_device_properties(query.device).multi_processor_count
        parts = max(2 * processors // triton.cdiv(B, configuration["BLOCK_B"]), 1)
        return negative_lse_fused(*arguments, parts=parts, configuration=configuration)


@register_fake("negative_lse")
def _(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    lse = query.new_empty(len(query), dtype=torch.float32)
    return lse, query.new_empty(query.shape, dtype=torch.float32)


def _save(ctx: Any, inputs: tuple, output: tuple) -> None:
    ctx.save_for_backward(output[1])
    ctx.temperature, ctx.dtype = inputs[-1], inputs[0].dtype


def _backward(ctx: Any, grad_lse: Tensor, _grad_mean: Tensor) -> tuple:
    (mean,) = ctx.saved_tensors
    return ((grad_lse / ctx.temperature)[:, None] * mean).to(ctx.dtype), *[None] * 6


_negative_lse.register_autograd(_backward, setup_context=_save)


def negative_lse(
    query: Tensor, bank: Tensor, labels: Tensor, index: Tensor, threshold: Tensor, stream: Tensor, temperature: float
) -> Tensor:
    """Compute log sum_n exp(query . M_n / temperature) over the drawn negatives of each crop, streamed over the bank.

    Args:
        query: (B, D) float32 or bfloat16; differentiable. In float64 the reference answers.
        bank: (N, D) float32 or bfloat16, accumulated in float32; no gradient.
        labels, index, threshold, stream: the draw, as `contrastive_draw` takes and gives it.
        temperature: > 0.

    Returns:
        (B,) float32; -inf for a crop without negatives.

    There is no register_autocast: it would make a float32 copy of a bfloat16 bank. The op runs as if autocast were off.

    Example:
        >>> bank, labels, stream = torch.eye(3), torch.arange(3), torch.tensor([0, 0])
        >>> index, every = torch.tensor([0]), torch.tensor([2**32 - 1])  # a threshold that draws all other clusters
        >>> negative_lse(bank[:1], bank, labels, index, every, stream, temperature=1.0)  # log(e^0 + e^0)
        tensor([0.6931])
    """
    if query.dtype == torch.float64:
        return negative_lse_reference(query, bank, labels, index, threshold, stream, temperature)
    return _negative_lse(query, bank, labels, index, threshold, stream, temperature)[0]


load()
torch.library.register_kernel("gcl_fast::contrastive_rows", "cuda", contrastive_rows_triton)


@register_fake("contrastive_rows")
def _(
    scores: Tensor,
    state: Tensor,
    labels: Tensor,
    index: Tensor,
    threshold: Tensor,
    stream: Tensor,
    first: int,
    temperature: float,
) -> Tensor:
    return scores.new_empty(len(scores))
