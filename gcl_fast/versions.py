"""Which torch gcl_fast runs on, and every difference between its versions, each with the version that ends it.

C++ has no difference: csrc/ uses the names of the stable ABI that torch 2.11 to 2.14 share. Triton before 3.7 reads
scalars in its interpreter in a way that NumPy 2.4 refuses; that concerns tests alone (tests/kernels/conftest.py).
"""

from __future__ import annotations

import re
import warnings
from importlib.metadata import PackageNotFoundError, version

from gcl_fast.errors import UserError

LOWEST, BELOW = (2, 11), (2, 15)  # of torch; pyproject.toml says the same
# What torch warns of at the first sparse CSR tensor of a process: that they are beta, and in 2.11 of invariants first.
SPARSE_WARNING = "Sparse (CSR tensor support|invariant checks)"


def check_torch(installed: str | None = None) -> None:
    """Refuse a torch that is too old for the ops, and warn of one that is newer than any tested.

    Args:
        installed: its version, such as "2.14.1+cu130"; by default that of the package in this environment, which is
            read without importing it.

    Raises:
        UserError: no torch, or one below LOWEST; the message names the command that installs one.
    """
    lowest, below = (".".join(map(str, limit)) for limit in (LOWEST, BELOW))
    way_out = f"pip install 'torch>={lowest},<{below}' torchvision"
    if installed is None:
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
