"""Random numbers of a run: functions of (seed, epoch, position, stream), so that a run resumes with the same draws."""

from __future__ import annotations

from enum import IntEnum

import numpy as np
import torch


class Stream(IntEnum):
    """What a draw is for: streams of one seed are independent."""

    ORDER = 1  # of crops in an epoch; not 0, since NumPy fills short seeds with zeros
    AUGMENTATION = 2
    STYLE = 3  # which images of a crop are drawn
    YAW = 4
    MIXUP = 5


def numpy_generator(seed: int, epoch: int, position: int, stream: Stream) -> np.random.Generator:
    """Make the generator of one step's draws for one purpose.

    Args:
        seed: of the run, 0 or more.
        epoch: within the stage, from 0.
        position: of the step within its epoch, from 0; 0 for what is drawn once an epoch.
        stream: the purpose.

    Example:
        >>> from gcl_fast.random_streams import Stream, numpy_generator
        >>> first, second = (numpy_generator(0, epoch=3, position=7, stream=Stream.YAW) for _ in range(2))
        >>> bool((first.random(4) == second.random(4)).all())
        True
    """
    return np.random.default_rng([seed, epoch, position, int(stream)])


def torch_generator(seed: int, epoch: int, position: int, stream: Stream) -> torch.Generator:
    """Make the generator of one step's draws for one purpose, on the CPU. Arguments as for `numpy_generator`."""
    (word,) = np.random.SeedSequence([seed, epoch, position, int(stream)]).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))
