"""gcl-fast data: what it counts, what it warns of, and what it refuses."""

import json

import numpy as np
import pytest
from PIL import Image
from trees import make_tree

from gcl_fast.__main__ import main
from gcl_fast.data import Records, open_dataset
from gcl_fast.data.contact_sheet import CROP, contact_sheet
from gcl_fast.data.layouts.detection import detect
from gcl_fast.data.survey import equal_files, image_sizes, survey_split, unmatched_queries


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Keep the verdicts on images out of the user's folder."""
    monkeypatch.setattr("gcl_fast.data.broken_images.cache_folder", lambda: tmp_path_factory.mktemp("cache"))


@pytest.fixture
def market(tmp_path):
    """Return Market-1501's layout with images of random pixels; one is broken, and three are copies."""
    pixels = np.random.default_rng(0)
    tree = {
        "bounding_box_train": ["0002_c1s1_000001_00.png", "0002_c2s1_000002_00.png", "0003_c1s1_000003_00.png"],
        "query": ["0001_c1s1_000004_00.png", "0004_c1s1_000005_00.png"],
        "bounding_box_test": ["0001_c2s1_000006_00.png", "0000_c2s1_000007_00.png", "-1_c1s1_000008_00.png"],
    }
    for path in sorted(make_tree(tmp_path, tree).rglob("*.png")):
        Image.fromarray(pixels.integers(0, 256, (20, 10, 3), np.uint8)).save(path)
    train, query, gallery = (tmp_path / folder for folder in tree)
    (train / "0003_c2s1_000009_00.png").write_bytes((train / "0003_c1s1_000003_00.png").read_bytes())
    (query / "0005_c2s1_000010_00.png").write_bytes((train / "0002_c1s1_000001_00.png").read_bytes())
    (gallery / "0005_c1s1_000011_00.png").write_bytes((query / "0004_c1s1_000005_00.png").read_bytes())
    (gallery / "0001_c2s1_000012_00.png").write_bytes(b"no image")
    (gallery / "Thumbs.db").touch()
    return tmp_path


