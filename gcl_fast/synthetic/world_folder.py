"""Write a synthetic world to a folder in Market-1501's layout, in parallel and resumable, and render its true views."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, as_completed, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor
from torch.nn.functional import interpolate
from tqdm import tqdm

from gcl_fast.atomic import refuse_link, write_atomically, write_json
from gcl_fast.bodies import BodyParameters, save_body_parameters
from gcl_fast.data.layouts.detection import detect
from gcl_fast.data.layouts.reading import first_of
from gcl_fast.errors import UserError
from gcl_fast.settings import WorldConfig
from gcl_fast.settings.world import VERSION
from gcl_fast.synthetic.world import (
    DISTRACTOR,
    JUNK,
    TEST,
    TRAIN,
    CropKey,
    crop_key,
    file_name,
    world_of,
)

log = logging.getLogger(__name__)

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
WORLD_FILE, PARTS = "world.json", ".parts"
Unit = tuple[int, int]  # kind of person and index among that kind; a worker writes one unit at a time


def make_world(root: str | Path, config: WorldConfig, progress: bool = True, workers: int | None = None) -> Path:
    """Write a synthetic world to a folder, unless it is complete; continue where an interrupted call stopped.

    The folder then holds bounding_box_train, query and bounding_box_test with Market-1501's file names, the true body
    parameters as body_parameters/{train,query,gallery}.npz, and world.json.

    Args:
        root: folder for this world alone.
        config: the world, which it determines to the last bit.
        progress: show the progress.
        workers: number of processes; by default all cores that this process may use.

    Returns:
        `root` as a Path.

    Raises:
        UserError: the folder cannot be written, its disk is full, or it holds another world or another dataset.

    Example:
        >>> config = WorldConfig(identities=1, cameras=2, crops=2, size=(64, 32))
        >>> root = make_world("world", config, progress=False, workers=1)
        >>> sorted(path.name for path in root.iterdir() if not path.name.startswith("."))
        ['body_parameters', 'bounding_box_test', 'bounding_box_train', 'query', 'world.json']
        >>> len(list((root / "bounding_box_train").iterdir()))  # 1 identity, 2 cameras, 2 crops
        4
    """
    root = Path(root)
    if _is_complete(root, config):
        return root
    with _only_writer(root):
        if not _is_complete(root, config):  # another process may have finished it during the wait for the lock
            _write(root, config, progress, workers or _cores())
    return root


def read_config(root: str | Path) -> WorldConfig:
    """Read the configuration of the world in a folder.

    Args:
        root: a folder that `make_world` wrote.

    Raises:
        FileNotFoundError: the folder holds no world.
        UserError: world.json is damaged, or another version of gcl_fast made the world.

    Example:
        >>> config = WorldConfig(identities=1, cameras=2, crops=2, size=(64, 32))
        >>> root = make_world("world", config, progress=False, workers=1)
        >>> read_config(root) == config
        True
    """
    path = Path(root) / WORLD_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no synthetic world at {root}: {WORLD_FILE} is missing; `gcl-fast synthetic --out {root}`"
        )
    try:
        content = json.loads(path.read_text())
        config = WorldConfig.from_json(content["config"])
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({error}); remove {root} and make the world again") from error
    if content.get("version") != VERSION:
        raise UserError(
            f"{path}: made by version {content.get('version')}, this is {VERSION}; remove {root} and make it again"
        )
    return config


def true_views(
    root: str | Path, names: Sequence[str], yaw: float | Tensor, size: tuple[int, int] | None = None
) -> tuple[Tensor, Tensor]:
    """Render crops with the person turned, without noise, passers-by and obstacles.

    Args:
        root: a folder that `make_world` wrote.
        names: file names of B crops.
        yaw: degrees by which the person turns, one number or (B,); 0 is the crop's view.
        size: (H, W) of the result; by default the world's size of crops.

    Returns:
        Images (B, 3, H, W) uint8 and the person's masks (B, H, W) bool.

    Raises:
        FileNotFoundError: the folder holds no world.
        UserError: a name is no crop of this world, or world.json is damaged or of another version.

    Example:
        >>> config = WorldConfig(identities=1, cameras=2, crops=2, size=(64, 32))
        >>> root = make_world("world", config, progress=False, workers=1)
        >>> names = [path.name for path in (root / "query").iterdir()]
        >>> images, masks = true_views(root, names, yaw=90)
        >>> images.shape, masks.shape
        (torch.Size([2, 3, 64, 32]), torch.Size([2, 64, 32]))
    """
    config = read_config(root)
    world = world_of(config)
    turns = torch.as_tensor(yaw, dtype=torch.float32).expand(len(names)).tolist()
    views = [world.view(crop_key(config, name), turn) for name, turn in zip(names, turns)]
    images = torch.from_numpy(np.stack([image for image, _ in views])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([mask for _, mask in views]))
    if size is not None and size != config.size:
        scale = partial(interpolate, size=size, mode="bilinear", antialias=True)
        images = scale(images.float()).round().clamp(0, 255).to(torch.uint8)
        masks = scale(masks[:, None].float())[:, 0] > 0.5
    return images, masks


def _is_complete(root: Path, config: WorldConfig) -> bool:
    """Return whether the folder holds the complete world; raise UserError if it holds something else."""
    if (root / WORLD_FILE).is_file():
        existing = read_config(root)
        if existing != config:
            raise UserError(
                f"{root} holds another synthetic world ({_difference(existing, config)}); "
                f"choose another folder or remove it"
            )
        return json.loads((root / WORLD_FILE).read_text()).get("complete") is True
    if root.is_dir() and (names := sorted(path.name for path in root.iterdir() if path.name[0] != ".")):
        raise UserError(
            f"{root} is neither empty nor a synthetic world (it holds {first_of(names)}): choose an empty folder, or"
            f" read what is there with --dataset {detect(root) or 'NAME'}"
        )
    return False


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Hold the folder's lock, and turn any error of writing to the folder into a UserError that names it."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        refuse_link(root / ".lock")
        with FileLock(root / ".lock"):
            yield
    except OSError as error:
        raise UserError(
            f"cannot write a synthetic world to {root}: {error}; make room there, or choose a folder that you may write"
        ) from error


def _write(root: Path, config: WorldConfig, progress: bool, workers: int) -> None:
    """Write all units that are missing, then the files of the whole world."""
    _write_world_file(root, config, complete=False)
    for folder in (*FOLDERS.values(), "body_parameters", PARTS):
        (root / folder).mkdir(exist_ok=True)
    units = [unit for unit in _units(config) if not _part(root, unit).exists()]
    with _progress(len(units), progress) as advance:
        if min(workers, len(units)) > 1:
            _write_parallel(root, config, units, min(workers, len(units)), advance)
        else:
            threads = torch.get_num_threads()
            _limit_threads()
            try:
                for unit in units:
                    _write_unit(str(root), config, unit)
                    advance()
            finally:
                torch.set_num_threads(threads)
    _finish(root, config)


def _difference(existing: WorldConfig, config: WorldConfig) -> str:
    """List the settings in which two worlds differ."""
    a, b = existing.to_json(), config.to_json()
    return ", ".join(f"{key} {a[key]}, not {b[key]}" for key in a if a[key] != b[key])


def _write_world_file(root: Path, config: WorldConfig, complete: bool) -> None:
    """Write world.json, which tells whether the world is complete."""
    content = {"config": config.to_json(), "version": VERSION, "hash": config.digest, "complete": complete}
    write_json(root / WORLD_FILE, content)


def _units(config: WorldConfig) -> list[Unit]:
    """List the people of a world: training and test identities, distractors and junk."""
    people = [(kind, i) for kind in (TRAIN, TEST) for i in range(config.identities)]
    strays = max(1, config.identities // 5)
    return people + [(kind, i) for kind in (DISTRACTOR, JUNK) for i in range(strays)]


def _keys(config: WorldConfig, unit: Unit) -> list[CropKey]:
    """List the crops of one person."""
    kind, identity = unit
    if kind in (DISTRACTOR, JUNK):
        return [CropKey(kind, identity, identity % config.cameras, 0)]
    return [CropKey(kind, identity, c, k) for c in range(config.cameras) for k in range(config.crops_per_camera)]


def _split(config: WorldConfig, key: CropKey) -> str:
    """Return a crop's split; one crop per test identity and camera is a query, the others are gallery crops."""
    if key.kind == TRAIN:
        return "train"
    query = np.random.default_rng([config.seed, 61, key.identity, key.camera]).integers(config.crops_per_camera)
    return "query" if key.kind == TEST and key.number == query else "gallery"


