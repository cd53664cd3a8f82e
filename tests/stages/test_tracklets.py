"""The crops of a tracklet share a pseudo-label, and a tracklet that is an outlier may be a cluster."""

from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from gcl_fast.distributed.ranks import Ranks
from gcl_fast.pseudo_labels import cluster
from gcl_fast.settings import ClusteringConfig
from gcl_fast.stages.clustering import camera_centred, label

ALONE = Ranks(0, 1, torch.device("cpu"))
SETTINGS = ClusteringConfig(k1=4, k2=2, eps=0.5, min_samples=2, camera_centred=True, tracklet_k1=4)


def people(tracklets: int, crops: int, noise: float, people: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Return unit rows of people in turn, `crops` rows of each tracklet in random order, and their tracklets."""
    generator = torch.Generator().manual_seed(0)
    tracklet = torch.arange(tracklets).repeat_interleave(crops)
    tracklet = tracklet[torch.randperm(len(tracklet), generator=generator)]
    features = torch.eye(people, 16)[tracklet % people] + noise * torch.randn(len(tracklet), 16, generator=generator)
    return normalize(features, dim=1), tracklet


def same(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Return whether two labellings put the same pairs together."""
    return torch.equal(a[:, None] == a, b[:, None] == b)


def test_labels_are_those_of_the_mean_rows():
    features, tracklet = people(24, 5, noise=0.3)
    cameras = tracklet % 3
    found = label(features, cameras, SETTINGS, ALONE, 1 + 3 * tracklet)  # any numbers
    centred = camera_centred(features, cameras).double().numpy()
    means = np.stack([centred[tracklet.numpy() == number].mean(0) for number in range(24)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    expected = cluster(torch.from_numpy(means).float(), 4, 2, eps=0.5, min_samples=2)
    alone = torch.where(expected.labels < 0, 100 + torch.arange(24), expected.labels)  # each has 5 crops
    assert same(found.labels, alone[tracklet])
    assert found.num_clusters == len(found.labels.unique()) > expected.num_clusters
    assert (found.num_outliers, found.eps) == (0, expected.eps)


def test_means_find_people_that_crops_do_not():
    features, tracklet = people(48, 8, noise=0.2)
    settings = replace(SETTINGS, tracklet_k1=12, eps="auto")  # 12 tracklets show each person
    assert same(label(features, 0 * tracklet, settings, ALONE, tracklet).labels, tracklet % 4)
    for k1 in (12, 96):  # 96 crops show each person
        assert not same(label(features, 0 * tracklet, replace(settings, k1=k1), ALONE).labels, tracklet % 4)


def test_a_tracklet_alone_is_a_cluster_where_it_has_the_crops_of_one():
    rows = torch.eye(6)[[0, 0, 0, 0, 1, 1, 1, 2, 3, 4, 4, 5, 5]]
    tracklet = torch.tensor([0, 0, 1, 1, 2, 2, 2, 3, -1, -1, -1, 4, 4])  # 9 and 10 show one person
    settings = ClusteringConfig(k2=1, eps=0.5, min_samples=3, tracklet_k1=2)
    found = label(rows, torch.zeros(13, dtype=torch.int64), settings, ALONE, tracklet)
    assert found.labels.tolist() == [0, 0, 0, 0, 2, 2, 2, -1, -1, 1, 1, -1, -1]
    assert (found.num_clusters, found.num_outliers) == (3, 4)


def test_without_tracklets_crops_are_clustered():
    features, tracklet = people(24, 5, noise=0.3)
    crops = label(features, 0 * tracklet, SETTINGS, ALONE)
    for settings, given in [
        (SETTINGS, torch.full_like(tracklet, -1)),
        (replace(SETTINGS, tracklets=False), tracklet),
    ]:
        found = label(features, 0 * tracklet, settings, ALONE, given)
        assert torch.equal(found.labels, crops.labels)
        assert found.eps == crops.eps
    assert not same(label(features, 0 * tracklet, SETTINGS, ALONE, tracklet).labels, crops.labels)
