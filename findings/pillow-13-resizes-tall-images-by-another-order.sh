#!/usr/bin/env bash
# Pillow 13 resizes some images to other pixels than Pillow 12: it may take the vertical pass first.
#
# Versions: Pillow 12.3.0 and 13.0.0 with NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64.
#
# Behaviour: Image.resize works in two passes and rounds to 8 bits between them. Pillow 12 takes the horizontal pass
# first. Pillow 13 takes the vertical one first where the height shrinks by more than the width, as it does for tall crops.
# The rounded values between the passes differ, and so does the result. An encoder that was evaluated under one version
# sees other images under the next.
#
# Output seen (largest difference of two results, in levels of 255, and the share of values that differ):
#   187x61 to 128x64: 16 levels, 29 %
#   187x61 to 128x48: 11 levels, 27 %
#   61x187 to 64x128: equal
#   128x64 to 256x128: equal
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat > "$folder/resize.py" <<'PYTHON'
import sys

import numpy as np
from PIL import Image

SIZES = {"187x61": (187, 61), "61x187": (61, 187), "128x64": (128, 64)}
results = {}
for name, target in (("187x61", (128, 64)), ("187x61", (128, 48)), ("61x187", (64, 128)), ("128x64", (256, 128))):
    image = np.random.default_rng(0).integers(0, 256, (*SIZES[name], 3), dtype=np.uint8)
    resized = Image.fromarray(image).resize(target[::-1], Image.Resampling.BICUBIC)
    results[f"{name} to {target[0]}x{target[1]}"] = np.asarray(resized)
np.savez(sys.argv[1], **results)
PYTHON
cat > "$folder/compare.py" <<'PYTHON'
import sys

import numpy as np

first, second = (np.load(path) for path in sys.argv[1:])
for name in first.files:
    difference = np.abs(first[name].astype(int) - second[name].astype(int))
    print(f"{name}: {difference.max()} levels, {100 * (difference > 0).mean():.0f} %" if difference.any() else f"{name}: equal")
PYTHON
for version in 12.3.0 13.0.0; do
    python3.11 -m venv "$folder/$version"
    "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "pillow==$version" numpy==2.4.6
    "$folder/$version/bin/python" "$folder/resize.py" "$folder/$version.npz"
done
"$folder/13.0.0/bin/python" "$folder/compare.py" "$folder/12.3.0.npz" "$folder/13.0.0.npz" | tee "$folder/output"
diff "$folder/output" - <<'EXPECTED'
187x61 to 128x64: 16 levels, 29 %
187x61 to 128x48: 11 levels, 27 %
61x187 to 64x128: equal
128x64 to 256x128: equal
EXPECTED
