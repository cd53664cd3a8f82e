"""Open what a run reads: the dataset (the embedded one is made when missing), structure maps, true novel views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gcl_fast.atomic import check_writable
from gcl_fast.bodies import (
    AnnyBody,
    OnlineStructureMaps,
    PrerenderedStructureMaps,
    SMPLBody,
    align,
    load_body_parameters,
)
from gcl_fast.bodies.body_estimator import DOUBTFUL, estimate_to_file, unwritable_parameters
from gcl_fast.data import Augmentation, Records, ReIDDataset, TrainLoader, drop_broken, open_dataset
from gcl_fast.data.readers import READERS
from gcl_fast.data.records import judged_queries
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.settings import RunConfig, SourceConfig
from gcl_fast.synthetic import make_world, true_views

StructureMaps = OnlineStructureMaps | PrerenderedStructureMaps
BROKEN = "broken images of {}"
UNJUDGED = "queries without their person in another camera of the gallery"
TrueViews = Callable[[list[str], Tensor], tuple[Tensor, Tensor]]  # (names, yaw) -> images (B, 3, H, W) uint8, person


@dataclass(frozen=True)
class Inputs:
    """Holds an opened dataset, and what belongs to its crops.

    Attributes:
        config: the settings.
        dataset: train, query and gallery records, without the images that do not decode.
        notes: remarks for the header: counts that differ from the published ones, images that are left out.
        true_views: renders crops of the embedded dataset at another yaw; None for other datasets.
        source: the labelled dataset that a run trains on first; None without one.
    """

    config: RunConfig
    dataset: ReIDDataset
    notes: tuple[str, ...]
    true_views: TrueViews | None
    source: ReIDDataset | None = None

    def structure_maps(self, split: str, device: torch.device) -> StructureMaps:
        """Open the structure maps of the crops of a split.

        Body parameters that are missing in the dataset's folder are estimated from the crops, and written there.

        Args:
            split: "train", "query" or "gallery".
            device: where the maps go.

        Returns:
            The maps of crops by their index in record order.

        Raises:
            UserError: names are missing in the file or folder, estimates cannot be written, or the maps are
                pre-rendered and the generator takes carried pixels.
        """
        records: Records = getattr(self.dataset, split)
        names, size = records.names, self.config.size
        if self.config.structure_maps != "online":
            if self.config.model.generator.appearance == "carried":
                raise UserError(
                    f"--structure-maps {self.config.structure_maps}: pre-rendered maps hold no body, so no pixel can be"
                    " carried to another view; add --set model.generator.appearance=parts"
                )
            folder = "train" if split == "train" else "test"
            return PrerenderedStructureMaps(self.config.structure_maps, folder, names, size, device)
        path = body_parameter_file(self.dataset, split)
        estimates = load_body_parameters(path) if path.is_file() else estimate_to_file(records, path, device)
        parameters = align(estimates, names, path, records.root)
        if parameters.model == "smpl" and not self.config.smpl:
            raise UserError(f"{path} holds SMPL parameters: give the body model's file with --smpl FILE")
        body = SMPLBody(self.config.smpl) if parameters.model == "smpl" else AnnyBody()
        return OnlineStructureMaps(body, parameters, size, device)

    def has_structure_maps(self, split: str) -> bool:
        """Return whether `split` has crops and, where the maps are pre-rendered, maps for them.

        The official pre-rendered maps have none for the queries.
        """
        records: Records = getattr(self.dataset, split)
        if self.config.structure_maps == "online" or not len(records):
            return len(records) > 0
        folder = Path(self.config.structure_maps) / ("train" if split == "train" else "test") / "render"
        return (folder / records.names[0]).is_file()

    def check_structure_maps(self, split: str) -> None:
        """Open the structure maps of `split` as a check; where body parameters are missing, nothing is estimated.

        Raises:
            UserError: as `structure_maps` raises it, or a pre-rendered image is none.
        """
        path = body_parameter_file(self.dataset, split)
        if self.config.structure_maps != "online" or path.is_file():
            maps = self.structure_maps(split, torch.device("cpu"))
            if isinstance(maps, PrerenderedStructureMaps):
                maps.check_headers()
            return
        try:
            check_writable(path.parent)
        except OSError as error:
            raise unwritable_parameters(path, getattr(self.dataset, split), error) from error

    @property
    def body(self) -> str:
        """Return which body model the structure maps come from, for the header."""
        if self.config.structure_maps != "online":
            return f"pre-rendered maps in {self.config.structure_maps}"
        path = body_parameter_file(self.dataset, "train")
        if not path.is_file():
            return f"anny, to be estimated from the crops when first needed: there is no {path} yet"
        parameters = load_body_parameters(path)
        doubtful = int((parameters.confidence < DOUBTFUL).sum())
        return f"{parameters.model}, rendered in the loop from {path}" + (
            f"; {doubtful} crops doubtful" if doubtful else ""
        )


def train_loader(
    records: Records, config: RunConfig, ranks: Ranks, augmentation: Augmentation | None = None
) -> TrainLoader:
    """Return the loader of a stage's batches; the ranks augment as one process does with the whole batch."""
    return TrainLoader(
        records,
        config.size,
        ranks.device,
        augmentation=augmentation,
        cache=config.decoded_cache,
        seed=config.seed,
        rank=ranks.rank,
        world_size=ranks.world_size,
    )


def body_parameter_file(dataset: ReIDDataset, split: str) -> Path:
    """Return the path of the body parameters of `split`."""
    return Path(dataset.root) / "body_parameters" / f"{split}.npz"


