"""Trees of people and of tracklets, and the rule that chooses query and gallery among labelled crops."""

from pathlib import Path

import pytest
from trees import make_tree

from gcl_fast.data import open_dataset
from gcl_fast.data.layouts.detection import detect
from gcl_fast.data.layouts.query_gallery import build_query_gallery
from gcl_fast.data.layouts.reading import Reading, Row
from gcl_fast.errors import UserError

PEOPLE = {
    "anna": ["c1_0.jpg", "c1_1.jpg", "c2_0.jpg", "c2_1.png", "c2_2.jpg"],
    "ben": ["c1_0.jpg", "c3_0.jpg"],
    "carl": ["c2_0.jpg", "notes.txt"],
    "empty": [".hidden.jpg", "mask.gif"],
}


def counts(dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.query), len(dataset.gallery)


def test_people_without_splits_are_for_training_and_evaluation(tmp_path):
    make_tree(tmp_path, PEOPLE | {"body_parameters": ["train.npz"]})
    (tmp_path / "loose.jpg").touch()
    dataset = open_dataset("person-folders", tmp_path)
    assert counts(dataset) == (8, 3, 5)
    assert dataset.train.names[:2] == ["anna/c1_0.jpg", "anna/c1_1.jpg"]
    assert dataset.train.identity.tolist() == [1] * 5 + [2] * 2 + [3]
    assert dataset.train.camera.tolist() == [1, 1, 2, 2, 2, 1, 3, 2]
    assert not dataset.train.frame.any()
    assert set(dataset.train.tracklet) == {-1}
    assert dataset.query.names == ["anna/c1_0.jpg", "anna/c2_0.jpg", "ben/c1_0.jpg"]
    assert dataset.gallery.names == ["anna/c1_1.jpg", "anna/c2_1.png", "anna/c2_2.jpg", "ben/c3_0.jpg", "carl/c2_0.jpg"]
    assert dataset.passed_over == {
        "of another type": 2,
        "hidden": 1,
        "outside the folder of a person": 1,
        "empty folder of a person": 1,
    }
    assert dataset.notes[0] == "person-folders: people are numbered in sorted order: 1 is anna, 2 is ben, 3 is carl"
    assert dataset.notes[1] == (
        "person-folders: query (3 crops) and gallery (5) are chosen from the training crops: of people in two cameras"
        " or more, the first crop in each camera is a query, the rest is the gallery"
    )
    assert "2 of another type (.gif, .txt)" in dataset.notes[2]


def test_people_with_splits(tmp_path):
    tree = {
        "train/0003": ["0003_c1s1_000451_03.jpg"],
        "query/0001": ["0001_c1s1_1.jpg"],
        "gallery/0001": ["0001_c2s1_1.jpg"],
        "gallery/0000": ["0000_c2s1_1.jpg"],
        "gallery/-1": ["-1_c2s1_1.jpg"],
    }
    dataset = open_dataset("person-folders", make_tree(tmp_path, tree))
    assert counts(dataset) == (1, 1, 2)
    assert (dataset.train.identity.item(), dataset.query.identity.item()) == (3, 1)
    assert dataset.gallery.identity.tolist() == [0, 1]
    assert dataset.gallery.root == tmp_path / "gallery"
    assert dataset.passed_over == {"junk": 1}
    assert detect(tmp_path) == "person-folders"


def test_people_for_training_alone_and_for_tests(tmp_path):
    only = make_tree(tmp_path / "a", {"train/x": ["c1.jpg", "c2.jpg"], "train/y": ["c1.jpg"]})
    assert counts(open_dataset("person-folders", only)) == (3, 0, 0)
    tested = make_tree(tmp_path / "b", {"train/x": ["c1.jpg"], "test/y": ["c1_0.jpg", "c1_1.jpg", "c2.jpg"]})
    dataset = open_dataset("person-folders", tested)
    assert counts(dataset) == (1, 1, 2)
    assert dataset.query.names == ["y/c1_0.jpg"]
    assert "are chosen from test" in dataset.notes[1]


def test_people_without_cameras_cannot_be_evaluated(tmp_path):
    dataset = open_dataset("person-folders", make_tree(tmp_path, {"x": ["1.jpg", "2.jpg"], "y": ["1.jpg"]}))
    assert counts(dataset) == (3, 0, 0)
    assert "no name of an image or folder gives a camera, such as c1 or cam_a" in dataset.notes[1]
    assert "no person in the training crops was seen by two known cameras" in dataset.notes[2]


def test_a_camera_may_be_a_folder(tmp_path):
    tree = {"x/cam_b": ["1.jpg"], "x/cam_a": ["1.jpg", "2.jpg"], "y/cam_a": ["1.jpg"]}
    dataset = open_dataset("person-folders", make_tree(tmp_path, tree))
    assert dataset.train.camera.tolist() == [1, 1, 2, 1]
    assert dataset.query.names == ["x/cam_a/1.jpg"]
    assert "cameras are numbered in sorted order: 1 is a, 2 is b" in dataset.notes[1]
    assert detect(tmp_path) == "person-folders"


def test_tracklets(tmp_path):
    tree = {
        "7/t1": ["c1_1.jpg", "c1_2.jpg"],
        "7/t2": ["c1_3.jpg"],
        "7/t3": ["c2_4.jpg"],
        "9/t1": ["c1_5.jpg", "c1_6.jpg"],
        "9": ["c1_0.jpg"],
    }
    dataset = open_dataset("tracklet-folders", make_tree(tmp_path, tree))
    assert counts(dataset) == (7, 2, 5)
    assert dataset.train.tracklet.tolist() == [0, 0, 1, 2, -1, 3, 3]
    assert dataset.train.identity.tolist() == [7, 7, 7, 7, 9, 9, 9]
    assert dataset.query.names == ["7/t1/c1_1.jpg", "7/t1/c1_2.jpg"]
    assert dataset.query.tracklet.tolist() == [0, 0]
    assert detect(tmp_path) == "tracklet-folders"


