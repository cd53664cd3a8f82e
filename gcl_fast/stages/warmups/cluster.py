"""Train E_id alone by contrast with the cluster means of an instance memory, from any initialization."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from gcl_fast.data import identity_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs
from gcl_fast.losses.camera_proxies import CameraProxies, camera_proxy_loss
from gcl_fast.losses.cluster_memory import (
    Clusters,
    cluster_centres,
    cluster_memory_loss,
    instance_memory_loss,
    update_by_hardest_,
)
from gcl_fast.models import GCL
from gcl_fast.optim.optimizers import adam
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import ramp_then_cosine, set_learning_rate
from gcl_fast.optim.update import descend
from gcl_fast.settings import RunConfig, WarmupConfig
from gcl_fast.stages.clustering import label_to_train, report
from gcl_fast.stages.graphs import StepGraphs
from gcl_fast.stages.warmups.base import MemoryWarmup


class Warmup(MemoryWarmup):
    """Represents the warm-up by clusters, whose labels come from the bank at each epoch; outliers are clusters of one.

    A step takes a batch of augmented crops, `identities` clusters of `crops` each. Its loss is the cross-entropy of the
    mean similarities to each cluster's rows, or to what the setting `memory` names instead. Then the bank rows of the
    batch are updated.
    Memory "cameras" needs the camera of every crop, which `run.look_ahead` checks.
    """

    settings: WarmupConfig
    section = "warmup"  # of the settings, for messages

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        super().__init__(config, gcl, inputs, ranks, precision)
        self.optimizers = [
            adam(
                self.encoder.parameters(),
                self.settings.lr,
                weight_decay=self.settings.weight_decay,
                decoupled=True,
                backend=config.optimizer_backend,
            )
        ]
        precision.prepare(*self.optimizers)
        self.graphs = StepGraphs(config, ranks, self.name, self.optimizers)
        self.labels = torch.full((len(self.records),), -1)  # (N,) of the last clustering, outliers -1
        self.centres = torch.zeros(0)  # (C, D) unit rows, one for each cluster, for memory "hardest"

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Fill the bank with eval-mode embeddings, then cluster it, with the crops' colours where so set."""
        self.fill_bank()
        without = self.settings.colour_epochs is not None and epoch >= self.settings.colour_epochs
        descriptors = self.bank.features if without else self.descriptors(trained=epoch > 0)
        tracklets = torch.as_tensor(self.records.tracklet)
        labels = label_to_train(
            descriptors, self.cameras, self.settings.clustering, self.ranks, self.section, tracklets
        )
        metrics = report(labels, self.labels if epoch else None, torch.as_tensor(self.records.identity))
        self._set_labels(labels.labels)
        if self.settings.memory == "hardest":
            self.centres = cluster_centres(self.bank.features, self.clusters)
        return metrics

    def plan(self, epoch: int) -> Tensor:
        """Return images (steps, identities * crops) of clustered crops."""
        crops = identity_plan(
            self.labels.cpu(),
            self.cameras,
            self.records.tracklet if self.settings.clustering.tracklets else None,
            identities=self.settings.identities,
            crops=self.settings.crops,
            steps=self.settings.steps_per_epoch,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        return self.images_of(crops, epoch)

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update the encoder, then the bank."""
        self.set_learning_rate(epoch, position)
        return self.graphs(self._update, (images, index), (epoch,))

    def set_learning_rate(self, epoch: int, position: int) -> None:
        """Set the learning rate: a linear rise, a constant share, then a cosine to zero."""
        s = self.settings
        at, total = epoch * s.steps_per_epoch + position, s.epochs * s.steps_per_epoch
        set_learning_rate(self.optimizers[0], s.lr * ramp_then_cosine(at, total, s.ramp_steps, s.constant_share))

    def _update(self, epoch: int, images: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Update by the labels of `epoch`, with which all tensors of clusters are replaced."""
        s = self.settings
        crops = self.owner[index]
        embedding = self.embed(images)
        with record_function("gcl_fast::contrastive"):
            if s.memory == "hardest":
                loss = cluster_memory_loss(embedding, self.centres, self.clusters.of_row[crops], s.temperature)
            elif s.memory == "cameras":
                loss = camera_proxy_loss(embedding, self.bank.features, self.proxies, crops, s.temperature)
            else:
                loss = instance_memory_loss(embedding, self.bank.features, self.clusters, crops, s.temperature)
        skipped = descend(loss, self.ranks, *self.optimizers)
        self.ranks.average_norms(self.encoder)
        crops, embedding = self.ranks.gather(crops), self.ranks.gather(embedding.detach().float())
        if s.memory == "hardest":
            update_by_hardest_(self.centres, self.clusters.of_row[crops], embedding, s.crops, s.momentum)
        else:
            self.bank.update_(crops, embedding)
        return {"loss": loss, "skipped": skipped}

    def _set_labels(self, labels: Tensor) -> None:
        """Take new labels (N,), and the clusters that they make."""
        self.labels = labels.to(self.ranks.device)
        self.clusters = Clusters.from_labels(self.labels)
        self.proxies = CameraProxies.from_labels(self.labels, self.cameras.to(self.labels.device))

    def state_dict(self) -> dict[str, Any]:
        """Return the states of optimizer and bank, the labels and the centres."""
        return {**super().state_dict(), "labels": self.labels, "centres": self.centres}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self._set_labels(state["labels"])
        self.centres = state["centres"].to(self.ranks.device)
