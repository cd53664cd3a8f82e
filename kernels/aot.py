"""Compile every Triton kernel, in every configuration the code launches, for GPUs that need not be here.

python -m gcl_fast.kernels.aot [--jobs 2] [--csv benchmarks/results/aot.csv]

Prints registers, spilled bytes, shared memory and the occupancy they allow, writes the same table as CSV, and exits
with status 1 when a kernel spills, when a card cannot hold one block of it, or when a kernel of this package has no
entry here. Configurations come from the functions that launch the kernels (cards.py).
"""

from __future__ import annotations

import argparse
import csv
import importlib
import io
import os
import pkgutil
import re
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from gcl_fast import kernels
from gcl_fast.kernels import (
    _instance_norm,
    _sample_norm,
    contrastive_draw,
    csr_dbscan,
    gather_pixels,
    memory_update,
    merge_rows,
    negative_lse,
    reciprocal_weights,
    reflect_pad,
)
from gcl_fast.kernels.cards import TARGETS, Card

OPTIONS = ("num_warps", "num_stages", "maxnreg")  # of a configuration: the compiler's; the others are constants
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMAGES = FLOATS | {"fp16": torch.float16}


@dataclass(frozen=True)
class Entry:
    """Holds one way to launch a kernel: types of its arguments ("*" marks a pointer), constants, compiler options."""

    kernel: Any
    types: dict[str, str]
    configuration: dict[str, Any]

    def source(self) -> ASTSource:
        """Return the kernel's source, specialized as the JIT would do at the paper's sizes.

        Pointers are aligned. D and the strides of rows of D are multiples of 16; N (12,936 crops) and the stride of
        scores, rows of N, are not.
        """
        constants = {name: self.configuration[name] for name in self.kernel.arg_names if name in self.configuration}
        types = {name: self.types.get(name, "constexpr") for name in self.kernel.arg_names}
        by_dim = {"D", "query_stride", "bank_stride", "feature_stride"}
        by_dim |= {"R", "C", "H", "W", "rows", "scale_stride", "shift_stride"}  # pixels and channels of an image
        divisible = [n for n, name in enumerate(types) if types[name].startswith("*") or name in by_dim]
        attributes = {(n,): [["tt.divisibility", 16]] for n in divisible}
        return ASTSource(fn=self.kernel, signature=types, constexprs=constants, attrs=attributes)


def entries(card: Card) -> list[Entry]:
    """List everything that can be launched on a card, once each; a new kernel's entries join here."""
    everything = (*contrastive_entries(card), *update_entries(), *graph_entries(card), *image_entries())
    return list({repr(entry): entry for entry in everything}.values())


DRAW = {"labels": "*i64", "index": "*i64", "stream": "*i64", "threshold": "*i64"}


def contrastive_entries(card: Card) -> Iterator[Entry]:
    """List the view-invariant loss: its draw, and the log-sum-exp over negatives by either route."""
    yield Entry(
        contrastive_draw._contrastive_draw_kernel,
        DRAW | {"positives": "*i64", "N": "i32", "K": "i32"},
        contrastive_draw.draw_configuration(card),
    )
    scalars = {"first_row": "i32", "T": "i32", "N": "i32", "scale": "fp32", "scores_stride": "i32"}
    yield Entry(
        negative_lse._contrastive_rows_kernel,
        DRAW | scalars | dict.fromkeys(("scores", "state", "factor"), "*fp32"),
        negative_lse.ROWS_CONFIGURATION,
    )
    scalars = dict.fromkeys(("B", "N", "D", "part", "parts", "query_stride", "bank_stride"), "i32") | {"scale": "fp32"}
    types = DRAW | scalars | dict.fromkeys(("query", "maximum", "total", "mean"), "*fp32")
    for bank, dtype in FLOATS.items():
        for B in (16, 17):
            for D in (128, 256, negative_lse.MAX_FUSED_DIM):
                configuration = negative_lse.fused_configuration(B, D, dtype, card)
                if configuration is not None:
                    yield Entry(negative_lse._negative_lse_kernel, types | {"bank": f"*{bank}"}, configuration)


def update_entries() -> Iterator[Entry]:
    """List the update of the memory bank."""
    scalars = dict.fromkeys(("N", "B", "D", "bank_stride", "feature_stride"), "i32") | {"momentum": "fp32"}
    for bank in FLOATS:
        for features in (*FLOATS, "fp16"):
            for D in (128, 256, 512, 1024, 2048):
                yield Entry(
                    memory_update._memory_update_kernel,
                    scalars | {"bank": f"*{bank}", "features": f"*{features}", "index": "*i64"},
                    memory_update.launch_configuration(D),
                )


