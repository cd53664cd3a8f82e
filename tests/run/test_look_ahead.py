"""What a run and an assessment make sure of before hours are spent."""

import errno
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from gcl_fast.assessment import assess
from gcl_fast.assessment.assess import Assessment
from gcl_fast.bodies import BodyParameters, save_body_parameters
from gcl_fast.data import Records, ReIDDataset
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs
from gcl_fast.run.look_ahead import look_ahead as plan_ahead
from gcl_fast.run.resuming import FREE_ON_RESUME
from gcl_fast.run.session import Session
from gcl_fast.settings import override, preset

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def crops(root, count):
    """Of one person, before as many cameras; their files are not there."""
    one_each = np.arange(count) + 1
    return Records(root, [root / f"{i}.jpg" for i in range(count)], np.ones(count), one_each, one_each)


def assessment(root, query, *settings, device=CPU):
    parts = ["model.generator.appearance=parts", "joint.views=drawn", "generative.batch=4"]
    config = override(preset("demo"), ["dataset=folder", *parts, *settings])
    dataset = ReIDDataset("folder", root, crops(root, 4), crops(root, query), crops(root, query))
    return Assessment(config, Inputs(config, dataset, (), None), Ranks(0, 1, device), None)


def look_ahead(root, *settings, done=(), device=CPU):
    session = object.__new__(Session)
    session.assessment = opened = assessment(root, 0, *settings, device=device)
    session.config, session.inputs, session.ranks = opened.config, opened.inputs, opened.ranks
    session.folder = SimpleNamespace(finished=list(done))
    session._look_ahead()


@pytest.mark.parametrize("stages", ["[warmup,generative]", "[joint]"])
def test_structure_maps_are_opened_at_the_start(tmp_path, stages):
    with pytest.raises(UserError, match=r"no render, render_45, .* under .*maps/train"):
        look_ahead(tmp_path, f"structure_maps={tmp_path}/maps", f"stages={stages}")


def test_the_body_model_is_opened_at_the_start(tmp_path, monkeypatch):
    count = 4
    zeros = {"pose": torch.zeros(count, 72), "shape": torch.zeros(count, 10), "yaw": torch.zeros(count)}
    names = [f"{i}.jpg" for i in range(count)]
    bodies = BodyParameters(names, "smpl", **zeros, camera=torch.ones(count, 4), confidence=torch.ones(count))
    (tmp_path / "body_parameters").mkdir()
    save_body_parameters(tmp_path / "body_parameters" / "train.npz", bodies)
    with pytest.raises(UserError, match="--smpl FILE"):
        look_ahead(tmp_path)
    monkeypatch.setitem(sys.modules, "smplx", ModuleType("smplx"))
    for lbs, told in ((SimpleNamespace(lbs=None), r"no SMPL model at .*typo.pkl"), (None, "pip install smplx")):
        monkeypatch.setitem(sys.modules, "smplx.lbs", lbs)
        with pytest.raises(UserError, match=told):
            look_ahead(tmp_path, f"smpl={tmp_path}/typo.pkl")
    assert {"smpl", "structure_maps"} <= FREE_ON_RESUME


def test_what_no_stage_ahead_needs_may_be_missing(tmp_path):
    look_ahead(tmp_path)  # bodies are estimated when first needed
    assert not list(tmp_path.iterdir())
    look_ahead(tmp_path, f"structure_maps={tmp_path}/maps", "stages=[warmup]")
    look_ahead(tmp_path, f"structure_maps={tmp_path}/maps", done=("generative", "joint"))
    look_ahead(tmp_path, "warmup.clustering.k1=129", done=("warmup",), device=CUDA)


@pytest.mark.parametrize("stage", ["warmup", "joint.clusters"])
def test_a_clustering_that_cannot_be_made_here_is_told_at_the_start(tmp_path, monkeypatch, stage):
    look_ahead(tmp_path, f"{stage}.clustering.k1=129")
    with pytest.raises(UserError, match=f"{stage}.clustering.k1=129: expected 126 or less"):
        look_ahead(tmp_path, f"{stage}.clustering.k1=129", device=CUDA)
    with pytest.raises(UserError, match=f"{stage}.clustering.tracklet_k1=200: expected 126 or less"):
        look_ahead(tmp_path, f"{stage}.clustering.tracklet_k1=200", device=CUDA)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        look_ahead(tmp_path, f"{stage}.clustering.engine=approximate")


@pytest.mark.parametrize(("turned", "compared"), [("train", 4), ("gallery", 3)])
def test_views_are_compared_with_crops_of_the_same_people(tmp_path, monkeypatch, turned, compared):
    seen = []

    class Quality:
        def __init__(self, gcl, crops, records, others, real, *_):
            seen.append(len(real))

        def measure(self, yaws):
            return {}

    monkeypatch.setattr(assess, "ViewQuality", Quality)
    monkeypatch.setattr(Inputs, "has_structure_maps", lambda inputs, split: split == turned)
    monkeypatch.setattr(Inputs, "structure_maps", lambda inputs, split, device: None)
    monkeypatch.setattr("gcl_fast.assessment.assess.ExtractLoader", lambda *_: None)
    told = Assessment.generation(with_autocast(assessment(tmp_path, 3)), None)
    assert (told["split"], told["real_crops"], seen) == (turned, compared, [compared])


