"""An index on disk opens as it was written, is replaced in one step, and is refused when it is damaged."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gcl_fast.data import Records
from gcl_fast.errors import UserError
from gcl_fast.gallery import open_index, write_index
from gcl_fast.gallery.index import MANIFEST, Maker, check_folder

MAKER = Maker("0f", (128, 64), "runs/NAME")


def records(root, names, camera=0):
    paths = [Path(root) / name for name in names]
    return Records(Path(root), paths, np.full(len(names), -1), np.full(len(names), camera), np.zeros(len(names)))


def part_of(folder):
    return folder / json.loads((folder / MANIFEST).read_text())["part"]


def test_an_index_holds_what_was_written(folder, crops, model):
    index = open_index(folder)
    assert (len(index), index.unreadable, index.root) == (6, 1, crops.root)
    assert index.maker == Maker(model.digest, (128, 64), "runs/NAME")
    assert [index.name(row) for row in range(6)] == crops.names
    assert [index.path(row) for row in range(6)] == crops.paths
    assert index.cameras.tolist() == crops.camera.tolist()
    assert np.array_equal(index.rows, model.embed(crops.paths).numpy(), equal_nan=True)


def test_a_search_ranks_the_same_person_first_and_keeps_to_a_camera(folder, model, crops):
    index = open_index(folder)
    query = model.embed([crops.paths[0]]).numpy()
    (matches,) = index.search(query, 5)
    assert [match.row for match in matches[:2]] == [0, 1]
    assert sorted(match.row for match in matches) == [0, 1, 2, 3, 4]  # the last image does not decode
    assert matches[0] == (0, pytest.approx(1), 1, crops.names[0])
    (matches,) = index.search(query, 3, camera=2)
    assert [(match.row, match.camera) for match in matches] == [(1, 2), (4, 2)]


@pytest.mark.parametrize("k", [0, -1, 6])
def test_k_out_of_range_is_refused(folder, k):
    with pytest.raises(UserError, match=f"k={k}: .* 5 images that decode; choose a k from 1 to 5"):
        open_index(folder).search(np.eye(3, dtype=np.float32), k)


def test_names_of_any_bytes(tmp_path):
    names = ["a b.jpg", "ä/日本.png", "x\nnew line.jpg", os.fsdecode(b"\xff\xfe.jpg")]
    write_index(tmp_path / "index", [np.ones((4, 1), np.float32)], records(tmp_path, names), MAKER)
    index = open_index(tmp_path / "index")
    assert [index.name(row) for row in range(4)] == names


def test_a_new_index_replaces_the_old_one_and_leaves_open_ones_usable(folder, tmp_path):
    before, old_part = open_index(folder), part_of(folder)
    (folder / "0badbeef").mkdir()  # left by a build that was killed
    write_index(folder, [np.eye(2, dtype=np.float32)], records(tmp_path, ["x.jpg", "y.jpg"]), MAKER)
    assert [open_index(folder).name(row) for row in range(2)] == ["x.jpg", "y.jpg"]
    assert before.name(0) == "0001_c1s1_000001_00.jpg"
    assert not old_part.exists()
    assert not (folder / "0badbeef").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_a_build_that_breaks_leaves_the_old_index(folder, tmp_path, error):
    def blocks():
        yield np.ones((1, 1), np.float32)
        raise error

    for target in (folder, tmp_path / "new"):
        before = sorted(target.rglob("*"))
        with pytest.raises(UserError if isinstance(error, OSError) else error):
            write_index(target, blocks(), records(tmp_path, ["x.jpg", "y.jpg"]), MAKER)
        assert sorted(target.rglob("*")) == before
    assert not (tmp_path / "new").exists()
    assert len(open_index(folder)) == 6


def test_a_killed_build_leaves_nothing_that_opens(tmp_path):
    script = f"""
import os, signal
import numpy as np
from pathlib import Path
from gcl_fast.data import Records
from gcl_fast.gallery import write_index
from gcl_fast.gallery.index import Maker
def blocks():
    yield np.ones((1, 1), np.float32)
    os.kill(os.getpid(), signal.SIGKILL)
