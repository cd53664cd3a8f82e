"""torch's random generators, as tensors: what a checkpoint keeps of them, for every rank.

Stages draw from functions of (seed, epoch, position) instead (`gcl_fast.random_streams`), and a run can stop anywhere.
The state is kept so that whatever else draws, such as the weights of a later stage, goes on as it would have.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks


def seed_all(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, torch's on every device."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global one
    torch.manual_seed(seed)


def random_state(ranks: Ranks) -> dict[str, Tensor]:
    """Return the state of each of torch's generators on each rank, by name: (W, n) uint8. All ranks call this."""
    state = {"torch": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(ranks.device)
    return {name: ranks.gather(tensor[None]) for name, tensor in state.items()}


def set_random_state(state: dict[str, Tensor], ranks: Ranks) -> None:
    """Take this rank's row of what `random_state` returned; rank r of more ranks than rows takes row r modulo these."""
    # Copies: torch 2.14 reads a generator's state from beyond the memory of a view into a larger tensor
    rows = {name: tensor[ranks.rank % len(tensor)].clone() for name, tensor in state.items()}
    torch.set_rng_state(rows["torch"])
    if ranks.device.type == "cuda" and "cuda" in rows:
        torch.cuda.set_rng_state(rows["cuda"], ranks.device)