def _part(root: Path, unit: Unit) -> Path:
    """Return the file of one unit's body parameters; it exists once all crops of the unit are on disk."""
    return root / PARTS / f"{unit[0]}_{unit[1]:05d}.npz"


def _cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit_threads() -> None:
    """Use one thread: a crop's arrays are small, and one thread gives the same bits on every machine."""
    torch.set_num_threads(1)


def _write_unit(root: str, config: WorldConfig, unit: Unit) -> None:
    """Write the crops of one person, then their body parameters."""
    world = world_of(config)
    keys = _keys(config, unit)
    stances = []
    names = [file_name(config, key) for key in keys]
    splits = [_split(config, key) for key in keys]
    for key, name, split in zip(keys, names, splits):
        jpeg, stance = world.crop(key)
        (Path(root) / FOLDERS[split] / name).write_bytes(jpeg)
        stances.append(stance)
    arrays: dict[str, Any] = {
        "names": np.array(names),
        "split": np.array(splits),
        "pose": np.stack([stance.pose for stance in stances]),
        "shape": np.stack([stance.shape for stance in stances]),
        "yaw": np.array([stance.yaw for stance in stances], np.float32),
        "camera": np.stack([stance.camera for stance in stances]),
    }
    write_atomically(_part(Path(root), unit), lambda file: np.savez(file, **arrays))


