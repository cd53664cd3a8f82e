"""Train E_id by joint visual and temporal consistency, without a source domain (JVTC)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from gcl_fast.data.camera_time import check_time
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs
from gcl_fast.losses.cluster_memory import Clusters
from gcl_fast.losses.local_global import global_loss, local_loss, mean_direction
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.update import descend
from gcl_fast.pseudo_labels.temporal_model import TemporalModel
from gcl_fast.pseudo_labels.visual_temporal_labels import Distances, cluster_jointly
from gcl_fast.settings import JVTCConfig, RunConfig
from gcl_fast.stages.clustering import camera_centred, report
from gcl_fast.stages.warmups.base import PassWarmup


class JVTC(PassWarmup):
    """Represents the warm-up by classification inside the batch, and by pseudo-labels of the bank (Li and Zhang 2020).

    Labels are computed from similarity. From `temporal_epoch` on they also depend on the time that people of the labels
    before took from camera to camera. The published code clusters by similarity alone for that, at each time.

    A bank row is updated by the mean of its crop's variants, and normalized, which the published code does not do. The
    weight of the old entry rises over the epochs.

    Raises:
        UserError: the temporal part is on, and cameras or frames of the dataset are not known.
    """

    settings: JVTCConfig

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        super().__init__(config, gcl, inputs, ranks, precision)
        if self.settings.temporal:
            check_time(self.records, "--set warmup.temporal=false clusters by similarity alone")
        self.frames = torch.as_tensor(self.records.frame)
        self.labels = torch.full((len(self.records),), -1)  # (N,) of the last clustering, outliers -1
        self.clustered = False

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Fill the bank before the first epoch; compute the labels every `cluster_every` epochs."""
        s = self.settings
        if epoch == 0:
            self.fill_bank()
        if epoch < s.global_epoch or (epoch - s.global_epoch) % s.cluster_every:
            return {}
        features = self.descriptors(trained=self.clustered)
        if s.clustering.camera_centred:
            features = camera_centred(features, self.cameras)
        temporal = None
        if s.temporal and epoch >= s.temporal_epoch and self.clustered:
            temporal = TemporalModel.fit(self.labels, self.cameras, self.frames)
        pseudo_labels = cluster_jointly(
            Distances(features, self.cameras, self.frames, temporal),
            s.clustering.k1,
            s.clustering.k2,
            rho=s.clustering.rho,
            eps=s.clustering.eps,
            eps_scale=s.eps_scale,
            min_samples=s.clustering.min_samples,
            plain_weight=s.plain_weight,
        )
        before = self.labels if self.clustered else None
        metrics = report(pseudo_labels, before, torch.as_tensor(self.records.identity))
        self._set_labels(pseudo_labels.labels)
        return metrics

    def plan(self, epoch: int) -> Tensor:
        """Return images (steps, batch * variants), the variants of a crop side by side."""
        return self.images_of(self.crops(epoch), epoch, self.settings.variants)

    def _update(self, epoch: int, images: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Update by the labels and the momentum of `epoch`."""
        s = self.settings
        crops = self.owner[index]
        embedding = self.embed(images)
        metrics = {"local": local_loss(embedding, s.variants, s.local_temperature)}
        loss = metrics["local"]
        if self.clustered:
            metrics["global"] = global_loss(embedding, self.bank.features, self.clusters, crops, s.temperature)
            loss = loss + s.global_weight * metrics["global"]
        skipped = descend(loss, self.ranks, *self.optimizers)
        self.ranks.average_norms(self.encoder)
        means = mean_direction(normalize(embedding.detach().float(), dim=1), s.variants)
        self.bank.momentum = min(s.momentum_rise * epoch, s.momentum)
        self.bank.update_(self.ranks.gather(crops[:: s.variants]), self.ranks.gather(means))
        return {"loss": loss, **metrics, "skipped": skipped}

    def _set_labels(self, labels: Tensor) -> None:
        """Take new labels (N,), and the clusters that they make."""
        self.labels, self.clustered = labels.to(self.ranks.device), True
        self.clusters = Clusters.from_labels(self.labels)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers and the bank, and the labels."""
        return {**super().state_dict(), "labels": self.labels, "clustered": self.clustered}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        if state["clustered"]:
            self._set_labels(state["labels"])
