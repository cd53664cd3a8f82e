#!/usr/bin/env bash
# torchvision's RandomErasing(value="random") fills 8-bit images with black and specks of white instead of noise.
#
# Versions: torchvision 0.29.1, torch 2.14.1, NumPy 2.4.6 from PyPI, Python 3.11, Linux x86-64 (0.26.0 with torch 2.11.0
# gives the same lines).
#
# Behaviour: the transform draws standard normal values whatever the dtype of the image is. The cast to 8 bits drops
# their fractions, and a negative value wraps to the top of the range. Two thirds of the values are zero, and no value
# between 6 and 250 occurs. On a float image in 0 .. 1 the same call leaves that range. Both versions of the transforms
# accept the 8-bit image without a warning.
#
# Output seen (values inside the erased rectangle of a grey crop):
#   transforms, uint8: 68 % are 0, 16 % from 1 to 5, none from 6 to 250, 16 % above
#   transforms.v2, uint8: 68 % are 0, 16 % from 1 to 5, none from 6 to 250, 16 % above
#   transforms, float32: 16 % above 1, 50 % below 0
#   transforms.v2, float32: 16 % above 1, 50 % below 0
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    torchvision==0.29.1 torch==2.14.1 numpy==2.4.6 2>/dev/null
cat > "$folder/erase.py" <<'PYTHON'
import warnings

import torch
from torchvision import transforms
from torchvision.transforms import v2

warnings.simplefilter("error")


def erased_values(version, crop):
    """Return the values that replace those of the crop, a (3, H, W) tensor of one colour, in its erased rectangle."""
    torch.manual_seed(0)
    erase = version.RandomErasing(p=1.0, scale=(0.5, 0.5), ratio=(2.0, 2.0), value="random")
    erased = erase(crop)
    return erased[:, (erased != crop).any(0)]


def share(condition):
    return f"{100 * condition.float().mean():.0f} %"


crop = torch.full((3, 512, 256), 128, dtype=torch.uint8)
for name, version in (("transforms", transforms), ("transforms.v2", v2)):
    values = erased_values(version, crop)
    zero, low, middle, high = values == 0, (values > 0) & (values < 6), (values > 5) & (values < 251), values > 250
    between = "some" if middle.any() else "none"
    print(f"{name}, uint8: {share(zero)} are 0, {share(low)} from 1 to 5, {between} from 6 to 250, {share(high)} above")
for name, version in (("transforms", transforms), ("transforms.v2", v2)):
    values = erased_values(version, crop.float() / 255)
    print(f"{name}, float32: {share(values > 1)} above 1, {share(values < 0)} below 0")
PYTHON
"$folder/venv/bin/python" "$folder/erase.py" | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
