"""Benchmarks beyond the first four: made-up copies of their layouts give exact counts, labels and errors."""

import numpy as np
import pytest
from scipy.io import savemat
from trees import make_tree

from gcl_fast.data import open_dataset
from gcl_fast.data.layouts.detection import detect
from gcl_fast.errors import UserError

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000801_01.jpg"],
    "query": ["0001_c1s1_001051_00.jpg"],
    "bounding_box_test": ["0001_c2s1_001976_02.jpg", "-1_c1s1_000401_03.jpg"],
}
DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg"],
    "query": ["0002_c1_f0044158.jpg"],
    "bounding_box_test": ["0002_c5_f0054301.jpg", "0003_c5_f0054301.jpg"],
}
CUHK = {
    "bounding_box_train": ["0003_c1_21.png", "0003_c2_22.png"],
    "query": ["0002_c1_11.png"],
    "bounding_box_test": ["0002_c2_17.png", "cover.png"],
}
VERI = {
    "image_train": ["0001_c001_00016450_0.jpg", "0001_c002_00016460_1.jpg"],
    "image_query": ["0002_c002_00030600_0.jpg"],
    "image_test": ["0002_c003_00030650_1.jpg"],
}


def counts(dataset) -> tuple[int, int, int]:
    return len(dataset.train), len(dataset.query), len(dataset.gallery)


def below(folder: str, tree: dict[str, list[str]]) -> dict[str, list[str]]:
    return {f"{folder}/{name}": files for name, files in tree.items()}


def test_occluded_duke(tmp_path):
    dataset = open_dataset("occluded-duke", make_tree(tmp_path, below("Occluded_Duke", DUKE)))
    assert counts(dataset) == (1, 1, 2)
    assert (dataset.gallery.camera.tolist(), dataset.gallery.frame.tolist()) == ([5, 5], [54301, 54301])
    assert dataset.notes == (
        "occluded-duke: 1 / 1 / 2 crops for training, query and gallery; as published: 15,618 / 2,210 / 17,661",
    )
    assert detect(tmp_path) == "occluded-duke"


def test_the_distractors_of_market_join_its_gallery(tmp_path):
    distractors = ["0000_c4s1_000010_00.jpg", "sub/loose.jpg", "-1_c4s1_000011_00.jpg", "list.txt"]
    dataset = open_dataset("market1501-500k", make_tree(tmp_path, MARKET | {"images": distractors}))
    assert counts(dataset) == (2, 1, 3)
    assert dataset.gallery.names == [
        "bounding_box_test/0001_c2s1_001976_02.jpg",
        "images/0000_c4s1_000010_00.jpg",
        "images/sub/loose.jpg",
    ]
    assert dataset.gallery.identity.tolist() == [1, 0, 0]
    assert dataset.gallery.camera.tolist() == [2, 4, 0]
    assert dataset.passed_over == {"junk": 2, "of another type": 1}
    assert dataset.notes[0] == "market1501-500k: 2 distractors of images are in the gallery"
    assert detect(tmp_path) == "market1501-500k"
    assert counts(open_dataset("market1501", tmp_path)) == (2, 1, 1)  # which does not read images


def test_market_without_its_distractors_is_named(tmp_path):
    make_tree(tmp_path, MARKET)
    with pytest.raises(UserError, match=r"no images under .* looks like --dataset market1501$"):
        open_dataset("market1501-500k", tmp_path)


@pytest.mark.parametrize(("root", "note"), [(".", "detected crops are read"), ("cuhk03-np/labeled", "published")])
def test_cuhk03_np(tmp_path, root, note):
    labeled = CUHK | {"query": [*CUHK["query"], "0004_c1_01.png"]}
    make_tree(tmp_path, below("cuhk03-np/detected", CUHK) | below("cuhk03-np/labeled", labeled))
    dataset = open_dataset("cuhk03-np", tmp_path / root)
    assert counts(dataset) == (2, 1 if root == "." else 2, 1)
    assert dataset.train.camera.tolist() == [1, 2]
    assert not dataset.train.frame.any()
    assert note in " ".join(dataset.notes)
    assert dataset.passed_over == {"with a name without identity and camera, unlike PPPP_cC_N.png": 1}
    assert detect(tmp_path) == "cuhk03-np"


