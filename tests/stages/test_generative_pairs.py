"""The generative stage in pairs: which crops make a pair, and that a step and a restored stage repeat."""

import pytest
import torch

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import override, preset
from gcl_fast.stages.generative import Generative

ALONE = Ranks(0, 1, torch.device("cpu"))
CLUSTERING = "generative.clustering={k1: 6, eps: 0.95, min_samples: 1}"


@pytest.fixture(scope="module")
def inputs(world):
    settings = [f"data_root={world}", "height=64", "width=40", "generative.batch=6", CLUSTERING]
    return open_inputs(override(preset("demo"), settings))


def make(inputs, *settings) -> Generative:
    """Return the stage on the tiny world at the start of its first epoch."""
    config = override(inputs.config, list(settings))
    torch.manual_seed(0)
    stage = Generative(config, GCL(config.model), inputs, ALONE, arithmetic.choose(False, ALONE.device))
    stage.begin_epoch(0)
    return stage


def first_batch(stage):
    return next(stage.loader.epoch(stage.plan(0), 0))


def test_pairs_share_cluster_and_camera(inputs):
    stage = make(inputs)
    cameras = torch.as_tensor(stage.records.camera)
    pairs = stage.plan(0).view(-1, 2)
    paired = torch.cat([stage._paired(index) for index in stage.plan(0)]).view(-1, 2)
    assert not paired[:, 1].any()
    assert paired[:, 0].sum() >= 2
    for (a, b), (first, _) in zip(pairs.tolist(), paired.tolist()):
        assert first == bool(stage.groups[a] == stage.groups[b] and stage.groups[a] >= 0)
        assert cameras[a] == cameras[b] or not first


def test_outliers_and_doubtful_bodies_make_no_pair(inputs):
    stage = make(inputs)
    first = int(stage.plan(0).view(-1)[stage._paired(stage.plan(0).view(-1)).nonzero()[0, 0]])
    stage.structure_maps.params.confidence[first] = 0.1
    stage.begin_epoch(0)
    stage.structure_maps.params.confidence[first] = 1.0
    assert stage.groups[first] == -1
    none = make(inputs, "generative.clustering.eps=0.0", "generative.clustering.min_samples=4")
    assert (none.groups == -1).all()
    assert not any(none._paired(index).any() for index in none.plan(0))
    assert none.step(*first_batch(none), 0, 0)["loss"].isfinite()


@pytest.mark.parametrize("reconstruction_epochs", [0, 4])
def test_a_pair_changes_the_step(inputs, reconstruction_epochs):
    setting = f"generative.reconstruction_epochs={reconstruction_epochs}"
    stage, plain = make(inputs, setting), make(inputs, setting, "generative.pairs=false")
    plain.gcl.load_state_dict(stage.gcl.state_dict())
    images, index = first_batch(stage)
    assert stage._paired(index).any()
    losses = [s.step(images, index, 0, 0)["image_rec"].item() for s in (stage, plain)]
    assert losses[0] != losses[1]


def test_a_generator_of_part_features_takes_crops_one_by_one(inputs):
    stage = make(inputs, "model.generator.appearance=parts")
    assert (stage.groups == -1).all()
    assert stage.step(*first_batch(stage), 0, 0)["loss"].isfinite()


def test_a_restored_stage_goes_on_as_it_would_have(inputs):
    stage, other = make(inputs), make(inputs)
    stage.step(*first_batch(stage), 0, 0)
    other.groups = torch.full_like(other.groups, -1)
    other.load_state_dict(stage.state_dict())
    other.gcl.load_state_dict(stage.gcl.state_dict())
    losses = [{n: float(v) for n, v in s.step(*first_batch(s), 0, 1).items()} for s in (stage, other)]
    assert losses[0] == losses[1]