def with_autocast(assessment):
    assessment.precision = type("Precision", (), {"evaluating": None})
    return assessment


def test_crops_that_are_not_there_cannot_be_chosen(tmp_path):
    chosen = assessment(tmp_path, 0)
    for names in (None, ["a.jpg"]):
        with pytest.raises(UserError, match="no crops in query"):
            chosen.choose("query", names, 6)
    with pytest.raises(UserError, match="--count 0: expected 1 crop or more"):
        chosen.choose("train", None, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["generative.batch=5"], "generative.batch=5: 4 crops make no batch of 5 .*--set generative.batch=N"),
        (["joint.clusters=null", "joint.batch=5"], "joint.batch=5: 4 crops make no batch"),
        (["warmup={method: mmcl, batch: 5}"], "warmup.batch=5: 4 crops make no batch"),
        (["warmup.styled=absent"], "warmup.styled=absent: styled images: there is no folder absent"),
        (["joint.clusters.styled=absent"], "joint.clusters.styled=absent: styled images: there is no folder"),
        (["joint.views=carried", "structure_maps=maps"], "pre-rendered maps hold no body to carry pixels by"),
    ],
)
def test_every_stage_is_planned_at_the_start(tmp_path, monkeypatch, settings, message):
    monkeypatch.setattr(Inputs, "check_structure_maps", lambda *_: None)
    look_ahead(tmp_path, *settings, done=("warmup", "generative", "joint"))
    with pytest.raises(UserError, match=message):
        look_ahead(tmp_path, *settings)


def test_a_batch_of_several_ranks_is_planned(tmp_path):
    opened = assessment(tmp_path, 0, "generative.batch=2")
    session = SimpleNamespace(config=opened.config, inputs=opened.inputs)
    plan = lambda world_size: plan_ahead(
        session.config, session.inputs, Ranks(0, world_size, CPU), lambda stage: stage == "generative", None
    )
    plan(2)
    with pytest.raises(UserError, match=r"generative.batch=2: 4 crops make no batch of 2 on 3 rank"):
        plan(3)


@pytest.mark.parametrize("section", ["warmup", "joint.clusters"])
def test_cameras_are_known_where_a_stage_compares_by_them(tmp_path, section):
    look_ahead(tmp_path, f"{section}.memory=cameras")
    unknown = replace(crops(tmp_path, 4), camera=np.array([1, 2, 0, 1]))
    opened = assessment(tmp_path, 0, f"{section}.memory=cameras")
    inputs = replace(opened.inputs, dataset=replace(opened.inputs.dataset, train=unknown))
    with pytest.raises(UserError, match=f"--set {section}.memory=cameras: no camera is known of 2.jpg"):
        plan_ahead(opened.config, inputs, Ranks(0, 1, CPU), lambda stage: True, None)


def test_time_is_known_where_a_warm_up_asks_for_it(tmp_path):
    look_ahead(tmp_path, "warmup={method: jvtc, batch: 4}")
    opened = assessment(tmp_path, 0, "warmup={method: jvtc, batch: 4}")
    without = replace(crops(tmp_path, 4), frame=np.zeros(4, int))
    inputs = replace(opened.inputs, dataset=replace(opened.inputs.dataset, train=without))
    with pytest.raises(UserError, match=r"no frame is known .*warmup.temporal=false"):
        plan_ahead(opened.config, inputs, Ranks(0, 1, CPU), lambda stage: True, None)


def test_a_dataset_that_cannot_be_written_is_found_where_bodies_are_to_be_estimated(tmp_path, monkeypatch):
    def refuse(folder):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr("gcl_fast.inputs.check_writable", refuse)
    with pytest.raises(UserError, match=r"cannot write body parameters to .*.npz .Read-only file system.; estimate"):
        look_ahead(tmp_path)
    look_ahead(tmp_path, "stages=[warmup]")


def test_pre_rendered_maps_are_opened_before_training(tmp_path):
    for folder in ("render", *(f"render_{yaw}" for yaw in range(45, 360, 45))):
        (tmp_path / "maps" / "train" / folder).mkdir(parents=True)
        for i in range(4):
            Image.new("L", (8, 16), 255).save(tmp_path / "maps" / "train" / folder / f"{i}.jpg")
    look_ahead(tmp_path, f"structure_maps={tmp_path}/maps")
    (tmp_path / "maps" / "train" / "render_90" / "2.jpg").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"1 of 32 files are no images .*render_90/2.jpg is the first"):
        look_ahead(tmp_path, f"structure_maps={tmp_path}/maps")
