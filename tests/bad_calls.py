"""Calls of every registered op with bad arguments: python tests/bad_calls.py [--launchers] [FIRST]

Each call changes one argument of a valid call (op_calls.py). A line goes out before each call, its outcome after it. So
whoever reads the lines knows the call that ended the process, and starts again behind it, at call FIRST.

An op may answer a bad call only where the answer is right: the shapes are those of the op's fake on the meta device,
numbers are finite where the inputs are, and other strides change nothing. An error names the op and an argument.

--launchers calls the launchers of Triton's kernels in place of the ops, on the CPU, under TRITON_INTERPRET=1.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from op_calls import ARGUMENTS, registered
from torch import Tensor

TYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool)
INDICES = (-1, 8, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))  # 8: one behind the largest size in ARGUMENTS
INTEGERS = (-1, 0, 2**31 - 1, 2**31, 2**62 + 5, 2**63 - 1, -(2**63))
NUMBERS = (-1.0, 0.0, 1e300, math.nan, math.inf, -math.inf)
ROWS = {"expand_queries", "jaccard_rows", "reciprocal_weights"}  # ops that return sparse rows
MINUS_INFINITY = {"negative_lse"}  # whose answer it is for a crop without negatives


class Call(NamedTuple):
    """Holds one bad call."""

    op: str
    argument: str
    change: str  # of that argument, in words
    arguments: list[Any]
    same: bool = False  # whether the answer, where there is one, is that of the valid call
    finite: bool = True  # whether the numbers of the answer are finite
    inside: bool = False  # whether the change is in the numbers of a tensor


def like(new: Tensor, old: Tensor) -> Tensor:
    """Return `new` in the memory order of `old`: channels-last where that is."""
    last = old.dim() == 4 and not old.is_contiguous() and new.dim() == 4
    return new.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)


def tensors(x: Tensor) -> Iterator[tuple[str, Tensor, dict[str, bool]]]:
    """Yield bad versions of a tensor: what is changed, the version, and what its answer must be."""
    for dtype in TYPES:
        if dtype != x.dtype:
            yield f"of {dtype}", x.to(dtype), {}
    yield "with a dimension more", x[None], {}
    yield "with a dimension more behind", x[..., None], {}
    yield "without a dimension", x[0], {}
    yield "of no dimension", x.flatten()[0], {}
    for d, size in enumerate(x.shape):
        yield f"with no entry in dimension {d}", like(x.narrow(d, 0, 0), x), {}
        yield f"with one more in dimension {d}", like(torch.cat((x, x.narrow(d, size - 1, 1)), d), x), {}
        yield f"with one less in dimension {d}", like(x.narrow(d, 0, size - 1), x), {}
        yield f"expanded over dimension {d}", x.narrow(d, 0, 1).clone().expand_as(x), {}
    if x.dim() > 1:
        backwards = range(x.dim())[::-1]
        yield "with its last strides swapped", x.mT.contiguous().mT, {"same": True}
        yield "in reverse order of strides", x.permute(*backwards).contiguous().permute(*backwards), {"same": True}
    yield "with gaps", torch.stack((x, x), -1)[..., 0], {"same": True}
    if not x.is_floating_point() and x.dtype != torch.uint8:
        for value in INDICES:
            if value in range(torch.iinfo(x.dtype).min, torch.iinfo(x.dtype).max + 1):
                for place in (0, -1):
                    changed = x.clone()
                    changed.view(-1)[place] = value
                    yield f"with {value} at {place}", changed, {"inside": True}
    if x.is_floating_point():
        for value in (math.nan, math.inf, -math.inf, 3e38):
            changed = like(x.clone(), x)
            changed[(0,) * x.dim()] = value
            yield f"with {value}", changed, {"finite": False, "inside": True}
            yield f"full of {value}", torch.full_like(x, value), {"finite": False, "inside": True}


def bad_calls(op: str) -> Iterator[Call]:
    """Yield the bad calls of an op."""
    schema = getattr(torch.ops.gcl_fast, op).default._schema
    for position, argument in enumerate(schema.arguments):
        valid = list(ARGUMENTS[op])
        old = valid[position]
        if isinstance(old, Tensor):
            versions = tensors(old)
            if sum(isinstance(x, Tensor) for x in valid) > 1:
                yield Call(
                    op, argument.name, "on another device", [*valid[:position], old.to("meta"), *valid[position + 1 :]]
                )
        elif isinstance(old, bool):
            continue  # both are valid
        elif isinstance(old, int | float):
            versions = ((str(x), x, {}) for x in (INTEGERS if isinstance(old, int) else NUMBERS))
        else:  # an optional tensor that the valid call leaves out
            versions = ((f"{tuple(x.shape)} {x.dtype}", x, {}) for x in (torch.zeros(3), valid[0], valid[0].double()))
        for change, new, expected in versions:
            yield Call(op, argument.name, change, [*valid[:position], new, *valid[position + 1 :]], **expected)


def copy(x: Any) -> Any:
    """Return a tensor of the same strides with memory of its own, and anything else as it is."""
    if not isinstance(x, Tensor) or x.is_meta:
        return x
    return x.new_empty(0).set_(x.untyped_storage().clone(), x.storage_offset(), x.shape, x.stride())


def launchers() -> dict[str, Callable[..., Any]]:
    """Return the launchers of Triton's kernels by the names of their ops."""
    modules = [module for name, module in sys.modules.items() if name.startswith("gcl_fast.kernels.")]
    functions = {name: value for module in modules for name, value in vars(module).items()}
    return {op: functions[f"{op}_triton"] for op in registered() if f"{op}_triton" in functions}


