"""Hold the presets, sets of settings for a purpose.

`demo` trains on the embedded synthetic dataset on a CPU, from random initialization.
`best` has the sizes of `paper`, and carried pixels and a joint stage by clusters as `demo` has them.
`paper` holds the values of Chen et al. 2021 and of its official code, for a GPU and a real dataset.
"""

from __future__ import annotations

import dataclasses

from gcl_fast.errors import UserError
from gcl_fast.settings.loss_weights import LossWeights
from gcl_fast.settings.model_sizes import ModelConfig
from gcl_fast.settings.settings import (
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

# Settings by which the demo trains as Chen et al. publish it, at its size: for comparisons with the published method
PUBLISHED = (
    "model.generator.appearance=parts",
    "generative.epochs=9",
    "generative.reconstruction_epochs=8",
    "generative.weights.similarity=0",
    "joint.lr=4e-4",
    "joint.clusters=null",
)


def preset(name: str) -> RunConfig:
    """Return the settings of a preset.

    Args:
        name: "demo", "paper", or "best": the paper's sizes, with what the demo adds to its method.

    Raises:
        UserError: there is no preset of that name.

    Example:
        >>> preset("demo").size, preset("paper").size
        ((128, 64), (256, 128))
    """
    if name == "paper":
        return RunConfig(preset="paper", dataset="market1501")
    if name == "best":
        sizes = ModelConfig()
        return RunConfig(
            preset="best",
            dataset="market1501",
            model=dataclasses.replace(sizes, generator=dataclasses.replace(sizes.generator, appearance="carried")),
            generative=GenerativeConfig(pairs=True, weights=LossWeights(similarity=5.0)),
            joint=JointConfig(clusters=WarmupConfig(epochs=20), views="carried"),
        )
    if name == "demo":
        sizes = ModelConfig.demo()
        return RunConfig(
            preset="demo",
            height=128,
            width=64,
            model=dataclasses.replace(sizes, generator=dataclasses.replace(sizes.generator, appearance="carried")),
            warmup=warmup_preset("demo", "cluster"),
            generative=GenerativeConfig(
                epochs=4,
                reconstruction_epochs=4,
                lr=1e-3,
                ramp_steps=20,
                constant_share=0.3,
                pairs=True,
                clustering=ClusteringConfig(k1=20, eps="auto", camera_centred=True),
                weights=LossWeights(similarity=5.0),
            ),
            joint=JointConfig(
                epochs=3,
                decay_epoch=2,
                lr_identity=3.5e-5,  # 3.5e-4 diverges without batch statistics
                lr=1e-4,
                batch_statistics=False,
                clustering=ClusteringConfig(k1=20, eps="auto", camera_centred=True),
                clusters=WarmupConfig(
                    epochs=14,
                    steps_per_epoch=50,
                    crops=4,
                    lr=1e-3,
                    ramp_steps=30,
                    clustering=ClusteringConfig(k1=20, eps="auto", camera_centred=True),
                ),
                views="carried",
                update_every=25,
            ),
        )
    raise UserError(f"unknown preset {name!r}; there are demo, paper and best")


def warmup_preset(name: str, method: str, after_source: bool = False) -> AnyWarmup | None:
    """Return the settings of a warm-up in a preset.

    Args:
        name: the preset, "demo" or "paper".
        method: "cluster", "jvtc", "mmcl", or "none".
        after_source: whether the identity encoder was trained on a labelled dataset before.

    Returns:
        The settings; None for "none".

    Raises:
        UserError: there is no warm-up of that name.

    Example:
        >>> warmup_preset("paper", "mmcl").epochs
        60
        >>> warmup_preset("paper", "jvtc", after_source=True).eps_scale
        1.0
    """
    paper: dict[str, AnyWarmup | None] = {
        "cluster": WarmupConfig(),
        "mmcl": MMCLConfig(),
        "jvtc": JVTCConfig(eps_scale=1.0) if after_source else JVTCConfig(),
        "none": None,
    }
    demo: dict[str, AnyWarmup | None] = {
        "cluster": WarmupConfig(
            epochs=10,
            steps_per_epoch=50,
            crops=4,
            lr=1e-3,
            ramp_steps=30,
            colours=True,
            colour_epochs=5,
            clustering=ClusteringConfig(k1=20, eps="auto", camera_centred=True),
        ),
        "mmcl": MMCLConfig(
            epochs=18,
            batch=64,
            optimizer="adamw",
            lr=1e-3,
            backbone_lr_share=1.0,
            ramp_steps=30,
            decay_every=14,
            single_label_epochs=1,
            candidates=20,
            colours=True,
        ),
        "jvtc": JVTCConfig(
            epochs=9,
            variants=2,
            optimizer="adamw",
            lr=1e-3,
            backbone_lr_share=1.0,
            ramp_steps=30,
            decay_every=7,
            momentum_rise=0.1,
            global_weight=1.0,
            global_epoch=1,
            cluster_every=1,
            temporal_epoch=2,
            clustering=ClusteringConfig(k1=20, eps="auto"),
            eps_scale=1.0,
            colours=True,
        ),
        "none": None,
    }
    methods = demo if name == "demo" else paper
    if method not in methods:
        raise UserError(f"--warmup {method}: there is no such warm-up; there are {', '.join(methods)}")
    return methods[method]


def source_preset(name: str, dataset: str, root: str) -> SourceConfig:
    """Return the settings of training on a labelled dataset in a preset.

    Args:
        name: the preset, "demo" or "paper".
        dataset: the name of the dataset, one that `gcl_fast.data.open_dataset` reads.
        root: the folder that holds it; "" only for "synthetic".

    Example:
        >>> source_preset("demo", "market1501", "datasets/market").epochs
        18
    """
    if name == "demo":
        return SourceConfig(dataset, root, epochs=18, lr=1e-3, ramp_epochs=1, decay_epochs=(13, 17))
    return SourceConfig(dataset, root)
