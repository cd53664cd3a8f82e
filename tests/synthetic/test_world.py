"""A world on disk has Market-1501's layout, is deterministic and resumable, and wrong folders are refused."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gcl_fast.bodies import load_body_parameters
from gcl_fast.errors import UserError
from gcl_fast.synthetic import WorldConfig, make_world, read_config, world_folder
from gcl_fast.synthetic.__main__ import main
from gcl_fast.synthetic.world import DISTRACTOR, JUNK, TEST, TRAIN, CropKey, crop_key, file_name

SMALL = WorldConfig(identities=2, cameras=2, crops=2, size=(64, 32), seed=5)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"), SMALL, progress=False, workers=1)


def contents(root: Path) -> dict[str, bytes]:
    """Read the files of a world; from an .npz, which also holds time stamps, read its arrays."""
    files = {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.suffix != ".npz"}
    for path in root.rglob("*.npz"):
        with np.load(path) as arrays:
            files |= {f"{path.name}/{key}": arrays[key].tobytes() for key in arrays.files}
    return files


def test_layout_is_that_of_market1501(world: Path) -> None:
    names = {
        split: sorted(p.name for p in (world / folder).iterdir()) for split, folder in world_folder.FOLDERS.items()
    }
    people = {split: {name.split("_")[0] for name in listed} for split, listed in names.items()}
    assert people == {"train": {"0001", "0002"}, "query": {"0003", "0004"}, "gallery": {"0003", "0004", "0000", "-1"}}
    assert len(names["train"]) == 2 * 2 * 2
    assert sorted(name[:7] for name in names["query"]) == ["0003_c1", "0003_c2", "0004_c1", "0004_c2"]
    assert len(names["gallery"]) == 4 + 2
    with Image.open(world / "query" / names["query"][0]) as image:
        assert (image.format, image.size) == ("JPEG", (32, 64))
    for split, listed in names.items():
        params = load_body_parameters(world / "body_parameters" / f"{split}.npz")
        assert sorted(params.names) == listed
        assert params.model == "anny"
    content = json.loads((world / "world.json").read_text())
    assert (content["complete"], content["hash"]) == (True, SMALL.digest)
    assert not (world / ".parts").exists()


def test_workers_do_not_change_a_bit(world: Path, tmp_path: Path) -> None:
    assert contents(make_world(tmp_path / "two", SMALL, progress=False, workers=2)) == contents(world)


def test_seed_and_difficulty_change_the_images(world: Path, tmp_path: Path) -> None:
    for name, config in (("seed", replace(SMALL, seed=6)), ("hard", replace(SMALL, difficulty=0.9))):
        assert config.digest != SMALL.digest
        other = make_world(tmp_path / name, replace(config, identities=1), progress=False, workers=1)
        assert not set(contents(other).values()) & {v for k, v in contents(world).items() if k.endswith(".jpg")}


def test_a_killed_call_is_continued(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write, units = world_folder._write_unit, []

    def stop_after_two(root: str, config: WorldConfig, unit: world_folder.Unit) -> None:
        if len(units) == 2:
            raise KeyboardInterrupt
        units.append(unit)
        write(root, config, unit)

    monkeypatch.setattr(world_folder, "_write_unit", stop_after_two)
    with pytest.raises(KeyboardInterrupt):
        make_world(tmp_path, SMALL, progress=False, workers=1)
    assert json.loads((tmp_path / "world.json").read_text())["complete"] is False
    next((tmp_path / "bounding_box_train").iterdir()).write_bytes(b"")  # a finished person is not drawn again
    later: list[world_folder.Unit] = []
    monkeypatch.setattr(world_folder, "_write_unit", lambda *args: (later.append(args[2]), write(*args)))
    make_world(tmp_path, SMALL, progress=False, workers=1)
    assert not set(later) & set(units)
    result, expected = contents(tmp_path), contents(world)
    assert result.keys() == expected.keys()
    assert sum(result[key] != expected[key] for key in expected) == 1


def test_second_call_returns_at_once(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world_folder, "_write_unit", None)
    assert make_world(world, SMALL) == world


def test_other_world_is_refused(world: Path) -> None:
    with pytest.raises(UserError, match=r"another synthetic world \(seed 5, not 6\)"):
        make_world(world, replace(SMALL, seed=6))


@pytest.mark.parametrize(
    ("name", "hint"),
    [("query", "NAME"), ("notes.txt", "NAME"), ("0001.jpg", "folder"), ("anna/c1.jpg", "person-folders")],
)
def test_a_folder_with_something_else_is_refused(tmp_path: Path, name: str, hint: str) -> None:
    (tmp_path / ".hidden").touch()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"neither empty nor a synthetic world .*--dataset {hint}$"):
        make_world(tmp_path, SMALL)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([".hidden", name.partition("/")[0]])


def test_unwritable_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        make_world(tmp_path / "file" / "world", SMALL)


def full_disk(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    monkeypatch.setattr(world_folder, "_write_unit", full_disk)
    monkeypatch.setattr(world_folder, "ProcessPoolExecutor", lambda count, **_: ThreadPoolExecutor(count))
    with pytest.raises(UserError, match=rf"cannot write a synthetic world to {tmp_path}: .*No space left.*make room"):
        make_world(tmp_path, SMALL, progress=False, workers=workers)


def test_parts_are_not_open_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load, parts = np.load, []

    def counted(*args: object, **options: object) -> object:
        assert all(part.zip is None for part in parts), "a part is still open"
        parts.append(load(*args, **options))
        return parts[-1]

    monkeypatch.setattr(world_folder.np, "load", counted)
    make_world(tmp_path, replace(SMALL, identities=1), progress=False, workers=1)
    assert len([part for part in parts if "split" in part.files]) == 4


def test_missing_and_damaged_world_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gcl-fast synthetic --out"):
        read_config(tmp_path)
    (tmp_path / "world.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        read_config(tmp_path)
    (tmp_path / "world.json").write_text(json.dumps({"config": SMALL.to_json(), "version": -1}))
    with pytest.raises(UserError, match="version -1"):
        read_config(tmp_path)


@pytest.mark.parametrize(
    "wrong", [{"difficulty": 1.5}, {"identities": 0}, {"cameras": 1}, {"crops": 1}, {"size": (8, 8)}, {"seed": -1}]
)
def test_impossible_configurations(wrong: dict) -> None:
    with pytest.raises(UserError, match="synthetic world"):
        WorldConfig(**wrong)


@pytest.mark.parametrize("kind", [TRAIN, TEST, DISTRACTOR, JUNK])
def test_names_tell_their_keys(kind: int) -> None:
    config = WorldConfig(identities=30, cameras=6)
    for identity in range(30):
        camera = identity % 6 if kind in (DISTRACTOR, JUNK) else (5 * identity) % 6
        key = CropKey(kind, identity, camera, 0 if kind in (DISTRACTOR, JUNK) else identity % 3)
        assert crop_key(config, file_name(config, key)) == key


@pytest.mark.parametrize(
    "name", ["0001_c1s1_000001_01.jpg", "0001_c9s1_000001_01.jpg", "9999_c1s1_000001_01.jpg", "x.jpg"]
)
def test_names_of_no_crop(name: str) -> None:
    with pytest.raises(UserError, match="no crop of this synthetic world"):
        crop_key(SMALL, name)


def test_command(world: Path, capsys: pytest.CaptureFixture) -> None:
    of = "--identities 2 --cameras 2 --crops 2 --size 64 32 --seed"
    flags = ["--out", str(world), *of.split()]
    assert main([*flags, "5"]) == 0
    assert str(world) in capsys.readouterr().out
    assert main([*flags, "7"]) == 2
    assert capsys.readouterr().err.startswith(f"gcl_fast: {world}")