def test_tracklets_with_splits_have_numbers_of_their_own(tmp_path):
    tree = {f"{split}/0001/0001": ["0001_C1_F1.jpg", "0001_C1_F2.jpg"] for split in ("train", "query", "gallery")}
    dataset = open_dataset("tracklet-folders", make_tree(tmp_path, tree))
    numbers = [set(part.tracklet) for part in (dataset.train, dataset.query, dataset.gallery)]
    assert numbers == [{0}, {1}, {2}]
    assert detect(tmp_path) == "tracklet-folders"


@pytest.mark.parametrize("name", ["person-folders", "tracklet-folders"])
def test_trees_one_level_up_and_down(tmp_path, name):
    below = "t1/c1.jpg" if name == "tracklet-folders" else "c1.jpg"
    home = make_tree(tmp_path / "data" / "crops", {f"{s}/p1": [below] for s in ("train", "query", "gallery")}).resolve()
    dataset = open_dataset(name, home.parent)
    assert (dataset.root, counts(dataset)) == (home, (1, 1, 1))
    assert dataset.notes[0].endswith(f"one level below {home.parent}")


def test_folders_of_splits_that_hold_images_are_no_people(tmp_path):
    make_tree(tmp_path, {"train": ["1.jpg"], "query": ["2.jpg"]})
    with pytest.raises(UserError, match=r"train holds images and no folders of people; .* looks like --dataset folder"):
        open_dataset("person-folders", tmp_path)


def test_a_query_without_gallery_is_noted(tmp_path):
    make_tree(tmp_path, {"train/a": ["c1.jpg"], "query/b": ["c1.jpg"]})
    dataset = open_dataset("person-folders", tmp_path)
    assert counts(dataset) == (1, 1, 0)
    assert dataset.notes[-1] == f"person-folders: there is a query folder in {tmp_path} and no gallery folder"
    assert dataset.why_unranked == "has no gallery"


def rows(*crops: tuple[int, int], tracklets: bool = False) -> list[Row]:
    """Make a row for each (identity, camera), and a tracklet for each two rows."""
    return [Row(Path(f"{i:02}.jpg"), *crop, tracklet=i // 2 if tracklets else -1) for i, crop in enumerate(crops)]


@pytest.mark.parametrize(
    ("crops", "queries"),
    [
        ([(1, 1), (1, 1), (1, 2), (1, 2)], [0, 2]),
        ([(1, 1), (1, 2), (1, 2)], [1]),  # the only crop of camera 1 stays in the gallery, where camera 2 finds it
        ([(1, 3), (1, 2)], [1]),  # one crop in each camera: that of the first camera
        ([(1, 1), (1, 1), (2, 1)], []),
        ([(0, 1), (0, 2), (-1, 1), (-1, 2), (1, 0), (1, 1)], []),
        ([], []),
    ],
)
def test_the_rule_for_queries(crops, queries):
    given = rows(*crops)
    query, gallery = build_query_gallery(given, Reading("x", ""), "them")
    assert [given.index(row) for row in query] == queries
    known = [row for row in given if row.identity >= 0 and row.camera > 0]
    assert sorted(query + gallery) == (known if queries else [])
    for row in query:  # each query has a match that the protocol counts
        assert any(other.identity == row.identity and other.camera != row.camera for other in gallery)


def test_the_rule_takes_whole_tracklets_and_counts_what_it_leaves_out():
    given = rows((1, 1), (1, 1), (1, 1), (1, 1), (1, 2), (1, 2), (-1, 1), (-1, 1), tracklets=True)
    reading = Reading("x", "")
    query, gallery = build_query_gallery(given, reading, "them")
    assert (query, gallery) == (given[:2], given[2:6])
    assert reading.notes[0].endswith("the rest is the gallery; 2 without identity or camera are left out")
    assert "the first tracklet in each camera" in reading.notes[0]


def test_folders_of_programs_and_of_runs_hold_no_crops(tmp_path):
    run = ["config.yaml", "run.log", "curves.png", "views/joint.png"]
    tree = {
        "anna": ["c1.jpg", "c2.jpg"],
        "bob": ["c1.jpg", "@eaDir/c1.jpg"],
        ".ipynb_checkpoints": ["c1.jpg"],
        "__MACOSX/anna": ["c1.jpg"],
        "runs/folder-demo-seed0": run,
    }
    make_tree(tmp_path, tree)
    dataset = open_dataset("folder", tmp_path)
    crops = ["anna/c1.jpg", "anna/c2.jpg", "bob/c1.jpg"]
    assert dataset.train.names == crops
    assert dataset.passed_over == {"folders of a program or a run": 4}
    assert "4 folders of a program or a run (.ipynb_checkpoints, __MACOSX, bob/@eaDir, ...)" in dataset.notes[-1]
    dataset = open_dataset("person-folders", tmp_path)
    assert sorted(dataset.train.names) == crops
    assert len(set(dataset.train.identity.tolist())) == 2
    assert dataset.passed_over == {"folders of a program or a run": 2, "empty folder of a person": 1}
    assert detect(tmp_path / "runs") is None  # the images of a run are no dataset
