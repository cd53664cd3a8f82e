"""Holds the settings of a run, the presets, and their text form: YAML files and KEY=VALUE."""

from gcl_fast.settings.loss_weights import LossWeights
from gcl_fast.settings.model_sizes import ModelConfig
from gcl_fast.settings.presets import PUBLISHED, preset, source_preset, warmup_preset
from gcl_fast.settings.settings import (
    ALL_STAGES,
    DATASETS,
    OWN_DATASETS,
    PACKAGE,
    SOURCE_NORMS,
    STAGES,
    WEIGHTS,
    AnyWarmup,
    ClusteringConfig,
    GenerativeConfig,
    JointConfig,
    JVTCConfig,
    MMCLConfig,
    RunConfig,
    SourceConfig,
    WarmupConfig,
    is_eps,
)
from gcl_fast.settings.text import assign, difference, flat, from_dict, override, to_dict
from gcl_fast.settings.world import WorldConfig

__all__ = [
    "ALL_STAGES",
    "DATASETS",
    "OWN_DATASETS",
    "PACKAGE",
    "PUBLISHED",
    "SOURCE_NORMS",
    "STAGES",
    "WEIGHTS",
    "AnyWarmup",
    "ClusteringConfig",
    "GenerativeConfig",
    "JVTCConfig",
    "JointConfig",
    "LossWeights",
    "MMCLConfig",
    "ModelConfig",
    "RunConfig",
    "SourceConfig",
    "WarmupConfig",
    "WorldConfig",
    "assign",
    "difference",
    "flat",
    "from_dict",
    "is_eps",
    "override",
    "preset",
    "source_preset",
    "to_dict",
    "warmup_preset",
]
