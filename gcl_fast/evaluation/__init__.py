"""Evaluate trained networks: retrieval metrics, and the quality of generated views.

Two modules are not exported here: `figures`, because matplotlib is slow to import, and `frechet`, because torchmetrics
is optional.
"""

from gcl_fast.evaluation.inference import embeddings, novel_views, to_unit, view_fidelity
from gcl_fast.evaluation.quality import ViewQuality
from gcl_fast.evaluation.reranking import Reranking
from gcl_fast.evaluation.retrieval import Retrieval, evaluate, rank, retrieve
from gcl_fast.evaluation.visual_temporal_retrieval import retrieve_jointly
from gcl_fast.losses.structural_similarity import ssim

__all__ = [
    "Reranking",
    "Retrieval",
    "ViewQuality",
    "embeddings",
    "evaluate",
    "novel_views",
    "rank",
    "retrieve",
    "retrieve_jointly",
    "ssim",
    "to_unit",
    "view_fidelity",
]