def test_personx_with_and_without_subsets(tmp_path):
    tree = {
        "bounding_box_train": ["0001_c3_s1.jpg"],
        "query": ["0002_c10_s1.jpg"],
        "bounding_box_test": ["0002_c12_1.jpg"],
    }
    plain = open_dataset("personx", make_tree(tmp_path / "PersonX", tree))
    assert counts(plain) == (1, 1, 1)
    assert (plain.train.camera.item(), plain.query.camera.item(), plain.gallery.camera.item()) == (3, 10, 12)
    assert detect(tmp_path / "PersonX") == "personx"
    subsets = make_tree(tmp_path / "v1", below("4", tree) | below("5", tree))
    joined = open_dataset("personx", subsets)
    assert counts(joined) == (2, 2, 2)
    assert joined.train.names == ["4/bounding_box_train/0001_c3_s1.jpg", "5/bounding_box_train/0001_c3_s1.jpg"]
    assert joined.notes[0] == "personx: subsets 4, 5 are joined"
    assert counts(open_dataset("personx", subsets / "5")) == (1, 1, 1)
    assert detect(subsets) == "personx"


def test_veri776(tmp_path):
    dataset = open_dataset("veri776", make_tree(tmp_path, below("VeRi", VERI)))
    assert counts(dataset) == (2, 1, 1)
    assert dataset.train.camera.tolist() == [1, 2]
    assert dataset.train.frame.tolist() == [16450, 16460]
    assert detect(tmp_path) == "veri776"


MARS_TRAIN = ["0001/0001C1T0001F001.jpg", "0001/0001C1T0001F002.jpg", "0001/0001C2T0001F001.jpg"]
MARS_TEST = [
    "00-1/00-1C1T0001F001.jpg",
    "0000/0000C1T0001F001.jpg",
    "0002/0002C1T0001F001.jpg",
    "0002/0002C1T0001F002.jpg",
    "0002/0002C1T0002F001.jpg",
    "0002/0002C3T0001F001.jpg",
]


def mars(root, doubled: bool = False, info: str = ""):
    train, test = (f"{name}/{name}" if doubled else name for name in ("bbox_train", "bbox_test"))
    make_tree(root, {train: MARS_TRAIN, test: MARS_TEST})
    if info:
        folder = root / info
        folder.mkdir(parents=True)
        names = {"train": MARS_TRAIN, "test": MARS_TEST}
        for split, files in names.items():
            (folder / f"{split}_name.txt").write_text("".join(name[5:] + "\n" for name in files))
        tracks = [[1, 2, 1, 1], [3, 3, 1, 2]]
        savemat(folder / "tracks_train_info.mat", {"track_train_info": np.array(tracks)})
        tracks = [[1, 1, -1, 1], [2, 2, 0, 1], [3, 4, 2, 1], [5, 5, 2, 1], [6, 6, 2, 3]]
        savemat(folder / "tracks_test_info.mat", {"track_test_info": np.array(tracks, dtype=np.float64)})
        savemat(folder / "query_IDX.mat", {"query_IDX": np.array([[3, 5]])})
    return root


@pytest.mark.parametrize("doubled", [False, True])
def test_mars_by_its_lists(tmp_path, doubled):
    dataset = open_dataset("mars", mars(tmp_path, doubled, "info"))
    assert counts(dataset) == (3, 3, 2)
    assert dataset.train.tracklet.tolist() == [0, 0, 1]
    assert [name[5:] for name in dataset.query.names] == [name[5:] for name in (*MARS_TEST[2:4], MARS_TEST[5])]
    assert dataset.query.tracklet.tolist() == [4, 4, 6]  # behind those of training; junk has a number as well
    assert dataset.gallery.identity.tolist() == [0, 2]
    assert dataset.gallery.camera.tolist() == [1, 1]
    assert dataset.passed_over == {"junk": 1}
    assert all(path.is_file() for part in (dataset.train, dataset.query, dataset.gallery) for path in part.paths)
    assert detect(tmp_path) == "mars"


