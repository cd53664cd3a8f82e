"""Sums of sparse rows: query expansion and Jaccard similarity.  C_i = sum over the lists j of row i of min(cap_ij, B_j)

- expand_queries: the lists of row i are the sets V_j of its k2 nearest neighbours and every cap is 1; the sum is
  divided by k2 (Zhong et al. 2017, sec. 3.4).
- jaccard_rows: the lists of row i are the rows j of the inverted index that V_i names, and the caps are V_ij; the sum
  is s_ik = sum_j min(V_ij, V_kj), the similarity s / (2 - s) (sec. 3.3).

Every list ascends by column, so one program merges the lists of one row: each step takes the smallest column at the
head of any list, adds up what the heads at that column hold, and moves those lists on. Columns come out ascending and
once, with no scratch memory, no atomics and no capacity to overflow; a first launch counts, a second one writes.

Roofline, H100 at 3.0 TB/s, k1 = 30. On the benchmark's 12,936 crops V has 28 entries a row, 68 after expansion (101 at
most), and jaccard merges 4,850 entries of 8 bytes a row into 2,950 columns, of which 74 reach 0.01. Both launches move
  N = 12,936:     expand  42 MB, 14 us;   jaccard 1.0 GB, all but the 7 MB of the index from the L2 cache
  N = 100,000:    expand 0.3 GB, 0.1 ms;  jaccard 7.8 GB, 2.6 ms
  N = 1,000,000:  expand 3.2 GB, 1.1 ms;  jaccard  78 GB, 26 ms
The chain of steps takes longer than the bytes: some 400 cycles each (a load, two reductions over a warp), 2,950 steps
0.7 ms at 1.7 GHz. With 32 rows in flight on each of 132 SMs jaccard's two launches take 4, 33 and 330 ms at the three
N. Estimate only; not measured on a GPU.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.csrc.build import load
from gcl_fast.kernels._triton import jit, on_its_device, tl

Rows = tuple[Tensor, Tensor, Tensor]  # start (rows + 1,) int64, column (entries,) int32, value (entries,) float32


@jit
def _merge_rows_kernel(
    rows, list_start, lists, caps, start, column, value, out_start, out_column, out_value, least, FILL: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row, which alone writes its entries: no race. Terms are added as whole multiples of 2^-40, in
    which weights from 2^-16 up are exact: a sum does not depend on its order, so C_ik and C_ki get the same bits."""
    row = tl.load(rows + tl.program_id(0))
    first = tl.load(list_start + row)
    lane = tl.arange(0, BLOCK)
    here = lane < tl.load(list_start + row + 1) - first
    source = tl.load(lists + first + lane, mask=here, other=0)
    cap = tl.load(caps + first + lane, mask=here, other=0.0)
    place = tl.load(start + source, mask=here, other=0)  # (BLOCK,) of the head of each list
    left = (tl.load(start + source + 1, mask=here, other=0) - place).to(tl.int32)
    head = tl.load(column + place, mask=left > 0, other=2147483647)
    out = out_start + row
    if FILL:
        out_column += tl.load(out)
        out_value += tl.load(out)
    kept = tl.full((), 0, tl.int64)
    current = tl.min(head, 0)
    while current < 2147483647:
        at_head = head == current
        term = tl.minimum(cap, tl.load(value + place, mask=at_head, other=0.0))
        total = tl.sum((term * 1099511627776.0).to(tl.int64), 0).to(tl.float32) * (1.0 / 1099511627776.0)
        if total >= least:
            if FILL:
                tl.store(out_column + kept, current)
                tl.store(out_value + kept, total)
            kept += 1
        place += at_head.to(tl.int32)
        left -= at_head.to(tl.int32)
        following = tl.load(column + place, mask=at_head & (left > 0), other=2147483647)
        head = tl.where(at_head, following, head)
        current = tl.min(head, 0)
    if not FILL:
        tl.store(out + 1, kept)


BLOCKS = (128, 512, 2048)  # lists that a program can merge; a row takes the smallest block that holds its own


