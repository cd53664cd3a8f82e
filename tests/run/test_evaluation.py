"""Training goes on where nothing can be evaluated, and what an evaluation leaves out is counted."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.assessment.assess import broken_counts
from gcl_fast.data import open_dataset
from gcl_fast.data.records import Records, judged_queries
from gcl_fast.errors import UserError
from gcl_fast.evaluation.retrieval import retrieve
from gcl_fast.inputs import UNJUDGED, open_inputs, open_source
from gcl_fast.run.header import _source
from gcl_fast.run.loop import Position
from gcl_fast.run.session import Session, percent
from gcl_fast.run.weights import describe_data
from gcl_fast.settings import SourceConfig, override, preset
from gcl_fast.table import is_fraction

FOLDERS = ("bounding_box_train", "query", "bounding_box_test")


def write_crops(root, train=(), query=(), gallery=()):
    """Write images called by name into the three folders of Market-1501; a folder without names is not made."""
    for folder, names in zip(FOLDERS, (train, query, gallery)):
        for i, name in enumerate(names):
            (root / folder).mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 16), (i, i, i)).save(root / folder / name)
    return root


def opened(root, *settings):
    return open_inputs(override(preset("demo"), ["dataset=market1501", f"data_root={root}", *settings]))


def name(person, camera, frame=1):
    return f"{person:04d}_c{camera}s1_{frame:06d}_01.jpg"


@pytest.mark.parametrize(
    ("query", "gallery", "why"),
    [
        ([], [], "has no query and gallery"),
        ([], [name(3, 1)], "has no query"),
        ([name(3, 1)], [], "has no gallery"),
        ([name(3, 1)], [name(3, 1, 2), name(4, 2)], "has no query whose person another camera of the gallery has seen"),
        ([name(3, 1)], [name(3, 2)], ""),
    ],
)
def test_a_dataset_is_trained_on_whether_or_not_it_can_be_evaluated(tmp_path, query, gallery, why):
    root = write_crops(tmp_path, [name(1, 1), name(2, 1)], query, gallery)
    inputs = opened(root)
    assert len(inputs.dataset.train) == 2
    assert inputs.dataset.why_unranked.startswith(why)
    assert inputs.dataset.can_be_ranked == (not why)
    config = replace(preset("demo"), source=SourceConfig("market1501", str(root)))
    target = open_dataset("folder", write_crops(tmp_path / "other", [name(9, 1)]))
    line = _source(replace(inputs, source=open_source(config, target)))["source"]
    assert (f"its test set is not evaluated: it {why}" in line) == bool(why)


def test_judged_queries_are_those_that_retrieval_counts():
    random = np.random.default_rng(0)

    def records(count):
        identity, camera = random.integers(-1, 12, count), random.integers(0, 4, count)
        return Records("", [""] * count, identity, camera, camera)

    for query, gallery in ((records(40), records(30)), (records(1), records(60)), (records(30), records(3))):
        judged = judged_queries(query, gallery)
        precision = retrieve(torch.rand(len(query), 4), torch.rand(len(gallery), 4), query, gallery).precision
        assert judged.tolist() == (~precision.isnan()).tolist()
    assert judged_queries(Records.empty(""), records(3)).tolist() == []
    assert not judged_queries(records(3), Records.empty("")).any()


def test_what_is_left_out_is_counted_by_reason_everywhere(tmp_path):
    train = [name(1, 1), name(1, 2), name(2, 1).replace("c1", "C1"), name(2, 2).replace("c2", "C2")]
    root = write_crops(tmp_path, train, [name(3, 1), name(4, 1), name(5, 1)], [name(3, 2), name(5, 2)])
    (root / "query" / name(5, 1)).write_bytes(b"no image")
    dataset = opened(root).dataset
    unnamed = "with a name without identity and camera, unlike PPPP_cCsS_FFFFFF_NN.jpg"
    assert dataset.passed_over == {unnamed: 2, "broken images of query": 1, UNJUDGED: 1}
    assert any("1 of 2 queries do not count" in note for note in dataset.notes)
    assert describe_data(dataset)["left_out"] == dataset.passed_over  # of environment.json, summary.json and weights
    metrics = retrieve(torch.eye(2), torch.eye(2), dataset.query, dataset.gallery).metrics
    assert (metrics["queries"], metrics["queries_left_out"]) == (1, 1)
    assert broken_counts(dataset) == {"query_broken": 1}
    assert not any(is_fraction(name) for name in ("queries", "queries_left_out", "query_broken", "gallery_broken"))


def test_images_that_nobody_needs_may_all_be_broken(tmp_path):
    root = write_crops(tmp_path, [name(1, 1)], [name(3, 1)], [name(3, 2)])
    (root / "query" / name(3, 1)).write_bytes(b"no image")
    assert opened(root).dataset.why_unranked == "has no query"
    with pytest.raises(UserError, match="1 of 1 images"):
        opened(root, "on_bad_image=error")
    (root / "bounding_box_train" / name(1, 1)).write_bytes(b"no image")
    with pytest.raises(UserError, match="repair or remove them"):
        opened(root)


@pytest.mark.parametrize("error", [UserError("no query"), OSError("gone"), RuntimeError("NaN")])
def test_a_finished_stage_survives_its_evaluation(tmp_path, error):
    session = object.__new__(Session)
    saved, lines = [], []

    def after(*_):
        raise error

    session.assessment, session.gcl = SimpleNamespace(after=after), torch.nn.Linear(1, 1)
    quiet = lambda *_: None
    session.log = SimpleNamespace(metrics=quiet, image=quiet, summary=quiet, say=lines.append)
    session.folder = SimpleNamespace(
        path=tmp_path, summary={"stages": {}}, save_weights=quiet, save_encoder=quiet, keep_best=quiet
    )
    session._metadata = lambda stage, metrics: {"metrics": metrics}
    session._save = saved.append
    session.position, session.ranks = Position(step=3), SimpleNamespace(world_size=1)
    stage = SimpleNamespace(name="warmup")
    with pytest.warns(UserWarning, match=f"warmup: not evaluated .{error}.; the run goes on, and gcl-fast evaluate"):
        session.assess(stage)
    assert session.folder.summary["stages"]["warmup"] == {"seconds": 0.0, "steps": 3}
    assert saved == [stage]
    assert lines[0].startswith("warmup: not evaluated, 3 steps")
    session.ranks.world_size = 2
    if isinstance(error, UserError):
        with pytest.warns(UserWarning, match="not evaluated"):
            session.assess(stage)
    else:
        with pytest.raises(type(error)):  # the other ranks may wait for this one
            session.assess(stage)


def test_a_line_without_retrieval_says_so():
    assert percent({"ssim": 0.5}) == "not evaluated"


@pytest.mark.parametrize(
    ("names", "cameras", "note"),
    [
        (["a_c1_1", "a_c2_1", "b_c1_1", "b_c2_2"], [1, 2, 1, 2], ""),
        (["hall_cam_b_1", "hall_cam_a_1", "x_cam_a_3", "y_cam_b_2"], [1, 2, 1, 2], "cameras are numbered"),
        (["a_c1_1", "a_c2_1", "b"], [0, 0, 0], "no camera is used, since 1 of 3 names give none (b.jpg)"),
        (["c0001", "c0002", "c0003"], [0, 0, 0], "no camera is used, since names give 3 of them"),
        (["a", "b"], [0, 0], ""),
    ],
)
def test_a_folder_has_the_cameras_that_its_names_give(tmp_path, names, cameras, note):
    for file in names:
        (tmp_path / f"{file}.jpg").touch()
    dataset = open_dataset("folder", tmp_path)
    assert sorted(dataset.train.camera.tolist()) == sorted(cameras)
    assert note in "".join(dataset.notes)
    assert bool(note) == bool(dataset.notes)
