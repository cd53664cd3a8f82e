"""What networks of other libraries have in common: their last map is measured, not known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gcl_fast.errors import UserError
from gcl_fast.models.backbones.backbone import Backbone
from gcl_fast.settings.model_sizes import IdentityConfig

CHILD = "backbone"  # name of the network in the encoder
Run = Callable[[nn.Module, Tensor], Tensor]  # a network, crops (B, 3, H, W) -> its last map


def library_backbone(network: nn.Module, run: Run, config: IdentityConfig, size: tuple[int, int]) -> Backbone:
    """Return a network of a library as a backbone; its tensors are called backbone.NAME.

    Args:
        network: with random weights.
        run: computes the last map (B, C, h, w) by the network.
        config: `backbone` is the name for messages; `parts` is the number of stripes.
        size: (H, W) of the crops.

    Raises:
        UserError: the network takes no such crops, or gives no map with a row for each stripe.
    """
    shape = map_shape(network, run, config.backbone, size)
    if len(shape) != 4 or shape[2] * shape[3] == 1:
        raise UserError(
            f"{config.backbone}: from crops of {size[0]}x{size[1]} it makes a tensor of shape {tuple(shape)}, where"
            " stripes need a map (B, C, h, w); choose another backbone, or larger crops"
        )
    if shape[2] < config.parts:
        raise UserError(
            f"model.identity.parts={config.parts}: from crops of {size[0]}x{size[1]} {config.backbone} makes a map of"
            f" {shape[2]} rows, and each stripe needs one of its own; take"
            f" model.identity.parts={shape[2]}, taller crops, or a smaller model.identity.output_stride"
        )
    return Backbone(
        {CHILD: network}, shape[1], lambda encoder, image: run(encoder.get_submodule(CHILD), image), prefix=f"{CHILD}."
    )


def map_shape(network: nn.Module, run: Run, name: str, size: tuple[int, int]) -> torch.Size:
    """Return the shape of what a network makes of one crop, without computing it.

    Args:
        network: in any mode, on any device.
        run: computes the map by the network.
        name: of the network, for the message.
        size: (H, W) of the crop.

    Raises:
        UserError: the network takes no such crop.

    Example:
        >>> map_shape(nn.Conv2d(3, 8, 3, 2, 1), nn.Module.__call__, "a convolution", (64, 40))
        torch.Size([1, 8, 32, 20])
    """
    try:
        return trial(network, run, size)[0].shape
    except (RuntimeError, ValueError, AssertionError) as error:
        raise UserError(f"{name}: it takes no crops of {size[0]}x{size[1]} ({first_line(error)})") from error


def trial(network: nn.Module, run: Run, size: tuple[int, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Return what a network in eval mode makes of one crop of size (H, W), and its parameters by name.

    All of these tensors are without memory, on torch's device "meta".
    """
    training = network.training
    parameters = {name: p.detach().to("meta").requires_grad_() for name, p in network.named_parameters()}
    buffers = {name: tensor.to("meta") for name, tensor in network.named_buffers()}
    tensors = {f"network.{name}": tensor for name, tensor in (*parameters.items(), *buffers.items())}
    try:
        output = functional_call(_Call(network.eval(), run), tensors, torch.zeros(1, 3, *size, device="meta"))
    finally:
        network.train(training)
    return output, parameters


class _Call(nn.Module):
    """Runs a network by a function, as `functional_call` needs it."""

    def __init__(self, network: nn.Module, run: Run):
        super().__init__()
        self.network, self.run = network, run

    def forward(self, image: Tensor) -> Tensor:
        """Compute the map of crops (B, 3, H, W)."""
        return self.run(self.network, image)


def first_line(error: BaseException) -> str:
    """Return the first line of a library's message, or the kind of error where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def unknown_network(library: str, name: str, known: Sequence[str]) -> UserError:
    """Return the error that names the networks of a library whose names are nearest to `name`."""
    nearest = get_close_matches(name, known, 3)
    hint = f"; did you mean {', '.join(nearest)}?" if nearest else f"; it has {len(known)}, such as {known[0]}"
    return UserError(f"model.identity.backbone={library}:{name}: {library} has no network of that name{hint}")
