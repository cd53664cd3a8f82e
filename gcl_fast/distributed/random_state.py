"""The random generators of all libraries, as tensors: what a checkpoint keeps of them, for every rank.

The stages draw from functions of (seed, epoch, position) instead, which is why a run can stop anywhere; these are kept
so that whatever else draws (a library, a later stage) goes on as it would have.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators (torch's on every device)."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global one
    torch.manual_seed(seed)


def random_state(ranks: Ranks) -> dict[str, Tensor]:
    """Name -> (W, n): the state of each generator on each rank. All ranks call it."""
    held: Any = np.random.get_state()  # noqa: NPY002
    _, words, position, has_gauss, gauss = held
    _, python, python_gauss = random.getstate()
    state = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor([*words.tolist(), position, has_gauss]),
        "python": torch.tensor(python),
        "gauss": torch.tensor([gauss, torch.nan if python_gauss is None else python_gauss], dtype=torch.float64),
    }
    if ranks.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(ranks.device)
    return {name: ranks.gather(tensor[None]) for name, tensor in state.items()}


def set_random_state(state: dict[str, Tensor], ranks: Ranks) -> None:
    """The inverse. Rank r of more ranks than were saved takes the state of rank r modulo their number."""
    # Copies: torch 2.14 reads a generator's state from beyond the memory of a view into a larger tensor
    own = {name: rows[ranks.rank % len(rows)].clone() for name, rows in state.items()}
    gauss, python_gauss = own["gauss"].tolist()
    *words, position, has_gauss = own["numpy"].tolist()
    torch.set_rng_state(own["torch"])
    np.random.set_state(("MT19937", np.array(words, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    random.setstate((3, tuple(own["python"].tolist()), None if python_gauss != python_gauss else python_gauss))
    if ranks.device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"], ranks.device)
