"""Prepare the networks and the whole step of each stage, each with its peers, for a measurement."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import partial
from itertools import chain

import torch
from torch import Tensor, nn

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import make_embedded_dataset, open_inputs
from gcl_fast.losses.adversarial import DiscriminatorLoss
from gcl_fast.optim.precision import Precision, choose
from gcl_fast.settings import RunConfig
from gcl_fast.stages.reference_step import discriminator_loss
from lib.flops import Flops
from lib.parts import Part
from lib.plain_layers import plain_layers
from lib.stages import KINDS, first_batch, first_epoch, networks, open_stage, small_config

PLAIN = "plain PyTorch, float32"


def network_groups(device: str, full: bool) -> dict[str, Callable[[], Iterator[Part]]]:
    """Return groups of parts as `parts.groups` does, of the demo's networks and, if `full`, of the paper's."""
    configs = [small_config(preset, device) for preset in (("demo", "paper") if full else ("demo",))]
    return {
        "networks": lambda: chain.from_iterable(map(passes, configs)),
        "steps": lambda: chain.from_iterable(map(steps, configs)),
    }


def passes(config: RunConfig, batch: int = 16) -> Iterator[Part]:
    """Yield identity encoder, generator, and discriminator with R1, each forward and backward."""
    torch.manual_seed(0)
    label, device = f", {config.preset}", torch.device(config.device)
    precision = choose(config.amp, device, config.compile)
    gcl = networks(config, precision, device)
    image = torch.randn(batch, 3, *config.size, device=device).contiguous(memory_format=torch.channels_last)
    codes = gcl.structure(torch.randn(batch, 1, *config.size, device=device)).detach()
    style = torch.randn(batch, config.model.identity.part_features, device=device)
    plain = deepcopy(gcl).to(memory_format=torch.contiguous_format)

    def both(network: nn.Module, arguments: tuple[Tensor, ...], fast: bool) -> None:
        network.zero_grad(set_to_none=True)
        with precision.autocast() if fast else plain_layers():
            made = network(*arguments)
        (made if isinstance(made, Tensor) else made[0]).float().square().mean().backward()

    for name, network, peer, arguments in (
        ("identity encoder", gcl.identity, plain.identity, (image,)),
        ("generator", gcl.generator, plain.generator, (codes, style)),
    ):
        contenders: dict[str, Callable[[], object]] = {
            "ours": partial(both, network, arguments, True),
            PLAIN: partial(both, peer, tuple(x.contiguous() for x in arguments), False),
        }
        yield counted(name + label, batch, contenders)
    fakes = torch.randn(3, *image.shape, device=device).unbind()
    loss = DiscriminatorLoss(gcl.discriminator)
    precision.compile(loss, fullgraph=True)

    def ours() -> None:
        loss.zero_grad(set_to_none=True)
        with precision.autocast():
            total = loss(image, *fakes).total
        total.backward()

    def official() -> None:
        plain.discriminator.zero_grad(set_to_none=True)
        with plain_layers():
            total = discriminator_loss(plain.discriminator, image.contiguous(), list(fakes))
        total.backward()

    contenders = {"ours": ours, "official, float32": official}
    yield counted(f"discriminator with R1{label}", batch, contenders)


def steps(config: RunConfig) -> Iterator[Part]:
    """Yield one update of each stage on the embedded dataset, without loading; its peer runs in float32."""
    make_embedded_dataset(config)
    device = torch.device(config.device)
    ranks, inputs = Ranks(0, 1, device), open_inputs(config)
    precision = choose(config.amp, device, config.compile)
    plain = Precision(device.type, None, "float32")

    def step_of(name: str, arithmetic: Precision) -> tuple[Callable[[], object], int]:
        stage = open_stage(name, config, inputs, ranks, arithmetic)
        epoch = first_epoch(stage, config)
        images, index = first_batch(stage, epoch)
        return partial(stage.step, images, index, epoch, 0), len(images)

    for name in KINDS:
        (ours, batch), (peer, _) = step_of(name, precision), step_of(name, plain)
        yield counted(f"{name} step, {config.preset}", batch, {"ours": ours, "float32, eager": peer})


def counted(name: str, size: int, contenders: Mapping[str, Callable[[], object]]) -> Part:
    """Return a part that works on `size` images; its FLOPs are counted while ours runs once, eagerly."""
    with torch.compiler.set_stance("force_eager"), Flops() as flops:
        contenders["ours"]()
    return Part(name, size, "images", contenders, flops.total, arithmetic="convolution")
