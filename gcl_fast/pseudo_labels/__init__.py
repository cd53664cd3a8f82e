"""Embeddings -> nearest neighbours -> sparse k-reciprocal Jaccard similarity -> DBSCAN -> pseudo-labels."""

from gcl_fast.pseudo_labels.cluster_health import ClusterHealth, health
from gcl_fast.pseudo_labels.jaccard import k_reciprocal_jaccard
from gcl_fast.pseudo_labels.jaccard_labels import PseudoLabels, cluster
from gcl_fast.pseudo_labels.neighbours import nearest_neighbours

__all__ = ["ClusterHealth", "PseudoLabels", "cluster", "health", "k_reciprocal_jaccard", "nearest_neighbours"]
