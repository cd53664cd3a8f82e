"""Write and read weights as safetensors files, with metadata by which each file can be used alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from gcl_fast import __version__
from gcl_fast.data import ReIDDataset
from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD
from gcl_fast.errors import UserError
from gcl_fast.models import packaged_weights
from gcl_fast.models.official_weights import first_of, misfits
from gcl_fast.run.checkpoint import write_or_warn
from gcl_fast.run.environment import commit
from gcl_fast.settings import PACKAGE, RunConfig, from_dict, to_dict

FORMAT = 1  # of the metadata
ENTRY = "gcl_fast"  # of the safetensors header, which holds the metadata as JSON
SETTINGS = ("preset", "height", "width", "amp", "model")  # of a run, without which its networks cannot be used
IDENTITY = "identity."  # of the names of E_id's weights


def describe(config: RunConfig, stage: str, dataset: ReIDDataset, metrics: dict[str, float]) -> dict[str, Any]:
    """Return the metadata of weights.

    Args:
        config: the settings of the run.
        stage: the stage that the networks have finished.
        dataset: the data that they were trained on.
        metrics: what was measured after the stage, as fractions; empty before that.

    Returns:
        `format`, `gcl_fast` and `commit` name the code. `stage`, `settings`, `data` and `metrics` name the run. `init`
        is the file that it started from, "" for random weights. `source` is the labelled dataset of its first stage, or
        None. `input` says which images the networks take. No path of the machine is among them.
    """
    return {
        "format": FORMAT,
        "gcl_fast": __version__,
        "commit": commit(),
        "stage": stage,
        "init": packaged_weights.ORIGIN if config.init == PACKAGE else Path(config.init).name,
        "source": None if config.source is None else config.source.dataset,
        "settings": needed_settings(config),
        "input": {
            "size": [config.height, config.width],
            "colours": "RGB",
            "resize": "bicubic with antialiasing, as in Pillow",
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
        },
        "data": describe_data(dataset),
        "metrics": metrics,
    }


def needed_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings without which the networks of a run cannot be used (`SETTINGS`)."""
    settings = to_dict(config)
    return {name: settings[name] for name in SETTINGS}


def describe_data(dataset: ReIDDataset) -> dict[str, Any]:
    """Return the name of a dataset, the number of crops in each split, and a digest of the training crops' names.

    `left_out` counts by reason what was passed over, what does not decode, and the queries that do not count.
    """
    counts = {split: len(getattr(dataset, split)) for split in ("train", "query", "gallery")}
    digest = digest_of_names(dataset.train.names)
    return {"name": dataset.name, **counts, "left_out": dict(dataset.passed_over), "digest": digest}


def settings_of(metadata: dict[str, Any], source: object) -> RunConfig:
    """Return settings with the sizes, the input and the precision that `metadata` names; the others have defaults.

    Raises:
        UserError: the metadata of `source` is of another format, or damaged.
    """
    if (version := metadata.get("format")) != FORMAT:
        raise UserError(
            f"{source}: its metadata has format {version}, and this gcl_fast {__version__} reads format {FORMAT}; use"
            f" the gcl_fast that wrote it ({metadata.get('gcl_fast', 'unknown version')})"
        )
    try:
        return from_dict(metadata["settings"])
    except (KeyError, AttributeError, TypeError) as error:
        raise UserError(f"{source}: its metadata names no settings; name those of its run by config=FILE") from error
    except UserError as error:
        raise UserError(f"{source}: its metadata is damaged, or of another version ({str(error)[:160]})") from error


def save_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, Any] | None = None) -> None:
    """Write a state dict with its metadata as safetensors, atomically; a disk that refuses it causes a warning."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in state.items()}
    data = save(tensors, {"format": "pt"} if metadata is None else {"format": "pt", ENTRY: json.dumps(metadata)})
    write_or_warn(path, lambda file: file.write(data))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors state dict.

    Raises:
        UserError: there is no such file, or it is not a safetensors file.
    """
    with _naming(path):
        return load_file(path)


def read_metadata(path: Path) -> dict[str, Any] | None:
    """Return the metadata of a safetensors file, or None where it has none of gcl_fast.

    Raises:
        UserError: there is no such file, or it is not a safetensors file.
    """
    with _naming(path), safe_open(path, framework="pt") as file:
        entries = file.metadata() or {}
        metadata = json.loads(entries[ENTRY]) if ENTRY in entries else None
    parts = [
        metadata,
        *((metadata.get(name, {}) for name in ("data", "metrics")) if isinstance(metadata, dict) else ()),
    ]
    if metadata is not None and not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path}: its metadata is damaged: expected objects of JSON")
    return metadata


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Enter a context in which a safetensors file that is missing or cannot be read is a UserError."""
    if not path.is_file():
        raise UserError(f"no weights at {path}; a finished stage leaves <run>/checkpoints/<stage>.safetensors")
    try:
        yield
    except (SafetensorError, OSError, ValueError) as error:  # ValueError: metadata that are no JSON
        raise UserError(f"{path} is not a readable safetensors file: {error}") from error


def check_fit(expected: dict[str, Tensor], weights: dict[str, Tensor], source: object) -> None:
    """Raise a UserError that names the first tensors in which `weights`, read from `source`, differ from `expected`."""
    missing = [f"missing {name}" for name in expected if name not in weights]  # counts of batches as well
    if faults := sorted({*misfits(expected, weights), *missing}):
        raise UserError(
            f"{source} comes from another configuration ({first_of(faults)}); take the sizes of networks, model.*, of"
            " the run that wrote it"
        )


def digest_of_names(names: list[str]) -> str:
    """Return a digest of the names of crops, in their order."""
    return hashlib.sha256("\n".join(names).encode(errors="surrogateescape")).hexdigest()
