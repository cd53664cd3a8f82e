"""The benchmark of must-links: what its rules do to labels that can be checked by hand."""

import must_links
import torch


def test_clusters_that_share_a_tracklet_become_one():
    tracklets = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])
    labels = torch.tensor([0, 1, 1, -1, 2, -1, -1, -1])
    joined = must_links.joined(labels, tracklets)
    assert joined[:4].unique().numel() == 1  # tracklet 0 links clusters 0 and 1, which tracklet 1 is in
    assert joined[4] == joined[5] != joined[0]
    assert joined[6:].tolist() == [-1, -1]


def test_zero_distance_keeps_tracklets_together():
    rows = torch.eye(8)[torch.arange(8).repeat_interleave(6)]
    tracklets = torch.arange(48) // 12  # two unlike groups in each
    labels = must_links.with_zero_distance(rows, tracklets, 6, 0.3)
    assert torch.equal(labels[:, None] == labels, tracklets[:, None] == tracklets)
