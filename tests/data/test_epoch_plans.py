"""Plans are pure, complete, divided among ranks, and balanced."""

import numpy as np
import pytest
import torch

from gcl_fast.data import identity_plan, paired_plan, shuffled_plan
from gcl_fast.errors import UserError


def test_shuffled_plan_visits_each_crop_once():
    index = np.arange(100, 203)
    plan = shuffled_plan(index, 16, seed=1, epoch=2)
    assert plan.dtype == torch.int64
    assert plan.shape == (6, 16)
    assert len(set(plan.flatten().tolist())) == 96
    assert set(plan.flatten().tolist()) <= set(index.tolist())
    assert torch.equal(plan, shuffled_plan(index, 16, seed=1, epoch=2))
    assert not torch.equal(plan, shuffled_plan(index, 16, seed=1, epoch=3))
    assert not torch.equal(plan, shuffled_plan(index, 16, seed=2, epoch=2))


def test_ranks_share_the_steps_of_one_plan():
    whole = shuffled_plan(103, 16, seed=0, epoch=0)
    parts = [shuffled_plan(103, 4, seed=0, epoch=0, rank=r, world_size=4) for r in range(4)]
    assert torch.equal(torch.cat(parts, dim=1), whole)


def test_too_few_crops_for_a_batch():
    with pytest.raises(UserError, match="15 crops make no batch of 8 on 2 rank"):
        shuffled_plan(15, 8, seed=0, epoch=0, world_size=2)


@pytest.fixture
def labels_and_cameras():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(30), generator.integers(4, 12, 30))
    labels = np.concatenate([labels, np.full(25, -1)])
    order = generator.permutation(len(labels))
    return labels[order], generator.integers(1, 5, len(labels))


def test_identity_plan_batches(labels_and_cameras):
    labels, cameras = labels_and_cameras
    plan = identity_plan(labels, cameras, identities=8, crops=4, steps=11, seed=0, epoch=0).numpy()
    assert plan.shape == (11, 32)
    groups = plan.reshape(11, 8, 4)
    assert (labels[groups] == labels[groups][..., :1]).all()  # one identity per group
    assert (labels[plan] != -1).all()
    assert all(len(set(labels[step[:, 0]])) == 8 for step in groups)  # distinct inside a step
    for group in groups.reshape(-1, 4):
        members = np.flatnonzero(labels == labels[group[0]])
        assert len(set(group)) == 4  # every identity has at least 4 crops
        assert len(set(cameras[group])) == min(4, len(set(cameras[members])))
    turns = np.bincount(labels[groups[..., 0]].ravel(), minlength=30)  # 88 draws of 30 identities
    assert turns.min() >= 2
    assert turns.max() <= 4


def test_identity_plan_is_pure_and_divided_among_ranks(labels_and_cameras):
    arguments = dict(crops=4, steps=5, seed=3, epoch=1)
    whole = identity_plan(*labels_and_cameras, identities=8, **arguments)
    tensors = [torch.from_numpy(values) for values in labels_and_cameras]
    parts = [identity_plan(*tensors, identities=4, rank=r, world_size=2, **arguments) for r in range(2)]
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert not torch.equal(whole, identity_plan(*labels_and_cameras, identities=8, **{**arguments, "epoch": 2}))


def test_few_crops_and_few_identities_repeat_evenly():
    labels, cameras = np.array([5, 5, 9]), np.array([1, 1, 2])
    with pytest.warns(UserWarning, match=r"draws 4 identities, and there are 2.*lower --set warmup\.identities"):
        plan = identity_plan(labels, cameras, identities=4, crops=4, steps=3, seed=0, epoch=0).numpy()
    for group in plan.reshape(-1, 4):
        counts = np.bincount(group, minlength=3)
        assert counts.tolist() in ([2, 2, 0], [0, 0, 4])
    assert np.bincount(labels[plan.reshape(-1, 4)[:, 0]])[[5, 9]].tolist() == [6, 6]


def test_nobody_to_draw():
    with pytest.raises(UserError, match="all crops are outliers"):
        identity_plan(np.full(3, -1), np.zeros(3), steps=1, seed=0, epoch=0)


def test_paired_plan_visits_each_crop_once_in_pairs_of_a_group():
    rng = np.random.default_rng(0)
    groups = rng.integers(-1, 40, 203)
    plan = paired_plan(groups, 8, seed=1, epoch=2)
    assert plan.shape == (25, 8)
    assert len(plan.unique()) == 200
    pairs = groups[plan.view(-1, 2).numpy()]
    alike = (pairs[:, 0] == pairs[:, 1]) & (pairs[:, 0] >= 0)
    possible = sum(count // 2 for group, count in zip(*np.unique(groups, return_counts=True)) if group >= 0)
    assert alike.sum() >= possible - 2  # 203 crops fill 25 batches; at most two pairs are left out with the rest
    assert torch.equal(plan, paired_plan(groups, 8, seed=1, epoch=2))
    assert not torch.equal(plan, paired_plan(groups, 8, seed=1, epoch=3))


def test_paired_plan_of_ranks_keeps_pairs_together():
    groups = np.repeat(np.arange(16), 4)
    whole = paired_plan(groups, 8, seed=0, epoch=0)
    halves = [paired_plan(groups, 4, seed=0, epoch=0, rank=r, world_size=2) for r in (0, 1)]
    assert torch.equal(torch.cat(halves, 1), whole)


def test_paired_plan_without_groups_and_with_too_few_crops():
    assert len(paired_plan(np.full(9, -1), 4, seed=0, epoch=0).unique()) == 8
    with pytest.raises(UserError, match="9 crops make no batch of 10"):
        paired_plan(np.full(9, -1), 10, seed=0, epoch=0)


def test_crops_of_an_identity_spread_over_cameras_then_tracklets():
    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(6), 40)
    cameras = generator.integers(1, 3, len(labels))
    tracklets = (labels * 3 + cameras) * 4 + generator.integers(0, 4, len(labels)) ** 2 // 3  # long and short ones
    tracklets[generator.random(len(labels)) < 0.1] = -1
    arguments = dict(identities=2, crops=8, steps=9, seed=0, epoch=0)
    plan = identity_plan(labels, cameras, tracklets, **arguments)
    halves = [
        identity_plan(labels, cameras, tracklets, **{**arguments, "identities": 1}, rank=rank, world_size=2)
        for rank in range(2)
    ]
    assert torch.equal(torch.cat(halves, 1), plan)
    own = np.where(tracklets < 0, -1 - np.arange(len(labels)), tracklets)
    for group in plan.numpy().reshape(-1, 8):
        assert len(set(group)) == 8
        for camera in (1, 2):
            drawn = own[group[cameras[group] == camera]]
            assert len(drawn) == 4  # as many of each camera
            there = own[(labels == labels[group[0]]) & (cameras == camera)]
            assert len(set(drawn)) == min(4, len(set(there)))


def test_unknown_tracklets_change_no_plan(labels_and_cameras):
    arguments = dict(identities=8, crops=4, steps=5, seed=3, epoch=1)
    unknown = np.full(len(labels_and_cameras[0]), -1)
    assert torch.equal(
        identity_plan(*labels_and_cameras, unknown, **arguments), identity_plan(*labels_and_cameras, **arguments)
    )
