#!/usr/bin/env bash
# The first hit of a search changes with k where rows are duplicates: in faiss for inner products, and in torch.topk.
#
# Versions: faiss-cpu 1.15.1, torch 2.14.1, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64.
#
# Behaviour: among rows of equal score, IndexFlatIP keeps the k smallest ids and returns them from the largest to the
# smallest. IndexFlatL2 returns them from the smallest to the largest. The ten best hits by inner product are not the
# start of the forty best. torch.topk selects other rows for other k as well. A rank-1 figure of a gallery with
# duplicates depends on how many hits are asked for. A stable descending sort gives the same start for every k.
#
# Output seen (id of the first hit among 40 equal rows that come first in 2,000 rows; k = 1, 10, 40):
#   faiss IndexFlatIP: 0, 9, 39
#   faiss IndexFlatL2: 0, 0, 0
#   torch.topk, the 10 best are the start of the 40 best: no
#   torch.sort(stable=True): 0, 0, 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    faiss-cpu==1.15.1 torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/search.py" <<'PYTHON'
import faiss
import numpy as np
import torch

counts = (1, 10, 40)
embeddings = np.random.default_rng(0).standard_normal((50, 64)).astype(np.float32)
embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
gallery, query = np.repeat(embeddings, 40, axis=0), embeddings[:1]
for kind in (faiss.IndexFlatIP, faiss.IndexFlatL2):
    index = kind(64)
    index.add(gallery)
    print(f"faiss {kind.__name__}: {', '.join(str(index.search(query, count)[1][0, 0]) for count in counts)}")
groups = torch.arange(50.0).flip(0).repeat_interleave(40)  # the same ties as scores: the first 40 rows are the best
few, many = (groups.topk(count).indices for count in (10, 40))
print(f"torch.topk, the 10 best are the start of the 40 best: {'yes' if few.equal(many[:10]) else 'no'}")
ranking = groups.sort(descending=True, stable=True).indices
print(f"torch.sort(stable=True): {', '.join(str(int(ranking[:count][0])) for count in counts)}")
PYTHON
"$folder/venv/bin/python" "$folder/search.py" | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
