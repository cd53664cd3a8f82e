#!/usr/bin/env bash
# An HNSW index loses rows that have nothing to do with it when many other rows are equal.
#
# Versions: faiss-cpu 1.15.1, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64.
#
# Behaviour: galleries hold copies, such as the frames of a person who stands still. Without copies every one of 9,000
# distinct rows is among its own 30 nearest neighbours. Beside 1,000 copies of one row, 15 % of the distinct rows are
# not, at the same M, efConstruction and efSearch. The copies link to each other at distance 0, and rows that were linked
# through them are cut off. A recall that is measured on random rows hides it. An index of one row of each set of copies
# has its recall back.
#
# Output seen (distinct rows that are missing among their own 30 neighbours):
#   without copies: 0
#   with one copy: 0
#   with 1,000 copies: more than 1,000
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    faiss-cpu==1.15.1 numpy==2.4.6 2>/dev/null
cat > "$folder/copies.py" <<'PYTHON'
import faiss
import numpy as np

faiss.omp_set_num_threads(1)
random = np.random.default_rng(0)
centres = random.standard_normal((500, 64))
rows = centres[random.integers(0, 500, 9000)] + 0.3 * random.standard_normal((9000, 64))
rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
for label, count in (("without copies", 0), ("with one copy", 1), ("with 1,000 copies", 1000)):
    index = faiss.IndexHNSWFlat(64, 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction, index.hnsw.efSearch = 80, 100
    every = np.concatenate([rows, np.repeat(rows[:1], count, 0)])
    order = random.permutation(len(every))
    index.add(every[order])
    number = np.empty_like(order)
    number[order] = np.arange(len(order))
    _, neighbours = index.search(rows[1:], 30)
    missing = int((~(neighbours == number[1:9000, None]).any(1)).sum())
    print(f"{label}: {'more than 1,000' if missing > 1000 else missing}")
PYTHON
"$folder/venv/bin/python" "$folder/copies.py" | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
