"""Cluster tracklets instead of crops: the crops of a tracklet show one person, so that they share a label."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gcl_fast.losses.cluster_memory import Clusters, cluster_centres
from gcl_fast.pseudo_labels import PseudoLabels


def label_tracklets(
    features: Tensor, tracklets: Tensor, least: int, cluster: Callable[[Tensor], PseudoLabels]
) -> PseudoLabels:
    """Cluster the mean rows of tracklets, and give each crop the label of its tracklet.

    A tracklet that is an outlier among tracklets is a cluster of its own where it has `least` crops or more. Its crops
    are known to show one person, as a dense cluster of crops is believed to.

    Args:
        features: (N, D) unit rows of the crops.
        tracklets: (N,) int64 number of each crop's tracklet; a crop with -1 is a tracklet of one.
        least: crops that make a cluster of one tracklet, 1 or more.
        cluster: finds the labels (T,) of unit rows (T, D).

    Returns:
        Labels (N,) of the crops. Clusters of one tracklet have the last numbers, and outliers are counted in crops.
    """
    members = Clusters.from_labels(tracklets.to(features.device))
    found = cluster(cluster_centres(features, members))
    sizes = torch.bincount(members.of_row, minlength=len(members.offsets))
    alone = (found.labels < 0) & (sizes >= least)
    labels = torch.where(alone, found.num_clusters - 1 + alone.cumsum(0), found.labels)[members.of_row]
    return replace(
        found,
        labels=labels,
        num_clusters=found.num_clusters + int(alone.sum()),
        num_outliers=int((labels < 0).sum()),
    )
