"""The peer of the training step: the official formulation in plain eager PyTorch, written from the published method.

Every network call stands alone; for each kind of fake the real crops and their penalty pass D once more; D's parameters
take gradients in G's update; the contrastive loss clones the bank and goes crop by crop; layers are PyTorch's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from gcl_fast.kernels.batch_norm import batch_norm_relu_reference
from gcl_fast.kernels.reflect_pad import reflect_pad_reference
from gcl_fast.losses.mixup import Mix
from gcl_fast.losses.reconstruction import reconstruction_loss
from gcl_fast.models import Discriminator, generator, identity, layers
from gcl_fast.training.step import GCLStep


class OfficialStep(GCLStep):
    """`GCLStep` in the official order of calls; takes over the networks, settings and optimizers of another.

    The structure maps are rendered in the first step only: the official code reads them with the crops.
    """

    def __init__(self, ours: GCLStep, layout: torch.memory_format) -> None:
        self.__dict__.update(vars(ours))
        self.layout, self.maps = layout, list[Tensor]()

    def __call__(
        self,
        images: Tensor,
        index: Tensor,
        yaw: Tensor,
        position: int,
        identity_optimizer: torch.optim.Optimizer | None = None,
        mix: Mix | None = None,
    ) -> tuple[dict[str, Tensor], Tensor]:
        assert mix is None  # the official code mixes nothing
        gcl, joint = self.gcl, identity_optimizer is not None
        gcl.train()
        gcl.identity.train(joint and self.batch_statistics).requires_grad_(joint)
        optimizer_d, optimizer_g = self.optimizers
        if not self.maps:
            self.maps = [self.structure_maps(index, angle) for angle in (torch.zeros_like(yaw), yaw)]
        images, own, new = (x.contiguous(memory_format=self.layout) for x in (images, *self.maps))
        with self.precision.autocast():
            parts, embedding = gcl.identity(images)
            code, code_new = gcl.structure(own), gcl.structure(new)
            x_rec, x_new = gcl.generator(code, parts), gcl.generator(code_new, parts)
            parts_rec, _ = gcl.identity(x_rec)
            parts_new, embedding_new = gcl.identity(x_new)
            x_cyc = gcl.generator(code, parts_new)
            parts_cyc, _ = gcl.identity(x_cyc)
            fakes = (x_rec, x_new, x_cyc)
            loss_d = discriminator_loss(gcl.discriminator, images, [f.detach() for f in fakes], self.settings.r1)
        optimizer_d.zero_grad()
        loss_d.backward()
        optimizer_d.step()

        weights = self.settings.weights
        with self.precision.autocast():
            maps = [m.float() for fake in fakes for m in gcl.discriminator(fake)]
            loss = weights.adversarial * sum((2 * (m - 1).square().mean() for m in maps), start=images.new_zeros(()))
        image = reconstruction_loss(x_rec, images) + reconstruction_loss(x_cyc, images)
        feature = reconstruction_loss(parts_rec, parts) + reconstruction_loss(parts_cyc, parts)
        loss = loss + weights.image * image + weights.feature * feature
        if self.bank is not None:
            loss = loss + weights.view * self.bank.loss(embedding, embedding_new, index)
        trained = [optimizer_g] if identity_optimizer is None else [optimizer_g, identity_optimizer]
        for optimizer in trained:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in trained:
            optimizer.step()
        return {"loss": loss.detach(), "d": loss_d.detach()}, embedding.detach().float()


def discriminator_loss(discriminator: Discriminator, real: Tensor, fakes: list[Tensor], gamma: float = 0.01) -> Tensor:
    """For each kind of fake: D(fake)^2 + (D(real) - 1)^2 + gamma * R1, by double backward."""
    total = real.new_zeros(())
    for fake in fakes:
        leaf = real.detach().clone().requires_grad_()
        for real_map, fake_map in zip(discriminator(leaf), discriminator(fake), strict=True):
            (gradient,) = torch.autograd.grad(real_map.sum(), leaf, create_graph=True)
            penalty = gradient.square().sum((1, 2, 3)).mean()
            total = total + fake_map.float().square().mean() + (real_map.float() - 1).square().mean() + gamma * penalty
    return total


def plain_norm(
    x: Tensor,
    scale: Tensor | None = None,
    shift: Tensor | None = None,
    residual: Tensor | None = None,
    slope: float = 1.0,
    whole: bool = False,
) -> Tensor:
    """`styled_norm` as one would write it with PyTorch's own operations."""
    y = F.group_norm(x, 1) if whole else F.instance_norm(x)
    if scale is not None and shift is not None:
        y = y * scale[:, :, None, None] + shift[:, :, None, None]
    y = F.leaky_relu(y, slope)
    return y if residual is None else y + residual


def plain_upsampling(self: layers.UpsampledConv, x: Tensor) -> Tensor:
    """`UpsampledConv.forward` by its definition."""
    return F.conv2d(reflect_pad_reference(F.interpolate(x, scale_factor=2), 2), self.weight, self.bias)


Patch = Callable[[], object]
PLAIN: dict[str, list[Patch]] = {
    "norm": [
        lambda: patch.object(layers, "styled_norm", plain_norm),
        lambda: patch.object(generator, "styled_norm", plain_norm),
        lambda: patch.object(identity, "batch_norm_relu", batch_norm_relu_reference),
    ],
    "padding": [lambda: patch.object(layers, "reflect_pad", reflect_pad_reference)],
    "second": [lambda: patch.object(layers, "convolve", torch.conv2d)],
    "upsampling": [lambda: patch.object(layers.UpsampledConv, "forward", plain_upsampling)],
}


@contextmanager
def plain_layers(*names: str) -> Iterator[None]:
    """Within, layers called `names` (all of PLAIN by default) are made of PyTorch's own operations."""
    with ExitStack() as stack:
        for name in names or PLAIN:
            for make in PLAIN[name]:
                stack.enter_context(make())  # type: ignore[arg-type]
        yield
