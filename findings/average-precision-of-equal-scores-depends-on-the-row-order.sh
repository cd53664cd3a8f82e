#!/usr/bin/env bash
# torchmetrics gives equal scores an average precision that depends on the order of the rows; scikit-learn does not.
#
# Versions: torchmetrics 1.9.0, scikit-learn 1.9.1, torch 2.14.1, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64.
#
# Behaviour: retrieval_average_precision and retrieval_reciprocal_rank take equal scores in the order in which
# torch.topk returns them. A model without any opinion on four rows gets every value from 0.25 to 1.
# retrieval_normalized_dcg of the same package averages over equal scores, and scikit-learn's average_precision_score
# takes them in one step: both return one value. An mAP of quantized or saturated scores thus differs between libraries
# and between orders of one gallery.
#
# Output seen (lowest and highest value over the orders of four rows with score 0.5, one of them relevant):
#   torchmetrics, average precision: 0.25 to 1.00
#   torchmetrics, reciprocal rank: 0.25 to 1.00
#   torchmetrics, normalized DCG: 0.64 to 0.64
#   scikit-learn, average precision: 0.25 to 0.25
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    torchmetrics==1.9.0 scikit-learn==1.9.1 torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/orders.py" <<'PYTHON'
import torch
from sklearn.metrics import average_precision_score
from torchmetrics.functional import retrieval

metrics = {
    "torchmetrics, average precision": retrieval.retrieval_average_precision,
    "torchmetrics, reciprocal rank": retrieval.retrieval_reciprocal_rank,
    "torchmetrics, normalized DCG": retrieval.retrieval_normalized_dcg,
    "scikit-learn, average precision": lambda scores, relevant: average_precision_score(relevant, scores),
}
scores = torch.full((4,), 0.5)
for name, metric in metrics.items():
    values = [float(metric(scores, torch.arange(4) == position)) for position in range(4)]
    print(f"{name}: {min(values):.2f} to {max(values):.2f}")
PYTHON
"$folder/venv/bin/python" "$folder/orders.py" | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