def results(op: Callable[..., Any], schema: Any, arguments: list[Any]) -> list[Tensor]:
    """Call an op and return its results, with the arguments that it writes."""
    arguments = [copy(x) for x in arguments]
    output = op(*arguments)
    written = [x for x, argument in zip(arguments, schema.arguments) if argument.alias_info is not None]
    return [*written, *((output,) if isinstance(output, Tensor) else output or ())]


def fault_of_answer(call: Call, op: Callable[..., Any], schema: Any, answer: list[Tensor]) -> str:
    """Return what is wrong with the answer to a bad call, nothing where it is right."""
    if any(isinstance(x, Tensor) and x.is_meta for x in call.arguments):
        return "answered tensors of two devices"
    for x, argument in zip(call.arguments, schema.arguments):
        if argument.alias_info is not None and any(not stride and n > 1 for n, stride in zip(x.shape, x.stride())):
            return f"wrote {argument.name}, whose rows share memory"
    if call.op in ROWS:
        start, column, value = answer
        if len(column) != len(value) or start[0] != 0 or start[-1] != len(column) or (start.diff() < 0).any():
            return "answered no sparse rows"
    else:
        on_meta = [x.to("meta") if isinstance(x, Tensor) else x for x in call.arguments]
        expected = results(getattr(torch.ops.gcl_fast, call.op).default, schema, on_meta)
        if [(x.shape, x.dtype) for x in answer] != [(x.shape, x.dtype) for x in expected]:
            return f"answered {[tuple(x.shape) for x in answer]}, its fake {[tuple(x.shape) for x in expected]}"
    if call.same and not all(map(torch.equal, answer, results(op, schema, list(ARGUMENTS[call.op])))):
        return "answered by the strides"
    allowed = -math.inf if call.op in MINUS_INFINITY else 0.0
    if call.finite and not all(torch.where(x == allowed, 0, x).isfinite().all() for x in answer):
        return "answered numbers that are not finite"
    return ""


def fault_of_error(call: Call, schema: Any, error: Exception) -> str:
    """Return what is wrong with the error of a bad call, nothing where it is clear."""
    if not isinstance(error, RuntimeError | ValueError):
        return f"raised {type(error).__name__}: {error}"
    _, separator, text = (
        str(error).splitlines()[0].partition(f"{call.op}: ")
    )  # before it torch puts the line of the source
    if not separator or not any(argument.name in text for argument in schema.arguments):
        return f"raised without the names of the op and of an argument: {error}"
    return ""


def outcome(call: Call, run: Callable[..., Any]) -> dict[str, str]:
    """Make one bad call; return "raised" or "answered" and what is wrong about it."""
    schema = getattr(torch.ops.gcl_fast, call.op).default._schema
    try:
        answer = results(run, schema, call.arguments)
    except Exception as error:
        return {"outcome": "raised", "fault": fault_of_error(call, schema, error)}
    return {"outcome": "answered", "fault": fault_of_answer(call, run, schema, answer)}


def main() -> None:
    """Make the bad calls from FIRST on, and print a line of JSON before and after each."""
    parser = argparse.ArgumentParser()
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--launchers", action="store_true")
    arguments = parser.parse_args()
    run = {op: getattr(torch.ops.gcl_fast, op).default for op in registered()}
    if arguments.launchers:
        sys.path.insert(0, str(Path(__file__).parent / "kernels"))
        import conftest  # noqa: F401 (repairs an interpreter of an earlier version)

        run = launchers()
    calls = [call for op in run for call in bad_calls(op)]
    if arguments.launchers:
        # A launcher reads what a tensor holds where the op waits for the GPU anyway: on sparse rows
        calls = [call for call in calls if not call.inside or call.op in {*ROWS, "csr_dbscan"}]
    for number, call in enumerate(calls[arguments.first :], arguments.first):
        print(json.dumps({"number": number, "op": call.op, "change": f"{call.argument} {call.change}"}), flush=True)
        print(json.dumps(outcome(call, run[call.op])), flush=True)


if __name__ == "__main__":
    main()
