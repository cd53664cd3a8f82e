"""Each layout is read from a small copy, and errors name it; readers open no image, so empty files are enough."""

import json

import numpy as np
import pytest
from trees import make_tree

from gcl_fast.data import Records, open_dataset, readers
from gcl_fast.data.camera_time import check_time
from gcl_fast.data.layouts.detection import detect
from gcl_fast.data.layouts.msmt17 import recording
from gcl_fast.errors import UserError

MARKET = {
    "bounding_box_train": [
        "0002_c1s1_000451_03.jpg",
        "0002_c2s1_000801_01.jpg.jpg",
        "0007_c6s3_077542_04.jpg",
        "Thumbs.db",
    ],
    "query": ["0001_c1s1_001051_00.jpg", "readme.txt"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "0000_c1s1_000151_01.jpg",
        "0001_c2s1_001976_02.jpg",
        ".hidden_0001_c1s1_000001_00.jpg",
    ],
}


@pytest.mark.parametrize("home", [".", "Market-1501-v15.09.15"])
def test_market1501(tmp_path, home):
    make_tree(tmp_path / home, MARKET)
    dataset = open_dataset("market1501", tmp_path)
    assert dataset.root == tmp_path / home
    assert dataset.train.names == ["0002_c1s1_000451_03.jpg", "0002_c2s1_000801_01.jpg.jpg", "0007_c6s3_077542_04.jpg"]
    assert dataset.train.root == tmp_path / home / "bounding_box_train"
    assert dataset.train.identity.tolist() == [2, 2, 7]
    assert dataset.train.camera.tolist() == [1, 2, 6]
    assert dataset.train.frame.tolist() == [451, 801, 1976 + 77542]  # s3 begins after s1's last frame, in the gallery
    assert dataset.query.names == ["0001_c1s1_001051_00.jpg"]
    assert dataset.query.frame.tolist() == [1051]
    assert dataset.gallery.frame.tolist() == [151, 1976]
    assert dataset.gallery.identity.tolist() == [0, 1]  # with the distractor, without junk
    assert all(path.is_file() for path in dataset.gallery.paths)


def test_names_that_give_no_identity_are_counted(tmp_path):
    make_tree(tmp_path, {**MARKET, "query": [*MARKET["query"], "me.jpg", "you.png", "a.jpg", "b.jpg"]})
    dataset = open_dataset("market1501", tmp_path)
    assert dataset.query.names == ["0001_c1s1_001051_00.jpg"]
    assert dataset.notes[0] == (
        "market1501: passed over: 1 hidden, 1 junk, 2 of another type (.db, .txt), 4 with a name without"
        " identity and camera, unlike PPPP_cCsS_FFFFFF_NN.jpg (a.jpg, b.jpg, me.jpg, ...)"
    )
    assert sorted(dataset.passed_over.values()) == [1, 1, 2, 4]


def test_sequences_follow_one_another_over_all_cameras_and_splits(tmp_path):
    tree = {
        "bounding_box_train": ["0001_c1s10_000005_00.jpg", "0001_c1s2_000100_00.jpg", "0001_c2s1_000007_00.jpg"],
        "query": ["0002_c1s1_000900_00.jpg", "0002_c2s2_000030_00.jpg"],
        "bounding_box_test": ["0002_c3s10_000001_00.jpg"],
    }
    dataset = open_dataset("market1501", make_tree(tmp_path, tree))
    assert dataset.train.frame.tolist() == [900 + 100 + 5, 900 + 100, 7]  # s1 lasts until 900, s2 until 100
    assert dataset.query.frame.tolist() == [900, 900 + 30]
    assert dataset.gallery.frame.tolist() == [900 + 100 + 1]


def test_counts_are_compared_with_the_published_ones(tmp_path, monkeypatch):
    make_tree(tmp_path, MARKET)
    passed_over, note = open_dataset("market1501", tmp_path).notes
    assert "3 / 1 / 2 crops" in note
    assert "12,936 / 3,368 / 15,913" in note
    monkeypatch.setitem(readers.COUNTS, "market1501", [(0, 0, 0), (3, 1, 2)])
    assert open_dataset("market1501", tmp_path).notes == (passed_over,)
    assert len(open_dataset("synthetic", tmp_path).notes) == 1


