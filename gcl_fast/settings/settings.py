"""Define the settings of a run as frozen dataclasses; every default is written here.

The values of `RunConfig` are those of Chen et al. 2021 and of its official code; presets.py has the other sets.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePath
from typing import Annotated, Literal

from gcl_fast.errors import UserError
from gcl_fast.settings.loss_weights import LossWeights
from gcl_fast.settings.model_sizes import ModelConfig
from gcl_fast.settings.ranges import (
    Cosine,
    Count,
    NotNegative,
    PathText,
    Pixels,
    Positive,
    Range,
    Seed,
    Share,
    ShareBelowOne,
    Whole,
    check_ranges,
)
from gcl_fast.settings.world import WorldConfig

STAGES = ("warmup", "generative", "joint")  # on the target
ALL_STAGES = ("source", *STAGES)
# The networks after the source stage, with the source's batch norms instead of the target's
SOURCE_NORMS = "source_norms"
WEIGHTS = (SOURCE_NORMS, *ALL_STAGES)  # names of checkpoints/<name>.safetensors in a run, in training order
PACKAGE = "package"  # value of `init`: ImageNet weights for the backbone mobilenetv2 from an installed package
OWN_DATASETS = ("manifest", "person-folders", "tracklet-folders", "folder")  # anybody's crops, in one of these layouts
DATASETS = (  # `gcl_fast.data` has their readers
    "synthetic",
    "market1501",
    "market1501-500k",
    "dukemtmc",
    "occluded-duke",
    "msmt17",
    "cuhk03",
    "cuhk03-np",
    "personx",
    "veri776",
    "mars",
    *OWN_DATASETS,
)
# The embedded source has other cameras and people than the default world, brighter clothes and no look-alikes
SOURCE_WORLD = WorldConfig(seed=1, difficulty=0.0, crops=3)


@dataclass(frozen=True)
class ClusteringConfig:
    """Holds how the memory bank becomes pseudo-labels (`gcl_fast.pseudo_labels.jaccard_labels`)."""

    k1: Count = 30  # neighbours of the k-reciprocal sets
    k2: Count = 6  # neighbours whose sets are averaged
    eps: ShareBelowOne | Literal["auto"] | None = None  # a distance, "auto" (eps_auto), or None for the rho rule
    rho: Share = 0.002  # share of all pairs whose mean distance is the radius
    min_samples: Count = 4  # crops within the radius that make a core point, itself included
    engine: Literal["auto", "exact", "approximate"] = "auto"  # of the neighbour search; auto chooses by N
    camera_centred: bool = False  # subtract each camera's mean embedding first
    tracklets: bool = True  # cluster tracklets and draw batches across them, where the dataset has any
    tracklet_k1: Count = 8  # k1 of tracklets, of which a person has fewer than crops


@dataclass(frozen=True)
class WarmupConfig:
    """Holds the settings of the warm-up that contrasts crops with the cluster means of an instance memory.

    Epochs, steps, batch, learning rate, weight decay and temperature are those of Dai et al. 2021 (ClusterContrast).
    Four things differ from that paper. The learning rate rises linearly and falls as a cosine; the paper multiplies it
    by 0.1 every 20 epochs. The radius is computed; the paper sets it to 0.4 to 0.7 by dataset. Embeddings are centred
    by camera. The memory holds instances, and a cluster is the mean of its instances.
    """

    method: Literal["cluster"] = "cluster"
    epochs: Count = 50
    steps_per_epoch: Count = 400  # crops are drawn by cluster, not passed over
    identities: Count = 16  # clusters of a batch
    crops: Count = 16  # crops of each cluster in a batch
    lr: NotNegative = 3.5e-4  # learning rate
    weight_decay: NotNegative = 5e-4  # of the optimizer
    ramp_steps: Whole = 400  # linear rise of the learning rate from zero
    constant_share: Share = 0.4  # of all steps; a cosine to zero follows
    temperature: Positive = 0.05  # of the contrast
    momentum: Share = 0.2  # weight of the old entry
    # instances: the mean of its crops' rows stands for a cluster. hardest: one row does, which the hardest crop of a
    # step moves. cameras: each of its cameras has the mean of its rows (Wang et al. 2021).
    memory: Literal["instances", "hardest", "cameras"] = "instances"
    styled: PathText = ""  # folder of the crops in other cameras' style, drawn instead of a crop
    colours: bool = False  # cluster embeddings and clothing colours together, for a randomly initialized encoder
    colour_epochs: Whole | None = None  # the first epochs alone do so; null: all
    clustering: ClusteringConfig = ClusteringConfig(eps="auto", camera_centred=True)


@dataclass(frozen=True)
class MMCLConfig:
    """Holds the settings of the warm-up by multi-label classification against a memory (Wang and Zhang 2020)."""

    method: Literal["mmcl"] = "mmcl"
    epochs: Count = 60
    steps_per_epoch: Whole = 0  # 0: one pass over the crops
    batch: Count = 128  # crops
    optimizer: Literal["sgd", "adamw"] = "sgd"  # SGD has Nesterov momentum
    lr: NotNegative = 0.1  # learning rate
    backbone_lr_share: NotNegative = 0.1  # of lr, for the convolutions: they have weights to start from
    weight_decay: NotNegative = 5e-4  # of the optimizer
    ramp_steps: Whole = 0  # linear rise of the learning rate from zero
    decay_every: Count = 40  # epochs, x0.1 each time
    momentum: Share = 0.5  # weight of the old entry at the end; it rises from zero
    single_label_epochs: Whole = 5  # in the first epochs every crop is a class of its own
    threshold: Cosine = 0.6  # of the similarity of crops that share a label
    candidates: Count = 200  # neighbours that may share a label with a crop
    form: Literal["squared", "logistic"] = "squared"  # of the loss of a label
    delta: NotNegative = 5.0  # weight of the positive labels
    hard_share: Share = 0.01  # of the negative labels: the most similar ones are pushed away
    styled: PathText = ""  # folder of the crops in other cameras' style, drawn instead of a crop
    colours: bool = False  # compare crops by clothing colours as well


@dataclass(frozen=True)
class JVTCConfig:
    """Holds the settings of the unsupervised warm-up by joint visual and temporal consistency (Li and Zhang 2020)."""

    method: Literal["jvtc"] = "jvtc"
    epochs: Count = 100
    steps_per_epoch: Whole = 0  # 0: one pass over the crops
    batch: Count = 32  # crops, each in `variants` images
    variants: Count = 4  # images of each crop in a batch
    optimizer: Literal["sgd", "adamw"] = "sgd"  # SGD has Nesterov momentum
    lr: NotNegative = 0.1  # learning rate
    backbone_lr_share: NotNegative = 0.1  # of lr, for the convolutions: they have weights to start from
    weight_decay: NotNegative = 5e-4  # of the optimizer
    ramp_steps: Whole = 0  # linear rise of the learning rate from zero
    decay_every: Count = 40  # epochs, x0.1 each time
    local_temperature: Positive = 0.1  # of the local loss
    temperature: Positive = 0.05  # of the global loss
    momentum: Share = 0.8  # largest weight of the old entry
    momentum_rise: NotNegative = 0.01  # of that weight in an epoch, from zero
    global_weight: NotNegative = 0.2  # of the global loss
    global_epoch: Whole = 10  # the global loss begins here
    cluster_every: Count = 5  # epochs
    temporal: bool = True  # time between cameras counts as well
    temporal_epoch: Whole = 30  # frames and cameras count from this epoch on
    clustering: ClusteringConfig = ClusteringConfig(k1=20, rho=1.6e-3, min_samples=1)  # the search is always exact
    eps_scale: Positive = 0.8  # 1 after training on a source
    plain_weight: Share = 0.3  # of the distance that is not k-reciprocal
    styled: PathText = ""  # folder of the crops in other cameras' style, the variants of a crop
    colours: bool = False  # compare crops by clothing colours as well


AnyWarmup = WarmupConfig | MMCLConfig | JVTCConfig


@dataclass(frozen=True)
class SourceConfig:
    """Holds the settings of training on a labelled dataset before the warm-up (Luo et al. 2019, "Bag of tricks")."""

    dataset: str = "synthetic"  # one of DATASETS, with labels
    root: PathText = ""  # "" is datasets/synthetic-source for synthetic; other datasets need a folder
    world: WorldConfig = SOURCE_WORLD  # the embedded source, made when missing
    epochs: Count = 120
    steps_per_epoch: Whole = 0  # 0: the number of steps in one pass over the crops
    identities: Count = 16  # identities of a batch
    crops: Count = 4  # crops of each identity in a batch
    lr: NotNegative = 3.5e-4  # learning rate
    weight_decay: NotNegative = 5e-4  # of the optimizer
    ramp_epochs: Whole = 10  # linear rise of the learning rate from zero
    decay_epochs: tuple[Whole, ...] = (40, 70)  # the learning rate is multiplied by 0.1 at each
    smoothing: ShareBelowOne = 0.1  # of the labels
    margin: NotNegative = 0.3  # of the triplets


@dataclass(frozen=True)
class GenerativeConfig:
    """Holds the settings of the generative stage, in which E_id is frozen (Chen et al. 2021, section 3.1)."""

    epochs: Count = 40
    reconstruction_epochs: Whole = 0  # the first epochs train x_rec = x alone
    # Crops come in pairs of one cluster and camera, and the first of a pair is drawn from the pixels of the second;
    # without effect where model.generator.appearance is parts
    pairs: bool = False
    clustering: ClusteringConfig = ClusteringConfig(eps="auto", camera_centred=True)  # for the pairs
    batch: Count = 16  # crops
    lr: NotNegative = 1e-4  # learning rate
    ramp_steps: Whole = 0  # linear rise of the learning rate from zero
    constant_share: Share = 1.0  # of all steps; a cosine to zero follows
    weight_decay: NotNegative = 5e-4  # of the optimizers
    weights: LossWeights = field(default_factory=LossWeights)
    r1: NotNegative = 0.01  # weight of the R1 penalty of the discriminator
    r1_every: Count = 1  # every nth step takes the R1 penalty, weighted n times (lazy R1)
    last_yaw: Literal[315, 270] = 315  # degrees; novel views are at 45, 90, ..., last_yaw. Official code: 270


@dataclass(frozen=True)
class JointConfig:
    """Holds the settings of the joint stage, in which everything trains (Chen et al. 2021, section 3.2)."""

    epochs: Count = 20
    batch: Count = 16  # crops
    lr_identity: NotNegative = 3.5e-4  # learning rate of E_id
    lr: NotNegative = 1e-4  # learning rate of the other networks
    decay_epoch: Whole = 10  # learning rates are multiplied by 0.1 from this epoch on
    weight_decay: NotNegative = 5e-4  # of the optimizers
    temperature: Positive = 0.04  # of the view-invariant loss
    momentum: Share = 0.2  # weight of the old entry of the memory bank
    num_negatives: Count = 8192  # negatives that are drawn for each crop in each step
    terms: tuple[NotNegative, NotNegative, NotNegative] = (
        1.0,
        1.0,
        1.0,
    )  # weights within the view-invariant loss, see `MemoryBank.loss`
    # The first term compares with the crop's stored entry, as in the official code, or with its live embedding
    own_entry: Literal["stored", "live"] = "stored"
    # The third term compares negatives with the novel view's embedding, as in the official code, or with the crop's
    negatives_of: Literal["novel_view", "crop"] = "novel_view"
    decay: Literal["all", "identity"] = "all"  # which learning rates fall at decay_epoch. Official code: identity
    refresh_outliers: bool = False  # embed the last epoch's outliers again before clustering; else their entries stay
    batch_statistics: bool = True  # E_id normalizes by the batch; False: by its running statistics
    clustering: ClusteringConfig = ClusteringConfig()
    # null: the view-invariant loss of the paper, with the settings above. Else E_id goes on by the contrast of the
    # warm-up, with these settings, and novel views are further queries; of those above `lr` counts alone
    clusters: WarmupConfig | None = None
    view_share: Share = 0.5  # of the crops of a step are replaced by novel views
    views: Literal["drawn", "carried"] = "drawn"  # by G, or the carried pixels alone
    update_every: Count = 8  # every nth step updates G, E_str and D, by one crop of each identity


@dataclass(frozen=True)
class RunConfig:
    """Holds the settings of one training run.

    Batch sizes (`batch`, and `identities` x `crops`) are those of one rank. W ranks take W times as many crops a step,
    so a pass over the crops has a W-th of the steps. Losses are means over the global batch.

    Learning rates do not depend on W. The paper's are for 16 crops a step: more ranks at the same `batch` need other
    ones. With `batch` divided by W the run trains as one process does, up to rounding. Batch norms are the exception:
    they see the batch of one rank unless `sync_bn` is set.
    """

    preset: str = "demo"  # of which presets.py has the settings
    dataset: str = "synthetic"  # one of DATASETS
    data_root: PathText = ""  # "" is datasets/synthetic for synthetic; other datasets need a folder
    runs: PathText = "runs"  # folder of all runs
    name: str = ""  # "" is <dataset>-<preset>-seed<seed>
    seed: Seed = 0  # of everything random
    stages: tuple[str, ...] = STAGES  # those to run, in training order
    init: PathText = ""  # weights to start from: official, of the backbone, of a run, or package (PACKAGE)
    device: Literal["auto", "cpu", "cuda"] = "auto"  # auto: cuda where there is a GPU
    amp: bool = False  # mixed precision: bfloat16 where the hardware multiplies in it
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile the networks
    cuda_graphs: Literal["auto", "on", "off"] = "auto"  # capture steps where that works and pays, always, or never
    cache: Literal["auto", "none", "host", "device"] = "auto"  # where decoded crops are kept
    on_bad_image: Literal["skip", "error"] = "skip"  # what to do with an image that does not decode
    structure_maps: PathText = "online"  # or a folder of pre-rendered structure maps in the official layout
    smpl: PathText = ""  # file of the SMPL body model, where the body parameters are for it
    sync_bn: bool = False  # batch norms use the statistics over all ranks, instead of those of their rank
    optimizer_backend: Literal["torch", "apex"] = "torch"  # the fused optimizers of PyTorch, or those of NVIDIA apex
    checkpoint_seconds: NotNegative = 60.0  # between two checkpoints
    keep_checkpoints: Annotated[int, Range(2)] = 2  # the newest ones, so that an older one can be read
    log_every: Count = 10  # steps between two records of the losses
    height: Pixels = 256  # of the crops that the networks see, in pixels
    width: Pixels = 128  # the same
    model: ModelConfig = field(default_factory=ModelConfig)
    world: WorldConfig = field(default_factory=WorldConfig)  # the embedded dataset, made when missing
    source: SourceConfig | None = None  # None: no labelled dataset
    warmup: AnyWarmup | None = WarmupConfig()  # None: no warm-up
    generative: GenerativeConfig = GenerativeConfig()
    joint: JointConfig = JointConfig()

    def __post_init__(self) -> None:
        if unknown := [stage for stage in self.stages if stage not in ALL_STAGES]:
            raise UserError(f"stages: there is no stage {unknown[0]!r}; there are {', '.join(ALL_STAGES)}")
        object.__setattr__(self, "stages", tuple(stage for stage in ALL_STAGES if stage in self.stages))
        check_ranges(self)
        _refuse_misfits(self)

    @property
    def size(self) -> tuple[int, int]:
        """Return the size (H, W) of the crops that the networks see."""
        return self.height, self.width

    @property
    def in_pairs(self) -> bool:
        """Return whether the generative stage takes crops in pairs, and its generator can carry pixels between them."""
        return self.generative.pairs and self.model.generator.appearance == "carried"

    @property
    def decoded_cache(self) -> str | None:
        """Return `cache` in the form that the loaders take."""
        return None if self.cache == "none" else self.cache

    @property
    def folder(self) -> Path:
        """Return the folder of the run's files."""
        return Path(self.runs) / (self.name or f"{self.dataset}-{self.preset}-seed{self.seed}")


