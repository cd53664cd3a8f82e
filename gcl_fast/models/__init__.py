"""The networks of GCL, their sizes, and weights from other projects."""

from gcl_fast.models.appearance_encoder import AppearanceEncoder, appearance_input
from gcl_fast.models.discriminator import Discriminator
from gcl_fast.models.domain_norms import of_another_domain
from gcl_fast.models.folded_encoder import for_inference
from gcl_fast.models.foreign_weights import load_backbone
from gcl_fast.models.gcl import GCL
from gcl_fast.models.generator import Generator
from gcl_fast.models.identity_encoder import IdentityEncoder
from gcl_fast.models.official_weights import load_official, read_official, to_official
from gcl_fast.models.structure_encoder import StructureEncoder
from gcl_fast.settings.model_sizes import (
    DiscriminatorConfig,
    GeneratorConfig,
    IdentityConfig,
    ModelConfig,
    StructureConfig,
    check_size,
    min_size,
)

__all__ = [
    "GCL",
    "AppearanceEncoder",
    "Discriminator",
    "DiscriminatorConfig",
    "Generator",
    "GeneratorConfig",
    "IdentityConfig",
    "IdentityEncoder",
    "ModelConfig",
    "StructureConfig",
    "StructureEncoder",
    "appearance_input",
    "check_size",
    "for_inference",
    "load_backbone",
    "load_official",
    "min_size",
    "of_another_domain",
    "read_official",
    "to_official",
]
