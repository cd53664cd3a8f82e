"""Run the generative stage: E_str, G and D learn to draw people from other sides, and E_id is frozen."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gcl_fast.assessment.extract import extract, part_feature_statistics
from gcl_fast.bodies.body_estimator import DOUBTFUL
from gcl_fast.data import paired_plan, shuffled_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, train_loader
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import ramp_then_cosine
from gcl_fast.settings import RunConfig
from gcl_fast.stages.clustering import label, report
from gcl_fast.stages.gcl_step import GCLStep, draw_yaw, kind_of
from gcl_fast.stages.graphs import StepGraphs


class Generative:
    """Represents the generative stage (Chen et al. 2021, section 3.1), with E_id frozen and in eval mode.

    With `generative.pairs` crops come in pairs of one cluster and one camera. The first of a pair is drawn from the
    pixels of the second, so that a crop is the truth of a novel view (`losses.paired_crops`).
    """

    name = "generative"

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.config, self.gcl, self.ranks, self.precision = config, gcl, ranks, precision
        self.epochs = config.generative.epochs
        self.records = inputs.dataset.train
        self.loader = train_loader(self.records, config, ranks)
        self.structure_maps = inputs.structure_maps("train", ranks.device)
        # (N,) cluster and camera of each crop, as one number; -1 where it makes no pair
        self.groups = torch.full((len(self.records),), -1, device=ranks.device)
        self.gcl_step = GCLStep(
            gcl,
            config.generative,
            self.structure_maps,
            ranks,
            precision,
            config.generative.lr,
            backend=config.optimizer_backend,
        )
        self.graphs = StepGraphs(config, ranks, self.name, self.gcl_step.optimizers, rendering=True)

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Before the first epoch measure the part features, for a generator that standardizes them, and find pairs."""
        if epoch > 0:
            return {}
        if self.gcl.generator.standardize:
            statistics = part_feature_statistics(
                self.gcl.identity, self.records, self.config, self.ranks, self.precision
            )
            self.gcl.generator.calibrate(*statistics)
        return self._find_groups() if self.config.in_pairs else {}

    def _find_groups(self) -> dict[str, float]:
        """Group the crops by cluster and camera; outliers and crops with a doubtful body make no pairs."""
        embeddings = extract(self.gcl.identity, self.records, self.config, self.ranks, self.precision)
        cameras = torch.as_tensor(self.records.camera).to(embeddings.device)
        tracklets = torch.as_tensor(self.records.tracklet)
        labels = label(embeddings, cameras, self.config.generative.clustering, self.ranks, tracklets)
        cluster = labels.labels.to(embeddings.device)
        _, camera = torch.unique(cameras, return_inverse=True)
        usable = (cluster >= 0) & (self.structure_maps.confidence >= DOUBTFUL)
        self.groups = torch.where(usable, cluster * (camera.max() + 1) + camera, -1)
        return report(labels, None, torch.as_tensor(self.records.identity))

    def plan(self, epoch: int) -> Tensor:
        """Return crop indices (steps, batch) of one shuffled pass, in pairs where so set, without a partial batch."""
        where = {"seed": self.config.seed, "epoch": epoch, "rank": self.ranks.rank, "world_size": self.ranks.world_size}
        if self.config.in_pairs:
            return paired_plan(self.groups.cpu(), self.config.generative.batch, **where)
        return shuffled_plan(len(self.records), self.config.generative.batch, **where)

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update D, then G and E_str; in the first `reconstruction_epochs` update G and E_str alone."""
        s, steps = self.config.generative, len(self.records) // self.config.generative.batch // self.ranks.world_size
        factor = ramp_then_cosine(epoch * steps + position, s.epochs * steps, s.ramp_steps, s.constant_share)
        self.gcl_step.set_learning_rate(s.lr * factor)
        yaw = draw_yaw(len(index), self.config.seed, epoch, position, self.ranks, s.last_yaw)
        batch = (images, index, yaw, self._paired(index)) if self.config.in_pairs else (images, index, yaw)
        if epoch < s.reconstruction_epochs:
            return self.graphs(self.gcl_step.reconstruct, batch)
        return self.graphs(self._update, batch, (kind_of(position, s.r1_every),))

    def _paired(self, index: Tensor) -> Tensor:
        """Return which crops (B,) are drawn from their neighbour: the first of each pair of one group."""
        first, second = self.groups[index].unflatten(0, (-1, 2)).unbind(1)
        paired = (first == second) & (first >= 0)
        return torch.stack([paired, torch.zeros_like(paired)], 1).flatten()

    def _update(
        self, position: int, images: Tensor, index: Tensor, yaw: Tensor, paired: Tensor | None = None
    ) -> dict[str, Tensor]:
        return self.gcl_step(images, index, yaw, position, paired=paired)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers, and the groups of the crops."""
        return {**self.gcl_step.state_dict(), "groups": self.groups}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.gcl_step.load_state_dict(state)
        if "groups" in state:
            self.groups = state["groups"].to(self.ranks.device)
