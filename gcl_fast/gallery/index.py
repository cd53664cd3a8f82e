"""Keep a gallery on disk: the unit rows of its images, their names and cameras, and a manifest.

    INDEX/manifest.json      what the rows are, and the name of the folder that holds them
    INDEX/a1b2c3d4/          rows.npy (N, D), cameras.npy (N,), names.npy and name_ends.npy (N,)

The manifest is written last and replaces the old one in one step. A build that is killed leaves a folder that no
manifest names, and the next build removes it. All arrays are mapped, so that an index opens without reading its rows.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from filelock import FileLock, Timeout

from gcl_fast.atomic import check_writable, refuse_link, write_atomically, write_json
from gcl_fast.data import Records
from gcl_fast.errors import UserError
from gcl_fast.gallery.exact_search import LONGEST, top_k

FORMAT = 1  # version of the layout; another one is refused
MANIFEST = "manifest.json"
LOCK = ".lock"
ARRAYS = {"rows": np.float32, "cameras": np.int32, "names": np.uint8, "name_ends": np.int64}
PART = re.compile(r"[0-9a-f]{8}")  # names of the folders that hold arrays
FIELDS = {  # of the manifest
    "part": str,  # folder of the arrays
    "count": int,  # N
    "dim": int,  # D
    "unreadable": int,  # images that do not decode
    "root": str,  # folder of the images
    "digest": str,
    "size": list,
    "model": str,
}


@dataclass(frozen=True)
class Maker:
    """Holds which model made the rows of an index."""

    digest: str  # of the identity encoder's weights
    size: tuple[int, int]  # (H, W) of the images that it takes
    path: str  # of the run or file that it was loaded from


class Match(NamedTuple):
    """Holds one image of a gallery that matches a query."""

    row: int  # of the index
    cosine: float  # -1..1
    camera: int  # 0 is unknown
    name: str  # path relative to the root of the images


class Index:
    """Represents an open index; `open_index` makes it. All arrays are mapped and must not be written.

    Attributes:
        folder: of the index.
        root: the folder of the images.
        maker: the model that made the rows.
        rows: (N, D) float32 unit rows; the row of an image that does not decode is NaN.
        cameras: (N,) int32, the dataset's number; 0 is unknown.
        unreadable: number of images that do not decode.

    Example:
        >>> records = Records(Path("crops"), [Path("crops/a.jpg"), Path("crops/b.jpg")], [-1, -1], [1, 2], [0, 0])
        >>> write_index(Path("index"), [np.eye(2, dtype=np.float32)], records, Maker("0f", (128, 64), "runs/NAME"))
        >>> index = open_index(Path("index"))
        >>> (matches,) = index.search(np.array([[0.6, 0.8]], np.float32), k=2)
        >>> [(match.name, match.camera, round(match.cosine, 2)) for match in matches]
        [('b.jpg', 2, 0.8), ('a.jpg', 1, 0.6)]
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.folder, self.root = folder, Path(manifest["root"])
        self.maker = Maker(manifest["digest"], tuple(manifest["size"]), manifest["model"])
        self.unreadable: int = manifest["unreadable"]
        self.rows, self.cameras = arrays["rows"], arrays["cameras"]
        self._names, self._ends = arrays["names"], arrays["name_ends"]

    def __len__(self) -> int:
        return len(self.rows)

    def name(self, row: int) -> str:
        """Return the name of an image: its path relative to `root`, with forward slashes."""
        begin = int(self._ends[row - 1]) if row else 0
        return os.fsdecode(self._names[begin : self._ends[row]].tobytes())

    def path(self, row: int) -> Path:
        """Return the file of the image in a row.

        Raises:
            UserError: the name leads out of `root`, or there is no such file (any more).
        """
        name = PurePosixPath(self.name(row))
        if name.is_absolute() or ".." in name.parts:
            raise UserError(f"{self.folder}: row {row} names a file outside {self.root}; build the index again")
        if not (path := self.root / name).is_file():
            raise UserError(
                f"there is no {path} any more; name the folder that holds {name} now (--images DIR), or build the index"
                " again"
            )
        return path

    def check_k(self, k: int) -> None:
        """Raise a UserError where a query cannot have k matches."""
        readable = len(self) - self.unreadable
        if not 1 <= k <= readable:
            raise UserError(
                f"k={k}: {self.folder} holds {readable:,} images that decode; choose a k from 1 to {readable}"
            )

    def search(self, queries: np.ndarray, k: int, camera: int | None = None) -> list[list[Match]]:
        """Search for the k images most similar to each query (`top_k`).

        Args:
            queries: (Q, D) float32 unit rows; one with NaN matches nothing.
            k: matches of a query.
            camera: search among the images of this camera alone; None: all.

        Returns:
            Matches of each query, best first; fewer than k where a camera has fewer.

        Raises:
            UserError: k is out of range.
        """
        self.check_k(k)
        lists = zip(*top_k(self.rows, queries, k, None if camera is None else self.cameras == camera))
        return [
            [
                Match(row, cosine, int(self.cameras[row]), self.name(row))
                for cosine, row in zip(scores.tolist(), rows.tolist())
                if cosine > -np.inf
            ]
            for scores, rows in lists
        ]