def is_eps(eps: float | str | None) -> bool:
    """Return whether `eps` is None, "auto", or a radius in 0..1; 1 is excluded, because it would join every pair.

    Example:
        >>> is_eps("auto"), is_eps(0.5), is_eps(1.0)
        (True, True, False)
    """
    return eps is None or eps == "auto" or (not isinstance(eps, str) and 0 <= eps < 1)


def _refuse_misfits(config: RunConfig) -> None:
    """Raise a UserError for settings that exclude each other, or that no stage can train with."""
    if PurePath(config.name).is_absolute() or ".." in PurePath(config.name).parts:
        raise UserError(f"name={config.name}: a run stays below --runs; name another folder by --runs DIR")
    if not config.stages:
        raise UserError(f"stages: none is named; there are {', '.join(ALL_STAGES)}")
    for key, name in (("dataset", config.dataset), ("source.dataset", config.source.dataset if config.source else "")):
        if name and name not in DATASETS:
            nearest = "".join(f"; did you mean {near}?" for near in get_close_matches(name, DATASETS, 1))
            raise UserError(f"{key}={name}: there is no such dataset{nearest}; there are {', '.join(DATASETS)}")
    if isinstance(config.warmup, JVTCConfig) and config.warmup.clustering.engine == "approximate":
        raise UserError("warmup.clustering.engine=approximate: jvtc searches exactly; choose auto or exact")
    if config.generative.weights.mixup and config.model.generator.appearance == "carried":
        raise UserError(
            "generative.weights.mixup: an image of mixed part features has no pixels to carry; it needs"
            " model.generator.appearance=parts"
        )
    if config.in_pairs and config.generative.batch % 2:
        raise UserError(
            f"generative.batch={config.generative.batch}: expected an even number, or generative.pairs=false"
        )
    if config.sync_bn:  # a crop a rank is enough
        return
    for section, crops, text in _batches(config):
        if crops < 2:
            raise UserError(
                f"{text}: a step of {section} has one crop, and batch norms need two or more; raise it, or train on"
                " several ranks with --sync-bn"
            )


def _batches(config: RunConfig) -> list[tuple[str, int, str]]:
    """Return (stage, images in a batch of one rank, its settings) where E_id normalizes by the batch."""
    batches = []
    for section, part in (("source", config.source), ("warmup", config.warmup), ("joint", config.joint.clusters)):
        if section not in config.stages or part is None:
            continue
        key = "joint.clusters" if section == "joint" else section
        if isinstance(part, WarmupConfig | SourceConfig):
            text = f"{key}.identities={part.identities} {key}.crops={part.crops}"
            batches.append((section, part.identities * part.crops, text))
        else:
            images = part.batch * (part.variants if isinstance(part, JVTCConfig) else 1)
            batches.append((section, images, f"{key}.batch={part.batch}"))
    if "joint" in config.stages and config.joint.clusters is None and config.joint.batch_statistics:
        batches.append(("joint", config.joint.batch, f"joint.batch={config.joint.batch}"))
    return batches
