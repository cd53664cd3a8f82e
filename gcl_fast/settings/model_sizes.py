"""Hold the sizes of the four networks, and check which images they take.

The defaults are the paper's; `ModelConfig.demo()` fits a step on two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Literal

from gcl_fast.errors import UserError
from gcl_fast.settings.ranges import Count

BACKBONES = ("residual", "resnet50-ibn-a")  # made here; `models.backbones` has them
LIBRARIES = ("torchvision", "timm")  # whose networks are called LIBRARY:NAME
PACKAGED_BACKBONE = "torchvision:mobilenet_v2"  # of which an installed package may have weights
SHORT_NAMES = {"mobilenetv2": PACKAGED_BACKBONE}
DILATIONS = (3, 6, 9)  # of the structure encoder's branches, in pixels of its code


@dataclass(frozen=True)
class IdentityConfig:
    """Holds the backbone of the identity encoder and its sizes. The defaults are ResNet-50 with last stride 1.

    `channels`, `blocks` and `strides` have one entry per stage of a residual network. They and the settings of the stem
    do not count for the network of a library, and of them `strides` alone counts for resnet50-ibn-a.

    Raises:
        UserError: there is no such backbone, or a residual network is given an output stride.
    """

    # residual: of the sizes below. resnet50-ibn-a: with instance norms. torchvision:NAME, timm:NAME: a network of that
    # library. mobilenetv2: torchvision:mobilenet_v2
    backbone: str = "residual"
    # of the last map of a library's network, in pixels of the crop: 4, 8, 16 or 32; null: the library's
    output_stride: Literal[4, 8, 16, 32] | None = None
    stem_kernel: int = 7  # side of the first convolution
    stem_channels: Count = 64  # of the first convolution
    stem_pool: bool = True  # 3x3 max pooling of stride 2 after the stem
    block: Literal["basic", "bottleneck"] = "bottleneck"  # kind of residual block
    channels: tuple[Count, ...] = (256, 512, 1024, 2048)  # of each stage
    blocks: tuple[Count, ...] = (3, 4, 6, 3)  # of each stage
    strides: tuple[Count, ...] = (1, 2, 2, 1)  # of each stage
    pooling: Literal["average", "gem"] = "average"  # of the last feature map over the whole crop
    projection: Count | None = 512  # width of the Linear before the batch norm; None: no Linear
    parts: Count = 4  # horizontal stripes of the part features

    def __post_init__(self) -> None:
        object.__setattr__(self, "backbone", SHORT_NAMES.get(self.backbone, self.backbone))
        library, colon, name = self.backbone.partition(":")
        if self.backbone not in BACKBONES and not (library in LIBRARIES and name):
            forms = [*BACKBONES, *SHORT_NAMES, *(f"{library}:NAME" for library in LIBRARIES)]
            nearest = get_close_matches(self.backbone if not colon else f"{library}:NAME", forms, 1)
            hint = f"did you mean {nearest[0]}? " if nearest else ""
            raise UserError(
                f"model.identity.backbone={self.backbone}: there is no such backbone; {hint}there are"
                f" {', '.join(forms)}"
            )
        if self.output_stride is not None and self.backbone in BACKBONES:
            raise UserError(
                f"model.identity.output_stride={self.output_stride}: {self.backbone} has model.identity.strides instead"
            )

    @property
    def width(self) -> int | None:
        """Return the number of channels of the last map; None for a library's network, which must be made to know."""
        return {"residual": self.channels[-1], "resnet50-ibn-a": 2048}.get(self.backbone)

    @property
    def embedding(self) -> int:
        """Return the size D of an embedding; `IdentityEncoder.dim` has it for a library's network as well."""
        return self.projection or self._known_width()

    @property
    def part_features(self) -> int:
        """Return the number P of part features; `IdentityEncoder.part_features` has it for any network."""
        return self._known_width() * self.parts

    def _known_width(self) -> int:
        if self.width is None:
            raise ValueError(f"the width of {self.backbone} is known to its IdentityEncoder alone")
        return self.width


