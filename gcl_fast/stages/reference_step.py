"""Update GCL by one step, on one page written from the published method; `GCLStep` is tested and timed against it.

Every network call stands alone. For each kind of generated image the crops and their R1 penalty pass D once more. D's
parameters take gradients in G's update. No calls are merged or skipped.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.losses.reconstruction import reconstruction_loss
from gcl_fast.losses.soft_labels import Mix
from gcl_fast.models import Discriminator
from gcl_fast.stages.gcl_step import GCLStep


class ReferenceStep:
    """Updates the networks by Chen et al. 2021 in the order of its official code, and is called as `GCLStep` is.

    Args:
        step: the step whose networks, settings and optimizers this one uses.
        layout: memory format of the images; the official code's is `torch.contiguous_format`.
        fixed_maps: render the structure maps in the first call only. The official code reads them with the crops.
    """

    def __init__(
        self, step: GCLStep, layout: torch.memory_format = torch.contiguous_format, fixed_maps: bool = False
    ) -> None:
        self.step, self.layout, self.fixed_maps = step, layout, fixed_maps
        self._maps: list[Tensor] = []

    def __call__(
        self, images: Tensor, index: Tensor, yaw: Tensor, position: int, mix: Mix | None = None
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert mix is None, "the paper mixes no part features"
        assert not self.step.gcl.generator.carries, "the paper carries no pixels"
        gcl, joint, settings = self.step.gcl, self.step.identity, self.step.settings
        gcl.train()
        gcl.identity.train(joint is not None and joint.batch_statistics).requires_grad_(joint is not None)
        optimizer_d, optimizer_g = self.step.optimizers

        # Structure maps at the yaw of the crop and at the novel one
        if not (self.fixed_maps and self._maps):
            turn = self.step.structure_maps.turn(index, yaw)
            self._maps = [turn.own, turn.novel]
        images, structure, structure_new = (x.contiguous(memory_format=self.layout) for x in (images, *self._maps))

        # Forward: reconstruction x_rec, novel view x_new, and the crop again from the novel view, x_cyc
        with self.step.precision.autocast():
            parts, embedding = gcl.identity(images)
            code, code_new = gcl.structure(structure), gcl.structure(structure_new)
            x_rec, x_new = gcl.generator(code, parts), gcl.generator(code_new, parts)
            parts_rec, _ = gcl.identity(x_rec)
            parts_new, embedding_new = gcl.identity(x_new)
            x_cyc = gcl.generator(code, parts_new)
            parts_cyc, _ = gcl.identity(x_cyc)
            fakes = (x_rec, x_new, x_cyc)

            # D: crops towards 1, generated images towards 0 (least squares), and R1
            loss_d = discriminator_loss(gcl.discriminator, images, [fake.detach() for fake in fakes], settings.r1)
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        # G and E_str, and E_id in the joint stage, against the new D
        weights = settings.weights
        with self.step.precision.autocast():
            scores = [score.float() for fake in fakes for score in gcl.discriminator(fake)]
            adversarial = torch.stack([2 * (score - 1).square().mean() for score in scores]).sum()
        image = reconstruction_loss(x_rec, images) + reconstruction_loss(x_cyc, images)
        feature = reconstruction_loss(parts_rec, parts) + reconstruction_loss(parts_cyc, parts)
        loss = weights.adversarial * adversarial + weights.image * image + weights.feature * feature
        optimizers = [optimizer_g]
        if joint is not None:
            loss = loss + weights.view * joint.bank.loss(embedding, embedding_new, index)
            optimizers.append(joint.optimizer)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
        return {"loss": loss.detach(), "discriminator": loss_d.detach()}, embedding.detach().float()


def discriminator_loss(discriminator: Discriminator, real: Tensor, fakes: list[Tensor], gamma: float = 0.01) -> Tensor:
    """Return the sum over scales and kinds of generated images of D(fake)^2 + (D(real) - 1)^2 + gamma * R1.

    R1 is the squared norm of the gradient of D by the crops (Mescheder et al. 2018), taken by double backward.

    Args:
        discriminator: returns one map of scores for each scale.
        real: crops (B, 3, H, W).
        fakes: generated images of that shape, detached.
        gamma: weight of R1.
    """
    total = real.new_zeros(())
    for fake in fakes:
        leaf = real.detach().clone().requires_grad_()
        for real_scores, fake_scores in zip(discriminator(leaf), discriminator(fake), strict=True):
            (gradient,) = torch.autograd.grad(real_scores.sum(), leaf, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            real_loss = (real_scores.float() - 1).square().mean()
            total = total + fake_scores.float().square().mean() + real_loss + gamma * penalty
    return total
