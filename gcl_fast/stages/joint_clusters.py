"""Run the joint stage by the warm-up's contrast: E_id learns from crops and their novel views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from gcl_fast.bodies.body_estimator import DOUBTFUL
from gcl_fast.bodies.usable_views import usable_views
from gcl_fast.data.augment import Augmentation, Draws, augment, draw_for
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.evaluation.inference import NovelViews, novel_views
from gcl_fast.inputs import Inputs, train_loader
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.settings import RunConfig, WarmupConfig
from gcl_fast.stages.gcl_step import GCLStep, draw_yaw, kind_of
from gcl_fast.stages.graphs import StepGraphs
from gcl_fast.stages.warmups.cluster import Warmup


class JointByClusters(Warmup):
    """Represents a joint stage in which novel views are further queries of the contrast with clusters.

    A step takes a batch of `identities` x `crops` crops, as the warm-up does. It replaces `view_share` of each
    identity's crops by their novel views, augments all, and updates E_id and the bank. Every `update_every`th step
    updates G, E_str and D as well, by the crops of that step and the features of E_id. D stays as it is where the
    generative stage never trains it, in `reconstruction_epochs` alone.

    A crop whose body is doubtful stays as it is. So does one that shows too little of its body to carry, as where the
    body lies outside the crop. The metric `views` is the share of the views that were used.
    """

    name = "joint"
    section = "joint.clusters"

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        super().__init__(config, gcl, inputs, ranks, precision)
        self.gcl, self.joint = gcl, config.joint
        self.loader = train_loader(self.images.records, config, ranks)  # views are drawn from crops as they are
        self.structure_maps = inputs.structure_maps("train", ranks.device)
        self.gcl_step = GCLStep(
            gcl,
            config.generative,
            self.structure_maps,
            ranks,
            precision,
            self.joint.lr,
            backend=config.optimizer_backend,
        )
        self.alone = config.generative.reconstruction_epochs >= config.generative.epochs
        self.graphs = StepGraphs(
            config, ranks, self.name, [*self.optimizers, *self.gcl_step.optimizers], rendering=True
        )
        within = torch.arange(self.settings.crops) < round(self.joint.view_share * self.settings.crops)
        self.turned = within.repeat(self.settings.identities).nonzero().flatten().to(ranks.device)

    @staticmethod
    def settings_of(config: RunConfig) -> WarmupConfig:
        """Return the settings of the contrast with clusters."""
        assert config.joint.clusters is not None  # `make_joint` chose this stage by it
        return config.joint.clusters

    def descriptors(self, trained: bool) -> Tensor:
        """Return the unit rows (N, C) by which crops are compared: E_id was trained before this stage."""
        return super().descriptors(trained=True)

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update E_id and the bank by crops and views; at some positions also D, then G and E_str."""
        s, seed, ranks = self.settings, self.config.seed, self.ranks
        self.set_learning_rate(epoch, position)
        yaw = draw_yaw(len(index), seed, epoch, position, ranks, self.config.generative.last_yaw)
        draws = draw_for(Augmentation(), len(index), seed, epoch, position, ranks.rank, ranks.world_size)
        # 0 and 1: an update of the generator as well, with the R1 penalty or without; 2: none
        number, rest = divmod(epoch * s.steps_per_epoch + position, self.joint.update_every)
        kind = 2 if rest else kind_of(number, self.config.generative.r1_every)
        return self.graphs(self._step, (images, index, yaw, *draws.to(ranks.device)), (epoch, kind))

    def _step(
        self, epoch: int, kind: int, images: Tensor, index: Tensor, yaw: Tensor, *draws: Tensor
    ) -> dict[str, Tensor]:
        """Update by the labels of `epoch`, with which all tensors of clusters are replaced."""
        with record_function("gcl_fast::decode"), torch.no_grad():
            views, used = self._views(images[self.turned], index[self.turned], yaw[self.turned])
            mixed = images.index_copy(0, self.turned, views.to(images))
            batch = augment(mixed, Draws(*draws))
        self.encoder.requires_grad_(True)
        metrics = self._update(epoch, batch, index)
        if len(self.turned):
            metrics["views"] = used.float().mean()
        if kind < 2:
            one = slice(0, None, self.settings.crops)  # of each identity
            crops = self.owner[index[one]]
            if self.alone:
                drawn = self.gcl_step.reconstruct(images[one], crops, yaw[one])
            else:
                drawn, _ = self.gcl_step(images[one], crops, yaw[one], kind)
            metrics |= {name: value for name, value in drawn.items() if name != "loss"}
        return metrics

    def _views(self, images: Tensor, index: Tensor, yaw: Tensor) -> tuple[Tensor, Tensor]:
        """Return novel views (B, 3, H, W) of crops, drawn by G or their carried pixels alone, and which are used (B,).

        In place of a view that is not used its crop is returned.
        """
        crops = self.owner[index]
        turn = self.structure_maps.turn(crops, yaw)
        if self.joint.views == "carried":
            carried = turn.there(images)
            views = NovelViews(carried.colour, carried)
        else:
            views = novel_views(self.gcl, images, turn, self.precision.autocast)
        confidence = self.structure_maps.confidence[crops]
        used = confidence >= DOUBTFUL if views.carried is None else usable_views(turn, views.carried, confidence)
        return torch.where(used[:, None, None, None], views.images, images), used

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers and the bank, and the labels."""
        return {**super().state_dict(), "gcl_step": self.gcl_step.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        super().load_state_dict(state)
        self.gcl_step.load_state_dict(state["gcl_step"])
