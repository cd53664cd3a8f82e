"""Save the states of torch's random generators on every rank, and set them again.

The draws of the stages do not depend on these states: they are functions of (seed, epoch, position), see
`gcl_fast.random_streams`. The states are saved for other draws, such as the first weights of a later stage.
"""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import Tensor

from gcl_fast.distributed.ranks import Ranks


def seed_all(seed: int) -> None:
    """Seed the generators of Python, of NumPy, and of torch on every device."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - libraries draw from the global generator
    torch.manual_seed(seed)


def random_state(ranks: Ranks) -> dict[str, Tensor]:
    """Return the states of torch's generators by name, (W, n) uint8, a row for each rank. All ranks call this."""
    state = {"torch": torch.get_rng_state()}
    if ranks.device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(ranks.device)
    return {name: ranks.gather(tensor[None]) for name, tensor in state.items()}


def set_random_state(state: dict[str, Tensor], ranks: Ranks) -> None:
    """Set torch's generators to this rank's row of the states that `random_state` returned.

    With more ranks than rows, rank r takes row r modulo the number of rows.
    """
    # Copies: torch 2.14 reads a generator's state from beyond the memory of a view into a larger tensor
    rows = {name: tensor[ranks.rank % len(tensor)].clone() for name, tensor in state.items()}
    torch.set_rng_state(rows["torch"])
    if ranks.device.type == "cuda" and "cuda" in rows:
        torch.cuda.set_rng_state(rows["cuda"], ranks.device)
