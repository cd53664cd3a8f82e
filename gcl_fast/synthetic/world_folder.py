"""Writing a world to disk in Market-1501 layout: in parallel, resumable, and only once."""

from __future__ import annotations

import json
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

from gcl_fast.atomic import write_atomically
from gcl_fast.bodies import BodyParameters, save_body_parameters
from gcl_fast.errors import UserError
from gcl_fast.synthetic.world import (
    DISTRACTOR,
    JUNK,
    TEST,
    TRAIN,
    VERSION,
    CropKey,
    WorldConfig,
    crop_key,
    file_name,
    world_of,
)

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
WORLD_FILE, PARTS = "world.json", ".parts"
Unit = tuple[int, int]  # kind of person and index: what one worker writes in one go


def make_world(root: str | Path, config: WorldConfig, progress: bool = True, workers: int | None = None) -> Path:
    """Write the world of `config` under `root`, unless it is there; continue where an interrupted call stopped.

    Writes bounding_box_train, query and bounding_box_test with names as Market-1501 has them, the true body parameters
    as body_parameters/{train,query,gallery}.npz, and world.json.

    Args:
        root: folder of this world alone.
        config: decides every bit of it; the number of workers does not.
        progress: show how far it is.
        workers: processes; all cores that this process may use by default.

    Returns:
        `root` as a Path.

    Raises:
        UserError: the folder cannot be written or is full, or holds another world or another dataset.
    """
    root = Path(root)
    if _is_complete(root, config):
        return root
    with _only_writer(root):
        if not _is_complete(root, config):  # another process may have finished it while we waited
            _write(root, config, progress, workers or _cores())
    return root


def read_config(root: str | Path) -> WorldConfig:
    """The configuration of the world under `root`. Raises FileNotFoundError or UserError where there is none."""
    path = Path(root) / WORLD_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"no synthetic world at {root}: {WORLD_FILE} is missing; `python -m gcl_fast.synthetic --out {root}`"
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
    """The same scenes with the person turned, clean: without noise, passers-by and things in the way.

    Args:
        root: a world made by `make_world`.
        names: file names of B crops.
        yaw: degrees to turn by, one number or (B,); 0 is the crop's own view.
        size: (H, W) to scale to, as loaders scale crops; by default the world's own.

    Returns:
        Pictures (B, 3, H, W) uint8 and the person's masks (B, H, W) bool.
    """
    config = read_config(root)
    world = world_of(config)
    turns = torch.as_tensor(yaw, dtype=torch.float32).expand(len(names)).tolist()
    views = [world.view(crop_key(config, name), turn) for name, turn in zip(names, turns)]
    pictures = torch.from_numpy(np.stack([picture for picture, _ in views])).permute(0, 3, 1, 2).contiguous()
    masks = torch.from_numpy(np.stack([mask for _, mask in views]))
    if size is not None and size != config.size:
        scale = partial(interpolate, size=size, mode="bilinear", antialias=True)
        pictures = scale(pictures.float()).round().clamp(0, 255).to(torch.uint8)
        masks = scale(masks[:, None].float())[:, 0] > 0.5
    return pictures, masks


def _is_complete(root: Path, config: WorldConfig) -> bool:
    """Whether the world lies there already; raises UserError where something else does."""
    if (root / WORLD_FILE).is_file():
        there = read_config(root)
        if there != config:
            raise UserError(
                f"{root} holds another synthetic world ({_difference(there, config)}); "
                f"choose another folder or remove it"
            )
        return json.loads((root / WORLD_FILE).read_text())["complete"]
    if any((root / folder).exists() for folder in FOLDERS.values()):
        raise UserError(f"{root} holds a dataset that is no synthetic world (no {WORLD_FILE}); choose an empty folder")
    return False


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Hold the folder's lock; name the folder where it cannot be written, also later, by a worker or on a full disk."""
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / ".lock"):
            yield
    except OSError as error:
        raise UserError(
            f"cannot write a synthetic world to {root}: {error}; make room there, or choose a folder that you may write"
        ) from error


