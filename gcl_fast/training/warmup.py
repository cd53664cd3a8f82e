"""Warm-up: the identity encoder alone, contrasted with cluster means of an instance memory, from any initialization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.config import RunConfig
from gcl_fast.data import Augmentation, ExtractLoader, TrainLoader, identity_plan
from gcl_fast.losses.cluster_memory import Clusters, instance_memory_loss
from gcl_fast.memory import MemoryBank
from gcl_fast.models import GCL
from gcl_fast.training.clustering import label, report
from gcl_fast.training.colours import beside_colours, colour_stripes
from gcl_fast.training.extract import extract
from gcl_fast.training.inputs import Inputs
from gcl_fast.training.optimizers import adam
from gcl_fast.training.precision import Precision
from gcl_fast.training.ranks import Ranks
from gcl_fast.training.schedule import ramp_then_cosine, set_learning_rate
from gcl_fast.training.update import descend


class Warmup:
    """The warm-up stage. Labels are renewed at each epoch from the bank; outliers count as clusters of one.

    Per step: a batch of augmented crops, `identities` clusters of `crops` each; loss = cross-entropy of the embedding
    against the mean similarity to each cluster's rows; then the bank rows of the batch are updated.
    """

    name = "warmup"

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.settings = config.warmup
        self.config, self.ranks, self.precision = config, ranks, precision
        self.records = records = inputs.dataset.train
        self.epochs = self.settings.epochs
        self.encoder = gcl.identity
        self.cameras = torch.as_tensor(records.camera)
        self.loader = TrainLoader(
            records,
            config.size,
            ranks.device,
            augmentation=Augmentation(),
            cache=config.decoded_cache,
            seed=config.seed,
        )
        self.optimizer = adam(
            self.encoder.parameters(),
            self.settings.lr,
            weight_decay=self.settings.weight_decay,
            decoupled=True,
            backend=config.optimizer_backend,
        )
        width = config.model.identity.embedding
        self.bank = MemoryBank(len(records), width, self.settings.momentum, self.settings.temperature).to(ranks.device)
        self.labels = torch.full((len(records),), -1)  # (N,) of the last clustering, outliers -1
        self._stripes: Tensor | None = None  # (N, C) colours, made when first needed

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Fill the bank with eval-mode embeddings, then cluster it, beside the crops' colours where so set."""
        self.bank.features.copy_(extract(self.encoder, self.records, self.config, self.ranks, self.precision))
        features = self.bank.features
        if self.settings.colours:
            features = beside_colours(features if epoch else None, self._colours(), self.cameras)
        labels = label(features, self.cameras, self.settings.clustering)
        metrics = report(labels, self.labels if epoch else None, torch.as_tensor(self.records.identity))
        self._set_labels(labels.labels)
        return metrics

    def plan(self, epoch: int) -> Tensor:
        """(steps, identities * crops) indices of clustered crops."""
        return identity_plan(
            self.labels.cpu(),
            self.cameras,
            identities=self.settings.identities,
            crops=self.settings.crops,
            steps=self.settings.steps_per_epoch,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """One update of the encoder and of the bank."""
        s = self.settings
        at, total = epoch * s.steps_per_epoch + position, s.epochs * s.steps_per_epoch
        set_learning_rate(self.optimizer, s.lr * ramp_then_cosine(at, total, s.ramp_steps, s.constant_share))
        self.encoder.train()
        with self.precision.autocast():
            _, embedding = self.encoder(images)
        loss = instance_memory_loss(embedding, self.bank.features, self.clusters, index, self.settings.temperature)
        skipped = descend(loss, self.ranks, self.optimizer)
        self.ranks.average_norms(self.encoder)
        self.bank.update_(self.ranks.gather(index), self.ranks.gather(embedding.detach().float()))
        return {"loss": loss, "skipped": skipped}

    def _colours(self) -> Tensor:
        if self._stripes is None:
            loader = ExtractLoader(self.records, self.config.size, self.ranks.device)
            self._stripes = colour_stripes(loader, len(self.records)).to(self.ranks.device)
        return self._stripes

    def _set_labels(self, labels: Tensor) -> None:
        self.labels = labels.to(self.ranks.device)
        self.clusters = Clusters.from_labels(self.labels)

    def state_dict(self) -> dict[str, Any]:
        """Optimizer, bank and labels."""
        return {"optimizer": self.optimizer.state_dict(), "bank": self.bank.state_dict(), "labels": self.labels}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.bank.load_state_dict(state["bank"])
        self._set_labels(state["labels"])
