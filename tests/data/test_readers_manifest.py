"""A manifest names crops in any tree; what is wrong in it is one sentence with the row."""

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from trees import make_tree

from gcl_fast.data import open_dataset
from gcl_fast.data.layouts.detection import detect
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import body_parameter_file, open_inputs, prepare_inputs
from gcl_fast.settings import preset

FILES = ["a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg"]


def manifest(root: Path, text: str, name: str = "manifest.csv") -> Path:
    make_tree(root, {".": FILES})
    (root / name).write_text(text, encoding="utf-8")
    return root


def counts(dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.query), len(dataset.gallery)


def test_a_path_alone_is_enough(tmp_path):
    dataset = open_dataset("manifest", manifest(tmp_path, "path\na/2.jpg\nb/3.jpg\na/1.jpg\n"))
    assert counts(dataset) == (3, 0, 0)
    assert dataset.train.names == ["a/1.jpg", "a/2.jpg", "b/3.jpg"]  # sorted, whatever the order of the rows
    assert dataset.root == dataset.train.root == tmp_path
    assert set(dataset.train.identity) == set(dataset.train.tracklet) == {-1}
    assert (set(dataset.train.camera), set(dataset.train.frame)) == ({0}, {0})
    assert dataset.notes == ()
    assert detect(tmp_path) == "manifest"


def test_all_columns(tmp_path):
    text = (
        "path;Split;identity;camera;frame;tracklet;weather\n"
        "a/1.jpg;train;7;2;10;t1;sun\n"
        f"{tmp_path}/a/2.jpg;Train;7;2;11.0;t1;rain\n"
        "b/3.jpg;query;0;1;;t1;sun\n"
        "b/../b/4.jpg;gallery;;3;12;;sun\n"
    )
    dataset = open_dataset("manifest", manifest(tmp_path, text))
    assert counts(dataset) == (2, 1, 1)
    assert dataset.train.names == FILES[:2]
    assert dataset.train.frame.tolist() == [10, 11]
    assert dataset.train.tracklet.tolist() == [1, 1]  # t1 of camera 2; t1 of camera 1 is another one
    assert (dataset.query.identity.item(), dataset.query.tracklet.item()) == (0, 0)
    assert (dataset.gallery.names, dataset.gallery.identity.item(), dataset.gallery.tracklet.item()) == (
        ["b/4.jpg"],
        -1,
        -1,
    )
    assert dataset.notes == ("manifest: columns that are not read: weather",)


def test_text_is_numbered_in_sorted_order(tmp_path):
    text = "path,identity,camera\na/1.jpg,zoe,hall\na/2.jpg,10,door\nb/3.jpg,zoe,door\nb/4.jpg,,\n"
    dataset = open_dataset("manifest", manifest(tmp_path, text))
    assert dataset.train.identity.tolist() == [2, 1, 2, -1]
    assert dataset.train.camera.tolist() == [2, 1, 1, 0]
    assert dataset.notes[:2] == (
        "manifest: people are numbered in sorted order: 1 is 10, 2 is zoe",
        "manifest: cameras are numbered in sorted order: 1 is door, 2 is hall",
    )


def test_query_and_gallery_are_chosen_from_all_crops_without_splits(tmp_path):
    text = "path,identity,camera\na/1.jpg,5,1\na/2.jpg,5,1\nb/3.jpg,5,2\nb/4.jpg,,2\n"
    dataset = open_dataset("manifest", manifest(tmp_path, text))
    assert counts(dataset) == (4, 1, 2)
    assert dataset.query.names == ["a/1.jpg"]
    assert dataset.gallery.names == ["a/2.jpg", "b/3.jpg"]
    assert "query (1 crops) and gallery (2) are chosen from the training crops" in dataset.notes[0]
    assert dataset.notes[0].endswith("1 without identity or camera are left out")


def test_query_and_gallery_are_chosen_from_test_and_never_from_train(tmp_path):
    rows = ["a/1.jpg,{0},5,1", "a/2.jpg,{1},5,2", "b/3.jpg,{1},6,1", "b/4.jpg,{1},6,2"]
    text = "path,split,identity,camera\n" + "\n".join(rows)
    dataset = open_dataset("manifest", manifest(tmp_path, text.format("train", "test")))
    assert counts(dataset) == (1, 1, 2)
    assert dataset.query.names == ["b/3.jpg"]
    assert counts(open_dataset("manifest", manifest(tmp_path, text.format("train", "train")))) == (4, 0, 0)
    assert counts(open_dataset("manifest", manifest(tmp_path, text.format("test", "test")))) == (0, 2, 2)