def test_it_counts_and_warns(market, capsys):
    assert main(["data", str(market), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["dataset"], facts["detected"], facts["root"]) == ("market1501", True, str(market))
    assert facts["splits"]["train"] == {
        "crops": 4,
        "people": 2,
        "distractors": 0,
        "unlabelled": 0,
        "cameras": {"1": 2, "2": 2},
        "crops_per_person": [2, 2.0, 2],
        "tracklets": 0,
    }
    assert facts["splits"]["gallery"]["distractors"] == 1
    assert facts["splits"]["gallery"]["crops_per_person"] == [1, 1.5, 2]
    assert facts["queries_without_match"] == 1  # person 4
    assert facts["sizes"] == {"smallest": [10, 20], "median": [10, 20], "largest": [10, 20], "different": 1}
    assert facts["passed_over"] == {"junk": 1, "of another type": 1}
    assert facts["equal_files"]["within"] == {"train": 1, "query": 0, "gallery": 0}
    assert facts["equal_files"]["across"] == {"train, query": 1, "train, gallery": 0, "query, gallery": 1}
    assert facts["equal_files"]["examples"]["train, query"] == [
        "bounding_box_train/0002_c1s1_000001_00.png",
        "query/0005_c2s1_000010_00.png",
    ]
    assert facts["broken"]["gallery"] == {
        "0001_c2s1_000012_00.png": "not an image of JPEG, PNG, BMP, WEBP or TIFF",
    }
    assert facts["broken"]["train"] == facts["broken"]["query"] == {}


def test_its_text_has_a_line_for_each_fact(market, capsys):
    assert main(["data", str(market), "--dataset", "market1501", "--sheet", str(market / "sheet.png")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"market1501, as named, in {market}"
    assert [line.split()[:4] for line in lines[3:6]] == [
        ["train", "4", "2", "2"],
        ["query", "3", "3", "1"],
        ["gallery", "4", "2", "1"],
    ]
    assert lines[2].split()[-1] == "distractors"  # columns of zeros are left out
    assert "image sizes, width x height: 10x20" in lines
    assert f"{market / 'sheet.png'}: 10 crops" in lines
    assert [line.split(" (")[0] for line in lines if line.startswith("warning")] == [
        "warning: images of gallery that do not decode: 1",
        "warning: queries that do not count, since no other camera of the gallery has their person: 1",
        "warning: files of train with the bytes of another one: 1",
        "warning: files of query with the bytes of one in train, so that training sees test images: 1",
        "warning: files of gallery with the bytes of one in query: 1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "there is no folder and no manifest nowhere"),
        (["empty"], "empty holds no images of .jpg, .jpeg"),
        (["empty/notes.txt"], "is no manifest"),
        (["own", "--dataset", "dukemtmc"], "no bounding_box_train under"),
        (["own", "--sheet", "sheet.jpg"], "--sheet sheet.jpg: expected a name that ends in .png"),
        (["own", "--sheet", "nowhere/is/sheet.png"], "cannot write"),
    ],
)
def test_what_it_refuses(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(make_tree(tmp_path, {"own": ["1.jpg"], "empty": ["notes.txt"]}))
    (tmp_path / "nowhere.file").touch()
    if "nowhere/is" in arguments[-1]:
        (tmp_path / "nowhere").touch()
    assert main(["data", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line


def test_a_tree_of_one_s_own_is_recognized(tmp_path, capsys):
    make_tree(tmp_path, {"anna": ["c1_1.jpg", "c2_1.jpg"], "ben": ["c1_1.jpg"]})
    for number, path in enumerate(sorted(tmp_path.rglob("*.jpg"))):
        Image.new("RGB", (8 + number, 8), "navy").save(path)
    assert main(["data", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"person-folders, recognized by its layout, in {tmp_path}")
    assert "image sizes, width x height: 8x8 to 10x8, median 9x8" in text
    assert "query (1 crops) and gallery (2) are chosen from the training crops" in text
    assert "warning" not in text  # a query is a training crop as the rule says, and no copy of it


def test_a_table_is_a_manifest_where_it_has_a_path(tmp_path):
    make_tree(tmp_path, {"anna": ["c1_1.jpg"]})
    (tmp_path / "labels.csv").write_text("name,age\nanna,30\n")
    assert detect(tmp_path) == "person-folders"
    (tmp_path / "labels.csv").write_text("Path,name\nanna/c1_1.jpg,anna\n")
    assert detect(tmp_path) == "manifest"
    assert detect(tmp_path / "labels.csv") == "manifest"
    assert detect(tmp_path / "anna") == "folder"


def test_a_split_without_labels(tmp_path):
    records = Records(tmp_path, [tmp_path / "1.jpg"] * 3, [-1, -1, 0], [0, 2, 2], [0, 0, 0], [4, 4, -1])
    split = survey_split(records)
    assert (split.people, split.distractors, split.unlabelled, split.crops_per_person) == (0, 1, 2, None)
    assert (split.cameras, split.tracklets) == ({0: 1, 2: 2}, 1)
    assert unmatched_queries(Records.empty(tmp_path), records) == 0


def test_files_of_a_size_of_their_own_are_not_read(tmp_path, monkeypatch):
    for name, content in {"a.jpg": b"1", "b.jpg": b"22", "c.jpg": b"22", "empty1.jpg": b"", "empty2.jpg": b""}.items():
        (tmp_path / name).write_bytes(content)
    read = []
    digest = __import__("hashlib").file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda file, *rest: (read.append(file.name), digest(file, *rest))[1])
    equal = equal_files(open_dataset("folder", tmp_path))
    assert equal.within == {"train": 1, "query": 0, "gallery": 0}
    assert equal.examples == {"train": (tmp_path / "b.jpg", tmp_path / "c.jpg")}
    assert sorted(read) == [str(tmp_path / "b.jpg"), str(tmp_path / "c.jpg")]
    assert image_sizes([tmp_path / "a.jpg", tmp_path / "gone.jpg"]) == []


def test_a_sheet_shows_people_by_camera_and_broken_crops_in_red(tmp_path):
    make_tree(tmp_path, {"0001": ["c2.png", "c1.png"], "0002": ["c1.png"]})
    for path, colour in {"0001/c1.png": "blue", "0001/c2.png": "lime"}.items():
        Image.new("RGB", CROP, colour).save(tmp_path / path)
    dataset = open_dataset("person-folders", tmp_path)
    assert contact_sheet(dataset, tmp_path / "sheet.png") == len(dataset.train) + len(dataset.query) + len(
        dataset.gallery
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    count = {tuple(colour): number for colour, number in zip(colours.tolist(), counts.tolist())}
    area = CROP[0] * CROP[1]
    assert (count[0, 0, 255], count[0, 255, 0], count[178, 34, 34]) == (2 * area, 2 * area, 2 * area)


def test_what_looks_like_people_and_is_not(tmp_path):
    cameras = make_tree(tmp_path / "by_camera", {"cam1": ["1.jpg"], "cam2": ["1.jpg"]})
    assert detect(cameras) == "folder"
    people = {"bounding_box_train/0002": ["c1.jpg"], "query/0001": ["c1.jpg"], "bounding_box_test/0001": ["c2.jpg"]}
    assert detect(make_tree(tmp_path / "trees", people)) == "person-folders"