def open_index(folder: Path, images: Path | None = None) -> Index:
    """Open the index in a folder without reading its rows.

    Args:
        folder: of the index.
        images: where the images are now; None: where they were when the index was built.

    Raises:
        UserError: there is no index, it has another format, or a file of it is missing or damaged.

    Example:
        >>> try:
        ...     open_index(Path("nowhere"))
        ... except UserError as error:
        ...     print(error)
        there is no index at nowhere; build one: gcl-fast search nowhere --build FOLDER --model RUN
    """
    manifest = _read_manifest(folder)
    arrays = {}
    for name, dtype in ARRAYS.items():
        file = folder / manifest["part"] / f"{name}.npy"
        try:
            arrays[name] = np.load(file, mmap_mode="r", allow_pickle=False).view(np.ndarray)
        except (OSError, ValueError, EOFError, MemoryError) as error:
            if _read_manifest(folder)["part"] != manifest["part"]:  # replaced since the line above
                return open_index(folder, images)
            raise _damaged(folder, f"{file} is missing or cut off") from error
        if arrays[name].dtype != dtype or arrays[name].shape != _shape(name, manifest, arrays):
            raise _damaged(folder, f"{file} has {arrays[name].dtype} {arrays[name].shape}, which its manifest excludes")
    if images is not None:
        if not images.is_dir():
            raise UserError(f"--images {images}: there is no such folder")
        manifest["root"] = str(images.resolve())
    return Index(folder, manifest, arrays)


