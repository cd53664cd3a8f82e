"""Every stage that clusters gives the crops of a tracklet one label, and draws its batches across tracklets."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from gcl_fast.data import identity_plan
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import Inputs, open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.joint import make_joint
from gcl_fast.stages.stage import Stage
from gcl_fast.stages.warmups import make_warmup

ALONE = Ranks(0, 1, torch.device("cpu"))
SMALL = (
    "identities: 3, crops: 4, steps_per_epoch: 5, clustering: {k1: 4, tracklet_k1: 3, eps: 0.5, tracklets: TRACKLETS}"
)
STAGES = {
    "warmup": (make_warmup, []),
    "joint": (make_joint, list(PUBLISHED)),
    "joint by clusters": (make_joint, []),
}


@pytest.fixture(scope="module")
def inputs(world) -> Inputs:
    """The inputs of a run on the world, whose people have a tracklet of their crops in each camera."""
    settings = [f"data_root={world}", "height=64", "width=40", "model.generator.appearance=carried"]
    inputs = open_inputs(override(preset("demo"), settings))
    train = inputs.dataset.train
    tracklets = replace(train, tracklet=10 * train.identity + train.camera)
    return replace(inputs, dataset=replace(inputs.dataset, train=tracklets))


def begun(name: str, inputs: Inputs, used: bool) -> Stage:
    """Return a stage after its first clustering."""
    small = SMALL.replace("TRACKLETS", str(used).lower())
    make, settings = STAGES[name]
    settings = [f"joint.clusters={{{small}}}", f"warmup={{method: cluster, {small}}}", *settings]
    settings += [f"joint.clustering.{key}" for key in ("k1=4", "tracklet_k1=3", "eps=0.5", f"tracklets={used}".lower())]
    config = override(inputs.config, settings)
    torch.manual_seed(0)
    stage = make(config, GCL(config.model), inputs, ALONE, arithmetic.choose(False, ALONE.device, "off"))
    stage.begin_epoch(0)
    return stage


@pytest.mark.parametrize("name", STAGES)
def test_tracklets_are_kept_together(inputs, name):
    tracklet, split = inputs.dataset.train.tracklet, {}
    for used in (True, False):
        stage = begun(name, inputs, used)
        labels = (stage.bank.labels if name == "joint" else stage.labels).numpy()
        split[used] = sum(len(set(labels[tracklet == number])) > 1 for number in np.unique(tracklet))
    assert split[True] == 0 < split[False]


@pytest.mark.parametrize("used", [True, False])
def test_batches_are_planned_with_the_tracklets(inputs, used, monkeypatch):
    stage, plans = begun("warmup", inputs, used), []

    def noted(labels, cameras, tracklets, **arguments):
        plans.append(tracklets)
        return identity_plan(labels, cameras, tracklets, **arguments)

    monkeypatch.setattr("gcl_fast.stages.warmups.cluster.identity_plan", noted)
    stage.plan(0)
    assert np.array_equal(plans[0], inputs.dataset.train.tracklet) if used else plans == [None]
