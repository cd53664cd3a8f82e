"""Count parameters and floating-point operations of backbones, and the size of their last map.

    python benchmarks/backbones.py            # needs the extra timm; seconds, since nothing is computed

Operations are those of one crop in eval mode, without projection and norm: two for each multiplication with its
addition. Rows are appended to results/backbones.csv, from which the guide has its table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import torch

from gcl_fast.models import IdentityConfig, IdentityEncoder
from gcl_fast.settings import preset
from lib.flops import Flops
from lib.reporting import report

SIZES = ((128, 64), (256, 128))
# Settings of the identity encoder and the label of a row; 16 is the output stride of a last stride of 1
BACKBONES = (
    ("residual, demo's sizes", preset("demo").model.identity),
    ("residual, ResNet-50", IdentityConfig()),
    *(
        (name, IdentityConfig(backbone=name, pooling="average"))
        for name in (
            "resnet50-ibn-a",
            "mobilenetv2",
            "timm:vit_small_patch16_224",
            "timm:vit_base_patch16_224",
        )
    ),
    *(
        (name, IdentityConfig(backbone=name, output_stride=16, pooling="average"))
        for name in ("mobilenetv2", "torchvision:efficientnet_b0", "torchvision:convnext_tiny", "timm:resnet50")
    ),
)


def count(label: str, config: IdentityConfig, size: tuple[int, int]) -> dict[str, Any]:
    """Return the row of a backbone for crops of `size` (H, W)."""
    with torch.device("meta"):
        encoder = IdentityEncoder(config, size).eval()
        image = torch.zeros(1, 3, *size)
    with torch.no_grad(), Flops() as flops:
        last = encoder.feature_map(image)
    head = [*encoder.feat.parameters(), *encoder.feat_bn.parameters()]
    parameters = sum(p.numel() for p in encoder.parameters()) - sum(p.numel() for p in head)
    return {
        "backbone": label,
        "output_stride": config.output_stride or "",
        "crops": f"{size[0]}x{size[1]}",
        "channels": last.shape[1],
        "map": f"{last.shape[2]}x{last.shape[3]}",
        "parameters": parameters,
        "gflop": round(flops.total / 1e9, 3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Count every backbone at every size."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args(
        arguments
    )
    rows = [count(label, config, size) for size in SIZES for label, config in BACKBONES]
    print(report("backbones", rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
