"""A GPU that is none: Python sees its tensors on cuda:0, their values lie on the CPU.

    python tests/emulated_gpu.py WAITS.json FLAGS...     # of train.py

trains as train.py does on a GPU. A tensor left on the CPU among those of the device is an error, as it is there, and
WAITS.json lists the places at which the CPU would wait for the device, "within" a training step and "between" steps:
where a value or a shape is read from it, or where pageable memory is copied to it without `non_blocking`. Ops run their
CPU kernels, crops are decoded on the CPU and autocast is off, so Triton's and CUDA's own kernels are not tried. With
EMULATED_SM=7 the GPU is one without bfloat16, whose losses are scaled. CUDA graphs are those of emulated_graphs.py; the
file also lists how many ops and graphs each step of a stage launched ("launches").
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import emulated_graphs as graphs
import numpy as np
import torch
from emulated_graphs import UNINITIALIZED, mapped, tensors_in
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

import gcl_fast

_setup_privateuseone_for_python_backend("emulated")
SEEN, HELD = torch.device("cuda:0"), torch.device("emulated:0")
PACKAGE = f"{Path(gcl_fast.__file__).parent}{os.sep}"
aten = torch.ops.aten
INDEXING = {aten.index.Tensor, aten._unsafe_index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
READING = {  # what they return, or its shape, depends on values
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten._unique2.default, aten.unique_consecutive.default, aten.bincount.default, aten.repeat_interleave.Tensor),
}


class OnDevice(Tensor):
    """A tensor of the device; `values` is a CPU tensor."""

    device = property(lambda self: SEEN)
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, values: Tensor) -> "OnDevice":
        layout = {"strides": values.stride(), "storage_offset": values.storage_offset(), "dtype": values.dtype}
        return Tensor._make_wrapper_subclass(cls, values.shape, **layout, device=HELD)

    def __init__(self, values: Tensor) -> None:
        self.values = values

    @classmethod
    def __torch_dispatch__(cls, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})

    def __deepcopy__(self, memo: dict[int, Any]) -> "OnDevice":
        copied = memo[id(self)] = OnDevice(self.values.clone()).requires_grad_(self.requires_grad)
        copied._is_param = getattr(self, "_is_param", False)
        return copied

    def tolist(self) -> Any:
        note("tolist")
        return self.values.tolist()

    def numpy(self) -> None:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    __array__ = numpy


class SparseOnDevice:
    """A CSR matrix of the device: a wrapper subclass cannot be one."""

    is_cuda, device = True, SEEN

    def __init__(self, start: OnDevice, column: OnDevice, value: OnDevice, shape: tuple[int, int]) -> None:
        assert all(isinstance(part, OnDevice) for part in (start, column, value))
        self.crow_indices, self.col_indices, self.values = lambda: start, lambda: column, lambda: value
        self.shape = torch.Size(shape)

    def __len__(self) -> int:
        return self.shape[0]


waits: dict[str, list[str]] = {"within": [], "between": []}
step = "between"
stage = ""
launches: dict[str, list[int]] = {}  # by stage: kernels and graphs that each of its steps launched


def note(what: str) -> None:
    """Remember a wait by the line of the package that waits; within a capture it is an error."""
    graphs.forbid(what)
    frame = sys._getframe()
    while frame and not frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
    place = f"{what} at {frame.f_code.co_filename.removeprefix(PACKAGE)}:{frame.f_lineno}" if frame else what
    if place not in waits[step]:
        waits[step].append(place)


def run(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run `op` on the values of its tensors, where a device would run it."""
    if op is aten._pin_memory.default:
        return args[0]
    tensors = list(tensors_in((args, *kwargs.values())))
    ours = [tensor for tensor in tensors if isinstance(tensor, OnDevice)]
    device = kwargs.get("device")
    to_device = bool(ours) if device is None else device == HELD
    if not ours and not to_device:
        return op(*args, **kwargs)
    others = [tensor for tensor in tensors if not isinstance(tensor, OnDevice) and tensor.dim()]
    copies = op in (aten._to_copy.default, aten.copy_.default)
    if op is aten.copy_.default:
        to_device = isinstance(args[0], OnDevice)
    if ours and others and not copies:
        indexed = op in INDEXING and isinstance(args[0], OnDevice)  # by a CPU tensor, which travels
        if not indexed or any(other.dtype != torch.int64 for other in others):
            raise RuntimeError(f"{op}: a CPU tensor of shape {tuple(others[0].shape)} among those of the device")
        note("index from the CPU")
    if copies and (bool(ours) != to_device or (ours and others)):
        graphs.forbid("copy")
        if not kwargs.get("non_blocking", False):
            note("copy")
    if op in READING:
        note(str(op))
    if op is aten.index.Tensor and any(i is not None and i.dtype == torch.bool for i in args[1]):
        note("mask")
    if device is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    capture = graphs.capture
    frozen = capture.constant if capture else lambda tensor: tensor
    values = lambda tensor: tensor.values if isinstance(tensor, OnDevice) else frozen(tensor)
    args, kwargs = mapped(values, args), {key: mapped(values, value) for key, value in kwargs.items()}
    result = capture.run(op, args, kwargs) if capture else op(*args, **kwargs)
    launched(op)
    known = {id(tensor.values): tensor for tensor in ours}  # an op in place returns the tensor that it was given
    return mapped(lambda t: known[id(t)] if id(t) in known else OnDevice(t), result) if to_device else result