def test_dukemtmc(tmp_path):
    tree = {
        "bounding_box_train": ["0001_c2_f0046182.jpg", "0005_c8_f0000001.jpg"],
        "query": ["0002_c1_f0044158.jpg"],
        "bounding_box_test": ["0002_c5_f0054301.jpg"],
    }
    dataset = open_dataset("dukemtmc", make_tree(tmp_path / "DukeMTMC-reID", tree).parent)
    assert dataset.train.identity.tolist() == [1, 5]
    assert dataset.train.camera.tolist() == [2, 8]
    assert dataset.train.frame.tolist() == [46182, 1]
    assert (len(dataset.query), len(dataset.gallery)) == (1, 1)


@pytest.mark.parametrize(
    ("home", "train", "test"),
    [("MSMT17_V1", "train", "test"), ("MSMT17_V2", "mask_train_v2", "mask_test_v2"), (".", "train", "test")],
)
def test_msmt17(tmp_path, home, train, test):
    lists = {
        "list_train.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_004_14_0303noon_0221_1.jpg 1"],
        "list_val.txt": ["0000/0000_009_05_0303morning_0025_0.jpg 0"],
        "list_query.txt": ["0000/0000_002_03_0302afternoon_0007_0.jpg 0"],
        "list_gallery.txt": ["0000/0000_003_04_0302afternoon_0008_1.jpg 0", "0002/0002_000_15_0302noon_0100_0.jpg 2"],
    }
    files = {split: [line.split()[0] for name in names for line in lists[name]] for split, names in SPLIT_LISTS.items()}
    make_tree(tmp_path / home, {train: files["train"], test: files["test"]})
    for name, lines in lists.items():
        (tmp_path / home / name).write_text("\n".join(lines) + "\n")
    dataset = open_dataset("msmt17", tmp_path)
    # identities count from 1, since 0 stands for distractors; the validation list follows the training list
    assert dataset.train.identity.tolist() == [1, 2, 1]
    assert dataset.train.camera.tolist() == [1, 14, 5]
    # 0302noon lasts until 100, then 0302afternoon until 8, 0303morning until 25, 0303noon
    assert dataset.train.frame.tolist() == [100 + 8 + 15, 100 + 8 + 25 + 221, 100 + 8 + 25]
    assert dataset.query.frame.tolist() == [100 + 7]
    assert dataset.gallery.frame.tolist() == [100 + 8, 100]
    assert dataset.train.names[0] == "0000/0000_000_01_0303morning_0015_0.jpg"
    assert dataset.query.camera.tolist() == [3]
    assert dataset.gallery.identity.tolist() == [1, 3]
    assert all(path.is_file() for split in (dataset.train, dataset.query, dataset.gallery) for path in split.paths)


def test_msmt17_recordings_are_ordered_by_date_and_time_of_day():
    recordings = ["0302morning", "0302noon", "0302afternoon", "0302dusk", "0302evening", "0303morning"]
    assert sorted(reversed(recordings), key=recording) == recordings


SPLIT_LISTS = {"train": ("list_train.txt", "list_val.txt"), "test": ("list_query.txt", "list_gallery.txt")}


CUHK03_NAMES = ["1_001_1_01.png", "1_001_2_06.png", "5_049_1_02.png", "5_049_2_10.png"]


def write_cuhk03(root, *files):
    """Write splits_<protocol>_<kind>.json of the given protocols and kinds, and the crops of the kinds."""
    for protocol, kind in files:
        make_tree(root, {f"images_{kind}": CUHK03_NAMES})
        entries = [[f"/somewhere/else/images_{kind}/{name}", 0, 0] for name in CUHK03_NAMES]
        split = {"train": entries[:2], "query": entries[2:3], "gallery": entries[2:]}
        (root / f"splits_{protocol}_{kind}.json").write_text(json.dumps([split, {"train": []}]))
    return root


@pytest.mark.parametrize("protocol", ["classic", "new"])
@pytest.mark.parametrize("kind", ["labeled", "detected"])
def test_cuhk03_by_its_split_files(tmp_path, protocol, kind):
    dataset = open_dataset("cuhk03", write_cuhk03(tmp_path, (protocol, kind)))
    assert dataset.train.identity.tolist() == [1001, 1001]  # pair and person
    assert dataset.train.camera.tolist() == [1, 2]
    assert dataset.gallery.identity.tolist() == [5049, 5049]
    assert dataset.gallery.camera.tolist() == [9, 10]
    assert not dataset.train.frame.any()  # names count images, not frames, so no time is known
    assert dataset.gallery.paths[1].is_file()
    (note,) = dataset.notes
    assert f"the {protocol} protocol" in note
    assert f"of the {kind} crops, with the metric of Market-1501" in note
    assert detect(tmp_path) == "cuhk03"


