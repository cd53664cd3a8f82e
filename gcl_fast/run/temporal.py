"""Rank by the time between cameras as well, estimated from a run's pseudo-labels and never from identities."""

from __future__ import annotations

import torch

from gcl_fast.assessment.extract import extract
from gcl_fast.data.camera_time import check_time
from gcl_fast.distributed.ranks import Ranks
from gcl_fast.errors import UserError
from gcl_fast.evaluation.visual_temporal_retrieval import retrieve_jointly
from gcl_fast.inputs import Inputs
from gcl_fast.models import GCL
from gcl_fast.optim.precision import Precision
from gcl_fast.pseudo_labels.temporal_model import TemporalModel
from gcl_fast.settings import RunConfig
from gcl_fast.stages.clustering import label


def joint_retrieval(
    gcl: GCL, config: RunConfig, inputs: Inputs, ranks: Ranks, precision: Precision
) -> dict[str, float]:
    """Measure retrieval by joint similarity at test time (JVTC+).

    The time between cameras is estimated from the clusters of the training crops, by the settings of the joint stage.

    Returns:
        joint_mAP and joint_rank1, as fractions.

    Raises:
        UserError: no query and gallery, or a split whose cameras or frames are not known.
    """
    data = inputs.dataset
    if not data.can_be_ranked:
        raise UserError(
            f"--joint-similarity: {data.name} {data.why_unranked}, so there is nothing to rank; name another dataset"
            " with --dataset and --data-root"
        )
    for records in (data.train, data.query, data.gallery):
        check_time(records, "Without --joint-similarity visual similarity alone counts")
    train, query, gallery = (
        extract(gcl.identity, records, config, ranks, precision) for records in (data.train, data.query, data.gallery)
    )
    cameras = torch.as_tensor(data.train.camera)
    labels = label(train, cameras, config.joint.clustering, ranks, torch.as_tensor(data.train.tracklet)).labels
    temporal = TemporalModel.fit(labels, cameras, torch.as_tensor(data.train.frame))
    result = retrieve_jointly(query, gallery, data.query, data.gallery, temporal)
    return {"joint_mAP": result.mAP, "joint_rank1": float(result.cmc[0])}
