"""Run the joint stage: all networks train, and the bank, clustered at each epoch, teaches E_id by views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.assessment.extract import extract
from gcl_fast.data import shuffled_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, train_loader
from gcl_fast.losses.cluster_memory import Clusters
from gcl_fast.losses.soft_labels import Mix
from gcl_fast.memory import MemoryBank
from gcl_fast.models import GCL
from gcl_fast.optim.optimizers import nesterov
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import set_learning_rate
from gcl_fast.settings import RunConfig
from gcl_fast.stages.clustering import label_to_train, report
from gcl_fast.stages.gcl_step import GCLStep, IdentityTraining, draw_yaw, kind_of
from gcl_fast.stages.graphs import StepGraphs
from gcl_fast.stages.joint_clusters import JointByClusters
from gcl_fast.stages.mixup import draw_mix
from gcl_fast.stages.stage import Stage


class Joint:
    """Represents the joint stage (Chen et al. 2021, section 3.2).

    Outliers are not in the plan of an epoch; they stay in the bank and count as negatives.
    """

    name = "joint"

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.settings = settings = config.joint
        self.config, self.gcl, self.ranks, self.precision = config, gcl, ranks, precision
        self.records = inputs.dataset.train
        self.epochs = settings.epochs
        self.cameras = torch.as_tensor(self.records.camera)
        self.loader = train_loader(self.records, config, ranks)
        self.bank = MemoryBank(
            len(self.records),
            gcl.identity.dim,
            settings.momentum,
            settings.temperature,
            settings.num_negatives,
            live=settings.own_entry == "live",
            own_negatives=settings.negatives_of == "crop",
            terms=settings.terms,
            seed=config.seed,
        ).to(ranks.device)
        self.clusters = Clusters.from_labels(self.bank.labels)
        self.optimizer = nesterov(
            gcl.identity.parameters(),
            settings.lr_identity,
            weight_decay=settings.weight_decay,
            backend=config.optimizer_backend,
        )
        precision.prepare(self.optimizer)
        self.gcl_step = GCLStep(
            gcl,
            config.generative,
            inputs.structure_maps("train", ranks.device),
            ranks,
            precision,
            settings.lr,
            IdentityTraining(self.bank, self.optimizer, settings.batch_statistics),
            config.optimizer_backend,
        )
        optimizers = [*self.gcl_step.optimizers, self.optimizer]
        self.graphs = StepGraphs(config, ranks, self.name, optimizers, rendering=True)

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Cluster the bank; before that, fill it (first epoch), or renew the entries of outliers where so set."""
        if epoch == 0:
            self._embed(torch.arange(len(self.records)))
        elif self.settings.refresh_outliers:
            self._embed((self.bank.labels < 0).nonzero().flatten().cpu())
        labels = label_to_train(
            self.bank.features,
            self.cameras,
            self.settings.clustering,
            self.ranks,
            self.name,
            torch.as_tensor(self.records.tracklet),
        )
        metrics = report(labels, self.bank.labels if epoch else None, torch.as_tensor(self.records.identity))
        self.bank.labels.copy_(labels.labels)
        self.clusters = Clusters.from_labels(self.bank.labels)
        return metrics

    def _embed(self, rows: Tensor) -> None:
        """Overwrite the bank's entries `rows` by eval-mode embeddings; fewer rows than ranks stay as they are."""
        if len(rows) >= self.ranks.world_size:
            crops = self.records.subset(rows.numpy())
            embeddings = extract(self.gcl.identity, crops, self.config, self.ranks, self.precision)
            self.bank.features[rows.to(embeddings.device)] = embeddings

    def plan(self, epoch: int) -> Tensor:
        """Return crop indices (steps, batch) of one pass over the inliers, without its last partial batch."""
        return shuffled_plan(
            (self.bank.labels >= 0).nonzero().flatten().cpu(),
            self.settings.batch,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update D, then G, E_str and E_id, then the bank."""
        decay = 0.1 if epoch >= self.settings.decay_epoch else 1.0
        self.gcl_step.set_learning_rate(self.settings.lr * (decay if self.settings.decay == "all" else 1.0))
        set_learning_rate(self.optimizer, self.settings.lr_identity * decay)
        yaw = draw_yaw(len(index), self.config.seed, epoch, position, self.ranks, self.config.generative.last_yaw)
        mix: tuple[Tensor, ...] = ()
        if self.config.generative.weights.mixup:
            draws = draw_mix(self.bank, self.clusters, index, self.config.seed, epoch, position, self.ranks)
            mix = draws.weight, draws.partner, draws.clusters, draws.centroids
        kind = kind_of(position, self.config.generative.r1_every)
        return self.graphs(self._update, (images, index, yaw, *mix), (kind,))

    def _update(self, position: int, images: Tensor, index: Tensor, yaw: Tensor, *draws: Tensor) -> dict[str, Tensor]:
        mix = None
        if draws:
            weight, partner, clusters, centroids = draws
            mix = Mix(weight, partner, clusters, centroids, self.bank.temperature)
        metrics, embedding = self.gcl_step(images, index, yaw, position, mix)
        self.bank.update_(self.ranks.gather(index), self.ranks.gather(embedding))
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers, and the bank, which holds the labels."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "bank": self.bank.state_dict(),
            "gcl_step": self.gcl_step.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.bank.load_state_dict(state["bank"])
        self.clusters = Clusters.from_labels(self.bank.labels)
        self.gcl_step.load_state_dict(state["gcl_step"])


def make_joint(config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> Stage:
    """Make the joint stage that the settings ask for: the paper's, or the one by the warm-up's contrast."""
    make = Joint if config.joint.clusters is None else JointByClusters
    return make(config, gcl, inputs, ranks, precision)
