"""Run the source stage: E_id learns from a labelled dataset, and has batch norms for the target as well."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gcl_fast.data import Augmentation, Records, identity_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.distributed.sync_norm import gather_rows
from gcl_fast.inputs import Inputs, train_loader
from gcl_fast.losses.supervised import batch_hard_triplet_loss, identity_loss
from gcl_fast.models import GCL, IdentityEncoder
from gcl_fast.models.domain_norms import of_another_domain
from gcl_fast.optim.optimizers import adam
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import set_learning_rate
from gcl_fast.optim.stability import RunningStatistics
from gcl_fast.optim.update import descend
from gcl_fast.settings import RunConfig
from gcl_fast.stages.graphs import StepGraphs


class Source:
    """Represents supervised training on the source, before the target is used.

    A step takes a batch of `identities` x `crops` of the source. Its loss is the cross-entropy of identities plus
    batch-hard triplets, whose negatives come from the batches of all ranks. Then as many crops of the target pass
    without a loss, for the statistics of their batch norms. The networks always hold the target's norms, as in all
    later stages.

    Attributes:
        encoder: the identity encoder with the source's norms.
    """

    name = "source"

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        assert config.source is not None
        assert inputs.source is not None
        self.settings = s = config.source
        self.config, self.ranks, self.precision = config, ranks, precision
        self.target_encoder, self.encoder = gcl.identity, of_another_domain(gcl.identity)
        precision.compile(self.encoder)
        self.statistics = RunningStatistics(self.encoder)
        source, target = inputs.source.train, inputs.dataset.train
        known = source.identity >= 0
        identities, label_of_known = np.unique(source.identity[known], return_inverse=True)
        labels = np.full(len(source), -1)
        labels[known] = label_of_known
        self.labels = torch.from_numpy(labels).to(ranks.device)  # (N,) 0..C-1, unknown -1
        self.cameras, self.target_cameras = source.camera, target.camera
        self.tracklets = source.tracklet
        self.classifier = nn.Linear(gcl.identity.dim, len(identities), bias=False)
        nn.init.normal_(self.classifier.weight, std=1e-3, generator=torch.Generator().manual_seed(config.seed))
        self.classifier.to(ranks.device)
        self.optimizer = adam(
            [*self.encoder.parameters(), *self.classifier.parameters()],
            s.lr,
            weight_decay=s.weight_decay,
            backend=config.optimizer_backend,
        )
        precision.prepare(self.optimizer)
        self.graphs = StepGraphs(config, ranks, self.name, [self.optimizer])
        self.epochs = s.epochs
        self.steps = s.steps_per_epoch or max(1, int(known.sum()) // (s.identities * s.crops * ranks.world_size))
        self.loader = train_loader(_one_after_the_other(source, target), config, ranks, Augmentation())

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Keep the source's statistics finite; there is nothing else to prepare."""
        self.statistics.mend()
        return {}

    def plan(self, epoch: int) -> Tensor:
        """Return crop indices (steps, 2 * batch), of the source and the target in turns.

        In this order each rank's slice of a step is the slice of one process.
        """
        s, ranks = self.settings, self.ranks
        draw = partial(
            identity_plan,
            steps=self.steps,
            seed=self.config.seed,
            epoch=epoch,
            rank=ranks.rank,
            world_size=ranks.world_size,
        )
        source = draw(self.labels.cpu(), self.cameras, self.tracklets, identities=s.identities, crops=s.crops)
        count = len(self.target_cameras)
        target = draw(torch.arange(count), self.target_cameras, identities=s.identities * s.crops, crops=1)
        return torch.stack([source, len(self.labels) + target], 2).flatten(1)

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update the encoder, the classifier, and the statistics of both domains."""
        set_learning_rate(self.optimizer, self._rate(epoch, position))
        return self.graphs(self._update, (images, index))

    def _update(self, images: Tensor, index: Tensor) -> dict[str, Tensor]:
        s = self.settings
        source, target = (images[i::2].contiguous(memory_format=torch.channels_last) for i in (0, 1))
        labels = self.labels[index[::2]]
        self.encoder.train()
        with self.precision.autocast():
            _, embedding = self.encoder(source)
        identity = identity_loss(embedding, self.classifier.weight, labels, s.smoothing)
        everyone = gather_rows(embedding, self.ranks)
        triplet = batch_hard_triplet_loss(embedding, labels, everyone, self.ranks.gather(labels), s.margin)
        loss = identity + triplet
        skipped = descend(loss, self.ranks, self.optimizer)
        self.target_encoder.train()
        with torch.no_grad(), self.precision.autocast():
            self.target_encoder(target)
        for encoder in (self.encoder, self.target_encoder):
            self.ranks.average_norms(encoder)
        return {"loss": loss, "identity": identity, "triplet": triplet, "skipped": skipped}

    def _rate(self, epoch: int, position: int) -> float:
        """Return the learning rate: a linear rise over the first epochs, then a tenth at each of `decay_epochs`."""
        s = self.settings
        rise = min(1.0, (epoch * self.steps + position + 1) / max(s.ramp_epochs * self.steps, 1))
        return s.lr * rise * 0.1 ** sum(epoch >= first for first in s.decay_epochs)

    def finished(self) -> IdentityEncoder:
        """Return `encoder` with finite statistics, to be evaluated."""
        self.statistics.mend()
        return self.encoder

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimizer and classifier, and the source's statistics."""
        self.statistics.mend()
        return {
            "optimizer": self.optimizer.state_dict(),
            "classifier": self.classifier.state_dict(),
            "norms": dict(self.encoder.named_buffers()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.classifier.load_state_dict(state["classifier"])
        self.encoder.load_state_dict(state["norms"], strict=False)  # the parameters are in the state of the networks


def _one_after_the_other(source: Records, target: Records) -> Records:
    """Join the records of the source and, behind them, of the target."""
    return Records(
        source.root,
        [*source.paths, *target.paths],
        np.concatenate([source.identity, target.identity]),
        np.concatenate([source.camera, target.camera]),
        np.concatenate([source.frame, target.frame]),
    )