def write_index(folder: Path, blocks: Iterable[np.ndarray], records: Records, maker: Maker) -> None:
    """Write an index, or replace the one in `folder` in one step.

    Args:
        folder: of the index; new, empty, or an older index.
        blocks: (B, D) float32 unit rows, those of `records` in their order, in blocks of any size; the row of an image
            that does not decode is NaN.
        records: the images, with their cameras.
        maker: the model that made the rows.

    Raises:
        UserError: `folder` holds something else, cannot be written, or another process builds it now.
        ValueError: the rows are not as many as the records, or no unit rows.

    Example:
        >>> records = Records(Path("crops"), [Path("crops/a.jpg")], [-1], [0], [0])
        >>> write_index(Path("index"), [np.ones((1, 1), np.float32)], records, Maker("0f", (128, 64), "runs/NAME"))
        >>> open_index(Path("index")).name(0)
        'a.jpg'
    """
    check_folder(folder)
    with _reserved(folder):
        part = secrets.token_hex(4)
        try:
            manifest = _write_arrays(folder / part, blocks, records) | {
                "gallery_format": FORMAT,
                "part": part,
                "root": str(records.root.resolve()),
                "digest": maker.digest,
                "size": list(maker.size),
                "model": maker.path,
            }
            write_json(folder / MANIFEST, manifest)
        except BaseException:
            shutil.rmtree(folder / part, ignore_errors=True)
            raise
        for old in folder.iterdir():
            if PART.fullmatch(old.name) and old.name != part:
                shutil.rmtree(old, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Check, before long work, that an index can be written to `folder`; nothing is left behind.

    Raises:
        UserError: `folder` holds something else, or cannot be written.
    """
    refuse_link(folder / LOCK)
    try:
        check_writable(folder)
    except OSError as error:
        raise _unwritable(folder, error) from error
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    others = [name for name in names if name != LOCK and not PART.fullmatch(name)]
    if others and (MANIFEST not in others or not any(map(PART.fullmatch, names))):
        raise UserError(f"{folder} is no index and holds {others[0]}; name a new folder")


@contextmanager
def _reserved(folder: Path) -> Iterator[None]:
    """Make the folder of an index and keep other builds out of it; after an error a folder that was made is removed.

    Raises:
        UserError: the folder cannot be written, or another process builds it now.
    """
    made = not folder.exists()
    lock = FileLock(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with lock.acquire(timeout=0):
            yield
    except Timeout as error:
        raise UserError(f"another process builds {folder} now; wait for it, or name another folder") from error
    except BaseException as error:
        if made:
            shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            raise _unwritable(folder, error) from error
        raise


def _write_arrays(folder: Path, blocks: Iterable[np.ndarray], records: Records) -> dict[str, int]:
    """Write the arrays of an index to a new folder, and return what the manifest holds about them."""
    folder.mkdir()
    counts = {"count": 0, "dim": 0, "unreadable": 0}

    def write_rows(file: BinaryIO) -> None:
        """Write the file of `rows` block by block, in the format of np.save."""
        for block in blocks:
            lengths = np.linalg.norm(block, axis=1)
            broken = np.isnan(lengths)
            if block.dtype != np.float32 or not ((lengths < LONGEST) & (lengths > 2 - LONGEST) | broken).all():
                raise ValueError("write_index: the blocks are no unit rows of float32")
            if not counts["count"]:
                counts["dim"] = block.shape[1]
                header = {"descr": "<f4", "fortran_order": False, "shape": (len(records), block.shape[1])}
                np.lib.format.write_array_header_1_0(file, header)
            file.write(np.ascontiguousarray(block, "<f4").data)
            counts["count"] += len(block)
            counts["unreadable"] += int(broken.sum())
        if counts["count"] != len(records):
            raise ValueError(f"write_index: {counts['count']} rows for {len(records)} images")

    names = [os.fsencode(name) for name in records.names]
    arrays = {
        "cameras": records.camera,
        "names": np.frombuffer(b"".join(names), np.uint8),
        "name_ends": np.cumsum([len(name) for name in names]),
    }
    write_atomically(folder / "rows.npy", write_rows)
    for name, array in arrays.items():
        write_atomically(folder / f"{name}.npy", partial(_save, array.astype(ARRAYS[name])))
    return counts


def _save(array: np.ndarray, file: BinaryIO) -> None:
    np.save(file, array)


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Read and check the manifest.

    Raises:
        UserError: there is none, it is damaged, or of another format.
    """
    file = folder / MANIFEST
    try:
        manifest = json.loads(file.read_bytes())
    except FileNotFoundError as error:
        raise UserError(
            f"there is no index at {folder}; build one: gcl-fast search {folder} --build FOLDER --model RUN"
        ) from error
    except (OSError, ValueError) as error:
        raise _damaged(folder, f"{file} cannot be read") from error
    if not isinstance(manifest, dict) or "gallery_format" not in manifest:
        raise _damaged(folder, f"{file} is no manifest of a gallery")
    if manifest["gallery_format"] != FORMAT:
        raise UserError(
            f"{folder} has format {manifest['gallery_format']} of an index, and this gcl_fast reads {FORMAT}: build it"
            " again"
        )
    wrong = [name for name, kind in FIELDS.items() if not isinstance(manifest.get(name), kind)]
    if wrong or not PART.fullmatch(manifest["part"]) or len(manifest["size"]) != 2:
        raise _damaged(folder, f"{file} has no valid {wrong[0] if wrong else 'part or size'}")
    return manifest


def _shape(name: str, manifest: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[int, ...]:
    """Return the shape that the array `name` must have."""
    if name == "rows":
        return manifest["count"], manifest["dim"]
    return arrays["names"].shape if name == "names" else (manifest["count"],)


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(f"{what}: build the index {folder} again")


def _unwritable(folder: Path, error: OSError) -> UserError:
    return UserError(f"cannot write the index {folder} ({error.strerror or error}); name a folder that can be written")
