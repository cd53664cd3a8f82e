"""The GPU's sum of sparse rows, which `expand_queries` and `jaccard_rows` share.

C_i = sum over the lists j of row i of min(cap_ij, B_j)

Every list ascends by column, so one program merges the lists of one row. Each step takes the smallest column at the
head of any list, adds up what the heads at that column hold, and moves those lists on. Columns come out ascending and
once, with no scratch memory, no atomics and no capacity to overflow. A first launch counts, a second one writes.

Roofline, H100 at 3.0 TB/s, k1 = 30. On the 12,936 crops of benchmarks/pseudo_labels.py V has 28 entries a row, 68 after
expansion (101 at most). jaccard_rows merges 4,850 entries of 8 bytes a row into 2,950 columns, of which 74 reach 0.01.
Both launches move
  N = 12,936:     expand  42 MB, 14 us;   jaccard 1.0 GB, all but the 7 MB of the index from the L2 cache
  N = 100,000:    expand 0.3 GB, 0.1 ms;  jaccard 7.8 GB, 2.6 ms
  N = 1,000,000:  expand 3.2 GB, 1.1 ms;  jaccard  78 GB, 26 ms
The chain of steps takes longer than the bytes: about 400 cycles each (a load, two reductions over a warp), so 2,950
steps take 0.7 ms at 1.7 GHz. With 32 rows in flight on each of 132 SMs the two launches of jaccard_rows take 4, 33 and
330 ms at the three N. Estimate only; not measured on a GPU.
"""

# mypy: allow-incomplete-defs
# (a Triton kernel annotates its constants only)
from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.kernels._sparse_rows import Rows
from gcl_fast.kernels._triton import jit, tl


@jit
def _merge_rows_kernel(
    rows, list_start, lists, caps, start, column, value, out_start, out_column, out_value, least, FILL: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    """Merge the lists of one row in each program, which alone writes its entries: no race.

    Terms are added as whole multiples of 2^-40, in which weights from 2^-16 up are exact. So a sum does not depend on
    its order, and C_ik and C_ki get the same bits.
    """
    row = tl.load(rows + tl.program_id(0))
    first = tl.load(list_start + row)
    lane = tl.arange(0, BLOCK)
    inside = lane < tl.load(list_start + row + 1) - first
    source = tl.load(lists + first + lane, mask=inside, other=0)
    cap = tl.load(caps + first + lane, mask=inside, other=0.0)
    place = tl.load(start + source, mask=inside, other=0)  # (BLOCK,) of the head of each list
    left = (tl.load(start + source + 1, mask=inside, other=0) - place).to(tl.int32)
    head = tl.load(column + place, mask=left > 0, other=2147483647)
    out = out_start + row
    if FILL:
        out_column += tl.load(out)
        out_value += tl.load(out)
    count = tl.full((), 0, tl.int64)
    current = tl.min(head, 0)
    while current < 2147483647:
        at_head = head == current
        term = tl.minimum(cap, tl.load(value + place, mask=at_head, other=0.0))
        total = tl.sum((term * 1099511627776.0).to(tl.int64), 0).to(tl.float32) * (1.0 / 1099511627776.0)
        if total >= least:
            if FILL:
                tl.store(out_column + count, current)
                tl.store(out_value + count, total)
            count += 1
        place += at_head.to(tl.int32)
        left -= at_head.to(tl.int32)
        following = tl.load(column + place, mask=at_head & (left > 0), other=2147483647)
        head = tl.where(at_head, following, head)
        current = tl.min(head, 0)
    if not FILL:
        tl.store(out + 1, count)


BLOCKS = (128, 512, 2048)  # lists that a program can merge; a row takes the smallest block that holds its own


def launch_configuration(block: int) -> dict[str, int]:
    """Choose the constants of a launch: 4 lists a lane, and one warp for nearly all rows, since every step reduces over
    the block. With 8 lists a lane ptxas spills."""
    return {"BLOCK": block, "num_warps": block // 128}


def merge_rows(list_start: Tensor, lists: Tensor, caps: Tensor, source: Rows, least: float) -> Rows:
    """Sum up sparse rows: launch the kernel, twice for each size of block.

    It also runs on CPU tensors under TRITON_INTERPRET=1.

    Args:
        list_start: (R + 1,) int64, the range of `lists` that each row merges. It need not begin at 0.
        lists, caps: (L,) int32 rows of `source`, and (L,) float32 caps.
        source: sparse rows with values within 0..1, columns ascending.
        least: the least sum that is written.

    Returns:
        R sparse rows.

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