def launched(op: Any) -> None:
    """Count a launch of the step underway. One op is one kernel here; on a GPU some are two or three."""
    if (
        step == "within"
        and graphs.capture is None
        and not op.is_view
        and op.overloadpacket.__name__ not in UNINITIALIZED
    ):
        launches[stage][-1] += 1


class Dispatch(TorchDispatchMode):
    """Ops that no tensor of the device takes part in, as those that make one."""

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        return run(op, args, kwargs or {})


class Names(TorchFunctionMode):
    """Calls by which torch reaches for the device before it dispatches."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.device:
            return function(*args, **(kwargs or {}))
        args, kwargs = tuple(map(held, args)), {key: held(value) for key, value in (kwargs or {}).items()}
        ours = bool(args) and isinstance(args[0], OnDevice)
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") == HELD:
            return function(*args, **{**kwargs, "device": "cpu"}).to(HELD)
        if function == Tensor.device.__get__:  # of a wrapper of functorch, which names the device that torch knows
            device = function(*args)
            return SEEN if device == HELD else device
        if not ours:
            return function(*args, **kwargs)
        if function is Tensor.new_tensor:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(HELD)
        if function is torch.sparse_csr_tensor:
            return SparseOnDevice(*args[:4])
        if function in (Tensor.__getitem__, Tensor.__setitem__):
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            index = tuple(torch.as_tensor(i).to(HELD) if isinstance(i, list | np.ndarray) else i for i in index)
            value = (torch.tensor(v, dtype=args[0].dtype) if isinstance(v, int | float) else v for v in args[2:])
            args = (args[0], index, *value)
        return function(*args, **kwargs)


def held(value: Any) -> Any:
    """The device that torch knows, for the one that Python sees."""
    name = value.type if isinstance(value, torch.device) else value
    return HELD if isinstance(name, str) and name in ("cuda", "cuda:0") else value


@contextmanager
def emulated_gpu() -> Iterator[None]:
    """Within, gcl_fast trains on the emulated GPU."""
    try:
        from gcl_fast.data.dali_decoder import DaliDecoder as Source
    except ImportError:  # no DALI here
        from gcl_fast.data.nvjpeg_decoder import NvjpegDecoder as Source
    from gcl_fast.assessment import assess
    from gcl_fast.distributed import ranks
    from gcl_fast.kernels import rasterize
    from gcl_fast.run import checkpoint
    from gcl_fast.run.meter import Meter
    from gcl_fast.run.session import Session

    torch.cuda.get_device_name = lambda *_: "emulated"
    torch.cuda.get_device_capability = lambda *_: (int(os.environ.get("EMULATED_SM", "8")), 0)
    torch.cuda.get_rng_state = lambda *_: torch.zeros(16, dtype=torch.uint8)
    torch.cuda.set_rng_state = lambda *_: None
    torch.cuda.mem_get_info = lambda *_: (60 << 30, 80 << 30)
    ranks.start = lambda *_: ranks.Ranks(0, 1, SEEN)
    rasterize.HAS_CUDA_KERNELS = True
    assess.PICTURED = 1  # crops in the picture of views: each takes 0.6 s
    graphs.install()

    save, open_source, batches, open_stage = torch.save, Source.__init__, Source.batches, Session.begin
    on_cpu = lambda state, file: save(tree_map_only(OnDevice, lambda t: t.values.clone(), state), file)
    checkpoint.torch = SimpleNamespace(load=torch.load, save=on_cpu)

    def opened(self: Source, paths: Any, size: Any, device: torch.device, threads: int) -> None:
        open_source(self, paths, size, torch.device("cpu"), threads)
        self.of_batches = device

    def decoded(self: Source, plan: Any) -> Iterator[Tensor]:
        return (batch.to(self.of_batches) for batch in batches(self, plan))

    def staged(self: Session, name: str, make: Any) -> Any:
        global stage
        opened, stage = open_stage(self, name, make), name
        opened.step = watched(opened.step, begins=True)
        return opened

    Source.__init__, Source.batches, Session.begin, Meter.add = opened, decoded, staged, watched(Meter.add)
    with Dispatch(), Names():
        yield


def watched(function: Callable[..., Any], begins: bool = False) -> Callable[..., Any]:
    """`function`, a part of a step, the first one where it `begins`."""

    @wraps(function)
    def call(*args: Any) -> Any:
        global step
        step = "within"
        if begins:
            launches.setdefault(stage, []).append(0)
        before = graphs.replays
        try:
            return function(*args)
        finally:
            step = "between"
            launches[stage][-1] += graphs.replays - before

    return call


if __name__ == "__main__":
    from gcl_fast.train import main

    with emulated_gpu():
        assert torch.ones(2, device="cuda").is_cuda
        status = main(sys.argv[2:])
    Path(sys.argv[1]).write_text(json.dumps(waits | {"launches": launches}))
    sys.exit(status)
