"""How should clustering keep the crops of a tracklet together? Rules compared on one set of descriptors.

    python benchmarks/must_links.py                        # the embedded world: a minute
    python benchmarks/must_links.py --data-root DIR        # a manifest with people and tracklets
    python benchmarks/must_links.py --weights runs/NAME    # embeddings of a run

The descriptors are clothing colours, by which the demo's first clustering is made, or embeddings. Each camera's mean is
subtracted. In the embedded world the crops of a person in a camera stand for a tracklet.

- crops: DBSCAN on the crops, as if no tracklet were known
- joined: the same, and then clusters that share a tracklet become one
- zero distance: DBSCAN on the crops, whose distance within a tracklet is zero; labels are joined as well
- means: DBSCAN on the mean rows of the tracklets; a tracklet alone is an outlier
- means, alone: the same; a tracklet alone is a cluster where it has four crops (gcl_fast's rule)
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from gcl_fast.data import ExtractLoader, Records, open_dataset
from gcl_fast.losses.cluster_memory import Clusters, cluster_centres
from gcl_fast.process import prepare_process
from gcl_fast.pseudo_labels import adjusted_rand_index, cluster, k_reciprocal_jaccard
from gcl_fast.pseudo_labels.agreement import purity
from gcl_fast.pseudo_labels.dbscan import dbscan
from gcl_fast.stages.clustering import camera_centred
from gcl_fast.stages.colours import colour_stripes
from gcl_fast.stages.tracklets import label_tracklets
from lib.reporting import report

ALONE = 4  # crops of a tracklet that is a cluster


def descriptors(records: Records, weights: Path | None) -> Tensor:
    """Return unit rows (N, D) of the crops, camera-centred: embeddings of a run, or clothing colours."""
    if weights is None:
        rows = colour_stripes(ExtractLoader(records, (128, 64), torch.device("cpu")), len(records))
    else:
        import gcl_fast

        rows = gcl_fast.load(weights).embed(records.paths).float()
    return camera_centred(rows, torch.as_tensor(records.camera))


def joined(labels: Tensor, tracklets: Tensor) -> Tensor:
    """Return the labels after clusters that share a tracklet have become one; their other crops join as well."""
    C, T = int(labels.max()) + 1, int(tracklets.max()) + 1
    linked = labels >= 0
    edges = (labels[linked].numpy(), C + tracklets[linked].numpy())
    _, component = connected_components(coo_matrix((edges[0] >= 0, edges), shape=(C + T, C + T)), directed=False)
    touched = torch.zeros(T, dtype=torch.bool).index_fill(0, tracklets[linked], True)
    return torch.where(touched[tracklets], torch.from_numpy(component[C:]).long()[tracklets], -1)


def with_zero_distance(rows: Tensor, tracklets: Tensor, k1: int, eps: float) -> Tensor:
    """Return the labels by DBSCAN on crops whose distance within a tracklet is zero."""
    similarity = k_reciprocal_jaccard(rows, k1=k1, k2=6).to_dense()
    similarity[tracklets[:, None] == tracklets] = 1
    return joined(dbscan(similarity.to_sparse_csr(), eps, 4, "own"), tracklets)


def main(arguments: list[str] | None = None) -> int:
    """Print and append a line for each rule, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, help="of a manifest (default: datasets/synthetic)")
    parser.add_argument("--weights", type=Path, help="a run, or a .safetensors file (default: clothing colours)")
    options = parser.parse_args(arguments)
    if options.data_root is None:
        records = open_dataset("synthetic", "datasets/synthetic").train
        known = records.identity * 1000 + records.camera
    else:
        records = open_dataset("manifest", options.data_root).train
        known = records.tracklet
    tracklets = torch.unique(torch.as_tensor(known), return_inverse=True)[1]
    identity, rows = torch.as_tensor(records.identity), descriptors(records, options.weights)
    means = cluster_centres(rows, Clusters.from_labels(tracklets))
    found = dict[tuple[str, int, int], Tensor]()
    for k1 in (20, 40):
        crops = cluster(rows, k1, 6, eps="auto")
        found["crops", k1, 4] = crops.labels
        found["joined", k1, 4] = joined(crops.labels, tracklets)
        found["zero distance", k1, 4] = with_zero_distance(rows, tracklets, k1, crops.eps)
    for k1 in (5, 8, 12, 20):
        for least in (2, 3, 4):
            find = lambda _, k1=k1, least=least: cluster(means, k1, 6, eps="auto", min_samples=least)
            found["means", k1, least] = find(means).labels[tracklets]
            found["means, alone", k1, least] = label_tracklets(rows, tracklets, ALONE, find).labels
    facts = {
        "data": "world" if options.data_root is None else options.data_root.name,
        "descriptors": "colours" if options.weights is None else options.weights.name,
        "crops": len(records),
        "tracklets": len(means),
        "people": len(identity.unique()),
    }
    lines = [
        {
            **facts,
            "rule": rule,
            "k1": k1,
            "min_samples": least,
            "clusters": len(labels[labels >= 0].unique()),
            "outliers": round(float((labels < 0).float().mean()), 4),
            "purity": round(purity(identity, labels), 4),
            "ari": round(adjusted_rand_index(identity, labels), 4),
        }
        for (rule, k1, least), labels in found.items()
    ]
    report("must_links", lines)
    return 0


if __name__ == "__main__":
    prepare_process()
    sys.exit(main())
