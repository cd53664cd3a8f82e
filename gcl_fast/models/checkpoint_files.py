"""Read checkpoint files of any project without running code that they may hold."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gcl_fast.errors import UserError

_held: ContextVar[dict[Path, dict[str, Any]] | None] = ContextVar("_held", default=None)


@contextmanager
def reading_once() -> Iterator[None]:
    """Enter a context in which `read_checkpoint` reads each file once; the contents are freed at its end.

    Example:
        >>> torch.save({"weight": torch.zeros(1)}, "once.pth")
        >>> with reading_once():
        ...     read_checkpoint(Path("once.pth")) is read_checkpoint(Path("once.pth"))
        True
    """
    token = _held.set({})
    try:
        yield
    finally:
        _held.reset(token)


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a file that torch.save or safetensors wrote.

    Args:
        path: of the file; one that ends in .safetensors is read as such. Beside tensors it may hold numbers, texts,
            containers, NumPy scalars and an argparse.Namespace. No other object is unpickled.

    Returns:
        The content, with tensors on the CPU.

    Raises:
        UserError: there is no such file, it cannot be read, or it holds another kind of object.

    Example:
        >>> torch.save({"epoch": 3, "model": {"conv1.weight": torch.zeros(1)}}, "checkpoint.pth")
        >>> read_checkpoint(Path("checkpoint.pth"))["epoch"]
        3
    """
    held = _held.get()
    if held is None:
        return _read(path)
    if path not in held:
        held[path] = _read(path)
    return held[path]


def _read(path: Path) -> dict[str, Any]:
    """Read a file as `read_checkpoint` does."""
    if not path.is_file():
        raise UserError(f"{path}: no such file of weights")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with _harmless_types():
            content = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except SafetensorError as error:
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error
    except Exception as error:  # text, HTML or a pickle of code: the first bytes decide which error torch raises
        raise UserError(
            f"{path}: not a PyTorch file of plain tensors, as torch.save writes a state dict; a pickled model is not"
            " read, since that would run its code"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds a {type(content).__name__}, expected a state dict")
    return content


@contextmanager
def _harmless_types() -> Iterator[None]:
    """Let weights_only unpickle what training scripts keep beside tensors: their arguments, and NumPy scalars."""
    dtypes = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    scalar: Any = np.float64(0).__reduce__()[0]
    with torch.serialization.safe_globals([argparse.Namespace, Counter, scalar, np.dtype, *dtypes]):
        yield
