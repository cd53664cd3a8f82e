"""Pseudo-labels from embeddings: nearest neighbours, k-reciprocal Jaccard similarity, radius, DBSCAN."""

from gcl_fast.pseudo_labels.agreement import adjusted_rand_index
from gcl_fast.pseudo_labels.cluster_health import ClusterHealth, health
from gcl_fast.pseudo_labels.jaccard import k_reciprocal_jaccard
from gcl_fast.pseudo_labels.jaccard_labels import PseudoLabels, cluster
from gcl_fast.pseudo_labels.label_prediction import predict_labels
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours
from gcl_fast.pseudo_labels.search import Search, find_neighbours
from gcl_fast.pseudo_labels.temporal_model import TemporalModel, joint_similarity
from gcl_fast.pseudo_labels.visual_temporal_labels import Distances, cluster_jointly

__all__ = [
    "ClusterHealth",
    "Distances",
    "PseudoLabels",
    "Search",
    "TemporalModel",
    "adjusted_rand_index",
    "cluster",
    "cluster_jointly",
    "find_neighbours",
    "health",
    "joint_similarity",
    "k_reciprocal_jaccard",
    "nearest_neighbours",
    "predict_labels",
]