def graph_entries(card: Card) -> Iterator[Entry]:
    """List pseudo-labels: the k-reciprocal graph and the clusters in it."""
    lists = dict.fromkeys(("neighbours", "own", "halves"), "*i32") | {"K": "i32", "HALF": "i32"}
    sets = lists | {"start": "*i64", "column": "*i32", "first_row": "i32"}
    for K in (32, 64, reciprocal_weights.MAX_NEIGHBOURS):
        configuration = reciprocal_weights.lists_configuration(K)
        yield Entry(reciprocal_weights._reciprocal_lists_kernel, lists, configuration)
        for half in (K // 2, min(K // 2 + 1, reciprocal_weights.MAX_HALF)):
            for fill in (False, True):
                configuration = reciprocal_weights.sets_configuration(K, half, card) | {"FILL": fill}
                yield Entry(reciprocal_weights._expanded_sets_kernel, sets, configuration)
    yield Entry(
        reciprocal_weights._closeness_kernel,
        dict.fromkeys(("features", "closeness", "largest", "total"), "*fp32")
        | {"start": "*i64", "column": "*i32", "first_row": "i32", "D": "i32"},
        reciprocal_weights.WEIGHTS_CONFIGURATION,
    )
    floats = dict.fromkeys(("caps", "value", "out_value"), "*fp32") | {"least": "fp32"}
    merged = floats | dict.fromkeys(("rows", "list_start", "start", "out_start"), "*i64")
    merged |= dict.fromkeys(("lists", "column", "out_column"), "*i32")
    for block in merge_rows.BLOCKS:
        for fill in (False, True):
            configuration = merge_rows.launch_configuration(block) | {"FILL": fill}
            yield Entry(merge_rows._merge_rows_kernel, merged, configuration)
    pairs = dict.fromkeys(("a", "b", "parent"), "*i32") | {"pairs": "i32"}
    yield Entry(csr_dbscan._join_kernel, pairs, csr_dbscan.JOIN_CONFIGURATION)


def image_entries() -> Iterator[Entry]:
    """List norms, padding and choice of pixels, for each choice of blocks from 16 channels on."""
    scalars = dict.fromkeys(("R", "C", "rows", "count", "scale_stride", "shift_stride"), "i32")
    scalars |= dict.fromkeys(("slope", "eps"), "fp32")
    sums = dict.fromkeys(("moments", "parts", "sums"), "*fp32")
    for dtype in IMAGES:
        images = dict.fromkeys(("x", "y", "residual", "grad", "dx"), f"*{dtype}")
        for R, C in ((512, 16), (64, 16)):
            channels = _instance_norm.instance_configuration(R, C)
            for style in sorted({dtype, "fp32"}) + [
                None
            ]:  # of AdaIN under autocast and without, of plain instance norm
                styles = dict.fromkeys(("scale", "shift", "dscale", "dshift"), f"*{style or 'fp32'}")
                types, none = scalars | sums | images | styles, {} if style else {"scale": None, "shift": None}
                for skip in ({}, {"residual": None}):
                    yield Entry(_instance_norm._instance_kernel, *_without(types, channels | none | skip))
                yield Entry(_instance_norm._instance_backward_kernel, *_without(types, channels | none))
        styles = dict.fromkeys(("scale", "shift", "dscale", "dshift"), "*fp32")
        types = scalars | sums | images | styles
        yield Entry(_sample_norm._parts_kernel, types, _sample_norm.PARTS_CONFIGURATION)
        for C in (16, 32, 64):
            whole = _sample_norm.whole_configuration(8192, C)
            yield Entry(_sample_norm._whole_kernel, *_without(types, whole | {"residual": None}))
            yield Entry(_sample_norm._sums_kernel, types, whole)
            yield Entry(_sample_norm._whole_backward_kernel, types, whole)
    for dtype, kind in IMAGES.items():
        images = dict.fromkeys(("x", "grad", "padded", "out"), f"*{dtype}")
        for C in (16, 32, 64):
            types = images | dict.fromkeys(("H", "W", "C", "padding"), "i32") | {"slope": "fp32"}
            for padding in ({}, {"padding": 1}):  # the JIT takes 1 for a constant
                for sign in ({"padded": None, "SIGNED": False}, {"padded": None, "SIGNED": True}, {"SIGNED": True}):
                    configuration = reflect_pad.launch_configuration(C, kind) | padding | sign
                    yield Entry(reflect_pad._pad_kernel, *_without(types, configuration))
                    if sign["SIGNED"] == ("padded" not in sign):
                        yield Entry(reflect_pad._adjoint_kernel, *_without(types, configuration))
            types = images | dict.fromkeys(("rows", "columns"), "*i64")
            types |= dict.fromkeys(("H", "W", "C", "high", "wide", "row_most", "column_most"), "i32")
            configuration = gather_pixels.launch_configuration(C, kind)
            yield Entry(gather_pixels._gather_kernel, types, configuration)
            yield Entry(gather_pixels._gather_adjoint_kernel, types, configuration)


def _without(types: dict[str, str], configuration: dict[str, Any]) -> tuple[dict[str, str], dict[str, Any]]:
    """Leave out of `types` what `configuration` holds: constants, and pointers that are None."""
    return {name: kind for name, kind in types.items() if name not in configuration}, configuration


def missing() -> list[str]:
    """Name this package's @triton.jit functions that no entry compiles, by itself or by being called."""
    covered: set[Any] = set()

    def visit(function: Any) -> None:
        if function not in covered:
            covered.add(function)
            for name in function.fn.__code__.co_names:
                if isinstance(value := function.fn.__globals__.get(name), JITFunction):
                    visit(value)

    for entry in entries(TARGETS["sm_80"].card):
        visit(entry.kernel)
    modules = [importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, JITFunction)}
    return sorted(function.fn.__qualname__ for function in found - covered)


