"""Retrieval by looks and time together (JVTC+): frames that do not fit are ranked behind."""

from __future__ import annotations

import torch
from torch import Tensor

from gcl_fast.data import Records
from gcl_fast.evaluation.retrieval import Retrieval, rank
from gcl_fast.pseudo_labels.temporal import TemporalModel, joint_similarity

TILE_ENTRIES = 2**23  # similarities made at a time


def retrieve_jointly(
    query: Tensor, gallery: Tensor, query_records: Records, gallery_records: Records, temporal: TemporalModel
) -> Retrieval:
    """Rank the gallery for each query by joint similarity, by the protocol of Market-1501.

    Args:
        query: (Q, D) unit rows.
        gallery: (G, D) unit rows.
        query_records, gallery_records: with cameras and frames.
        temporal: estimated from the training crops.
    """
    temporal = temporal.to(query.device)
    (cameras, frames), (gallery_cameras, gallery_frames) = (
        (torch.as_tensor(r.camera, device=query.device), torch.as_tensor(r.frame, device=query.device))
        for r in (query_records, gallery_records)
    )
    distance = torch.empty(len(query), len(gallery))
    step = max(1, TILE_ENTRIES // max(len(gallery), 1))
    for rows in (slice(begin, begin + step) for begin in range(0, len(query), step)):
        time = temporal.similarity(cameras[rows], frames[rows], gallery_cameras, gallery_frames)
        distance[rows] = -joint_similarity(query[rows] @ gallery.T, time).cpu()
    return rank(
        distance,
        torch.as_tensor(query_records.identity),
        torch.as_tensor(gallery_records.identity),
        torch.as_tensor(query_records.camera),
        torch.as_tensor(gallery_records.camera),
    )
