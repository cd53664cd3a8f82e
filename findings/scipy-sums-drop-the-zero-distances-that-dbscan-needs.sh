#!/usr/bin/env bash
# Symmetrizing a sparse distance graph with scipy drops its zero distances, and DBSCAN then calls exact duplicates
# noise.
#
# Versions: scipy 1.17.1, scikit-learn 1.9.1, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64.
#
# Behaviour: scikit-learn reads a sparse graph of precomputed distances by its stored entries. A stored zero is a pair
# of duplicates, and a missing entry is a pair too far apart. scipy computes g + g.T, g.maximum(g.T) and g.minimum(g.T)
# without the entries whose result is zero. The usual step that makes a neighbour graph symmetric thus removes the
# closest pairs. No library warns.
#
# Output seen (three groups of four equal points; labels of DBSCAN with eps 0.5 and three samples):
#   points: [0 0 0 0 1 1 1 1 2 2 2 2]
#   graph, 36 stored: [0 0 0 0 1 1 1 1 2 2 2 2]
#   graph.T, 36 stored: [0 0 0 0 1 1 1 1 2 2 2 2]
#   graph * 0.5, 36 stored: [0 0 0 0 1 1 1 1 2 2 2 2]
#   (graph + graph.T) / 2, 0 stored: [-1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1]
#   graph.maximum(graph.T), 0 stored: [-1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1]
#   graph.minimum(graph.T), 0 stored: [-1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1 -1]
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check scipy==1.17.1 scikit-learn==1.9.1 numpy==2.4.6
cat > "$folder/cluster.py" <<'PYTHON'
import warnings

import numpy as np
from scipy.sparse import SparseEfficiencyWarning
from sklearn.cluster import DBSCAN
from sklearn.neighbors import radius_neighbors_graph

warnings.simplefilter("error")
warnings.simplefilter("ignore", SparseEfficiencyWarning)  # DBSCAN sets the diagonal of its own copy
points = np.repeat([[0.0], [10.0], [20.0]], 4, axis=0)
graph = radius_neighbors_graph(points, radius=1.0, mode="distance")
graphs = {
    "graph": graph,
    "graph.T": graph.T.tocsr(),
    "graph * 0.5": graph * 0.5,
    "(graph + graph.T) / 2": (graph + graph.T) / 2,
    "graph.maximum(graph.T)": graph.maximum(graph.T),
    "graph.minimum(graph.T)": graph.minimum(graph.T),
}
print(f"points: {DBSCAN(eps=0.5, min_samples=3).fit_predict(points)}")
for name, distances in graphs.items():
    stored = distances.nnz
    labels = DBSCAN(eps=0.5, min_samples=3, metric="precomputed").fit_predict(distances)
    print(f"{name}, {stored} stored: {labels}")
PYTHON
"$folder/venv/bin/python" "$folder/cluster.py" | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