def compiled(entry: Entry, target: str) -> tuple[Any, int, int]:
    """Return the kernel that Triton makes for a target, the registers of a lane, and the bytes spilled.

    The cache is left out: what lies there comes without ptxas's log. A second call of ptxas would not do, since Triton
    3.8 gives it flags that change the registers.
    """
    card, log = TARGETS[target].card, io.StringIO()
    gpu = GPUTarget(card.backend, card.arch, TARGETS[target].warp_size)
    options = {name: value for name, value in entry.configuration.items() if name in OPTIONS}
    with knobs.compilation.scope(), knobs.nvidia.scope(), redirect_stdout(log):
        knobs.compilation.always_compile = knobs.nvidia.dump_ptxas_log = True
        kernel = triton.compile(entry.source(), target=gpu, options=options)
    if card.backend == "cuda":
        spilled = map(int, re.findall(r"(\d+) bytes spill", log.getvalue()))
        return kernel, int(re.findall(r"Used (\d+) registers", log.getvalue())[0]), sum(spilled)
    count = {name: int(number) for name, number in re.findall(r"\.([vs]gpr_\w*count):\s*(\d+)", kernel.asm["amdgcn"])}
    return kernel, count["vgpr_count"], 4 * (count["vgpr_spill_count"] + count["sgpr_spill_count"])


def occupancy(target: str, registers: int, shared: int, warps: int) -> float:
    """Return the fraction of the processor's warps that fit; 0 where not even one block does.

    It is the least that registers, shared memory, warp and block slots allow.
    """
    limit = TARGETS[target]
    block_registers = -(-registers // limit.register_unit) * limit.register_unit * limit.warp_size * warps
    by_shared = limit.shared // max(shared + limit.block_overhead, 1) if shared <= limit.card.block_shared else 0
    fits = min(limit.warps // warps, limit.registers // block_registers, by_shared, limit.blocks)
    return fits * warps / limit.warps


def compile_entry(target: str, number: int) -> dict[str, Any]:
    """Compile one entry, and return its row of the table."""
    entry = entries(TARGETS[target].card)[number]
    kernel, registers, spilled = compiled(entry, target)
    shared, warps = kernel.metadata.shared, entry.configuration["num_warps"]
    pointers = dict.fromkeys(kind[1:] for kind in entry.types.values() if kind.startswith("*"))
    named = [entry.types[name][1:] for name in ("bank", "features") if name in entry.types]
    types = "/".join(named or [kind for kind in pointers if kind in FLOATS] or pointers)
    constants = " ".join(f"{name}={value}" for name, value in entry.configuration.items() if name != "num_warps")
    return {
        "triton": triton.__version__,
        "target": target,
        "kernel": entry.kernel.fn.__name__.strip("_"),
        "types": types,
        "constants": constants,
        "warps": warps,
        "registers": registers,
        "spilled_bytes": spilled,
        "shared_bytes": shared,
        "occupancy": round(occupancy(target, registers, shared, warps), 3),
    }


def verdict(rows: list[dict[str, Any]], uncovered: list[str]) -> tuple[str, int]:
    """Return what is wrong with these rows of the table, in words, and the exit status."""
    spilling = sum(row["spilled_bytes"] > 0 for row in rows)
    too_large = sum(row["occupancy"] == 0 for row in rows)
    sentence = f"{spilling} spill, {too_large} do not fit" + (f"; no entry: {uncovered}" if uncovered else "")
    return sentence, int(spilling > 0 or too_large > 0 or bool(uncovered))


def main(arguments: list[str] | None = None) -> int:
    """Compile everything, write the table, and return the exit status."""
    parser = argparse.ArgumentParser(description="Compile every Triton kernel ahead of time; fail on spills.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/aot.csv"), help="where the table goes")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all")
    options = parser.parse_args(arguments)
    uncovered = missing()
    work = [(target, n) for target in options.targets for n in range(len(entries(TARGETS[target].card)))]
    with ProcessPoolExecutor(options.jobs) as pool:
        rows = []
        for row in pool.map(compile_entry, *zip(*work, strict=True)):
            rows.append(row)
            print(
                "{target:7} {kernel:24} {types:10} {registers:4} registers {spilled_bytes:5} spilled "
                "{shared_bytes:7} shared {occupancy:6.1%} occupancy  {constants}".format(**row),
                flush=True,
            )
    options.csv.parent.mkdir(parents=True, exist_ok=True)
    with options.csv.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    sentence, status = verdict(rows, uncovered)
    print(f"{len(rows)} kernels in {options.csv}: {sentence}")
    return status


if __name__ == "__main__":
    sys.exit(main())
