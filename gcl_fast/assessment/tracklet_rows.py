"""Pool the embeddings of tracklets: one row of a query or a gallery stands for all crops of a tracklet."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from gcl_fast.data import Records
from gcl_fast.losses.cluster_memory import Clusters, cluster_centres


def pool_tracklets(rows: Tensor, records: Records) -> tuple[Tensor, Records]:
    """Return the mean rows of tracklets, as the protocol of MARS takes them, with a record for each.

    A crop without tracklet is a tracklet of one. Crops of different people or cameras are never pooled, so that the
    rule on matches in the query's camera holds for tracklets.

    Args:
        rows: (N, D) unit rows of the crops.
        records: of the N crops.

    Returns:
        (T, D) unit rows, and the record of the first crop of each tracklet.

    Example:
        >>> from pathlib import Path
        >>> columns = np.array([[7, 7, 8], [1, 1, 1], [0, 0, 0], [4, 4, -1]])  # identity, camera, frame, tracklet
        >>> records = Records(Path("."), [Path(f"{i}.jpg") for i in range(3)], *columns)
        >>> pooled, tracklets = pool_tracklets(torch.eye(2)[[0, 1, 1]], records)
        >>> pooled.shape, tracklets.identity.tolist()
        (torch.Size([2, 2]), [7, 8])
    """
    tracklet = np.where(records.tracklet < 0, -1 - np.arange(len(records)), records.tracklet)
    keys = np.stack([tracklet, records.identity, records.camera], 1)
    _, first, group = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)  # by the first crop
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    clusters = Clusters.from_labels(torch.from_numpy(number[group.reshape(-1)]).to(rows.device))
    return cluster_centres(rows, clusters), records.subset(first[order])