def test_the_file_itself_another_name_and_roots_around_it(tmp_path):
    root = manifest(tmp_path / "data" / "own", "path\na/1.jpg\n", "crops.csv")
    assert counts(open_dataset("manifest", root / "crops.csv")) == (1, 0, 0)
    assert counts(open_dataset("manifest", root)) == (1, 0, 0)
    assert open_dataset("manifest", root.parent).notes[0].endswith(f"one level below {root.parent}")
    manifest(root, "path\na/1.jpg\na/2.jpg\n", "more.csv")
    with pytest.raises(UserError, match=r"holds 2 tables \(crops.csv, more.csv\): name one of them"):
        open_dataset("manifest", root)
    manifest(root, "path\na/1.jpg\na/2.jpg\nb/3.jpg\n", "manifest.csv")
    assert counts(open_dataset("manifest", root)) == (3, 0, 0)
    assert open_dataset("manifest", root / "a").notes[0].endswith(f"one level above {root / 'a'}")


def test_images_elsewhere_have_names_below_a_common_folder(tmp_path):
    make_tree(tmp_path / "disk", {".": ["x/1.jpg"]})
    root = manifest(tmp_path / "own", f"path\n{tmp_path}/disk/x/1.jpg\na/1.jpg\n")
    dataset = open_dataset("manifest", root)
    assert dataset.root == root  # which holds body_parameters/
    assert dataset.train.names == ["disk/x/1.jpg", "own/a/1.jpg"]


def test_paths_and_text_of_windows(tmp_path):
    text = "\ufeffpath,identity\r\na\\1.jpg,anna\r\nb\\3.jpg,ben\r\n"
    assert open_dataset("manifest", manifest(tmp_path, text)).train.names == ["a/1.jpg", "b/3.jpg"]


def test_equal_rows_of_one_file_are_counted(tmp_path):
    text = "path,identity\na/1.jpg,1\na/1.jpg,1\na/../a/1.jpg,1\nb/3.jpg,2\n"
    dataset = open_dataset("manifest", manifest(tmp_path, text))
    assert counts(dataset) == (2, 0, 0)
    assert dataset.passed_over == {"repeated in the manifest": 2}


def test_a_tracklet_of_two_people_is_noted(tmp_path):
    text = "path,identity,camera,tracklet\na/1.jpg,1,1,3\na/2.jpg,2,1,3\nb/3.jpg,2,1,4\n"
    dataset = open_dataset("manifest", manifest(tmp_path, text))
    assert dataset.train.tracklet.tolist() == [0, 0, 1]
    assert "manifest: tracklets that show more than one person: 1" in dataset.notes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path\na/1.jpg\na/8.jpg\nx.jpg\n", r"2 of 3 images that .* names are missing \(\S*a/8.jpg, \S*x.jpg\); paths"),
        ("path\n" + "".join(f"{i}.png\n" for i in range(5)), r"5 of 5 .*0.png, \S*1.png, \S*2.png, \.\.\.\)"),
        ("path,identity\na/1.jpg,1\n\n,2\n", r"row 4 of .* names no image"),
        ("path,camera\na/1.jpg,1\na/1.jpg,2\n", r"rows 2 and 3 of .* name one file, 1.jpg, with different values"),
        ("path,split\na/1.jpg,trian\n", r"row 2 of .* has split 'trian': expected one of train, query, gallery, test"),
        ("path,split\na/1.jpg,train\na/2.jpg,\n", r"row 3 of .* has no split: expected one of train"),
        (
            "paths,id\na/1.jpg,1\n",
            r"has no column path, but paths, id, of which paths is the nearest; expected DIR/man",
        ),
        ("image,id\na/1.jpg,1\n", r"has no column path, but image, id; expected DIR/manifest.csv"),
        ("", r"has no column path, but none at all"),
        ("path,identity\n", r"manifest.csv has no rows; expected"),
        ("path,identity\na/1.jpg\n", r"row 2 of .* has 1 cells, but the header has 2"),
        ("path,frame\na/1.jpg,ten\n", r"row 2 of .* has frame 'ten': expected an integer, 0 or more"),
        ("path,frame\na/1.jpg,-1\n", r"row 2 of .* has frame '-1'"),
        ("path,camera\na/1.jpg,1\na/2.jpg,-3\n", r"row 3 of .* has camera -3: expected 0 or more, or text"),
        (
            "path,split\na/1.jpg,query\na/2.jpg,gallery\nb/3.jpg,test\n",
            r"has crops of test, and of query or gallery as well",
        ),
        ("path,Path\na/1.jpg,a/1.jpg\n", r"has more than one column path: keep one of them"),
    ],
)
def test_what_is_wrong_is_one_sentence(tmp_path, text, message):
    with pytest.raises(UserError, match=r"^manifest: ") as error:
        open_dataset("manifest", manifest(tmp_path, text))
    assert error.match(message)
    assert "\n" not in str(error.value)


