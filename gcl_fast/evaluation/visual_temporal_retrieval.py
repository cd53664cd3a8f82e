"""Retrieval by appearance and time (JVTC+, Li and Zhang 2020): crops with unlikely frames rank lower."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gcl_fast.data import Records
from gcl_fast.evaluation.retrieval import Retrieval, query_tiles, rank_tiles
from gcl_fast.pseudo_labels.temporal_model import TemporalModel, joint_similarity

TILE_ENTRIES = 2**23  # similarities that are in memory at a time


def retrieve_jointly(
    query: Tensor, gallery: Tensor, query_records: Records, gallery_records: Records, temporal: TemporalModel
) -> Retrieval:
    """Rank the gallery for each query by joint similarity, by the protocol of Market-1501.

    Args:
        query: (Q, D) unit rows.
        gallery: (G, D) unit rows.
        query_records: identities, cameras and frames of the Q queries.
        gallery_records: identities, cameras and frames of the G crops of the gallery.
        temporal: temporal model of the training crops.

    Returns:
        The metrics.

    Raises:
        UserError: no query has a match in another camera.

    Example:
        >>> from pathlib import Path
        >>> import numpy as np
        >>> def records(camera, frames):  # two people who look the same
        ...     paths = [Path("0.jpg"), Path("1.jpg")]
        ...     return Records(Path("."), paths, np.array([1, 2]), np.full(2, camera), np.array(frames))
        >>> labels, cameras, frames = torch.tensor([0, 0]), torch.tensor([1, 2]), torch.tensor([0, 1000])
        >>> temporal = TemporalModel.fit(labels, cameras, frames, sigma=1.0)  # 1,000 frames from camera 1 to camera 2
        >>> same = torch.ones(2, 1)
        >>> retrieve_jointly(same, same, records(1, [0, 5000]), records(2, [1000, 6000]), temporal).mAP
        1.0
    """
    temporal = temporal.to(query.device)
    (cameras, frames), (gallery_cameras, gallery_frames) = (
        (torch.as_tensor(r.camera, device=query.device), torch.as_tensor(r.frame, device=query.device))
        for r in (query_records, gallery_records)
    )

    def distances() -> Iterator[Tensor]:
        """Yield distances (rows, G) of all queries in turn."""
        for rows in query_tiles(len(query), len(gallery), TILE_ENTRIES):
            time = temporal.similarity(cameras[rows], frames[rows], gallery_cameras, gallery_frames)
            yield -joint_similarity(query[rows] @ gallery.T, time)

    return rank_tiles(
        distances(),
        torch.as_tensor(query_records.identity),
        torch.as_tensor(gallery_records.identity),
        torch.as_tensor(query_records.camera),
        torch.as_tensor(gallery_records.camera),
    )
