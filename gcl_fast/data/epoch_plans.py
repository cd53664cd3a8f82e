"""Plan which crops make up which batch of an epoch, as a function of (seed, epoch), divided among ranks.

A plan is an int64 tensor (steps, batch). Rank r of W holds a slice of every step of one global plan. So the crops of a
step do not depend on the number of ranks, and a run can stop at any step and continue bit for bit.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from gcl_fast.errors import UserError
from gcl_fast.random_streams import Stream, numpy_generator


def shuffled_plan(
    index: int | np.ndarray | torch.Tensor,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> torch.Tensor:
    """Plan one shuffled pass over crops; the last partial batch is dropped.

    Args:
        index: (N,) positions of the crops, or N for 0..N-1.
        batch_size: crops per rank and step.
        seed: seed of the run.
        epoch: number of the epoch.
        rank: this process's number in 0..world_size-1.
        world_size: number of processes.

    Returns:
        Positions (steps, batch_size) int64 of this rank.

    Raises:
        UserError: the crops do not fill one batch of all ranks.

    Example:
        >>> plan = shuffled_plan(10, 4, seed=0, epoch=0)
        >>> plan.shape
        torch.Size([2, 4])
        >>> halves = [shuffled_plan(10, 2, seed=0, epoch=0, rank=rank, world_size=2) for rank in (0, 1)]
        >>> torch.equal(torch.cat(halves, dim=1), plan)
        True
    """
    index = np.arange(index) if isinstance(index, int) else np.asarray(index)
    steps = len(index) // (batch_size * world_size)
    if steps == 0:
        raise UserError(_too_few(len(index), batch_size, world_size))
    order = _generator(seed, epoch).permutation(len(index))[: steps * world_size * batch_size]
    return torch.from_numpy(index[order].reshape(steps, world_size, batch_size)[:, rank].astype(np.int64))


def paired_plan(
    groups: np.ndarray | torch.Tensor,
    batch_size: int,
    *,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> torch.Tensor:
    """Plan one shuffled pass over crops in pairs of one group; the last partial batch is dropped.

    Columns 2k and 2k + 1 of a step are two crops of one group, as long as a group has two left. The crops that are left
    over make pairs with each other.

    Args:
        groups: (N,) group of each crop; -1 for a crop without one.
        batch_size: crops per rank and step, even.
        seed: seed of the run.
        epoch: number of the epoch.
        rank: this process's number in 0..world_size-1.
        world_size: number of processes.

    Returns:
        Positions (steps, batch_size) int64 of this rank.

    Raises:
        UserError: the crops do not fill one batch of all ranks.

    Example:
        >>> groups = np.array([0, 1, 0, 1, -1, 2])
        >>> plan = paired_plan(groups, 2, seed=0, epoch=0)
        >>> sorted(groups[pair].tolist() for pair in plan)
        [[-1, 2], [0, 0], [1, 1]]
    """
    groups = np.asarray(groups)
    if len(groups) < batch_size * world_size:
        raise UserError(_too_few(len(groups), batch_size, world_size))
    generator = _generator(seed, epoch)
    shuffled = generator.permutation(len(groups))
    alike = np.zeros((0, 2), np.int64)
    if members := _members(groups[shuffled]):
        alike = np.concatenate([shuffled[group[: len(group) // 2 * 2]].reshape(-1, 2) for group in members])
    left = shuffled[~np.isin(shuffled, alike)]
    pairs = np.concatenate([alike, left[: len(left) // 2 * 2].reshape(-1, 2)])
    place = shuffled_plan(len(pairs), batch_size // 2, seed=seed, epoch=epoch, rank=rank, world_size=world_size)
    return torch.from_numpy(pairs[place.numpy()].reshape(len(place), batch_size))


def identity_plan(
    labels: np.ndarray | torch.Tensor,
    cameras: np.ndarray | torch.Tensor,
    tracklets: np.ndarray | torch.Tensor | None = None,
    *,
    identities: int = 16,
    crops: int = 4,
    steps: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> torch.Tensor:
    """Plan batches of `identities` x `crops`; the crops of an identity are consecutive, from different cameras first.

    Crops of one camera come from different tracklets first, since the crops of one tracklet are much alike.

    Identities are drawn without replacement until all have been drawn. They are distinct inside a step if there are
    enough of them; otherwise a warning says so. An identity with fewer than `crops` crops repeats them evenly.

    Args:
        labels: (N,) identities or pseudo-labels; -1 is never drawn.
        cameras: (N,) camera of each crop.
        tracklets: (N,) tracklet of each crop; a crop with -1 is a tracklet of one, and None stands for -1 everywhere.
        identities: identities per rank and step.
        crops: crops per identity and step.
        steps: number of steps.
        seed: seed of the run.
        epoch: number of the epoch.
        rank: this process's number in 0..world_size-1.
        world_size: number of processes.

    Returns:
        Positions (steps, identities * crops) int64 of this rank.

    Raises:
        UserError: all labels are -1.

    Example:
        >>> labels, cameras = np.array([0, 0, 1, 1, -1]), np.array([1, 2, 1, 2, 1])
        >>> plan = identity_plan(labels, cameras, identities=2, crops=2, steps=1, seed=0, epoch=0)
        >>> plan.shape
        torch.Size([1, 4])
        >>> sorted(labels[plan[0]].tolist())
        [0, 0, 1, 1]
    """
    labels, cameras = np.asarray(labels), np.asarray(cameras)
    members = _members(labels)
    if not members:
        raise UserError("no identity to draw: all crops are outliers (label -1)")
    if identities * world_size > len(members):
        warnings.warn(
            f"a step draws {identities * world_size} identities, and there are {len(members)}: some come more than"
            " once; lower --set warmup.identities or source.identities, or give more crops",
            stacklevel=2,
        )
    generator = _generator(seed, epoch)
    draws = _identity_draws(len(members), identities * world_size, steps, generator)  # (steps, W * identities)
    groups = [cameras] if tracklets is None else [_tracklets_of_one(np.asarray(tracklets)), cameras]
    plan = np.stack([_spread(generator.permutation(members[i]), groups, crops) for i in draws.ravel()])
    return torch.from_numpy(plan.reshape(steps, world_size, identities * crops)[:, rank].copy())


def _too_few(crops: int, batch_size: int, world_size: int) -> str:
    """Return the message that the crops do not fill a batch."""
    return (
        f"{crops} crops make no batch of {batch_size} on {world_size} rank(s): lower the batch size,"
        " --set STAGE.batch=N, or give more crops"
    )


def _generator(seed: int, epoch: int) -> np.random.Generator:
    """Return the random generator of an epoch's plan."""
    return numpy_generator(seed, epoch, 0, Stream.ORDER)


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each identity's crops, identities in ascending order."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [group for group in groups if len(group) and labels[group[0]] != -1]


