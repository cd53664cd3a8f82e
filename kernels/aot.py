"""Compile every Triton kernel, in every configuration the code launches, for GPUs that need not be here.

python -m gcl_fast.kernels.aot [--jobs 2] [--csv benchmarks/results/aot.csv]

Prints registers, spilled bytes, shared memory and the occupancy they allow, writes the same table as CSV, and exits
with status 1 when a kernel spills or when a kernel of this package has no entry here.
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from gcl_fast import kernels
from gcl_fast.kernels import (
    contrastive_draw,
    csr_dbscan,
    gather_pixels,
    memory_update,
    merge_rows,
    negative_lse,
    reciprocal_graph,
    reflect_pad,
    styled_norm,
)

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
SHARED_PER_SM = {"sm_80": 164 << 10, "sm_90": 228 << 10, "sm_100": 228 << 10, "gfx942": 64 << 10}
FLOATS = {"fp32": torch.float32, "bf16": torch.bfloat16}
IMAGES = FLOATS | {"fp16": torch.float16}


@dataclass(frozen=True)
class Entry:
    """One way a kernel is launched: types of its arguments ("*" marks a pointer), constants, and compiler options."""

    kernel: Any
    types: dict[str, str]
    configuration: dict[str, Any]

    def source(self) -> ASTSource:
        """As the JIT would specialize it at the paper's sizes: aligned pointers; D and the strides of rows of D are
        multiples of 16, N (12,936 crops) and the stride of scores, rows of N, are not."""
        constants = {name: self.configuration[name] for name in self.kernel.arg_names if name in self.configuration}
        types = {name: self.types.get(name, "constexpr") for name in self.kernel.arg_names}
        by_dim = {"D", "query_stride", "bank_stride", "feature_stride"}
        by_dim |= {"R", "C", "H", "W", "rows", "scale_stride", "shift_stride"}  # pixels and channels of an image
        divisible = [n for n, name in enumerate(types) if types[name].startswith("*") or name in by_dim]
        attributes = {(n,): [["tt.divisibility", 16]] for n in divisible}
        return ASTSource(fn=self.kernel, signature=types, constexprs=constants, attrs=attributes)


def entries(target: str) -> Iterator[Entry]:
    """Everything that can be launched on a target."""
    draw = {"labels": "*i64", "index": "*i64", "stream": "*i64", "threshold": "*i64"}
    yield Entry(
        contrastive_draw._contrastive_draw_kernel,
        draw | {"positives": "*i64", "N": "i32", "K": "i32"},
        contrastive_draw.DRAW_CONFIGURATION,
    )
    scalars = {"first_row": "i32", "T": "i32", "N": "i32", "scale": "fp32", "scores_stride": "i32"}
    yield Entry(
        negative_lse._contrastive_rows_kernel,
        draw | scalars | dict.fromkeys(("scores", "state", "factor"), "*fp32"),
        negative_lse.ROWS_CONFIGURATION,
    )
    scalars = dict.fromkeys(("B", "N", "D", "part", "parts", "query_stride", "bank_stride"), "i32") | {"scale": "fp32"}
    results = dict.fromkeys(("query", "maximum", "total", "mean"), "*fp32")
    for bank, dtype in FLOATS.items():
        for B in (16, 17):
            for D in (128, 256, negative_lse.MAX_FUSED_DIM):
                configuration = negative_lse.fused_configuration(B, D, dtype)
                if target == "gfx942":
                    configuration["PRECISION"] = "ieee"
                yield Entry(
                    negative_lse._negative_lse_kernel, draw | scalars | results | {"bank": f"*{bank}"}, configuration
                )
    scalars = dict.fromkeys(("N", "B", "D", "bank_stride", "feature_stride"), "i32") | {"momentum": "fp32"}
    for bank in FLOATS:
        for features in FLOATS:
            for D in (128, 256, 512, 1024, 2048):
                yield Entry(
                    memory_update._memory_update_kernel,
                    scalars | {"bank": f"*{bank}", "features": f"*{features}", "index": "*i64"},
                    memory_update.launch_configuration(D),
                )
    yield from graph_entries()
    yield from image_entries()


def graph_entries() -> Iterator[Entry]:
    """Pseudo-labels: the k-reciprocal graph and the clusters in it."""
    lists = dict.fromkeys(("neighbours", "own", "halves"), "*i32") | {"K": "i32", "HALF": "i32"}
    sets = lists | {"start": "*i64", "column": "*i32", "first_row": "i32"}
    for K in (32, 64, reciprocal_graph.MAX_NEIGHBOURS):
        configuration = reciprocal_graph.lists_configuration(K)
        yield Entry(reciprocal_graph._reciprocal_lists_kernel, lists, configuration)
        for half in (K // 2, K // 2 + 1):
            for fill in (False, True):
                configuration = reciprocal_graph.sets_configuration(K, half) | {"FILL": fill}
                yield Entry(reciprocal_graph._expanded_sets_kernel, sets, configuration)
    yield Entry(
        reciprocal_graph._closeness_kernel,
        dict.fromkeys(("features", "closeness", "largest", "total"), "*fp32")
        | {"start": "*i64", "column": "*i32", "first_row": "i32", "D": "i32"},
        reciprocal_graph.WEIGHTS_CONFIGURATION,
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
            channels = styled_norm.instance_configuration(R, C)
            for style in sorted({dtype, "fp32"}) + [
                None
            ]:  # of AdaIN under autocast and without, of plain instance norm
                styles = dict.fromkeys(("scale", "shift", "dscale", "dshift"), f"*{style or 'fp32'}")
                types, none = scalars | sums | images | styles, {} if style else {"scale": None, "shift": None}
                for skip in ({}, {"residual": None}):
                    yield Entry(styled_norm._instance_kernel, *_without(types, channels | none | skip))
                yield Entry(styled_norm._instance_backward_kernel, *_without(types, channels | none))
        styles = dict.fromkeys(("scale", "shift", "dscale", "dshift"), "*fp32")
        types = scalars | sums | images | styles
        yield Entry(styled_norm._parts_kernel, types, styled_norm.PARTS_CONFIGURATION)
        for C in (16, 32, 64):
            whole = styled_norm.whole_configuration(8192, C)
            yield Entry(styled_norm._whole_kernel, *_without(types, whole | {"residual": None}))
            yield Entry(styled_norm._sums_kernel, types, whole)
            yield Entry(styled_norm._whole_backward_kernel, types, whole)
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
    """Names of this package's @triton.jit functions that no entry compiles, by itself or by being called."""
    covered: set[Any] = set()

    def visit(function: Any) -> None:
        if function not in covered:
            covered.add(function)
            for name in function.fn.__code__.co_names:
                if isinstance(value := function.fn.__globals__.get(name), JITFunction):
                    visit(value)

    for entry in entries("sm_80"):
        visit(entry.kernel)
    modules = [importlib.import_module(f"{kernels.__name__}.{m.name}") for m in pkgutil.iter_modules(kernels.__path__)]
    found = {value for module in modules for value in vars(module).values() if isinstance(value, JITFunction)}
    return sorted(function.fn.__qualname__ for function in found - covered)


