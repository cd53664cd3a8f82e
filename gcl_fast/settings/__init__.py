"""Holds the settings of a run, the presets, and their text form: YAML files and KEY=VALUE."""

from gcl_fast.settings.presets import PUBLISHED, preset, source_preset, warmup_preset
from gcl_fast.settings.settings import (
    ALL_STAGES,
    STAGES,
    AnyWarmup,
    ClusteringConfig,
    GenerativeConfig,
    JointConfig,
    JVTCConfig,
    MMCLConfig,
    RunConfig,
    SourceConfig,
    WarmupConfig,
)
from gcl_fast.settings.text import difference, flat, from_dict, override, to_dict

__all__ = [
    "ALL_STAGES",
    "PUBLISHED",
    "STAGES",
    "AnyWarmup",
    "ClusteringConfig",
    "GenerativeConfig",
    "JVTCConfig",
    "JointConfig",
    "MMCLConfig",
    "RunConfig",
    "SourceConfig",
    "WarmupConfig",
    "difference",
    "flat",
    "from_dict",
    "override",
    "preset",
    "source_preset",
    "to_dict",
    "warmup_preset",
]
