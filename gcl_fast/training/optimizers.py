"""Optimizers: PyTorch's fused ones, or those of NVIDIA apex where they are asked for and really there."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from importlib.machinery import PathFinder
from types import ModuleType

import torch
from torch import nn
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
    """Adam in one kernel for all parameters.

    Args:
        decoupled: weight decay beside the gradient (AdamW, Loshchilov & Hutter 2019), not in it.
        backend: "torch" or "apex".

    Raises:
        UserError: "apex", and it is not there, is not NVIDIA's, or was built without its CUDA extensions.
    """
    if backend == "apex":
        return _build("FusedAdam", parameters, lr=lr, betas=betas, weight_decay=weight_decay, adam_w_mode=decoupled)
    kind = torch.optim.AdamW if decoupled else torch.optim.Adam
    return kind(parameters, lr=lr, betas=betas, weight_decay=weight_decay, fused=True)


def nesterov(
    parameters: Iterable[nn.Parameter],
    lr: float,
    *,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    backend: str = "torch",
) -> Optimizer:
    """SGD with Nesterov momentum in one kernel for all parameters.

    The momentum starts from zeros, which is where PyTorch's first step puts it; made here because that first step,
    where it is skipped for a gradient that is not finite, would leave it whatever the memory held.

    Args and errors as for `adam`.
    """
    parameters = list(parameters)
    if backend == "apex":
        return _build("FusedSGD", parameters, lr=lr, momentum=momentum, nesterov=True, weight_decay=weight_decay)
    optimizer = torch.optim.SGD(parameters, lr, momentum, nesterov=True, weight_decay=weight_decay, fused=True)
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def describe(backend: str, device: torch.device) -> str:
    """Which optimizers a run uses, for its header.

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


def _build(name: str, parameters: Iterable[nn.Parameter], **settings: object) -> Optimizer:
    try:
        return getattr(_apex(), name)(parameters, **settings)
    except (RuntimeError, ImportError) as error:  # so it answers where its CUDA extensions were not built
        raise UserError(f"--optimizer-backend apex: {error}; {_WAY_OUT}") from error


def _apex() -> ModuleType:
    """apex.optimizers of NVIDIA. PyPI's project called apex, a toolkit for web pages, is refused without running it."""
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