def prepare_inputs(config: RunConfig, ranks: Ranks, finished: Sequence[str]) -> Inputs:
    """Make the embedded datasets where they are missing, and open what a run trains on.

    Args:
        config: the settings.
        ranks: all of them call this; rank 0 makes what is missing.
        finished: the names of the complete stages. Without "source" among them the source is opened as well.

    Raises:
        UserError: as `open_inputs` and `open_source` raise it, or the other stages would begin without the source, or
            there are no training crops.
    """
    with_source = config.source is not None and "source" not in finished
    if with_source and "source" not in config.stages:
        assert config.source is not None
        raise UserError(
            f"--source {config.source.dataset}: {config.folder} has not been trained on it; add source to --stages"
        )
    if ranks.main:
        if with_source:
            prepare_source(config)
        if config.dataset == "synthetic":
            make_embedded_dataset(config)
    ranks.barrier()
    inputs = open_inputs(config)
    if not len(inputs.dataset.train):
        raise UserError(
            f"--dataset {config.dataset}: there are no training crops in {inputs.dataset.root}; evaluate takes such a"
            " dataset"
        )
    return replace(inputs, source=open_source(config, inputs.dataset)) if with_source else inputs


def make_embedded_dataset(config: RunConfig) -> Path:
    """Make the embedded dataset of `config` where it is missing or unfinished, and return its root."""
    return make_world(_embedded_root(config), config.world)


def _embedded_root(config: RunConfig) -> Path:
    """Return the folder of the embedded dataset."""
    return Path(config.data_root or "datasets/synthetic")


def open_inputs(config: RunConfig) -> Inputs:
    """Open the dataset of `config`; the embedded one must have been made.

    Raises:
        UserError: the dataset is missing or empty, or an image does not decode with --on-bad-image error.
    """
    if config.dataset == "synthetic":
        root = _embedded_root(config)
    elif not config.data_root:
        raise UserError(f"--dataset {config.dataset} needs --data-root DIR, the folder that holds it")
    else:
        root = Path(config.data_root)
    dataset = _open_readable(config.dataset, root, config.on_bad_image)
    return Inputs(
        config,
        dataset,
        dataset.notes,
        partial(true_views, root, size=config.size) if config.dataset == "synthetic" else None,
    )


def prepare_source(config: RunConfig) -> None:
    """Make the embedded source, where `config` names it and it is missing or unfinished.

    Raises:
        UserError: the source has no folder, or it is the target: the same folder or the same world.
    """
    assert config.source is not None
    root = _source_root(config.source)
    target = _embedded_root(config) if config.dataset == "synthetic" else Path(config.data_root)
    if (config.data_root or config.dataset == "synthetic") and root.resolve() == target.resolve():
        raise UserError(
            f"--source {config.source.dataset}: {root} is the target's folder; a source is another dataset than the"
            " one that --dataset and --data-root name"
        )
    if config.source.dataset == config.dataset == "synthetic" and config.source.world == config.world:
        raise UserError(
            "--source synthetic: source.world and world are the same, so its crops are the target's; give them"
            " different seeds, as in --set source.world.seed=1 world.seed=0"
        )
    if config.source.dataset == "synthetic":
        make_world(root, config.source.world)


def open_source(config: RunConfig, target: ReIDDataset) -> ReIDDataset:
    """Open the labelled dataset that `config` trains on before `target`; the embedded one must have been made.

    Raises:
        UserError: as `open_inputs` raises it, or crops have no identities, or they are in the target as well.
    """
    assert config.source is not None
    name, root = config.source.dataset, _source_root(config.source)
    source = _open_readable(name, root, config.on_bad_image)
    if len(np.unique(source.train.identity[source.train.identity >= 0])) < 2:
        raise UserError(
            f"--source {name}: {source.train.root} has no identities to learn from; give a labelled dataset, one of"
            f" {', '.join(sorted(READERS.keys() - {'folder'}))}"
        )
    shared = {*target.train.paths, *target.query.paths, *target.gallery.paths}.intersection(source.train.paths)
    if shared:
        raise UserError(
            f"--source {name}: {min(shared)} and {len(shared) - 1} more of its crops are the target's as well; a source"
            " is another dataset than the one that --dataset and --data-root name"
        )
    if sorted(source.train.names) == sorted(target.train.names):
        raise UserError(
            f"--source {name}: all crops in {source.train.root} have the names of those in {target.train.root}: a copy"
            " of the target, whose labels would be used; a source is another dataset"
        )
    return source


def _source_root(source: SourceConfig) -> Path:
    """Return the folder of the source; raise a UserError for a dataset without a needed folder."""
    if source.dataset != "synthetic" and not source.root:
        raise UserError(f"--source {source.dataset} needs --source-root DIR, the folder that holds it")
    return Path(source.root or "datasets/synthetic-source")


def _open_readable(name: str, root: Path, on_bad_image: str) -> ReIDDataset:
    """Open a dataset without the images that do not decode; its notes and `passed_over` count what is left out."""
    dataset = open_dataset(name, root)
    notes, left_out, splits = [*dataset.notes], dict(dataset.passed_over), dict[str, Any]()
    for split in ("train", "query", "gallery"):
        records: Records = getattr(dataset, split)
        splits[split], note = drop_broken(records, on_bad_image, needed=split == "train")
        notes += [note] if note else []
        if broken := len(records) - len(splits[split]):
            left_out[BROKEN.format(split)] = broken
    dataset = replace(dataset, **splits)
    unjudged = len(dataset.query) - int(judged_queries(dataset.query, dataset.gallery).sum())
    if unjudged and dataset.can_be_ranked:
        left_out[UNJUDGED] = unjudged
        notes.append(f"{name}: {unjudged:,} of {len(dataset.query):,} queries do not count ({UNJUDGED})")
    return replace(dataset, notes=tuple(notes), passed_over=left_out)
