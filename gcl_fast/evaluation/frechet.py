"""Fréchet distance of two sets of images (Heusel et al. 2017), by features of torchvision's Inception-v3 or others.

With torchvision's weights the distance is not the published FID, whose Inception has other weights and another layout.
Compare it only with figures of this module, for equal numbers of images. The distance falls as images are added. With
fewer images than features it is far too high.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.errors import UserError
from gcl_fast.models.checkpoint_files import read_checkpoint
from gcl_fast.models.official_weights import first_of, misfits

INCEPTION_SIZE = (299, 299)


class InceptionFeatures(nn.Module):
    """Computes the 2048 pooled features of torchvision's Inception-v3.

    Args:
        path: its state dict, such as inception_v3_google-0cc3c7bd.pth; classifier and auxiliary head are not used.

    Raises:
        UserError: the file cannot be read, or its tensors do not fit Inception-v3 (all are named).
    """

    def __init__(self, path: Path) -> None:
        from torchvision.models import inception_v3  # takes seconds to import, which most commands do not need

        super().__init__()
        self.net = inception_v3(weights=None, init_weights=False, transform_input=False, aux_logits=False)
        self.net.fc = nn.Identity()
        weights = {n: t for n, t in read_checkpoint(path).items() if not n.startswith(("fc.", "AuxLogits."))}
        if faults := misfits(self.net.state_dict(), weights):
            raise UserError(f"{path}: not the weights of torchvision's Inception-v3: {first_of(faults)}")
        self.net.load_state_dict(weights, strict=False)
        self.eval().requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Compute the features (B, 2048) of images (B, 3, H, W) in 0..1."""
        images = F.interpolate(images, INCEPTION_SIZE, mode="bilinear", antialias=True)
        return self.net(2 * images - 1)


def installed() -> bool:
    """Return whether torchmetrics is installed, which computes the distance."""
    return importlib.util.find_spec("torchmetrics") is not None


class FrechetDistance:
    """Computes the distance between one set of real images and, one after the other, sets of generated images.

    Args:
        width: D, the number of features per image.
        device: of the features.

    Raises:
        UserError: torchmetrics is not installed.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
        except ImportError as error:
            raise UserError("Fréchet distances need torchmetrics: pip install torchmetrics") from error
        self._metric = FrechetInceptionDistance(_Features(width), reset_real_features=False).to(device)

    def add(self, features: Tensor, *, real: bool) -> None:
        """Add features to one of the two sets.

        Args:
            features: (B, D).
            real: whether they are of real images.
        """
        self._metric.update(features.float(), real=real)

    def distance(self) -> float:
        """Compute the distance of the two sets, and empty the set of generated images.

        Returns:
            The distance, at least 0.

        Raises:
            RuntimeError: a set has fewer than two images.
        """
        value = float(self._metric.compute())
        self._metric.reset()
        return max(value, 0.0)  # rounding can make the distance of equal sets negative


class _Features(nn.Identity):
    """Lets torchmetrics take features instead of images, because the caller needs the encoder's features as well."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width