@dataclass(frozen=True)
class StructureConfig:
    """Holds the sizes of the structure encoder: four convolutions, residual blocks, dilated branches.

    The first and the last convolution have stride 2.
    """

    channels: tuple[Count, Count, Count, Count] = (16, 32, 32, 64)  # of the four convolutions
    blocks: Count = 4  # residual blocks
    branch: Count = 32  # channels of each of the four branches

    @property
    def code(self) -> int:
        """Return the number of channels of the structure code."""
        return 4 * self.branch


@dataclass(frozen=True)
class GeneratorConfig:
    """Holds the sizes of the generator: AdaIN residual blocks, then two upsamplings.

    Each of the `blocks` is driven by its own slice of the part features.
    """

    blocks: Count = 4  # residual blocks
    hidden: Count = 512  # width of the MLPs that turn a slice into scales and shifts
    standardize: bool = False  # standardize the part features by the statistics of `Generator.calibrate`
    upsampled: tuple[Count, Count] = (64, 32)  # channels after each upsampling
    # parts: the part features alone say how a person looks, as in the paper. carried: the crop's own pixels, carried
    # over the body mesh to the view that is drawn, say it as well
    appearance: Literal["parts", "carried"] = "parts"


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Holds the sizes of the discriminator: `scales` equal networks, each on an image half as large as the last."""

    scales: Count = 3  # number of networks
    channels: Count = 32  # of the first convolutions; the residual blocks have twice as many
    blocks: Count = 4  # residual blocks of each network


@dataclass(frozen=True)
class ModelConfig:
    """Holds all sizes of `gcl_fast.models.GCL`.

    Raises:
        UserError: the generator's blocks do not divide the part features into equal slices.
    """

    identity: IdentityConfig = field(default_factory=IdentityConfig)
    structure: StructureConfig = field(default_factory=StructureConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)

    def __post_init__(self) -> None:
        if self.identity.width is not None:  # else `models.GCL` checks it
            check_slices(self.identity.part_features, self.generator.blocks)

    @classmethod
    def demo(cls) -> ModelConfig:
        """Return the sizes of small networks for 128x64 crops on two CPU cores; channels are 16 or a multiple of 32."""
        return cls(
            identity=IdentityConfig(
                stem_kernel=5,
                stem_channels=32,
                stem_pool=False,
                block="basic",
                channels=(32, 64, 128, 256),
                blocks=(1, 1, 1, 1),
                pooling="gem",
                projection=None,
            ),
            structure=StructureConfig(channels=(32, 32, 32, 32), blocks=2, branch=16),
            generator=GeneratorConfig(blocks=4, hidden=128, standardize=True, upsampled=(32, 16)),
            discriminator=DiscriminatorConfig(channels=16, blocks=1),
        )


def check_slices(part_features: int, blocks: int) -> None:
    """Check that part features split into equal slices, one for each block of the generator.

    Raises:
        UserError: they do not.
    """
    if blocks < 1 or part_features % blocks:
        raise UserError(
            f"model.generator.blocks={blocks}: {part_features} part features do not split into {blocks} equal slices,"
            " one for each block of the generator"
        )


def min_size() -> tuple[int, int]:
    """Return the smallest size of images that all networks take; both sides must also be multiples of 4.

    A quarter of each side must exceed 9, the widest reflect padding of the structure encoder.

    Returns:
        Height and width in pixels.

    Example:
        >>> min_size()
        (40, 40)
    """
    side = 4 * (max(DILATIONS) + 1)
    return side, side


def check_size(height: int, width: int) -> None:
    """Check that the networks take images of this size.

    Args:
        height: in pixels.
        width: in pixels.

    Raises:
        UserError: a side is below `min_size()`, or no multiple of 4.

    Example:
        >>> check_size(128, 64)
        >>> check_size(128, 50)
        Traceback (most recent call last):
        gcl_fast.errors.UserError: images of 128x50 do not fit the networks: take at least 40x40 ...
    """
    least = min_size()
    if height < least[0] or width < least[1] or height % 4 or width % 4:
        raise UserError(
            f"images of {height}x{width} do not fit the networks: "
            f"take at least {least[0]}x{least[1]} (height x width), both multiples of 4"
        )
