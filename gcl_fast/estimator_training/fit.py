"""Train the estimator of bodies on synthetic cut-outs."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from gcl_fast.atomic import write_atomically
from gcl_fast.bodies.body_estimator import save_regressor
from gcl_fast.bodies.body_regressor import BodyRegressor, Regressed, soft_direction, yaw_and_confidence
from gcl_fast.errors import UserError
from gcl_fast.estimator_training.alignment import Alignment
from gcl_fast.estimator_training.clutter import Batch, Clutter
from gcl_fast.optim.schedule import ramp_then_cosine
from gcl_fast.synthetic.cutouts import Cutouts, Scenery

log = logging.getLogger(__name__)

PEOPLE, BACKDROPS, CAMERAS = 4000, 1000, 50  # of one shard of cut-outs
FIRST_SEED = 1000  # of the shards; the worlds that the estimator is measured on have other seeds
BATCH, RATE, DECAY, WARM_UP, AVERAGE = 64, 1e-3, 0.02, 100, 0.998
SPREAD = 8.0  # degrees, the width of the target distribution of the yaw
# Weight of a unit of each column of the vector against the yaw; scales such as CAMERA_SCALE make units comparable.
WEIGHT = torch.tensor([1.0] * 2 + [1.5] * 3 + [0.3] * 5 + [0.5] * 24 + [0.5] * 6 + [1.0, 1.0, 1.0, 0.3])


def cutouts(folder: Path, shards: int) -> Cutouts:
    """Load the cut-outs of the first seeds, and draw those that are missing.

    Args:
        folder: where they are kept.
        shards: number of seeds, >= 1.

    Raises:
        UserError: the folder cannot be written.
    """
    parts = []
    for seed in range(FIRST_SEED, FIRST_SEED + shards):
        path = folder / f"cutouts-{seed}.npz"
        if not path.is_file():
            log.info("drawing %d people into %s", PEOPLE, path)
            arrays = Scenery(seed, CAMERAS).draw(PEOPLE, BACKDROPS)._asdict()
            try:
                write_atomically(path, partial(np.savez, **arrays))
            except OSError as error:
                raise UserError(
                    f"cannot keep cut-outs in {folder} ({error.strerror}); choose another --work"
                ) from error
        with np.load(path, allow_pickle=False) as file:
            parts.append(Cutouts(**file))
    return Cutouts(*(np.concatenate(values) for values in zip(*parts)))


def loss(prediction: Regressed, batch: Batch, alignment: Alignment) -> Tensor:
    """Return the loss of the yaw, and for crops with a person that of the vector and of the alignment.

    The yaw has a cross-entropy, whose target is uniform in crops without a person. The vector has weighted errors, and
    the alignment is the distance of the bodies in pixels.
    """
    target = soft_direction(batch.yaw, SPREAD)
    target = torch.where(batch.somebody[:, None], target, 1 / target.shape[1])
    error = F.smooth_l1_loss(prediction.vector, batch.vector, reduction="none", beta=0.3) * WEIGHT
    error = error.sum(1) + alignment(prediction.vector, batch.vector, batch.yaw)
    return F.cross_entropy(prediction.direction, target) + (error * batch.somebody).mean()


def train(data: Cutouts, out: Path, steps: int, start: BodyRegressor, seed: int) -> BodyRegressor:
    """Train a network, and return its averaged weights.

    Args:
        data: the cut-outs.
        out: the file of the averaged weights, written every 500 steps.
        steps: number of steps.
        start: the network to begin with.
        seed: of the order and of the changes.
    """
    torch.manual_seed(seed)
    clutter, alignment = Clutter(data, seed), Alignment()
    network = start.to(memory_format=torch.channels_last).train()
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE), use_buffers=True)
    averaged = cast(BodyRegressor, average.module)
    optimizer = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: ramp_then_cosine(step, steps, WARM_UP, 0.0))
    beginning, errors = time.monotonic(), []
    for step, batch in zip(range(1, steps + 1), _endless(clutter)):
        with torch.autocast("cpu", torch.bfloat16):
            prediction = network(batch.image)
        value = loss(prediction, batch, alignment)
        optimizer.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        average.update_parameters(network)
        errors.append(_yaw_error(prediction, batch))
        if step % 100 == 0 or step == steps:
            recent = torch.cat(errors[-100:])
            log.info(
                f"step {step} of {steps}: loss {value.item():.3f}, yaw error median {recent.median():.1f} degrees, "
                f"{100 * (recent <= 30).float().mean():.0f} % within 30, {time.monotonic() - beginning:.0f} s"
            )
        if step % 500 == 0 or step == steps:
            save_regressor(out, averaged)
    return averaged


def _endless(clutter: Clutter) -> Iterator[Batch]:
    """Yield batches; a second thread draws each while the caller works on the one before."""
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(clutter.batch, BATCH)
        while True:
            batch, future = future.result(), pool.submit(clutter.batch, BATCH)
            yield batch


@torch.no_grad()
def _yaw_error(prediction: Regressed, batch: Batch) -> Tensor:
    """Return the errors of the yaw in degrees, for the crops with a person."""
    difference = yaw_and_confidence(prediction.direction)[0] - batch.yaw
    return ((difference + 180) % 360 - 180).abs()[batch.somebody]
