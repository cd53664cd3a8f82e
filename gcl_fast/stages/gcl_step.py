"""Update GCL by one step: structure maps, forward pass, D by detached fakes, then G, E_str and E_id by the new D.

`reference_step.py` has the same update on one page, in the order of the paper and its official code.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.profiler import record_function

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.losses.adversarial import DiscriminatorLoss, GeneratorAdversarialLoss
from gcl_fast.losses.generator_terms import Views, generative_forward, generator_losses
from gcl_fast.losses.paired_crops import own_view
from gcl_fast.losses.reconstruction import dissimilarity_loss, reconstruction_loss
from gcl_fast.losses.soft_labels import Mix, mix_parts, soft_label_loss
from gcl_fast.memory import MemoryBank
from gcl_fast.models import GCL, appearance_input
from gcl_fast.optim.optimizers import adam
from gcl_fast.optim.precision import Precision
from gcl_fast.optim.schedule import set_learning_rate
from gcl_fast.optim.update import descend
from gcl_fast.random_streams import Stream, torch_generator
from gcl_fast.render.turn import Turns
from gcl_fast.settings import GenerativeConfig


def draw_yaw(count: int, seed: int, epoch: int, position: int, ranks: Ranks, last: int = 315) -> Tensor:
    """Draw the yaws of novel views, uniform over 45, 90, ..., `last` degrees; equal arguments give equal yaws.

    The ranks' yaws in rank order are those that one process would draw for the whole batch.

    Args:
        count: number of crops of this rank.
        seed: the seed of the run.
        epoch: the epoch of the step.
        position: the position of the step in its epoch.
        ranks: their number and this rank's place among them.
        last: the largest yaw, a multiple of 45 degrees.

    Returns:
        (count,) degrees, on the device of this rank.
    """
    generator = torch_generator(seed, epoch, position, Stream.YAW)
    yaw = 45.0 * torch.randint(1, last // 45 + 1, (ranks.world_size, count), generator=generator)
    return yaw[ranks.rank].to(ranks.device, non_blocking=True)


def kind_of(position: int, r1_every: int) -> int:
    """Return 0 for a position whose step takes the R1 penalty, and 1 for another.

    A step uses its position for nothing else, so a graph captured at one position serves all of its kind.
    """
    return min(position % r1_every, 1)


class IdentityTraining(NamedTuple):
    """Holds what trains E_id in the joint stage: the bank, and E_id's optimizer.

    With `batch_statistics` E_id normalizes by the batch, as the official code does; else by its running statistics.
    Statistics of small batches differ from the running ones, so E_id would train on other embeddings than evaluation
    uses.
    """

    bank: MemoryBank
    optimizer: Optimizer
    batch_statistics: bool = True


class GCLStep:
    """Updates D, G, E_str and, in the joint stage, E_id; it holds the optimizers of the first three.

    Args:
        gcl: the networks.
        settings: loss weights, R1, weight decay.
        structure_maps: of the training crops.
        ranks: gradients are averaged over them.
        precision: of the forward passes.
        lr: learning rate of both Adams.
        identity: what trains E_id in the joint stage; None freezes E_id, in eval mode.
        backend: the origin of the fused optimizers, "torch" or "apex".
    """

    def __init__(
        self,
        gcl: GCL,
        settings: GenerativeConfig,
        structure_maps: Turns,
        ranks: Ranks,
        precision: Precision,
        lr: float,
        identity: IdentityTraining | None = None,
        backend: str = "torch",
    ) -> None:
        self.gcl, self.settings, self.identity = gcl, settings, identity
        self.structure_maps, self.ranks, self.precision = structure_maps, ranks, precision
        self.discriminator_loss = DiscriminatorLoss(gcl.discriminator, settings.r1)
        precision.compile(self.discriminator_loss, fullgraph=True)
        self.adversarial = GeneratorAdversarialLoss(gcl.discriminator)
        self.optimizers = [
            adam(p, lr, betas=(0.0, 0.999), weight_decay=settings.weight_decay, backend=backend)
            for p in (list(gcl.discriminator.parameters()), [*gcl.structure.parameters(), *gcl.generator.parameters()])
        ]
        precision.prepare(*self.optimizers)

    def __call__(
        self,
        images: Tensor,
        index: Tensor,
        yaw: Tensor,
        position: int,
        mix: Mix | None = None,
        paired: Tensor | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Update D, then G and E_str, and E_id in the joint stage.

        Args:
            images: crops (B, 3, H, W).
            index: (B,) their indices among the training crops.
            yaw: (B,) degrees, of their novel views.
            position: the position of the step in its epoch; every `r1_every`th takes the R1 penalty.
            mix: in the joint stage, the draws for a fourth image of each crop, of mixed part features; None for none.
            paired: (B,) bool, the crops whose x_rec is drawn from their neighbour (`own_view`); None for none.

        Returns:
            Device scalars for the log (`loss` is the generator's weighted sum), and the embeddings (B, D) of the crops,
            detached, before L2 normalization.
        """
        gcl, joint = self.gcl, self.identity
        gcl.train()
        gcl.identity.train(joint is not None and joint.batch_statistics).requires_grad_(joint is not None)
        optimizer_d, optimizer_g = self.optimizers
        with record_function("gcl_fast::structure maps"):
            turn = self.structure_maps.turn(index, yaw)
        with self.precision.autocast():
            views = generative_forward(gcl, images, turn, train_identity=joint is not None, paired=paired)
            every = self.settings.r1_every if position % self.settings.r1_every == 0 else 0
            with record_function("gcl_fast::discriminate"):
                terms = self.discriminator_loss(images, *(fake.detach() for fake in views.fakes), every=every)
        skipped_d = descend(terms.total, self.ranks, optimizer_d)

        contrast = None if joint is None else joint.bank.loss(views.embedding, views.embedding_new, index)
        with self.precision.autocast():
            mixup = None if mix is None else self._mixup(views, mix)
            losses = generator_losses(
                views, images, self.adversarial, self.settings.weights, view=contrast, mixup=mixup
            )
        optimizers = [optimizer_g] if joint is None else [joint.optimizer, optimizer_g]
        skipped_g = descend(losses["total"], self.ranks, *optimizers)
        self.ranks.average_norms(gcl.identity)
        metrics = {"loss": losses.pop("total"), **losses}
        metrics |= {"d_fake": terms.fake.sum(), "d_real": terms.real} | ({"r1": terms.penalty} if every else {})
        metrics |= {"skipped_discriminator": skipped_d, "skipped_generator": skipped_g}
        return metrics, views.embedding.detach().float()

    def _mixup(self, views: Views, mix: Mix) -> Tensor:
        """Return the soft-label loss of images with mixed part features and the crops' own structure."""
        parts = mix_parts(views.parts, self.ranks.gather(views.parts.detach()), mix)
        with record_function("gcl_fast::decode"):
            images = self.gcl.generator(views.code, parts)
        with record_function("gcl_fast::encode"):
            _, embedding = self.gcl.identity(images)
        return soft_label_loss(embedding, mix)

    def reconstruct(
        self, images: Tensor, index: Tensor, yaw: Tensor, paired: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update G and E_str towards x_rec = x alone, without adversary, cycle or novel view.

        Args:
            images: crops (B, 3, H, W).
            index: (B,) their indices among the training crops.
            yaw: (B,) degrees, of the novel views by way of which pixels are carried.
            paired: (B,) bool, the crops that are drawn from their neighbour (`own_view`); None for none.

        Returns:
            Device scalars for the log.
        """
        gcl, optimizer = self.gcl, self.optimizers[1]
        gcl.train()
        gcl.identity.eval().requires_grad_(False)
        with record_function("gcl_fast::structure maps"):
            turn = self.structure_maps.turn(index, yaw)
        structure = turn.own.contiguous(memory_format=torch.channels_last)
        appearance = weight = None
        with self.precision.autocast(), torch.no_grad(), record_function("gcl_fast::encode"):
            parts, _ = gcl.identity(images)
        if gcl.generator.carries:
            with record_function("gcl_fast::transfer"):
                carried, parts, weight = own_view(turn, images, parts, turn.there(images), paired)
                appearance = appearance_input(structure, carried)
        with self.precision.autocast():
            with record_function("gcl_fast::decode"):
                reconstruction = gcl.generator(gcl.structure(structure), parts, appearance)
            with record_function("gcl_fast::losses"):
                losses = {"image_rec": reconstruction_loss(reconstruction, images, weight)}
                total = self.settings.weights.image * losses["image_rec"]
                if self.settings.weights.similarity:
                    losses["similarity_rec"] = dissimilarity_loss(reconstruction, images, weight)
                    total = total + self.settings.weights.similarity * losses["similarity_rec"]
        return {"loss": total, **losses, "skipped_generator": descend(total, self.ranks, optimizer)}

    def set_learning_rate(self, lr: float) -> None:
        """Set the learning rate of D, G and E_str."""
        for optimizer in self.optimizers:
            set_learning_rate(optimizer, lr)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers."""
        return {name: o.state_dict() for name, o in zip(("discriminator", "generator"), self.optimizers)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name, optimizer in zip(("discriminator", "generator"), self.optimizers):
            optimizer.load_state_dict(state[name])
