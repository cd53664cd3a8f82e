"""Table of the backbones: sizes and operations."""

from __future__ import annotations

from page_tables.rows import Files, newest, one, table

NEEDS = {"torchvision": "nothing more; BSD-3-Clause", "timm": "the extra `timm`; Apache-2.0"}


def backbones(files: Files) -> str:
    """Return width, parameters, and at two sizes of crops the last map and the operations of each backbone."""
    rows = newest(files.rows("backbones"), ["backbone", "output_stride", "crops"], machine="")
    lines = []
    for row in [row for row in rows if row["crops"] == rows[0]["crops"]]:
        name, stride = row["backbone"], row["output_stride"]
        large = one(rows, backbone=name, output_stride=stride, crops="256x128")
        library = "torchvision" if name == "mobilenetv2" else name.partition(":")[0]
        lines.append(
            (
                name + (f", stride {stride}" if stride else ""),
                row["channels"],
                f"{int(row['parameters']) / 1e6:.1f} M",
                *(value for one_row in (row, large) for value in (one_row["map"], f"{float(one_row['gflop']):.2f}")),
                NEEDS.get(library, "nothing"),
            )
        )
    header = ("backbone", "C", "parameters", "map, 128x64", "GFLOP", "map, 256x128", "GFLOP", "library: extra, licence")
    return table(header, lines)
