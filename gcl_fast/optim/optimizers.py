"""Make optimizers: the fused ones of PyTorch, or those of NVIDIA apex."""

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
    """Make an Adam that updates all parameters in one kernel.

    On a GPU the learning rate is a tensor, which `schedule.set_learning_rate` writes in place: a captured step would
    repeat a number. In a state dict it is always a number. A loaded state takes the memory order of its weight.

    Args:
        parameters: what it updates, all on one device.
        lr: the learning rate, > 0.
        betas: decay of the running means of the gradient and of its square, in [0, 1).
        weight_decay: >= 0.
        decoupled: apply weight decay to the weights and not to the gradient (AdamW, Loshchilov & Hutter 2019).
        backend: "torch" or "apex".

    Raises:
        UserError: apex is not installed, is not NVIDIA's, or was built without its CUDA extensions.
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
    """Make an SGD with Nesterov momentum that updates all parameters in one kernel.

    This function makes the momentum buffers, of zeros. PyTorch would allocate them in its first step, and leave them
    without values where that step is skipped. The learning rate has the form that `adam` gives it.

    Args:
        parameters: what it updates, all on one device.
        lr: the learning rate, > 0.
        momentum: weight of the old momentum, in (0, 1).
        weight_decay: >= 0.
        backend: "torch" or "apex".

    Raises:
        UserError: as `adam` raises it.
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
        UserError: apex cannot be used.
    """
    if backend == "torch":
        return "fused, of PyTorch"
    if device.type != "cuda":
        raise UserError(f"--optimizer-backend apex: its kernels need CUDA, this run is on {device.type}; {_WAY_OUT}")
    return f"fused, of NVIDIA apex in {_apex().__path__[0]}"


def _for_every_device(optimizer: Optimizer) -> Optimizer:
    """Return `optimizer`, with hooks by which its saved states fit any device and memory order."""
    _learning_rates_to_their_device(optimizer)
    optimizer.register_state_dict_post_hook(_learning_rates_to_numbers)
    optimizer.register_load_state_dict_post_hook(_learning_rates_to_their_device)
    optimizer.register_load_state_dict_post_hook(_states_to_their_weights_order)
    return optimizer


def _learning_rates_to_their_device(optimizer: Optimizer) -> None:
    """Make each learning rate a tensor where its weights are on a GPU, and a number on a CPU."""
    for group in optimizer.param_groups:
        device, rate = group["params"][0].device, float(group["lr"])
        group["lr"] = torch.tensor(rate, dtype=torch.float32, device=device) if device.type == "cuda" else rate


def _learning_rates_to_numbers(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Make each learning rate in a state dict a number."""
    for group in state["param_groups"]:
        group["lr"] = float(group["lr"])


def _states_to_their_weights_order(optimizer: Optimizer) -> None:
    """Give each state the memory order of its weight.

    Fused kernels pair the two by their position in memory, which is not checked on a CPU. A loaded state has the order
    in which it was saved.
    """
    for weight, state in optimizer.state.items():
        for name, value in state.items():
            if isinstance(value, Tensor) and value.shape == weight.shape and value.stride() != weight.stride():
                state[name] = torch.empty_like(weight, requires_grad=False).copy_(value)


def _build(name: str, parameters: Iterable[nn.Parameter], **settings: object) -> Optimizer:
    """Make the optimizer of apex called `name`, or raise a UserError with the way out."""
    try:
        return getattr(_apex(), name)(parameters, **settings)
    except (RuntimeError, ImportError) as error:  # raised where its CUDA extensions were not built
        raise UserError(f"--optimizer-backend apex: {error}; {_WAY_OUT}") from error


def _apex() -> ModuleType:
    """Import apex.optimizers of NVIDIA; PyPI's project called apex, a web toolkit, is refused without running it."""
    package = importlib.util.find_spec("apex")
    if package is None:
        raise UserError(f"--optimizer-backend apex: the package apex is not installed; {_WAY_OUT}")
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
