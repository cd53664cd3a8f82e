"""The four networks of GCL as one module."""

from __future__ import annotations

from torch import nn

from gcl_fast.models.discriminator import Discriminator
from gcl_fast.models.generator import Generator
from gcl_fast.models.identity_encoder import IdentityEncoder
from gcl_fast.models.sizes import ModelConfig
from gcl_fast.models.structure_encoder import StructureEncoder


class GCL(nn.Module):
    """Identity encoder, structure encoder, generator and discriminator, at the paper's sizes unless told otherwise.

    `.identity(image)` -> (part features, embedding before L2 normalization); `.structure(map)` -> structure code;
    `.generator(code, part_features)` -> picture; `.discriminator(picture)` -> list of maps, one a scale.
    """

    def __init__(self, config: ModelConfig | None = None):
        super().__init__()
        self.config = config = config or ModelConfig()
        self.identity = IdentityEncoder(config.identity)
        self.structure = StructureEncoder(config.structure)
        self.generator = Generator(config.generator, config.structure.code, config.identity.part_features)
        self.discriminator = Discriminator(config.discriminator)
