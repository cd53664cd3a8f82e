"""CUDA graphs without a GPU: a capture notes each op with the memory it used, a replay runs the ops on that memory.

As on a GPU, what a capture runs is not seen: memory from before it gets back what it held, and what it made holds
garbage (NaN) until the first replay. Numbers of Python and of tensors on the CPU are those of the capture for ever.
Waiting for the device, or a copy from or to the CPU, is an error within a capture; a replay that reads memory which was
freed since is one, too. That graphs of one pool share memory is not emulated, nor is any order of streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

UNINITIALIZED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
FORBIDDEN = "CUDA error: operation not permitted when stream is capturing"


class Recording:
    """The ops of one capture. Tensors are those that hold the values, on the CPU."""

    def __init__(self) -> None:
        self.invalid = False
        self._ops: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # by address: bytes of memory from before, a copy of them
        self._made: dict[int, Tensor] = {}  # by address: bytes of memory made in the capture
        self._uses: dict[int, tuple[torch.UntypedStorage, int]] = {}  # memory from before, how often it is noted here
        self._constants: dict[int, Tensor] = {}  # by address

    def constant(self, tensor: Tensor) -> Tensor:
        """A tensor of the CPU as the capture finds it."""
        copy = tensor.clone()
        self._constants[address_of(copy)] = copy
        return copy

    def run(self, op: Any, args: Any, kwargs: Any) -> Any:
        """Run `op` and note it."""
        if op.namespace == "profiler":
            return op(*args, **kwargs)
        given = list(tensors_in((args, *kwargs.values())))
        for tensor in given:
            address = address_of(tensor)
            if address and not any(address in known for known in (self._made, self._before, self._constants)):
                held = bytes_of(tensor)
                self._before[address] = held, held.clone()
        result = op(*args, **kwargs)
        made = list(tensors_in(result))
        addresses = {address_of(tensor) for tensor in given}
        for tensor in made:
            if (address := address_of(tensor)) and address not in addresses:
                self._made[address] = bytes_of(tensor)
        aliases = bool(made) and all(address_of(tensor) in addresses for tensor in made)
        if not (aliases and not op._schema.is_mutable) and op.overloadpacket.__name__ not in UNINITIALIZED:
            self._ops.append((op, args, kwargs, made))
        return result

    def end(self) -> None:
        """Leave everything as before the capture, and nothing but garbage in what it made."""
        for held, copy in self._before.values():
            held.copy_(copy)
        for held in self._made.values():
            held.fill_(255)
        # Tensors of the recording's own: they tell when nobody else has the memory any more, and require no gradients
        own: dict[int, Tensor] = {}
        noted = lambda tensor: own.setdefault(id(tensor), tensor.detach())

        self._ops = [
            (
                op,
                mapped(noted, args),
                {name: mapped(noted, value) for name, value in kwargs.items()},
                mapped(noted, made),
            )
            for op, args, kwargs, made in self._ops
        ]
        for tensor in own.values():
            if (address := address_of(tensor)) in self._before:
                storage, count = self._uses.get(address, (tensor.untyped_storage(), 1))
                self._uses[address] = storage, count + 1
        self._before.clear()

    @torch.no_grad()
    def replay(self) -> None:
        """Run all ops again."""
        for storage, count in self._uses.values():
            if torch._C._storage_Use_Count(storage._cdata) <= count:
                raise RuntimeError("a CUDA graph reads memory that was freed since its capture")
        for op, args, kwargs, made in self._ops:
            for old, new in zip(made, tensors_in(op(*args, **kwargs)), strict=True):
                if address_of(old) != address_of(new):
                    old.copy_(new)


capture: Recording | None = None  # the one underway
replays = 0  # of all graphs


def forbid(what: str) -> None:
    """Raise what CUDA does where a capture meets `what`, if one is underway."""
    if capture is not None:
        capture.invalid = True
        raise RuntimeError(f"{FORBIDDEN} ({what})")


class CUDAGraph:
    """In place of torch.cuda.CUDAGraph."""

    recording: Recording | None = None

    def replay(self) -> None:
        global replays
        if self.recording is None:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        with torch.utils._python_dispatch._disable_current_modes():
            self.recording.replay()
        replays += 1


class Stream:
    """In place of torch.cuda.Stream: there is one order of everything."""

    def __init__(self, device: Any = None) -> None:
        pass

    def wait_stream(self, other: Stream) -> None:
        forbid("wait_stream")


class graph:
    """In place of torch.cuda.graph. `mode`: what calls `Recording.run` for each op, where nothing else does."""

    mode: Callable[[], TorchDispatchMode] | None = None

    def __init__(
        self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = ""
    ) -> None:
        assert isinstance(stream, Stream)
        assert capture_error_mode == "thread_local"  # loaders work on meanwhile
        self.graph, self.ops = cuda_graph, self.mode() if self.mode else None

    def __enter__(self) -> None:
        global capture
        capture = Recording()
        if self.ops:
            self.ops.__enter__()

    def __exit__(self, *error: Any) -> None:
        global capture
        assert capture is not None
        if self.ops:
            self.ops.__exit__(*error)
        recording, capture = capture, None
        with torch.utils._python_dispatch._disable_current_modes():
            recording.end()
        if recording.invalid:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        if error[0] is None:
            self.graph.recording = recording


class PlainOps(TorchDispatchMode):
    """Notes ops of plain tensors: a device is then nothing but a word."""

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if op in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default):
            forbid(str(op))
        assert capture is not None
        return capture.run(op, args, kwargs or {})


def _health_check(optimizer: torch.optim.Optimizer) -> None:
    if capture is not None and not all(group["capturable"] for group in optimizer.param_groups):
        raise RuntimeError("Attempting CUDA graph capture of step() but param_groups' capturable is False.")


@contextmanager
def _stream(stream: Stream) -> Iterator[None]:
    yield


STAND_INS = {  # of torch.cuda
    "CUDAGraph": CUDAGraph,
    "Stream": Stream,
    "graph": graph,
    "stream": _stream,
    "current_stream": Stream,
    "graph_pool_handle": lambda: (0, 1),
    "synchronize": lambda *_: forbid("synchronize"),
    "empty_cache": lambda: forbid("empty_cache"),
    "is_current_stream_capturing": lambda: capture is not None,
    "current_device": lambda: 0,
}


def install(set_attribute: Callable[[Any, str, Any], None] = setattr) -> None:
    """Put the stand-ins in place of torch's."""
    for name, stand_in in STAND_INS.items():
        set_attribute(torch.cuda, name, stand_in)
    set_attribute(torch.optim.Optimizer, "_accelerator_graph_capture_health_check", _health_check)


def address_of(tensor: Tensor) -> int:
    """Of its memory; 0 where it has none."""
    return tensor.untyped_storage().data_ptr()


def bytes_of(tensor: Tensor) -> Tensor:
    """All memory that `tensor` is a view of."""
    return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors of an op's arguments or results, those in lists as well."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


def mapped(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """`value` with `function` of each of its tensors; pytree's maps take longer than the ops."""
    if isinstance(value, Tensor):
        return function(value)
    return type(value)(mapped(function, item) for item in value) if type(value) in (list, tuple) else value
