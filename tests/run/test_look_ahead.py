"""What a run and an assessment make sure of before hours are spent."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import torch

from gcl_fast.assessment import assess
from gcl_fast.assessment.assess import Assessment
from gcl_fast.bodies import BodyParameters, save_body_parameters
from gcl_fast.data import Records, ReIDDataset
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.inputs import Inputs
from gcl_fast.run.folder import FREE_ON_RESUME
from gcl_fast.run.session import Session
from gcl_fast.settings import override, preset

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def crops(root, count):
    """Of one person, before as many cameras; their files are not there."""
    one_each = np.arange(count) + 1
    return Records(root, [root / f"{i}.jpg" for i in range(count)], np.ones(count), one_each, one_each)


def assessment(root, query, *settings, device=CPU):
    config = override(preset("demo"), ["dataset=folder", "model.generator.appearance=parts", *settings])
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
