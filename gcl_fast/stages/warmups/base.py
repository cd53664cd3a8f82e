"""Share what the warm-ups have in common: E_id alone, augmented crops, and a memory of all crops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

from gcl_fast.assessment.extract import extract
from gcl_fast.data import Augmentation, ExtractLoader, shuffled_plan
from gcl_fast.data.styled_images import StyledImages
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, train_loader
from gcl_fast.memory import MemoryBank
from gcl_fast.models import GCL
from gcl_fast.optim.optimizers import adam, nesterov
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import set_learning_rate
from gcl_fast.settings import AnyWarmup, JVTCConfig, MMCLConfig, RunConfig
from gcl_fast.stages.colours import beside_colours, colour_stripes
from gcl_fast.stages.graphs import StepGraphs


class MemoryWarmup:
    """Represents a stage of the encoder and of a bank with one row for each crop; subclasses are the methods."""

    name = "warmup"
    settings: AnyWarmup
    optimizers: list[Optimizer]
    graphs: StepGraphs

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        self.settings = self.settings_of(config)
        self.config, self.ranks, self.precision = config, ranks, precision
        self.records = records = inputs.dataset.train
        self.epochs = self.settings.epochs
        self.encoder = gcl.identity
        self.cameras = torch.as_tensor(records.camera)
        self.images = StyledImages(records, self.settings.styled)
        self.loader = train_loader(self.images.records, config, ranks, Augmentation())
        self.owner = self.images.owner.to(ranks.device)
        width = gcl.identity.dim
        self.bank = MemoryBank(len(records), width, self.settings.momentum).to(ranks.device)
        self._stripes: Tensor | None = None  # (N, C) colours, made when first needed

    @staticmethod
    def settings_of(config: RunConfig) -> AnyWarmup:
        """Return the stage's part of the settings."""
        assert config.warmup is not None  # `make_warmup` refuses it
        return config.warmup

    def fill_bank(self) -> None:
        """Write eval-mode embeddings of all crops to the bank."""
        self.bank.features.copy_(extract(self.encoder, self.records, self.config, self.ranks, self.precision))

    def embed(self, images: Tensor) -> Tensor:
        """Return the embeddings (B, D) of `images` (B, 3, H, W) by the encoder in training mode."""
        self.encoder.train()
        with self.precision.autocast(), record_function("gcl_fast::encode"):
            _, embedding = self.encoder(images)
        return embedding

    def images_of(self, crops: Tensor, epoch: int, count: int = 1) -> Tensor:
        """Draw `count` images of each of this rank's crops (steps, batch): (steps, batch * count), crop by crop."""
        ranks = self.ranks
        return self.images.draw(crops, count, self.config.seed, epoch, ranks.rank, ranks.world_size)

    def descriptors(self, trained: bool) -> Tensor:
        """Return the unit rows (N, C) by which crops are compared: the bank, with clothing colours where so set.

        Args:
            trained: whether labels have trained the encoder. Before that, colours alone count, unless the encoder was
                trained on a source.
        """
        if not self.settings.colours:
            return self.bank.features
        if self._stripes is None:
            loader = ExtractLoader(self.records, self.config.size, self.ranks.device)
            self._stripes = colour_stripes(loader, len(self.records)).to(self.ranks.device)
        trained = trained or self.config.source is not None
        return beside_colours(self.bank.features if trained else None, self._stripes, self.cameras)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the optimizers and the bank."""
        return {"optimizers": [o.state_dict() for o in self.optimizers], "bank": self.bank.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for optimizer, optimizer_state in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(optimizer_state)
        self.bank.load_state_dict(state["bank"])


class PassWarmup(MemoryWarmup, ABC):
    """Represents a warm-up that passes over all crops in shuffled order, with a learning rate that falls in steps.

    It has two optimizers, of the convolutions and of the head, and each has its own learning rate.
    """

    settings: MMCLConfig | JVTCConfig

    def __init__(self, config: RunConfig, gcl: GCL, inputs: Inputs, ranks: Ranks, precision: Precision) -> None:
        super().__init__(config, gcl, inputs, ranks, precision)
        s = self.settings
        head = [*self.encoder.feat.parameters(), *self.encoder.feat_bn.parameters()]
        ids = {id(parameter) for parameter in head}
        backbone = [parameter for parameter in self.encoder.parameters() if id(parameter) not in ids]
        make = nesterov if s.optimizer == "sgd" else partial(adam, decoupled=True)
        self.optimizers = [
            make(parameters, s.lr, weight_decay=s.weight_decay, backend=config.optimizer_backend)
            for parameters in (backbone, head)
        ]
        precision.prepare(*self.optimizers)
        self.graphs = StepGraphs(config, ranks, self.name, self.optimizers)
        whole_pass = len(self.records) // (s.batch * ranks.world_size)
        self.steps = min(s.steps_per_epoch, whole_pass) or whole_pass  # in an epoch

    def crops(self, epoch: int) -> Tensor:
        """Return the crops (steps, batch) of this rank in `epoch`."""
        plan = shuffled_plan(
            len(self.records),
            self.settings.batch,
            seed=self.config.seed,
            epoch=epoch,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
        )
        return plan[: self.steps]

    def set_learning_rates(self, epoch: int, position: int) -> None:
        """Set the learning rates: a linear rise over the first steps, then a tenth every `decay_every` epochs."""
        s = self.settings
        rise = min(1.0, (epoch * self.steps + position + 1) / max(s.ramp_steps, 1))
        rate = s.lr * rise * 0.1 ** (epoch // s.decay_every)
        for optimizer, share in zip(self.optimizers, (s.backbone_lr_share, 1.0)):
            set_learning_rate(optimizer, rate * share)

    def step(self, images: Tensor, index: Tensor, epoch: int, position: int) -> dict[str, Tensor]:
        """Update the encoder, then the bank."""
        self.set_learning_rates(epoch, position)
        return self.graphs(self._update, (images, index), (epoch,))

    @abstractmethod
    def _update(self, epoch: int, images: Tensor, index: Tensor) -> dict[str, Tensor]:
        """Update by the labels and the momentum of `epoch`."""
