"""Settings of a run: frozen dataclasses and the two presets. Every default is written here.

`demo` trains on the embedded synthetic dataset in minutes on two CPU cores, from random initialization.
`paper` holds the figures of Chen et al. 2021 and of its official code, for a GPU and a real dataset.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from gcl_fast.errors import UserError
from gcl_fast.losses.generator_terms import LossWeights
from gcl_fast.models.sizes import ModelConfig
from gcl_fast.pseudo_labels.eps import is_eps
from gcl_fast.synthetic.world import WorldConfig

STAGES = ("warmup", "generative", "joint")  # on the target
ALL_STAGES = ("source", *STAGES)
# Least values of settings by name, wherever they stand
AT_LEAST = {
    **dict.fromkeys(("batch", "identities", "crops", "variants", "r1_every", "decay_every", "cluster_every"), 1),
    **dict.fromkeys(("k1", "k2", "min_samples", "candidates", "log_every"), 1),
    "steps_per_epoch": 0,
    "keep_checkpoints": 2,
}
# The embedded source: other cameras and people than the default world's, brighter clothes, no look-alikes
SOURCE_WORLD = WorldConfig(seed=1, difficulty=0.0, crops=3)


@dataclass(frozen=True)
class ClusteringConfig:
    """How the memory bank becomes pseudo-labels (`gcl_fast.pseudo_labels.jaccard_labels`)."""

    k1: int = 30
    k2: int = 6
    eps: float | str | None = None  # a distance, "auto" (eps_auto), or None: the rho rule
    rho: float = 0.002
    min_samples: int = 4
    engine: Literal["auto", "exact", "approximate"] = "auto"  # of the neighbour search; auto chooses by N
    camera_centred: bool = False  # subtract each camera's mean embedding first


@dataclass(frozen=True)
class WarmupConfig:
    """Contrast against cluster means of an instance memory: identity encoder alone, augmented crops.

    Epochs, steps, batch, learning rate, weight decay and temperature are those of Dai et al. 2021 (ClusterContrast).
    Our own are the ramp and the cosine (there x0.1 every 20 epochs), the radius without a number to choose (there 0.4
    to 0.7 by dataset), the camera-centred embeddings, and means of instances as the memory.
    """

    method: Literal["cluster"] = "cluster"
    epochs: int = 50
    steps_per_epoch: int = 400  # at least 1: crops are drawn by cluster, not passed over
    identities: int = 16
    crops: int = 16
    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    ramp_steps: int = 400  # linear rise of the learning rate from zero
    constant_share: float = 0.4  # of all steps; a cosine to zero follows
    temperature: float = 0.05
    momentum: float = 0.2  # weight of the old entry
    # What stands for a cluster: the mean of its crops' rows; one row, moved by its hardest crop of a step; or for each
    # of its cameras the mean of the rows from there (Wang et al. 2021)
    memory: Literal["instances", "hardest", "cameras"] = "instances"
    styled: str = ""  # folder of the crops in other cameras' style, drawn instead of a crop
    colours: bool = False  # cluster embeddings beside clothing colours: for an encoder without weights to start from
    clustering: ClusteringConfig = ClusteringConfig(eps="auto", camera_centred=True)


@dataclass(frozen=True)
class MMCLConfig:
    """Warm-up by multi-label classification against a memory (Wang and Zhang 2020)."""

    method: Literal["mmcl"] = "mmcl"
    epochs: int = 60
    steps_per_epoch: int = 0  # 0: one pass over the crops
    batch: int = 128
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    backbone_lr_share: float = 0.1  # of lr, for the convolutions: they have weights to start from
    weight_decay: float = 5e-4
    ramp_steps: int = 0  # linear rise of the learning rate from zero
    decay_every: int = 40  # epochs, x0.1 each time
    momentum: float = 0.5  # weight of the old entry at the end; it rises from zero
    single_label_epochs: int = 5  # the first of them: every crop is a class of its own
    threshold: float = 0.6  # of the similarity of crops that share a label
    candidates: int = 200  # neighbours looked at for each crop
    form: Literal["squared", "logistic"] = "squared"
    delta: float = 5.0  # weight of the positive labels
    hard_share: float = 0.01  # of the negative labels, the most similar ones, that are pushed away
    styled: str = ""  # folder of the crops in other cameras' style, drawn instead of a crop
    colours: bool = False  # compare crops by clothing colours as well


@dataclass(frozen=True)
class JVTCConfig:
    """Warm-up by joint visual and temporal consistency, unsupervised (Li and Zhang 2020)."""

    method: Literal["jvtc"] = "jvtc"
    epochs: int = 100
    steps_per_epoch: int = 0  # 0: one pass over the crops
    batch: int = 32  # crops, each in `variants` pictures
    variants: int = 4
    optimizer: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.1
    backbone_lr_share: float = 0.1  # of lr, for the convolutions: they have weights to start from
    weight_decay: float = 5e-4
    ramp_steps: int = 0  # linear rise of the learning rate from zero
    decay_every: int = 40  # epochs, x0.1 each time
    local_temperature: float = 0.1
    temperature: float = 0.05
    momentum: float = 0.8  # most weight of the old entry
    momentum_rise: float = 0.01  # an epoch, from zero
    global_weight: float = 0.2
    global_epoch: int = 10  # the global loss begins here
    cluster_every: int = 5  # epochs
    temporal: bool = True
    temporal_epoch: int = 30  # frames and cameras are looked at from here on
    clustering: ClusteringConfig = ClusteringConfig(k1=20, rho=1.6e-3, min_samples=1)  # its search is always exact
    eps_scale: float = 0.8  # 1 after training on a source
    plain_weight: float = 0.3  # of the distance that is not k-reciprocal
    styled: str = ""  # folder of the crops in other cameras' style, the variants of a crop
    colours: bool = False  # compare crops by clothing colours as well


AnyWarmup = WarmupConfig | MMCLConfig | JVTCConfig


@dataclass(frozen=True)
class SourceConfig:
    """Supervised training on a labelled dataset before the warm-up (Luo et al. 2019, "Bag of tricks")."""

    dataset: str = "synthetic"
    root: str = ""  # "": datasets/synthetic-source for synthetic; otherwise needed
    world: WorldConfig = SOURCE_WORLD  # the embedded source, made when missing
    epochs: int = 120
    steps_per_epoch: int = 0  # 0: as many as one pass over the crops has
    identities: int = 16
    crops: int = 4
    lr: float = 3.5e-4
    weight_decay: float = 5e-4
    ramp_epochs: int = 10  # linear rise of the learning rate from zero
    decay_epochs: tuple[int, ...] = (40, 70)  # x0.1 from each on
    smoothing: float = 0.1  # of the labels
    margin: float = 0.3  # of the triplets


@dataclass(frozen=True)
class GenerativeConfig:
    """Structure encoder, generator, discriminator against a frozen identity encoder (Chen et al. 2021, section 3.1)."""

    epochs: int = 40
    reconstruction_epochs: int = 0  # the first of them train x_rec = x alone, at a fifth of the time
    batch: int = 16
    lr: float = 1e-4
    ramp_steps: int = 0  # linear rise of the learning rate from zero
    constant_share: float = 1.0  # of all steps; a cosine to zero follows
    weight_decay: float = 5e-4
    weights: LossWeights = field(default_factory=LossWeights)
    r1: float = 0.01
    r1_every: int = 1  # nth step of an epoch that takes the R1 penalty, n times as heavy (lazy R1)
    last_yaw: Literal[315, 270] = 315  # degrees; novel views are drawn at 45, 90, ... up to it. Official code: 270


@dataclass(frozen=True)
class JointConfig:
    """Everything trains; the bank is clustered at each epoch (Chen et al. 2021, section 3.2)."""

    epochs: int = 20
    batch: int = 16
    lr_identity: float = 3.5e-4
    lr: float = 1e-4
    decay_epoch: int = 10  # x0.1 from here on
    weight_decay: float = 5e-4
    temperature: float = 0.04
    momentum: float = 0.2
    num_negatives: int = 8192
    terms: tuple[float, float, float] = (1.0, 1.0, 1.0)  # weights within the view-invariant loss, see `MemoryBank.loss`
    # The first term compares with the crop's entry as it is stored, as in the official code, or with its live embedding
    own_entry: Literal["stored", "live"] = "stored"
    # The third term compares negatives with the novel view's embedding, as in the official code, or with the crop's
    negatives_of: Literal["novel_view", "crop"] = "novel_view"
    decay: Literal["all", "identity"] = "all"  # which learning rates fall at decay_epoch. Official code: identity
    refresh_outliers: bool = False  # embed the last epoch's outliers anew before clustering; else their entries stay
    batch_statistics: bool = True  # the identity encoder's batch norms train too; False: they keep what they have
    clustering: ClusteringConfig = ClusteringConfig()


@dataclass(frozen=True)
class RunConfig:
    """One training run.

    Batch sizes (`batch`, and `identities` x `crops`) are those of one rank: W ranks take W times as many crops a step,
    so a pass over the crops has a W-th of the steps. Losses are means over the global batch. Learning rates are used as
    they stand, whatever W: the paper's are for 16 crops a step, and whoever adds ranks and leaves `batch` alone chooses
    them anew; `batch` divided by W trains as one process does, up to rounding, but for batch norms, which see each
    rank's batch by itself unless `sync_bn`.
    """

    preset: str = "demo"
    dataset: str = "synthetic"
    data_root: str = ""  # "": datasets/<dataset> for synthetic; otherwise needed
    runs: str = "runs"
    name: str = ""  # "": <dataset>-<preset>-seed<seed>
    seed: int = 0
    stages: tuple[str, ...] = STAGES
    init: str = ""  # weights to start from: official, torchvision ResNet-50 or of a run
    device: str = "auto"
    amp: bool = False
    compile: str = "auto"  # "auto", "on", "off"
    cuda_graphs: Literal["auto", "on", "off"] = "auto"  # capture steps: where it can be and pays, always or never
    cache: str = "auto"  # decoded crops in memory: "auto", "none", "host", "device"
    on_bad_image: str = "skip"  # or "error"
    structure_maps: str = "online"  # or a folder of pre-rendered pictures in the official layout
    smpl: str = ""  # file of the SMPL body model, where the body parameters are for it
    sync_bn: bool = False  # batch-norm statistics of all ranks' batches together, instead of each rank's own
    optimizer_backend: str = "torch"  # fused optimizers of PyTorch, or "apex": those of NVIDIA apex
    checkpoint_seconds: float = 60.0
    keep_checkpoints: int = 2  # the newest ones; at least 2, so that there is one to fall back to
    log_every: int = 10
    height: int = 256
    width: int = 128
    model: ModelConfig = field(default_factory=ModelConfig)
    world: WorldConfig = field(default_factory=WorldConfig)  # the embedded dataset, made when missing
    source: SourceConfig | None = None  # None: nothing labelled
    warmup: AnyWarmup | None = WarmupConfig()  # None: none
    generative: GenerativeConfig = GenerativeConfig()
    joint: JointConfig = JointConfig()

    def __post_init__(self) -> None:
        if unknown := [stage for stage in self.stages if stage not in ALL_STAGES]:
            raise UserError(f"stages: there is no stage {unknown[0]!r}; there are {', '.join(ALL_STAGES)}")
        object.__setattr__(self, "stages", tuple(stage for stage in ALL_STAGES if stage in self.stages))
        _check_ranges(self)

    @property
    def size(self) -> tuple[int, int]:
        """Return (H, W) of the crops that the networks see."""
        return self.height, self.width

    @property
    def decoded_cache(self) -> str | None:
        """Return `cache` as the loaders take it."""
        return None if self.cache == "none" else self.cache

    @property
    def folder(self) -> Path:
        """Return where the run leaves its files."""
        return Path(self.runs) / (self.name or f"{self.dataset}-{self.preset}-seed{self.seed}")


def preset(name: str) -> RunConfig:
    """Return the settings of a preset.

    Args:
        name: "demo" or "paper".

    Raises:
        UserError: no preset of that name.

    Example:
        >>> preset("paper").size, preset("demo").size
        ((256, 128), (128, 64))
    """
    if name == "paper":
        return RunConfig(preset="paper", dataset="market1501")
    if name == "demo":
        return RunConfig(
            preset="demo",
            height=128,
            width=64,
            model=ModelConfig.demo(),
            warmup=warmup_preset("demo", "cluster"),
            generative=GenerativeConfig(epochs=9, reconstruction_epochs=8, lr=1e-3, ramp_steps=20, constant_share=0.3),
            joint=JointConfig(
                epochs=3,
                decay_epoch=2,
                lr_identity=3.5e-5,  # ten times that diverges where batch norms rest
                lr=4e-4,
                batch_statistics=False,
                clustering=ClusteringConfig(k1=20, eps="auto", camera_centred=True),
            ),
        )
    raise UserError(f"unknown preset {name!r}; there are demo and paper")


def warmup_preset(name: str, method: str, after_source: bool = False) -> AnyWarmup | None:
    """Return the settings of a warm-up in a preset.

    Args:
        name: the preset, "demo" or "paper".
        method: "cluster", "mmcl", "jvtc", or "none".
        after_source: the identity encoder was trained on a labelled dataset before.

    Returns:
        The settings; None for "none".

    Raises:
        UserError: no warm-up of that name.

    Example:
        >>> warmup_preset("paper", "mmcl").epochs
        60
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
            clustering=ClusteringConfig(k1=20, eps="auto"),
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
    """Return the settings of training on a labelled dataset first.

    Args:
        name: the preset, "demo" or "paper".
        dataset: the source, such as "market1501" or "synthetic".
        root: its folder; "" for the default folder of the synthetic one.

    Example:
        >>> source_preset("paper", "market1501", "DIR").epochs
        120
    """
    if name == "demo":
        return SourceConfig(dataset, root, epochs=18, lr=1e-3, ramp_epochs=1, decay_epochs=(13, 17))
    return SourceConfig(dataset, root)


def _check_ranges(config: Any, prefix: str = "") -> None:
    """Raise a UserError that names the first setting out of range: such would fail in its stage, after hours."""
    for name in (f.name for f in dataclasses.fields(config)):
        value = getattr(config, name)
        if dataclasses.is_dataclass(value):
            _check_ranges(value, f"{prefix}{name}.")
        least = 1 if name == "steps_per_epoch" and isinstance(config, WarmupConfig) else AT_LEAST.get(name)
        if least is not None and value is not None and value < least:
            raise UserError(f"{prefix}{name}={value}: expected {least} or more")
    if isinstance(config, ClusteringConfig):
        if not is_eps(config.eps):
            raise UserError(f"{prefix}eps={config.eps}: expected a distance from 0 to below 1, auto, or null: by rho")
        if not 0 <= config.rho <= 1:
            raise UserError(f"{prefix}rho={config.rho}: expected a share of all pairs, 0 to 1")
    if isinstance(config, JVTCConfig) and config.clustering.engine == "approximate":
        raise UserError(f"{prefix}clustering.engine=approximate: jvtc searches exactly; choose auto or exact")