def test_mars_without_lists_takes_tracklets_from_the_names(tmp_path):
    dataset = open_dataset("mars", mars(tmp_path))
    assert counts(dataset) == (3, 2, 3)
    assert [name[5:] for name in dataset.query.names] == ["0002C1T0001F001.jpg", "0002C1T0001F002.jpg"]
    assert dataset.train.tracklet.tolist() == [0, 0, 1]
    assert dataset.gallery.tracklet.tolist() == [2, 4, 5]
    assert "the first tracklet in each camera is a query" in dataset.notes[1]
    assert dataset.passed_over == {"junk": 1}


def test_broken_lists_of_mars(tmp_path):
    root = mars(tmp_path, info="MARS-evaluation/info")
    info = root / "MARS-evaluation" / "info"
    (info / "query_IDX.mat").write_bytes(b"no matrix")
    with pytest.raises(UserError, match=r"query_IDX.mat cannot be read as a .mat file"):
        open_dataset("mars", root)
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([6])})
    with pytest.raises(UserError, match=r"names tracklets beyond the 5 of tracks_test_info.mat"):
        open_dataset("mars", root)
    (info / "test_name.txt").write_text("0002C1T0001F001/../../../elsewhere.jpg\n" * 6)
    savemat(info / "query_IDX.mat", {"query_IDX": np.array([3])})
    with pytest.raises(UserError, match=r"name 2 is '0002C1T0001F001/../../../elsewhere.jpg'; expected PPPPCcTtt"):
        open_dataset("mars", root)
    (info / "test_name.txt").write_text("0002C1T0001F001.jpg\n")
    with pytest.raises(UserError, match=r"a tracklet has images 2 to 2, but .*test_name.txt has 1 names"):
        open_dataset("mars", root)
    (info / "test_name.txt").unlink()
    with pytest.raises(UserError, match=r"mars: no test_name.txt in"):
        open_dataset("mars", root)


@pytest.mark.parametrize(
    ("name", "tree", "file"),
    [("market1501", MARKET, "query"), ("dukemtmc", DUKE, "query"), ("veri776", VERI, "image_query")],
)
def test_roots_one_level_up_and_down_are_read_and_noted(tmp_path, name, tree, file):
    home = make_tree(tmp_path / "data" / "copy of it", tree).resolve()
    for root, where in ((home.parent, "below"), (home / file, "above")):
        dataset = open_dataset(name, root)
        assert dataset.root == home
        assert dataset.notes[0] == f"{name}: read from {home}, one level {where} {root}"
        assert detect(root) == name
    with pytest.raises(UserError, match=rf"no {next(iter(tree))} under .*, which holds data; expected"):
        open_dataset(name, tmp_path)


def test_two_datasets_below_a_root_are_named(tmp_path):
    make_tree(tmp_path, below("a", MARKET) | below("b", MARKET))
    with pytest.raises(UserError, match=r"2 folders in .* hold bounding_box_train \(a, b\): name one of them"):
        open_dataset("market1501", tmp_path)


def test_an_error_names_the_nearest_folder_and_the_layout_it_looks_like(tmp_path):
    make_tree(tmp_path / "typing", {"bounding_box_trian": ["0001_c1s1_000001_00.jpg"]})
    with pytest.raises(UserError, match=r"no bounding_box_train under .*, the nearest is bounding_box_trian; expected"):
        open_dataset("market1501", tmp_path / "typing")
    make_tree(tmp_path / "veri", VERI)
    with pytest.raises(UserError, match=r"no bounding_box_train .* looks like --dataset veri776$"):
        open_dataset("market1501", tmp_path / "veri")
