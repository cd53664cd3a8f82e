"""What a checkpoint is worth: retrieval metrics, image similarity, figures."""

from gcl_fast.evaluation.generation import ssim
from gcl_fast.evaluation.reranking import Reranking
from gcl_fast.evaluation.retrieval import Retrieval, evaluate, rank

__all__ = ["Reranking", "Retrieval", "evaluate", "rank", "ssim"]
