"""Retrieval by looks and time together (JVTC+): frames that do not fit are ranked behind."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gcl_fast.data import Records
from gcl_fast.evaluation.retrieval import Retrieval, rank_tiles
from gcl_fast.pseudo_labels.temporal_model import TemporalModel, joint_similarity

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
    step = max(1, TILE_ENTRIES // max(len(gallery), 1))

    def distances() -> Iterator[Tensor]:
        for begin in range(0, len(query), step):
            rows = slice(begin, begin + step)
            time = temporal.similarity(cameras[rows], frames[rows], gallery_cameras, gallery_frames)
            yield -joint_similarity(query[rows] @ gallery.T, time)

    return rank_tiles(
        distances(),
        torch.as_tensor(query_records.identity),
        torch.as_tensor(gallery_records.identity),
        torch.as_tensor(query_records.camera),
        torch.as_tensor(gallery_records.camera),
    )
