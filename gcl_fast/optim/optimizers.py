"""Optimizers: PyTorch's fused ones, or those of NVIDIA apex where they are asked for and really there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gcl_fast.errors import UserError

BACKENDS = ("torch", "apex")
_WAY_OUT = "build github.com/NVIDIA/apex with its CUDA extensions, or leave the flag out for PyTorch's fused optimizers"


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    betas: tuple[float, float] = (0.9, 0.999),
    weight_decay: float = 0.0,
    decoupled: bool = False,
    backend: str = "torch",
) -> Optimizer:
    """Make Adam in one kernel for all parameters.

    On a GPU the learning rate is a tensor, written in place by `schedule.set_learning_rate`: a captured step would
    repeat a number. In a state dict it is a number everywhere. A state that is loaded takes its weight's memory order.

    Args:
        decoupled: weight decay beside the gradient (AdamW, Loshchilov & Hutter 2019), not in it.
        backend: "torch" or "apex".

    Raises:
        UserError: "apex", and it is not there, is not NVIDIA's, or was built without its CUDA extensions.
    """
    if backend == "apex":
        return _build("FusedAdam", parameters, lr=lr, betas=betas, weight_decay=weight_decay, adam_w_mode=decoupled)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return _for_every_device(kind(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True))


def nesterov(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    backend: str = "torch",
) -> Optimizer:
    """Make SGD with Nesterov momentum in one kernel for all parameters.

    The momentum starts from zeros, which is where PyTorch's first step puts it; made here because that first step,
    where it is skipped for a gradient that is not finite, would leave it whatever the memory held.

    Learning rate, args and errors as for `adam`.
    """
    parameters = list(parameters)
    if backend == "apex":
        return _build("FusedSGD", parameters, lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay)
    optimizer = torch.optim.SGD(parameters, lr, momentum, nesterov=True, weight_decay=weight_decay, fused=True)
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return _for_every_device(optimizer)


def describe(backend: str, device: torch.device) -> str:
    """Return which optimizers a run uses, for its header.

    Raises:
        UserError: an unknown backend, or apex where it cannot serve: before anything long begins.
    """
    if backend not in BACKENDS:
        raise UserError(f"--optimizer-backend {backend}: expected {' or '.join(BACKENDS)}")
    if backend == "torch":
        return "fused, of PyTorch"
    if device.type != "cuda":
        raise UserError(f"--optimizer-backend apex: its kernels need CUDA, this run is on {device.type}; {_WAY_OUT}")
    return f"fused, of NVIDIA apex in {_apex().__path__[0]}"


def _for_every_device(optimizer: Optimizer) -> Optimizer:
    """Return `optimizer` with hooks that take its states through a file to any device and memory order."""
    _learning_rates_to_their_device(optimizer)
    optimizer.register_state_dict_post_hook(_learning_rates_to_numbers)
    optimizer.register_load_state_dict_post_hook(_learning_rates_to_their_device)
    optimizer.register_load_state_dict_post_hook(_states_to_their_weights_order)
    return optimizer


def _learning_rates_to_their_device(optimizer: Optimizer) -> None:
    """Make learning rates tensors for weights on a GPU, and numbers for those on the CPU."""
    for group in optimizer.param_groups:
        device, rate = group["params"][0].device, float(group["lr"])
        group["lr"] = torch.tensor(rate, dtype=torch.float32, device=device) if device.type == "cuda" else rate


def _learning_rates_to_numbers(optimizer: Optimizer, state: dict[str, Any]) -> None:
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])


def _states_to_their_weights_order(optimizer: Optimizer) -> None:
    """Lay each state out in memory as its weight is: fused kernels pair the two by their place there, unchecked on a
    CPU, and a state keeps the order in which it was saved."""
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, requires_grad=False).copy_(value)


def _build(name: str, parameters: Iterable[nn.Parameter], **settings: object) -> Optimizer:
    try:
        return getattr(_apex(), name)(parameters, **settings)
    except (RuntimeError, ImportError) as error:  # so it answers where its CUDA extensions were not built
        raise UserError(f"--optimizer-backend apex: {error}; {_WAY_OUT}") from error


def _apex() -> ModuleType:
    """Import apex.optimizers of NVIDIA. PyPI's project called apex, a toolkit for web pages, is refused without running
    it.
    """
    package = importlib.util.find_spec("apex")
    if package is None:
        raise UserError(f"--optimizer-backend apex: there is no package apex here; {_WAY_OUT}")
    if PathFinder.find_spec("apex.optimizers", package.submodule_search_locations) is None:
        raise UserError(
            f"--optimizer-backend apex: the apex in {package.origin} is not NVIDIA's but another project of that name"
            f" (PyPI's): pip uninstall apex, then {_WAY_OUT}"
        )
    try:
        module = importlib.import_module("apex.optimizers")
    except ImportError as error:
        raise UserError(f"--optimizer-backend apex: {error}; {_WAY_OUT}") from error
    return module
