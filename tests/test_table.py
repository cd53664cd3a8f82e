"""Tables as text."""

from gcl_fast.table import text_table


def test_columns_are_aligned_and_long_cells_cut():
    rows = [["stage", "mAP", "note"], ["joint, all of it", "7.4", ""], ["warmup", "72.1", "x" * 12]]
    assert text_table(rows, longest=10).splitlines() == [
        "stage        mAP        note",
        "joint, al…   7.4",
        "warmup      72.1  xxxxxxxxx…",
    ]