def test_queries_without_cameras_are_noted(tmp_path):
    text = "path,split,identity,\na/1.jpg,query,1,\na/2.jpg,gallery,1,\n"  # with a column that has no name
    dataset = open_dataset("manifest", manifest(tmp_path, text))
    assert counts(dataset) == (0, 1, 1)
    assert dataset.notes == ("manifest: no camera of a query is known; evaluation needs the column camera",)


def test_another_encoding_is_named(tmp_path):
    manifest(tmp_path, "").joinpath("manifest.csv").write_bytes("path,identity\na/1.jpg,Jörg\n".encode("latin-1"))
    with pytest.raises(UserError, match="is no table in UTF-8"):
        open_dataset("manifest", tmp_path)


def test_no_manifest_names_what_is_there(tmp_path):
    make_tree(tmp_path, {"own": ["manifest.txt", "1.jpg"]})
    with pytest.raises(UserError, match=r"no manifest.csv under .*, the nearest is manifest.txt; .*--dataset folder"):
        open_dataset("manifest", tmp_path / "own")
    with pytest.raises(UserError, match=r"no folder, but a file: .*manifest.txt; expected"):
        open_dataset("folder", tmp_path / "own" / "manifest.txt")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    table = {"path": ["a/1.jpg", "b/3.jpg"], "identity": [4, None], "camera": ["x", "y"], "frame": [1.0, float("nan")]}
    parquet.write_table(pyarrow.table(table), manifest(tmp_path, "", "unread.txt") / "manifest.parquet")
    dataset = open_dataset("manifest", tmp_path)
    assert dataset.train.identity.tolist() == [4, -1]
    assert dataset.train.camera.tolist() == [1, 2]
    assert dataset.train.frame.tolist() == [1, 0]


def test_parquet_without_a_reader_is_one_sentence(tmp_path, monkeypatch):
    for name in ("pyarrow", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"manifest.parquet needs pyarrow: pip install pyarrow, or save the manifest"):
        open_dataset("manifest", tmp_path)


def test_a_crop_elsewhere_keeps_its_views_in_their_folder(tmp_path):
    make_tree(tmp_path, {"elsewhere": ["0.jpg"]})
    root = manifest(tmp_path / "own", f"path\na/1.jpg\n../elsewhere/0.jpg\n{tmp_path}/own/b/../b/3.jpg\n")
    names = open_dataset("manifest", root).train.names
    assert sorted(names) == [
        "elsewhere/0.jpg",
        "own/a/1.jpg",
        "own/b/3.jpg",
    ]  # no .. to join to --files


def test_a_pyarrow_that_runs_code_of_a_file_is_refused(tmp_path, monkeypatch):
    old = SimpleNamespace(__version__="14.0.0", parquet=SimpleNamespace())  # without read_table: nothing is read
    monkeypatch.setitem(sys.modules, "pyarrow", old)
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"manifest.parquet needs pyarrow 15 or later, and 14.0.0 is installed.*-U"):
        open_dataset("manifest", tmp_path)


def test_a_manifest_for_evaluation_alone_is_not_trained_on(tmp_path, monkeypatch):
    monkeypatch.setattr("gcl_fast.data.broken_images.cache_folder", lambda: tmp_path / "cache")
    root = manifest(tmp_path, "path,split,identity,camera\na/1.jpg,test,1,1\na/2.jpg,test,1,2\n")
    for file in root.rglob("*.jpg"):
        Image.new("RGB", (8, 16)).save(file)
    config = replace(preset("demo"), dataset="manifest", data_root=str(root / "manifest.csv"))
    inputs = open_inputs(config)
    assert counts(inputs.dataset) == (0, 1, 1)
    assert body_parameter_file(inputs.dataset, "query") == root / "body_parameters" / "query.npz"
    with pytest.raises(UserError, match=r"--dataset manifest: there are no training crops in .*; evaluate takes such"):
        prepare_inputs(config, Ranks(0, 1, torch.device("cpu")), finished=())


def test_a_query_without_gallery_is_noted(tmp_path):
    dataset = open_dataset("manifest", manifest(tmp_path, "path,split\na/1.jpg,train\na/2.jpg,query\n"))
    assert dataset.notes[0].endswith("has crops of query and none of gallery; write test for both to choose them")
    assert dataset.why_unranked == "has no gallery"
