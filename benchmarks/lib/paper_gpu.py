"""A GPU on paper: the emulated GPU of the tests, whose tensors have shapes and no values, under CUDA's autocast.

Each op that gcl_fast would run on a GPU in eager mode arrives at a callback, without the time and the memory of a step.
A step that reads a value from the device ends with an error, since there is none.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _foreach_utils

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))
import emulated_gpu
from emulated_gpu import HELD, OnDevice, mapped, tensors_in

Record = Callable[[Any, tuple[Any, ...], dict[str, Any], Any], None]  # takes an op, its arguments and its results

# Autocast's lists for CUDA (torch's documentation, "Automatic Mixed Precision"); what is in none of these and has a
# kernel of CUDA's autocast runs in float32.
HALF = {
    *("_convolution", "convolution", "conv1d", "conv2d", "conv3d", "linear", "matmul", "mm", "mv", "bmm", "addmm"),
    *("addmv", "addr", "addbmm", "baddbmm", "einsum", "chain_matmul", "prelu", "scaled_dot_product_attention"),
}
WIDE_RESULT = {"sum", "prod", "softmax", "log_softmax", "cumsum", "cumprod", "linalg_vector_norm"}  # by their `dtype`
WIDEST = {"addcdiv", "addcmul", "atan2", "bilinear", "cross", "dot", "grid_sampler", "index_put", "scatter_add", "vdot"}


class Autocast:
    """Cast on the emulated device as CUDA's autocast does: a weight once until the context is left."""

    key = torch._C.DispatchKey.__members__["AutocastPrivateUse1"]

    def __init__(self) -> None:
        self.casts: dict[int, Tensor] = {}
        device: Any = torch.get_device_module(HELD)
        device.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
        torch.clear_autocast_cache = self.casts.clear
        begin = torch.autocast.__init__

        def renamed(context: torch.autocast, name: str, *others: Any, **named: Any) -> None:
            begin(context, HELD.type if name == "cuda" else name, *others, **named)

        torch.autocast.__init__ = renamed  # type: ignore[method-assign, assignment]
        others = torch.library.Library("_", "IMPL")
        others.fallback(torch.library.fallthrough_kernel, self.key.name)
        self.libraries = [others, torch.library.Library("aten", "IMPL")]
        for name in torch._C._dispatch_get_registrations_for_dispatch_key("AutocastCUDA"):
            packet, _, overload = name.removeprefix("aten::").partition(".")
            op = getattr(getattr(torch.ops.aten, packet, None), overload or "default", None)
            if op is not None:
                self.libraries[1].impl(name.removeprefix("aten::"), self.kernel(op, packet), self.key.name)

    def kernel(self, op: Any, name: str) -> Callable[..., Any]:
        """Return `op` behind the casts that its list asks for."""
        takes_dtype = any(argument.name == "dtype" for argument in op._schema.arguments)

        def call(*args: Any, **kwargs: Any) -> Any:
            with torch._C._ExcludeDispatchKeyGuard(torch._C.DispatchKeySet(self.key)):
                floats = [t for t in tensors_in(args) if t.device.type != "cpu" and t.is_floating_point()]
                wide = torch.float32
                if name in HALF:
                    wide = torch.get_autocast_dtype(HELD.type)
                elif name in WIDE_RESULT and takes_dtype:
                    if floats and floats[0].dtype.itemsize < 4 and kwargs.get("dtype") is None:
                        kwargs["dtype"] = torch.float32
                    return op(*args, **kwargs)
                elif name in WIDEST and all(t.dtype != torch.float32 for t in floats):
                    return op(*args, **kwargs)
                return op(*mapped(lambda t: self.cast(t, wide), args), **kwargs)

        return call

    def cast(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Cast a floating-point tensor of the device."""
        if tensor.device.type == "cpu" or tensor.dtype in (dtype, torch.float64) or not tensor.is_floating_point():
            return tensor  # (functorch wraps those of the device)
        if not (tensor.is_leaf and tensor.requires_grad):
            return tensor.to(dtype)
        if id(tensor) not in self.casts:
            self.casts[id(tensor)] = tensor.to(dtype)
        return self.casts[id(tensor)]


@contextmanager
def paper_gpu(record: Record) -> Iterator[None]:
    """Let "cuda" name a device without values, and pass each of its ops to `record`; host tensors keep theirs.

    `torch.autocast("cuda", ...)` casts there as on a GPU. It is for a process of its own: what it and the emulated GPU
    change in torch and gcl_fast stays changed.
    """
    run, fake, autocast = emulated_gpu.run, FakeTensorMode(allow_non_fake_inputs=True), Autocast()
    _foreach_utils._foreach_supported_types.append(OnDevice)  # torch asks for the very type

    def recorded(op: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        here = kwargs.get("device") == HELD or any(
            isinstance(t, OnDevice) for t in tensors_in((args, *kwargs.values()))
        )
        if not here:
            return run(op, args, kwargs)
        with fake:
            results = run(op, args, kwargs)
        record(op, args, kwargs, results)
        return results

    emulated_gpu.run = recorded
    try:
        with emulated_gpu.emulated_gpu():
            yield
    finally:
        emulated_gpu.run = run
        del autocast