def _write(root: Path, config: WorldConfig, progress: bool, workers: int) -> None:
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


def _difference(there: WorldConfig, here: WorldConfig) -> str:
    a, b = there.to_json(), here.to_json()
    return ", ".join(f"{key} {a[key]}, not {b[key]}" for key in a if a[key] != b[key])


def _write_world_file(root: Path, config: WorldConfig, complete: bool) -> None:
    content = {"config": config.to_json(), "version": VERSION, "hash": config.digest, "complete": complete}
    write_atomically(root / WORLD_FILE, lambda file: file.write(json.dumps(content, indent=2).encode()))


def _units(config: WorldConfig) -> list[Unit]:
    people = [(kind, i) for kind in (TRAIN, TEST) for i in range(config.identities)]
    strays = max(1, config.identities // 5)
    return people + [(kind, i) for kind in (DISTRACTOR, JUNK) for i in range(strays)]


def _keys(config: WorldConfig, unit: Unit) -> list[CropKey]:
    kind, identity = unit
    if kind in (DISTRACTOR, JUNK):
        return [CropKey(kind, identity, identity % config.cameras, 0)]
    return [CropKey(kind, identity, c, k) for c in range(config.cameras) for k in range(config.crops_per_camera)]


def _split(config: WorldConfig, key: CropKey) -> str:
    """One crop per test identity and camera is the query; the rest is the gallery."""
    if key.kind == TRAIN:
        return "train"
    chosen = np.random.default_rng([config.seed, 61, key.identity, key.camera]).integers(config.crops_per_camera)
    return "query" if key.kind == TEST and key.number == chosen else "gallery"


def _part(root: Path, unit: Unit) -> Path:
    """Body parameters of one unit; it exists when all its crops are on disk."""
    return root / PARTS / f"{unit[0]}_{unit[1]:05d}.npz"


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _limit_threads() -> None:
    torch.set_num_threads(1)  # one crop's arrays are too small to share, and one thread gives the same bits everywhere


def _write_unit(root: str, config: WorldConfig, unit: Unit) -> None:
    world = world_of(config)
    keys = _keys(config, unit)
    stances = []
    names = [file_name(config, key) for key in keys]
    splits = [_split(config, key) for key in keys]
    for key, name, split in zip(keys, names, splits):
        picture, stance = world.crop(key)
        (Path(root) / FOLDERS[split] / name).write_bytes(picture)
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
    """A bar on a terminal, a line every tenth otherwise."""
    if show and total and not sys.stderr.isatty():
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            if done * 10 // total > (done - 1) * 10 // total:
                print(f"synthetic world: {done} of {total} people", flush=True)

        yield advance
        return
    with tqdm(total=total, desc="synthetic world", unit=" people", disable=not show) as bar:
        yield lambda: bar.update(1)


def _finish(root: Path, config: WorldConfig) -> None:
    """Gather the parts into the body-parameter files, and declare the world complete."""
    parts = []
    for unit in _units(config):
        with np.load(_part(root, unit), allow_pickle=False) as part:  # closed at once: there are more than may be open
            parts.append(dict(part))
    gathered = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    order = np.argsort(gathered["names"])
    gathered = {key: values[order] for key, values in gathered.items()}
    for split in FOLDERS:
        mine = gathered["split"] == split
        tensors = {key: torch.from_numpy(gathered[key][mine]) for key in ("pose", "shape", "yaw", "camera")}
        params = BodyParameters(
            names=[str(name) for name in gathered["names"][mine]],
            model="anny",
            confidence=torch.ones(int(mine.sum())),
            **tensors,
        )
        save_body_parameters(root / "body_parameters" / f"{split}.npz", params)
    _write_world_file(root, config, complete=True)
    for part in (root / PARTS).iterdir():
        part.unlink()
    (root / PARTS).rmdir()
