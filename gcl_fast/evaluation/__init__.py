"""What a checkpoint is worth: retrieval metrics, image similarity, figures."""

from gcl_fast.evaluation.reranking import Reranking
from gcl_fast.evaluation.retrieval import Retrieval, evaluate, rank
from gcl_fast.evaluation.structural_similarity import ssim

__all__ = ["Reranking", "Retrieval", "evaluate", "rank", "ssim"]