def _nvidia_resources(compiled: Any, arch: int) -> tuple[int, int]:
    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"  # triton ships a newer ptxas for sm_100 and up
    ptxas = tools / ("ptxas-blackwell" if arch >= 100 and (tools / "ptxas-blackwell").exists() else "ptxas")
    name = re.search(r"^\.target (\w+)", compiled.asm["ptx"], re.MULTILINE)
    assert name is not None
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(compiled.asm["ptx"])
        file.flush()
        command = [str(ptxas), "-v", f"--gpu-name={name[1]}", file.name, "-o", os.devnull]
        log = subprocess.run(command, check=True, capture_output=True, text=True).stderr
    return int(re.findall(r"Used (\d+) registers", log)[0]), sum(map(int, re.findall(r"(\d+) bytes spill", log)))


def _amd_resources(compiled: Any) -> tuple[int, int]:
    count = {name: int(number) for name, number in re.findall(r"\.([vs]gpr_\w*count):\s*(\d+)", compiled.asm["amdgcn"])}
    return count["vgpr_count"], 4 * (count["vgpr_spill_count"] + count["sgpr_spill_count"])


def occupancy(target: str, registers: int, shared: int, warps: int) -> float:
    """Fraction of the processor's warps that fit: the least that registers, shared memory and warp slots allow."""
    lanes = TARGETS[target].warp_size
    slots, register_file = (64, 65536) if lanes == 32 else (32, 131072)  # CDNA3: 4 SIMDs of 8 waves and 512 x 64 VGPRs
    block_registers = -(-registers // 8) * 8 * lanes * warps
    fits = min(slots // warps, register_file // block_registers, SHARED_PER_SM[target] // max(shared + 1024, 1))
    return fits * warps / slots


def compile_entry(target: str, number: int) -> dict[str, Any]:
    """Compile one entry; returns its row of the table."""
    entry = list(entries(target))[number]
    options = {name: entry.configuration[name] for name in ("num_warps", "num_stages") if name in entry.configuration}
    compiled = triton.compile(entry.source(), target=TARGETS[target], options=options)
    nvidia = TARGETS[target].backend == "cuda"
    registers, spills = _nvidia_resources(compiled, TARGETS[target].arch) if nvidia else _amd_resources(compiled)
    shared, warps = compiled.metadata.shared, entry.configuration["num_warps"]
    pointers = dict.fromkeys(kind[1:] for kind in entry.types.values() if kind.startswith("*"))
    named = [entry.types[name][1:] for name in ("bank", "features") if name in entry.types]
    types = "/".join(named or [kind for kind in pointers if kind in FLOATS] or pointers)
    constants = " ".join(f"{name}={value}" for name, value in entry.configuration.items() if name != "num_warps")
    return {
        "target": target,
        "kernel": entry.kernel.fn.__name__.strip("_"),
        "types": types,
        "constants": constants,
        "warps": warps,
        "registers": registers,
        "spilled_bytes": spills,
        "shared_bytes": shared,
        "occupancy": round(occupancy(target, registers, shared, warps), 3),
    }


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description="Compile every Triton kernel ahead of time; fail on spills.")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes (default: all cores)")
    parser.add_argument("--csv", type=Path, default=Path("benchmarks/results/aot.csv"), help="where the table goes")
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS), help="default: all")
    options = parser.parse_args(arguments)
    uncovered = missing()
    work = [(target, number) for target in options.targets for number, _ in enumerate(entries(target))]
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
    spilling = sum(row["spilled_bytes"] > 0 for row in rows)
    print(f"{len(rows)} kernels in {options.csv}: {spilling} spill" + (f"; no entry: {uncovered}" if uncovered else ""))
    return int(spilling > 0 or bool(uncovered))


if __name__ == "__main__":
    sys.exit(main())
