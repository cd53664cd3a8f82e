"""Epoch plans: which crops make up which batch, fixed by (seed, epoch) and divided among ranks.

A plan is an int64 tensor (steps, batch). Rank r of W holds a slice of every step of one global plan, so the crops of a
step are the same however many ranks share it, and a run can stop at any step and continue bit for bit.
"""

from __future__ import annotations

import warnings

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
    """One shuffled pass over `index` (or over 0..index-1); the last partial batch is dropped.

    batch_size: crops per rank and step. Returns (steps, batch_size) int64. Raises UserError if not one batch fits.
    """
    index = np.arange(index) if isinstance(index, int) else np.asarray(index)
    steps = len(index) // (batch_size * world_size)
    if steps == 0:
        raise UserError(
            f"{len(index)} crops make no batch of {batch_size} on {world_size} rank(s): lower the batch size,"
            " --set STAGE.batch=N, or give more crops"
        )
    order = _generator(seed, epoch).permutation(len(index))[: steps * world_size * batch_size]
    return torch.from_numpy(index[order].reshape(steps, world_size, batch_size)[:, rank].astype(np.int64))


def identity_plan(
    labels: np.ndarray | torch.Tensor,
    cameras: np.ndarray | torch.Tensor,
    *,
    identities: int = 16,
    crops: int = 4,
    steps: int,
    seed: int,
    epoch: int,
    rank: int = 0,
    world_size: int = 1,
) -> torch.Tensor:
    """Batches of `identities` x `crops`: the crops of an identity stand together, from different cameras first.

    labels: (N,) identity or pseudo-label; -1 is never drawn.
    cameras: (N,). Identities are drawn without replacement until all had their turn, and are distinct inside a step
    where there are enough, which is warned of where there are not; one of fewer than `crops` crops repeats them evenly.
    Returns (steps, identities * crops) int64. Raises UserError when there is no identity to draw.
    """
    labels, cameras = np.asarray(labels), np.asarray(cameras)
    members = _members(labels)
    if not members:
        raise UserError("no identity to draw: all crops are outliers (label -1)")
    if identities * world_size > len(members):
        warnings.warn(
            f"a step draws {identities * world_size} identities, and there are {len(members)}: some stand in it more"
            " than once; lower --set warmup.identities or source.identities, or give more crops",
            stacklevel=2,
        )
    generator = _generator(seed, epoch)
    drawn = _identity_draws(len(members), identities * world_size, steps, generator)  # (steps, W * identities)
    plan = np.stack([_different_cameras_first(members[i], cameras, crops, generator) for i in drawn.ravel()])
    return torch.from_numpy(plan.reshape(steps, world_size, identities * crops)[:, rank].copy())


def _generator(seed: int, epoch: int) -> np.random.Generator:
    return numpy_generator(seed, epoch, 0, Stream.ORDER)


def _members(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of each identity's crops, identities ascending."""
    order = np.argsort(labels, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)
    return [group for group in groups if len(group) and labels[group[0]] != -1]


def _identity_draws(count: int, per_step: int, steps: int, generator: np.random.Generator) -> np.ndarray:
    """(steps, per_step) identities: each step takes the next unused ones of a shuffled round of all identities."""
    draws, pool = [], np.empty(0, dtype=np.int64)
    for _ in range(steps):
        step = pool[:per_step]
        pool = pool[per_step:]
        while len(step) < per_step:
            fresh = generator.permutation(count)
            if count >= per_step:  # those already in this step wait for the end of the new round
                fresh = np.concatenate([fresh[~np.isin(fresh, step)], fresh[np.isin(fresh, step)]])
            missing = per_step - len(step)
            step, pool = np.concatenate([step, fresh[:missing]]), fresh[missing:]
        draws.append(step)
    return np.stack(draws)


def _different_cameras_first(
    members: np.ndarray, cameras: np.ndarray, crops: int, generator: np.random.Generator
) -> np.ndarray:
    """`crops` of `members`: one of each camera, then a second of each, ...; all of them before any comes again."""
    shuffled = generator.permutation(members)
    camera = cameras[shuffled]
    by_camera = np.argsort(camera, kind="stable")
    starts = np.searchsorted(camera[by_camera], camera[by_camera])  # where this crop's camera begins in by_camera
    turn = np.empty(len(members), dtype=np.int64)
    turn[by_camera] = np.arange(len(members)) - starts  # 0 for the first crop of its camera, 1 for the second ...
    return np.resize(shuffled[np.argsort(turn, kind="stable")], crops)
