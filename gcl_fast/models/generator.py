"""Generator: draws an image from a structure code, part features and, where so set, the crop's carried pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.kernels._triton import triton_serves
from gcl_fast.kernels.styled_norm import styled_norm
from gcl_fast.models.appearance_encoder import AppearanceEncoder
from gcl_fast.models.layers import (
    SLOPE,
    ConvBlock,
    LayerNorm,
    ReflectConv,
    init_kaiming,
    widen,
)
from gcl_fast.models.upsampled_conv import UpsampledConv
from gcl_fast.settings.model_sizes import GeneratorConfig


def _mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Build the network that turns a slice of the part features into scales or shifts."""
    return nn.Sequential(
        nn.Linear(inputs, hidden),
        nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, hidden),
        nn.LeakyReLU(SLOPE),
        nn.Linear(hidden, outputs),
    )


def run_mlps(mlps: Sequence[nn.Module], x: Tensor) -> Tensor:
    """Run K equal networks of `_mlp`, each on its block of x; one launch computes K products.

    Args:
        mlps: K networks.
        x: (K, B, S).

    Returns:
        (K, B, D).
    """
    for layers in zip(*mlps):
        if isinstance(layers[0], nn.Linear):
            weight, bias = (torch.stack([getattr(layer, name) for layer in layers]) for name in ("weight", "bias"))
            x = torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))
        else:
            x = F.leaky_relu(x, SLOPE)
    return x


class StyledBlock(nn.Module):
    """Represents a residual block whose two instance norms take scale and shift from a slice of the part features.

    The norms are AdaIN (Huang and Belongie 2017, eq. 8).

    Args:
        channels: C, of the map.
        style: size of the slice.
        hidden: width of the MLPs.
    """

    def __init__(self, channels: int, style: int, hidden: int):
        super().__init__()
        self.first = ReflectConv(channels, channels, 3)
        self.second = ReflectConv(channels, channels, 3)
        self.scale = _mlp(style, hidden, 2 * channels)
        self.shift = _mlp(style, hidden, 2 * channels)

    def forward(self, x: Tensor, scales: Sequence[Tensor], shifts: Sequence[Tensor]) -> Tensor:
        """Run the block.

        Args:
            x: (B, C, H, W).
            scales: (B, C) of the first norm and of the second.
            shifts: (B, C) of the first norm and of the second.

        Returns:
            (B, C, H, W).
        """
        y = styled_norm(self.first(x), scales[0], shifts[0], slope=SLOPE)
        return styled_norm(self.second(y), scales[1], shifts[1], residual=x)


class UpBlock(nn.Module):
    """Doubles the size of a map: upsampled convolution, layer norm, LeakyReLU.

    Args:
        inputs: channels of the small map.
        outputs: channels of the large map.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv = UpsampledConv(inputs, outputs)
        self.norm = LayerNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map (B, C, H, W) into one of (B, D, 2H, 2W)."""
        return self.norm(self.conv(x))


class Generator(nn.Module):
    """Draws an image from a structure code and part features.

    The part features are cut into as many consecutive slices as there are blocks; slice k drives block k. With
    `config.standardize` they are standardized first, by the statistics that `calibrate` sets: most of their value is
    common to all crops, and small networks learn faster from the rest.

    With `config.appearance` "carried" the generator completes an image: it sees the crop's pixels in the view that it
    draws (`kernels.transfer_appearance`), keeps what is certain, and paints the rest.

    Args:
        config: sizes.
        channels: of the structure code.
        part_features: P, of a crop.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> sizes = ModelConfig.demo()
        >>> generator = Generator(sizes.generator, sizes.structure.code, sizes.identity.part_features)
        >>> generator(torch.randn(1, sizes.structure.code, 32, 16), torch.randn(1, sizes.identity.part_features)).shape
        torch.Size([1, 3, 128, 64])
    """

    part_mean: Tensor
    part_scale: Tensor

    def __init__(self, config: GeneratorConfig, channels: int, part_features: int):
        super().__init__()
        style = part_features // config.blocks
        self.blocks = nn.ModuleList(StyledBlock(channels, style, config.hidden) for _ in range(config.blocks))
        wide, narrow = config.upsampled
        self.up = nn.Sequential(
            UpBlock(channels, wide),
            UpBlock(wide, narrow),
        )
        self.refine = nn.Sequential(
            ConvBlock(narrow, narrow, 3, activate=False), ConvBlock(narrow, narrow, 3, input_slope=SLOPE)
        )
        self.carries = config.appearance == "carried"
        if self.carries:
            self.appearance = AppearanceEncoder(channels, wide, narrow)
        self.paint = nn.Conv2d(narrow, 4 if self.carries else 3, 1)
        self.apply(init_kaiming)
        self.standardize = config.standardize
        if config.standardize:
            self.register_buffer("part_mean", torch.zeros(part_features))
            self.register_buffer("part_scale", torch.ones(part_features))

    def calibrate(self, mean: Tensor, std: Tensor) -> None:
        """Set the statistics by which part features are standardized.

        Args:
            mean: (P,) of the part features over the training crops.
            std: (P,) likewise; below 0.001 it counts as 0.001, so that a constant feature stays small.
        """
        self.part_mean.copy_(mean)
        self.part_scale.copy_(1 / std.clamp(min=1e-3))

    def _styles(self, part_features: Tensor) -> list[tuple[Sequence[Tensor], Sequence[Tensor]]]:
        """Compute scales and shifts of each block; on a GPU, where launches are the cost, the MLPs run as one."""
        mlps = [block.get_submodule(name) for block in self.blocks for name in ("scale", "shift")]
        slices = [style for style in part_features.chunk(len(self.blocks), 1) for _ in range(2)]
        if triton_serves(part_features):
            rows = run_mlps(mlps, torch.stack(slices)).unflatten(2, (2, -1))  # (2 * blocks, B, 2, C)
            halves = rows.movedim(2, 1).flatten(0, 1).unbind()
        else:
            halves = tuple(half for mlp, style in zip(mlps, slices) for half in mlp(style).chunk(2, 1))
        pairs = list(zip(halves[::2], halves[1::2]))
        return list(zip(pairs[::2], pairs[1::2]))

    def forward(self, structure: Tensor, part_features: Tensor, appearance: Tensor | None = None) -> Tensor:
        """Draw images.

        Args:
            structure: (B, channels, H/4, W/4) structure codes.
            part_features: (B, P).
            appearance: (B, 5, H, W) carried pixels as `appearance_input` joins them, for a generator that takes them.

        Returns:
            (B, 3, H, W), ImageNet-normalized and not clamped.

        Raises:
            ValueError: `appearance` is missing where `config.appearance` is "carried", or given where it is "parts".
        """
        if (appearance is not None) != self.carries:
            need = "needs" if self.carries else "takes no"
            raise ValueError(f"a generator of this model.generator.appearance {need} carried pixels")
        maps = None if appearance is None else self.appearance(appearance)
        x = structure if maps is None else structure + maps.small
        if self.standardize:
            part_features = (part_features - self.part_mean) * self.part_scale
        for block, styles in zip(self.blocks, self._styles(part_features)):
            x = block(x, *styles)
        if appearance is None or maps is None:
            return self.paint(self.refine(self.up(x)))
        x = self.up[0](x) + maps.middle
        x = self.up[1](x) + maps.large
        painted = widen(self.paint(self.refine(x)))
        kept = painted[:, 3:].sigmoid()
        return kept * appearance[:, 1:4] + (1 - kept) * painted[:, :3]