def _write_parallel(
    root: Path, config: WorldConfig, units: list[Unit], workers: int, advance: Callable[[], object]
) -> None:
    """Write units in worker processes; cancel the remaining ones at the first error."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_limit_threads) as pool:
        futures = [pool.submit(_write_unit, str(root), config, unit) for unit in units]
        try:
            for future in as_completed(futures):
                future.result()
                advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            wait(futures, return_when=FIRST_EXCEPTION)
            raise


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[], object]]:
    """Show a progress bar on a terminal, else a line after each tenth; yield the function that advances it."""
    if show and total and not sys.stderr.isatty():
        done = 0

        def advance() -> None:
            """Count one person."""
            nonlocal done
            done += 1
            if done * 10 // total > (done - 1) * 10 // total:
                log.info("synthetic world: %d of %d people", done, total)

        yield advance
        return
    with tqdm(total=total, desc="synthetic world", unit=" people", disable=not show) as bar:
        yield lambda: bar.update(1)


def _finish(root: Path, config: WorldConfig) -> None:
    """Merge the parts into the body-parameter files, and mark the world as complete."""
    parts = []
    for unit in _units(config):
        with np.load(_part(root, unit), allow_pickle=False) as part:  # one at a time: open files are limited
            parts.append(dict(part))
    arrays = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.argsort(arrays["names"])
    arrays = {key: values[order] for key, values in arrays.items()}
    for split in FOLDERS:
        mask = arrays["split"] == split
        tensors = {key: torch.from_numpy(arrays[key][mask]) for key in ("pose", "shape", "yaw", "camera")}
        params = BodyParameters(
            names=[str(name) for name in arrays["names"][mask]],
            model="anny",
            confidence=torch.ones(int(mask.sum())),
            **tensors,
        )
        save_body_parameters(root / "body_parameters" / f"{split}.npz", params)
    _write_world_file(root, config, complete=True)
    for part in (root / PARTS).iterdir():
        part.unlink()
    (root / PARTS).rmdir()