root = Path({str(tmp_path)!r})
images = Records(root, [root / "x.jpg"] * 2, [-1] * 2, [0] * 2, [0] * 2)
write_index(root / "index", blocks(), images, Maker("0", (1, 1), ""))
"""
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with pytest.raises(UserError, match="there is no index"):
        open_index(tmp_path / "index")
    write_index(tmp_path / "index", [np.ones((1, 1), np.float32)], records(tmp_path, ["x.jpg"]), MAKER)
    assert len(list((tmp_path / "index").iterdir())) == 3  # manifest, lock, one folder of arrays


def test_a_second_build_at_the_same_time_is_refused(folder, tmp_path):
    def blocks():
        with pytest.raises(UserError, match="another process builds"):
            write_index(folder, [np.ones((1, 1), np.float32)], records(tmp_path, ["x.jpg"]), MAKER)
        yield np.ones((1, 1), np.float32)

    write_index(folder, blocks(), records(tmp_path, ["x.jpg"]), MAKER)
    assert len(open_index(folder)) == 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (np.ones((1, 4), np.float32), "no unit rows"),
        (np.ones((1, 1)), "no unit rows"),
        (np.ones((3, 1), np.float32), "3 rows for 2"),
        (np.ones((1, 1), np.float32), "1 rows for 2"),
    ],
)
def test_rows_that_are_none_are_refused(tmp_path, rows, message):
    with pytest.raises(ValueError, match=message):
        write_index(tmp_path / "index", [rows], records(tmp_path, ["x.jpg", "y.jpg"]), MAKER)
    assert not (tmp_path / "index").exists()


def test_a_target_that_is_no_index_is_refused(tmp_path, crops):
    with pytest.raises(UserError, match=r"crops is no index and holds 0001_c1s1"):
        check_folder(crops.root)
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text("{}")  # somebody else's
    with pytest.raises(UserError, match=r"web is no index and holds manifest.json"):
        check_folder(tmp_path / "web")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".lock").symlink_to(tmp_path / "web" / "manifest.json")
    with pytest.raises(UserError, match=r"linked/.lock is a link"):
        check_folder(tmp_path / "linked")
    (tmp_path / "file").touch()
    for target in (tmp_path / "file", tmp_path / "file" / "index", Path("/proc/index")):
        with pytest.raises(UserError, match="cannot write"):
            check_folder(target)


def damage(folder, what):
    manifest = json.loads((folder / MANIFEST).read_text())
    rows = part_of(folder) / "rows.npy"
    if what == "rows cut off":
        rows.write_bytes(rows.read_bytes()[:-4])
    elif what == "header cut off":
        rows.write_bytes(rows.read_bytes()[:20])
    elif what == "rows gone":
        rows.unlink()
    elif what == "other rows":
        np.save(rows, np.ones((6, 2), np.float32))
    elif what == "objects of Python":
        np.save(rows, np.array([None]), allow_pickle=True)
    elif what == "no JSON":
        (folder / MANIFEST).write_text("{")
    elif what == "another JSON":
        (folder / MANIFEST).write_text("[]")
    else:
        (folder / MANIFEST).write_text(json.dumps(manifest | json.loads(what)))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("rows cut off", "rows.npy is missing or cut off: build the index .* again"),
        ("header cut off", "rows.npy is missing or cut off"),
        ("rows gone", "rows.npy is missing or cut off"),
        ("other rows", r"rows.npy has float32 \(6, 2\)"),
        ("objects of Python", "rows.npy is missing or cut off"),
        ("no JSON", "cannot be read"),
        ("another JSON", "no manifest"),
        ('{"gallery_format": 2}', "has format 2 of an index, and this gcl_fast reads 1"),
        ('{"count": "6"}', "no valid count"),
        ('{"part": "../../etc"}', "no valid part"),
    ],
)
def test_a_damaged_index_is_refused(folder, what, message):
    damage(folder, what)
    with pytest.raises(UserError, match=message):
        open_index(folder)


def test_an_image_that_moved_is_named_with_the_way_out(folder, crops, tmp_path):
    moved = crops.root.rename(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"no .*0001_c1s1_000001_00.jpg any more; .*--images DIR"):
        open_index(folder).path(0)
    assert open_index(folder, moved).path(0) == moved / crops.names[0]
    with pytest.raises(UserError, match="no such folder"):
        open_index(folder, crops.root)


@pytest.mark.parametrize("name", ["../secret.jpg", "/etc/passwd"])
def test_a_name_outside_the_root_is_refused(tmp_path, name):
    (tmp_path / "secret.jpg").touch()
    write_index(tmp_path / "index", [np.ones((1, 1), np.float32)], records(tmp_path, ["abcdefghijkl"]), MAKER)
    names = part_of(tmp_path / "index") / "names.npy"
    np.save(names, np.frombuffer(name.encode(), np.uint8))
    np.save(names.with_name("name_ends.npy"), np.array([len(name)]))
    with pytest.raises(UserError, match="outside"):
        open_index(tmp_path / "index").path(0)


def resident():
    """Return the MB that this process holds, mapped pages that were touched among them."""
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc to ask")
def test_a_large_index_opens_at_once_and_reads_what_is_asked_for(tmp_path):
    N, D = 100_000, 16
    names = [f"camera{i % 7}/{i:08d}.jpg" for i in range(N)]
    write_index(tmp_path / "index", [np.full((N, D), D**-0.5, np.float32)], records("/crops", names), MAKER)
    before, begin = resident(), time.perf_counter()
    index = open_index(tmp_path / "index")
    assert index.name(N - 1) == names[-1]
    assert time.perf_counter() - begin < 0.1
    assert resident() - before < 3  # the files are 10 MB
    assert index.rows.sum() > 0
    assert resident() - before > 6  # so this would have seen them
