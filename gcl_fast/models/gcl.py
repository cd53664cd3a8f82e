"""The four networks of GCL as one module."""

from __future__ import annotations

from torch import nn

from gcl_fast.models.discriminator import Discriminator
from gcl_fast.models.generator import Generator
from gcl_fast.models.identity_encoder import IdentityEncoder
from gcl_fast.models.structure_encoder import StructureEncoder
from gcl_fast.settings.model_sizes import ModelConfig, check_slices


class GCL(nn.Module):
    """Holds the identity encoder, the structure encoder, the generator and the discriminator.

    `.identity(image)` gives part features and the embedding before L2 normalization, `.structure(map)` the structure
    code, `.generator(code, part_features)` an image, `.discriminator(image)` a list of maps, one per scale.

    Args:
        config: sizes; None: the paper's.
        size: (H, W) of the crops, as `IdentityEncoder` takes it.

    Raises:
        UserError: as `IdentityEncoder`; or the generator's blocks do not divide the part features.

    Example:
        >>> import torch
        >>> gcl = GCL(ModelConfig.demo()).eval()
        >>> crops, maps = torch.randn(2, 3, 128, 64), torch.rand(2, 1, 128, 64)  # maps: the bodies at another yaw
        >>> part_features, embedding = gcl.identity(crops)
        >>> gcl.generator(gcl.structure(maps), part_features).shape  # the novel views
        torch.Size([2, 3, 128, 64])
    """

    def __init__(self, config: ModelConfig | None = None, size: tuple[int, int] = (256, 128)):
        super().__init__()
        self.config = config = config or ModelConfig()
        self.identity = IdentityEncoder(config.identity, size)
        check_slices(self.identity.part_features, config.generator.blocks)  # of a library's network it is known now
        self.structure = StructureEncoder(config.structure)
        self.generator = Generator(config.generator, config.structure.code, self.identity.part_features)
        self.discriminator = Discriminator(config.discriminator)