def test_cuhk03_says_what_was_chosen_and_what_is_there_as_well(tmp_path):
    every = [(protocol, kind) for protocol in ("classic", "new") for kind in ("labeled", "detected")]
    write_cuhk03(tmp_path, *every)
    (note,) = open_dataset("cuhk03", tmp_path).notes
    assert "classic protocol (the first of 20 random splits) of the labeled crops" in note
    assert note.endswith("there are classic detected, new labeled, new detected as well")
    dataset = open_dataset("cuhk03", tmp_path / "images_detected")
    assert "classic protocol (the first of 20 random splits) of the detected crops" in dataset.notes[-1]
    assert dataset.train.paths[0].parent.name == "images_detected"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"train": [\n["a', r"splits_classic_labeled.json, line 2: no JSON"),
        ("[]", r"expected a list of splits, each with train, query, gallery"),
        ('{"query": []}', r"expected a list of splits"),
        ('[{"train": [["1_001_1_01.png", 1, 0], "x"]}]', r'json, train, entry 2 is "x"; expected \[PAIR_PERSON_VIEW'),
        ('[{"train": [["person.png", 1, 0]]}]', r"train, entry 1 is .\"person.png\", 1, 0.; expected"),
        ('[{"train": [[]]}]', r"train, entry 1 is \[\]; expected"),
    ],
)
def test_a_split_file_out_of_form_is_one_sentence(tmp_path, content, message):
    write_cuhk03(tmp_path, ("classic", "labeled"))
    (tmp_path / "splits_classic_labeled.json").write_text(content)
    with pytest.raises(UserError, match=message):
        open_dataset("cuhk03", tmp_path)


def test_a_split_file_without_queries_is_trained_on(tmp_path):
    write_cuhk03(tmp_path, ("new", "labeled"))
    (tmp_path / "splits_new_labeled.json").write_text(json.dumps([{"train": [["1_001_1_01.png", 1, 0]]}]))
    assert open_dataset("cuhk03", tmp_path).why_unranked == "has no query and gallery"


def test_cuhk03_new_protocol(tmp_path):
    tree = {
        "bounding_box_train": ["0003_c1_21.png"],
        "query": ["0002_c1_11.png"],
        "bounding_box_test": ["0002_c2_17.png"],
    }
    dataset = open_dataset("cuhk03", make_tree(tmp_path, tree))
    assert (dataset.train.identity.item(), dataset.train.camera.item(), dataset.train.frame.item()) == (3, 1, 0)


def test_folder_of_crops(tmp_path):
    make_tree(tmp_path, {"a/deep": ["2.PNG", "1.jpeg"], "b": ["1.jpeg", "notes.txt", ".x.jpg"]})
    dataset = open_dataset("folder", tmp_path)
    assert dataset.train.names == ["a/deep/1.jpeg", "a/deep/2.PNG", "b/1.jpeg"]
    assert dataset.train.identity.tolist() == [-1, -1, -1]
    assert len(dataset.query) == len(dataset.gallery) == 0


def test_folders_that_are_linked_to_are_read_once(tmp_path):
    make_tree(tmp_path, {"own/real": ["1.jpg"], "elsewhere/cam1": ["1.jpg", "2.jpg"]})
    for link, target in {"cam1": "elsewhere/cam1", "alias": "own/real", "real/loop": "own", "up": "."}.items():
        (tmp_path / "own" / link).symlink_to(tmp_path / target, target_is_directory=True)
    dataset = open_dataset("folder", tmp_path / "own")
    assert dataset.train.names == ["cam1/1.jpg", "cam1/2.jpg", "real/1.jpg"]


@pytest.mark.parametrize("name", sorted(readers.READERS))
def test_missing_and_empty_folders_name_the_expected_layout(tmp_path, name):
    with pytest.raises(UserError, match=name) as error:
        open_dataset(name, tmp_path / "nowhere")
    assert readers.LAYOUTS[name] in str(error.value)
    with pytest.raises(UserError, match=name) as error:
        open_dataset(name, tmp_path)
    assert readers.LAYOUTS[name] in str(error.value)
    assert str(tmp_path) in str(error.value)


def test_incomplete_datasets(tmp_path):
    make_tree(tmp_path, MARKET)
    for name in MARKET["query"]:
        (tmp_path / "query" / name).unlink()
    assert open_dataset("market1501", tmp_path).why_unranked == "has no query"
    (tmp_path / "query").rmdir()
    dataset = open_dataset("market1501", tmp_path)
    assert (len(dataset.train), len(dataset.query), len(dataset.gallery)) == (3, 0, 2)
    assert any(note == f"market1501: there is no query in {tmp_path}" for note in dataset.notes)
    for name in MARKET["bounding_box_train"]:
        (tmp_path / "bounding_box_train" / name).unlink()
    with pytest.raises(UserError, match=r"no crops in .*bounding_box_train"):
        open_dataset("market1501", tmp_path)


