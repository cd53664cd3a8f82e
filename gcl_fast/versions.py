"""Check torch's version, and list every difference between the versions, each with the version that ends it.

C++ has no difference: csrc/ uses the names of the stable ABI that torch 2.11 to 2.14 share. Before Triton 3.7, its
interpreter reads scalars in a way that NumPy 2.4 refuses; this concerns tests alone (tests/kernels/conftest.py).
"""

from __future__ import annotations

import re
import warnings

from gcl_fast.errors import UserError

LOWEST, BELOW = (2, 11), (2, 15)  # limits of torch's version, as in pyproject.toml
# torch's warning at the first sparse CSR tensor of a process: the layout is beta; torch 2.11 also warns of invariants.
SPARSE_WARNING = "Sparse (CSR tensor support|invariant checks)"
# torch 2.11's warnings about its own code, when it exports to ONNX and reads an exported program; 2.14 has neither.
EXPORT_WARNINGS = r"The given buffer is not writable|`isinstance\(treespec, LeafSpec\)`"


def check_torch(installed: str | None = None) -> None:
    """Refuse a torch that is too old for the ops, and warn if it is newer than all tested versions.

    Args:
        installed: torch's version, such as "2.14.1+cu130"; by default that of this environment, read without an import
            of torch.

    Raises:
        UserError: torch is missing or below LOWEST; the message names the command that installs it.

    Example:
        >>> check_torch("2.14.1+cu130")
        >>> check_torch("2.4.0")
        Traceback (most recent call last):
        gcl_fast.errors.UserError: gcl_fast needs torch 2.11 or newer, this is torch 2.4.0: pip install ...
    """
    lowest, below = (".".join(map(str, limit)) for limit in (LOWEST, BELOW))
    way_out = f"pip install 'torch>={lowest},<{below}' torchvision"
    if installed is None:
        from importlib.metadata import PackageNotFoundError, version  # not for --help

        try:
            installed = version("torch")
        except PackageNotFoundError:
            raise UserError(f"gcl_fast needs torch {lowest} or newer, and there is none here: {way_out}") from None
    numbers = re.match(r"(\d+)\.(\d+)", installed)
    release = (int(numbers[1]), int(numbers[2])) if numbers else LOWEST
    if release < LOWEST:
        raise UserError(f"gcl_fast needs torch {lowest} or newer, this is torch {installed}: {way_out}")
    if release >= BELOW:
        warnings.warn(
            f"gcl_fast was tested on torch {lowest} up to {below}, this is {installed}: {way_out}", stacklevel=2
        )
