"""Run the generative stage: E_str, G and D learn to draw people from other sides, and E_id is frozen."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from gcl_fast.assessment.extract import part_feature_statistics
from gcl_fast.data import shuffled_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, train_loader
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import ramp_then_cosine
from gcl_fast.settings import RunConfig
from gcl_fast.stages.gcl_step import GCLStep, draw_yaw, kind_of
from gcl_fast.stages.graphs import StepGraphs


class Generative:
    """Represents the generative stage (Chen et al. 2021, section 3.1), with E_id frozen and in eval mode."""

    name = "generative"

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.config, self.gcl, self.ranks, self.precision = config, gcl, ranks, precision
        self.epochs = config.generative.epochs
        self.records = inputs.dataset.train
        self.loader = train_loader(self.records, config, ranks)
        self.gcl_step = GCLStep(
            gcl,
            config.generative,
            inputs.structure_maps("train", ranks.device),
            ranks,
            precision,
            config.generative.lr,
            backend=config.optimizer_backend,
        )
        self.graphs = StepGraphs(config, ranks, self.name, self.gcl_step.optimizers, rendering=True)

    def begin_epoch(self, epoch: int) -> dict[str, float]:
        """Measure the part features before the first epoch, for a generator that standardizes them."""
        if epoch == 0 and self.gcl.generator.standardize:
            statistics = part_feature_statistics(
                self.gcl.identity, self.records, self.config, self.ranks, self.precision
            )
            self.gcl.generator.calibrate(*statistics)
        return {}

    def plan(self, epoch: int) -> Tensor:
        """Return crop indices (steps, batch) of one shuffled pass, without its last partial batch."""
        return shuffled_plan(
            len(self.records),
            self.config.generative.batch,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update D, then G and E_str; in the first `reconstruction_epochs` update G and E_str alone."""
        s, steps = self.config.generative, len(self.records) // self.config.generative.batch // self.ranks.world_size
        factor = ramp_then_cosine(epoch * steps + position, s.epochs * steps, s.ramp_steps, s.constant_share)
        self.gcl_step.set_learning_rate(s.lr * factor)
        yaw = draw_yaw(len(index), self.config.seed, epoch, position, self.ranks, s.last_yaw)
        if epoch < s.reconstruction_epochs:
            return self.graphs(self.gcl_step.reconstruct, (images, index, yaw))
        return self.graphs(self._update, (images, index, yaw), (kind_of(position, s.r1_every),))

    def _update(self, position: int, images: Tensor, index: Tensor, yaw: Tensor) -> dict[str, Tensor]:
        return self.gcl_step(images, index, yaw, position)[0]

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return self.gcl_step.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.gcl_step.load_state_dict(state)