def _identity_draws(count: int, per_step: int, steps: int, generator: np.random.Generator) -> np.ndarray:
    """Draw identities (steps, per_step): each step takes the next ones of a shuffled round of all identities."""
    draws, pool = [], np.empty(0, dtype=np.int64)
    for _ in range(steps):
        step = pool[:per_step]
        pool = pool[per_step:]
        while len(step) < per_step:
            new_round = generator.permutation(count)
            if count >= per_step:  # identities that are in this step already go to the end of the new round
                repeats = np.isin(new_round, step)
                new_round = np.concatenate([new_round[~repeats], new_round[repeats]])
            missing = per_step - len(step)
            step, pool = np.concatenate([step, new_round[:missing]]), new_round[missing:]
        draws.append(step)
    return np.stack(draws)


def _tracklets_of_one(tracklets: np.ndarray) -> np.ndarray:
    """Return tracklets (N,) in which each unknown one (-1) has a number of its own."""
    return np.where(tracklets < 0, -1 - np.arange(len(tracklets)), tracklets)


def _spread(crops: np.ndarray, groups: Sequence[np.ndarray], count: int) -> np.ndarray:
    """Choose `count` of `crops` that spread over groups, the last kind of group first; all come before any repeats.

    Args:
        crops: (M,) positions in random order.
        groups: kinds of groups, each with the group (N,) of every crop.
        count: number of positions to choose.
    """
    for group in groups:
        crops = _in_turns(crops, group[crops])
    return np.resize(crops, count)


def _in_turns(crops: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Order `crops` (M,) so that the first crop of each group (M,) comes first, then the second of each, ..."""
    by_group = np.argsort(group, kind="stable")
    starts = np.searchsorted(group[by_group], group[by_group])  # where this crop's group begins in by_group
    turn = np.empty(len(crops), dtype=np.int64)
    turn[by_group] = np.arange(len(crops)) - starts  # 0 for the first crop of its group, 1 for the second ...
    return crops[np.argsort(turn, kind="stable")]