def test_unknown_dataset_lists_the_known_ones(tmp_path):
    with pytest.raises(UserError, match=r"unknown dataset 'marekt'.*market1501"):
        open_dataset("marekt", tmp_path)


def test_subset_keeps_everything_aligned(tmp_path):
    train = open_dataset("market1501", make_tree(tmp_path, MARKET)).train
    picked = train.subset(np.array([2, 0]))
    assert picked.names == [train.names[2], train.names[0]]
    assert (picked.identity.tolist(), picked.camera.tolist(), picked.frame.tolist()) == ([7, 2], [6, 1], [79518, 451])
    assert train.subset(train.camera == 2).names == [train.names[1]]
    assert len(train.subset(np.array([], dtype=int))) == 0


def test_tracklets_are_unknown_unless_a_reader_knows_them(tmp_path):
    train = open_dataset("market1501", make_tree(tmp_path, MARKET)).train
    assert train.tracklet.tolist() == [-1, -1, -1]
    known = Records(train.root, train.paths, train.identity, train.camera, train.frame, [4, 4, 5])
    assert known.subset(np.array([2, 0])).tracklet.tolist() == [5, 4]
    with pytest.raises(ValueError, match=r"tracklet has shape \(2,\), expected \(3,\)"):
        Records(train.root, train.paths, train.identity, train.camera, train.frame, [4, 4])
    assert Records.empty(tmp_path).tracklet.shape == (0,)


def test_time_between_cameras_needs_crops_with_frames(tmp_path):
    train = open_dataset("market1501", make_tree(tmp_path, MARKET)).train
    check_time(train, "Way out")
    with pytest.raises(UserError, match=r"there are no crops to learn it from. Way out$"):
        check_time(Records.empty(tmp_path), "Way out")


MSMT17 = {
    "list_train.txt": "0000/0000_000_01_0303morning_0015_0.jpg 0\n",
    "list_val.txt": "",
    "list_query.txt": "0001/0001_000_01_0303noon_0015_0.jpg 1\n",
    "list_gallery.txt": "0001/0001_001_02_0303noon_0020_0.jpg 1\n",
}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("0000/0000_000_01_0303morning_0015_0.jpg", "0000/0000_000_01_0303morning_0015_0.jpg"),
        ("0000/person.jpg 0", "0000/person.jpg 0"),
        ("0000/0000_000_x1_0303morning_0015_0.jpg 0", "0000/0000_000_x1_0303morning_0015_0.jpg 0"),
        ("0000/0000_000_01_0303morning_0015_0.jpg zero", "zero"),
    ],
)
def test_a_line_out_of_form_is_named_by_file_and_line(tmp_path, line, fault):
    for folder in ("train", "test"):
        (tmp_path / folder).mkdir()
    for name, text in (MSMT17 | {"list_val.txt": MSMT17["list_train.txt"] + "\n" + line}).items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        open_dataset("msmt17", tmp_path)
    assert f"{tmp_path}/list_val.txt, line 3 is '" in str(error.value)
    assert fault in str(error.value)
    assert "expected PERSON/PERSON_NUMBER_CAMERA_RECORDING_FRAME_BOX.jpg PERSON" in str(error.value)


@pytest.mark.parametrize("folder", ["../../elsewhere", "0000/../../test", "/elsewhere"])
def test_a_list_cannot_name_crops_outside_its_folder(tmp_path, folder):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
    for name, text in MSMT17.items():
        (tmp_path / name).write_text(text)
    crop = f"{folder}/0000_000_01_0303morning_0015_0.jpg"
    (tmp_path / "list_val.txt").write_text(f"{crop} 0\n")
    with pytest.raises(UserError, match=rf"{crop} is named as a crop of {tmp_path}/train and lies outside"):
        open_dataset("msmt17", tmp_path)


def test_lists_of_test_crops_may_be_missing(tmp_path):
    (tmp_path / "train").mkdir()
    for name in ("list_train.txt", "list_val.txt"):
        (tmp_path / name).write_text(MSMT17[name])
    dataset = open_dataset("msmt17", tmp_path)
    assert (len(dataset.train), dataset.why_unranked) == (1, "has no query and gallery")
    assert f"msmt17: there is no test in {tmp_path}" in dataset.notes
    (tmp_path / "list_train.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"list_train.txt cannot be read .*expected a list in UTF-8"):
        open_dataset("msmt17", tmp_path)
