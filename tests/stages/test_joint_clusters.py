"""The joint stage by clusters: which crops become views, what a step trains, and that draws are functions of a step."""

import pytest
import torch

from gcl_fast.bodies import OnlineStructureMaps
from gcl_fast.data.augment import Augmentation, Draws, augment, draw_for, no_change
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.inputs import open_inputs
from gcl_fast.models import GCL
from gcl_fast.optim import precision as arithmetic
from gcl_fast.settings import PUBLISHED, override, preset
from gcl_fast.stages.joint import Joint, make_joint
from gcl_fast.stages.joint_clusters import JointByClusters

ALONE = Ranks(0, 1, torch.device("cpu"))
CLUSTERS = "{epochs: 2, steps_per_epoch: 3, identities: 3, crops: 4, colours: true, clustering: {k1: 6, eps: auto}}"


@pytest.fixture(scope="module")
def inputs(world):
    settings = [f"data_root={world}", "height=64", "width=40", "model.generator.appearance=carried"]
    return open_inputs(override(preset("demo"), settings))


def make(inputs, *settings) -> JointByClusters:
    """Return the stage on the tiny world, clustered, with the first batch of its first epoch."""
    config = override(inputs.config, [f"joint.clusters={CLUSTERS}", *settings])
    torch.manual_seed(0)
    gcl = GCL(config.model)
    stage = make_joint(config, gcl, inputs, ALONE, arithmetic.choose(False, ALONE.device))
    torch.manual_seed(0)
    stage.begin_epoch(0)
    return stage


def first_batch(stage):
    return next(stage.loader.epoch(stage.plan(0), 0))


def moved(stage, network, position):
    """Return whether a step moves a network's weights."""
    before = [p.clone() for p in getattr(stage.gcl, network).parameters()]
    metrics = stage.step(*first_batch(stage), 0, position)
    assert all(value.isfinite() for value in metrics.values())
    return any(not torch.equal(a, b) for a, b in zip(before, getattr(stage.gcl, network).parameters()))


def test_the_settings_choose_the_stage(inputs):
    assert isinstance(make(inputs), JointByClusters)
    plain = override(inputs.config, list(PUBLISHED))
    stage = make_joint(plain, GCL(plain.model), inputs, ALONE, arithmetic.choose(False, ALONE.device))
    assert isinstance(stage, Joint)


@pytest.mark.parametrize(("share", "turned"), [(0.5, [0, 1, 4, 5, 8, 9]), (0.25, [0, 4, 8]), (0.0, [])])
def test_views_replace_a_share_of_each_identity(inputs, monkeypatch, share, turned):
    stage = make(inputs, f"joint.view_share={share}", "joint.views=carried")
    images, index = first_batch(stage)
    batches = []
    update = stage._update
    monkeypatch.setattr(stage, "_update", lambda epoch, batch, i: batches.append(batch) or update(epoch, batch, i))
    stage.step(images, index, 0, 1)
    draws = draw_for(Augmentation(), len(index), 0, 0, 1)
    same = (batches[0] == augment(images, draws)).flatten(1).all(1)
    assert (~same).nonzero().flatten().tolist() == turned


@pytest.mark.parametrize("views", ["drawn", "carried"])
def test_views_are_drawn_by_the_generator_or_carried(inputs, views):
    stage = make(inputs, f"joint.views={views}")
    images, index = first_batch(stage)
    yaw = torch.full((len(index),), 90.0)
    with torch.no_grad():
        view, used = stage._views(images, index, yaw)
    assert used.all()
    carried = stage.structure_maps.turn(index, yaw).there(images).colour
    assert torch.equal(view, carried) == (views == "carried")


@pytest.mark.parametrize("doubt", ["estimate", "outside", "upside down"])
def test_a_doubtful_body_and_one_outside_its_crop_are_not_turned(inputs, doubt):
    stage = make(inputs, "joint.views=carried")
    images, index = first_batch(stage)
    params = stage.structure_maps.params
    if doubt == "estimate":
        params.confidence[index[0]] = 0.1
    elif doubt == "outside":
        params.camera[index[0], 1] = 5.0  # crop widths to the right
    else:
        params.pose[index[0], :3] = torch.tensor([0.0, 0.0, torch.pi])
        stage.structure_maps = OnlineStructureMaps(stage.structure_maps.body, params, stage.structure_maps.size, "cpu")
    view, used = stage._views(images, index, torch.full((len(index),), 90.0))
    doubtful = index == index[0]
    assert (used == ~doubtful).all()
    assert torch.equal(view[doubtful], images[doubtful])
    share = stage.step(images, index, 0, 1)["views"]
    assert float(share) == pytest.approx(1 - doubtful[stage.turned].float().mean().item())


@pytest.mark.parametrize(("reconstruction_epochs", "idle"), [(0, []), (4, ["discriminator"])])
def test_the_encoder_learns_at_each_step_and_the_generator_at_some(inputs, reconstruction_epochs, idle):
    stage = make(inputs, "joint.update_every=2", f"generative.reconstruction_epochs={reconstruction_epochs}")
    assert [moved(stage, "identity", position) for position in (0, 1, 2)] == [True] * 3
    for network in ("generator", "structure", "discriminator"):
        learns = network not in idle
        assert [moved(stage, network, position) for position in (0, 1, 2)] == [learns, False, learns], network


def test_a_step_is_a_function_of_its_position(inputs):
    losses = []
    for _ in range(2):
        stage = make(inputs)
        losses.append([float(stage.step(*first_batch(stage), 0, position)["loss"]) for position in (0, 1)])
    assert losses[0] == losses[1]


def test_a_restored_stage_goes_on_as_it_would_have(inputs):
    stage, other = make(inputs), make(inputs)
    stage.step(*first_batch(stage), 0, 0)
    other.load_state_dict(stage.state_dict())
    other.gcl.load_state_dict(stage.gcl.state_dict())
    losses = [{n: float(v) for n, v in s.step(*first_batch(s), 0, 1).items()} for s in (stage, other)]
    assert losses[0] == losses[1]


def test_augmented_images_equal_augmented_crops(inputs):
    """What the loader augments from decoded crops equals the augmentation of the same crops as images."""
    stage = make(inputs)
    images, index = first_batch(stage)
    assert torch.equal(augment(images, no_change(len(images))), images)
    draws = draw_for(Augmentation(), len(images), 0, 0, 0)
    crops = stage.loader._cached_crops.find(index.numpy()) if stage.loader.cache else None
    if crops is not None:
        from gcl_fast.kernels.sample_crops import sample_crops

        assert torch.equal(augment(images, draws), sample_crops(*crops, *draws))


def test_ranks_draw_what_one_process_draws():
    whole = draw_for(Augmentation(), 6, 1, 2, 3)
    parts = [draw_for(Augmentation(), 3, 1, 2, 3, rank, 2) for rank in (0, 1)]
    for one, both in zip(whole, zip(*parts)):
        assert torch.equal(one, torch.cat(both))
    assert isinstance(whole, Draws)