def launch_configuration(block: int) -> dict[str, int]:
    """Constants of a launch: 4 lists a lane, one warp for nearly all rows, as every step reduces over the block (with
    8 lists a lane ptxas spills)."""
    return {"BLOCK": block, "num_warps": block // 128}


def merge_rows(list_start: Tensor, lists: Tensor, caps: Tensor, source: Rows, least: float) -> Rows:
    """Launch the kernel, twice for each size of block. Also runs on CPU tensors under TRITON_INTERPRET=1.

    Args:
        list_start: (R + 1,) int64, where the lists of each row begin in `lists` and end; it need not begin at 0.
        lists, caps: rows of `source`, int32, and the cap of each, float32.
        source: sparse rows with values within 0..1, columns ascending.
        least: sums below it are left out.

    Raises:
        ValueError: a row has more than 2,048 lists (k1 = 30, k2 = 6 cannot give more than 1,080).
    """
    lengths = list_start.diff()
    longest = int(lengths.max()) if len(lengths) else 0
    if longest > BLOCKS[-1]:
        raise ValueError(
            f"merge_rows: a row has {longest:,} lists, more than the {BLOCKS[-1]:,} that a GPU program merges; "
            "use a smaller k1 or k2, or features on the CPU"
        )
    groups = [  # rows without lists are in none
        (block, ((lengths > fewer) & (lengths <= block)).nonzero().flatten())
        for fewer, block in zip((0, *BLOCKS), BLOCKS)
    ]
    start = torch.zeros_like(list_start)
    column, value = lists.new_empty(0), caps.new_empty(0)
    for fill in (False, True):
        for block, rows in groups:
            if len(rows):
                _merge_rows_kernel[(len(rows),)](
                    rows, list_start, lists, caps, *source, start, column, value, least, FILL=fill,
                    **launch_configuration(block),
                )  # fmt: skip
        if not fill:
            start = start.cumsum(0)
            column, value = (like.new_empty(int(start[-1])) for like in (lists, caps))
    return start, column, value


def transposed(start: Tensor, column: Tensor, value: Tensor) -> Rows:
    """The columns of a square sparse matrix as rows, ascending: a stable sort, which the library does better."""
    N = len(start) - 1
    row = torch.repeat_interleave(torch.arange(N, dtype=column.dtype, device=column.device), start.diff())
    by_column, order = column.sort(stable=True)
    ends = torch.arange(N + 1, dtype=column.dtype, device=column.device)
    return torch.searchsorted(by_column, ends), row[order], value[order]


def check_rows(op: str, start: Tensor, column: Tensor, value: Tensor) -> None:
    """ValueError unless these are the contiguous arrays of a square sparse matrix, as the CPU's ops take them; asks the
    GPU, and waits for it."""
    arrays, dtypes = (start, column, value), (torch.int64, torch.int32, torch.float32)
    fits = all(array.dtype == dtype and array.ndim == 1 for array, dtype in zip(arrays, dtypes))
    fits = fits and all(array.is_contiguous() and array.device == start.device for array in arrays)
    if not fits or len(start) == 0 or len(column) != len(value):
        got = ", ".join(f"{array.dtype} {tuple(array.shape)} on {array.device}" for array in arrays)
        raise ValueError(
            f"{op}: expected contiguous start (rows + 1) int64, column and value (entries) int32 and float32; got {got}"
        )
    if (start[0] != 0) | (start[-1] != len(column)) | (start.diff() < 0).any():
        raise ValueError(f"{op}: start must begin at 0, never fall, and end at the {len(column)} entries")
    if ((column < 0) | (column >= len(start) - 1)).any():
        raise ValueError(f"{op}: a column lies outside 0..{len(start) - 2}")


def check_range(op: str, begin: int, end: int, rows: int) -> None:
    """ValueError unless begin..end is a range of rows."""
    if not 0 <= begin <= end <= rows:
        raise ValueError(f"{op}: rows {begin}..{end} of {rows}")


def check_neighbours(op: str, neighbours: Tensor, rows: int) -> None:
    """ValueError unless `neighbours` is contiguous int32 (N, k) within 0..rows-1; asks the GPU, and waits for it."""
    shape = tuple(neighbours.shape)
    if len(shape) != 2 or shape[1] == 0 or neighbours.dtype != torch.int32 or not neighbours.is_contiguous():
        raise ValueError(f"{op}: neighbours must be contiguous int32 (N, k), k > 0, not {neighbours.dtype} {shape}")
    if ((neighbours < 0) | (neighbours >= rows)).any():
        raise ValueError(f"{op}: a neighbour lies outside 0..{rows - 1}")


@on_its_device
def expand_queries_triton(
    start: Tensor, column: Tensor, value: Tensor, neighbours: Tensor, begin: int, end: int
) -> Rows:
    """The op on a GPU: rows begin..end of mean over r of V[neighbours[i, r]]."""
    check_rows("expand_queries", start, column, value)
    check_neighbours("expand_queries", neighbours, len(start) - 1)
    check_range("expand_queries", begin, end, len(neighbours))
    k = neighbours.shape[1]
    list_start = torch.arange(begin, end + 1, device=start.device) * k
    caps = torch.ones_like(neighbours, dtype=value.dtype)
    start, column, total = merge_rows(list_start, neighbours, caps, (start, column, value), 0.0)
    return start, column, total.div_(k)


@on_its_device
def jaccard_rows_triton(
    start: Tensor, column: Tensor, value: Tensor, min_similarity: float, begin: int, end: int
) -> Rows:
    """The op on a GPU: rows begin..end of the Jaccard similarity of V's rows, where it reaches `min_similarity`."""
    check_rows("jaccard_rows", start, column, value)
    N = len(start) - 1
    check_range("jaccard_rows", begin, end, N)
    least = 2 * min_similarity / (1 + min_similarity)  # s / (2 - s) >= min_similarity
    inverted = transposed(start, column, value)
    start, column, shared = merge_rows(start[begin : end + 1], column, value, inverted, least)
    return start, column, (shared / (2 - shared)).clamp_max_(1)


load()
torch.library.register_kernel("gcl_fast::expand_queries", "cuda", expand_queries_triton)
torch.library.register_kernel("gcl_fast::jaccard_rows", "cuda", jaccard_rows_triton)
