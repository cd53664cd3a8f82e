#!/usr/bin/env bash
# torch's conversion to synchronized batch norms drops the activations of timm's networks, without a message.
#
# Versions: timm 1.0.31, torch 2.14.1, torchvision 0.29.1 from PyPI, Python 3.11, Linux x86-64.
#
# Behaviour: timm's BatchNormAct2d is a BatchNorm2d whose forward also applies the activation.
# torch.nn.SyncBatchNorm.convert_sync_batchnorm replaces every BatchNorm2d, subclasses included, and copies its weights
# alone. The network keeps its state dict and loads the same weights. It has lost most of its non-linearities, in training and in
# evaluation, and its features differ by their own size. timm.layers.convert_sync_batchnorm keeps the activations.
#
# Output seen (relative change of the features in eval mode, where synchronization changes nothing):
#   resnet18, torch: 0.00
#   efficientnet_b0, torch: above 0.50
#   mobilenetv3_small_100, torch: above 0.50
#   efficientnet_b0, timm: 0.00
#   mobilenetv3_small_100, timm: 0.00
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3.11 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --no-compile --disable-pip-version-check \
    timm==1.0.31 torch==2.14.1 torchvision==0.29.1 2>/dev/null
cat > "$folder/convert.py" <<'PYTHON'
import timm
import torch

with torch.no_grad():
    for library, convert, names in (
        ("torch", torch.nn.SyncBatchNorm.convert_sync_batchnorm, ("resnet18", "efficientnet_b0", "mobilenetv3_small_100")),
        ("timm", timm.layers.convert_sync_batchnorm, ("efficientnet_b0", "mobilenetv3_small_100")),
    ):
        for name in names:
            torch.manual_seed(0)
            network, images = timm.create_model(name), torch.randn(4, 3, 128, 64)
            network.train()(images)  # statistics of real values
            before = network.eval().forward_features(images)
            after = convert(network).eval().forward_features(images)
            change = float((after - before).norm() / before.norm())
            print(f"{name}, {library}: {'above 0.50' if change > 0.5 else f'{change:.2f}'}")
PYTHON
"$folder/venv/bin/python" "$folder/convert.py" | tee "$folder/seen"
diff "$folder/seen" <(sed -n 's/^#   //p' "${BASH_SOURCE[0]}") || { echo "the behaviour has changed" >&2; exit 1; }
