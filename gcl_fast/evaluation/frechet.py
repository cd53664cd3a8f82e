"""Fréchet distance of two sets of pictures (Heusel et al. 2017), in features of torchvision's Inception-v3 or others.

With torchvision's weights the distance is not the published FID, whose Inception has other weights and another layout:
compare it with figures of this command alone, of equal numbers of pictures. It falls as pictures are added, and fewer
pictures than features leave it far too high.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.errors import UserError
from gcl_fast.models.official import misfits, read_state_dict

INCEPTION_SIZE = (299, 299)


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of torchvision's Inception-v3.

    Args:
        path: its state dict, such as inception_v3_google-0cc3c7bd.pth; classifier and auxiliary head are not used.

    Raises:
        UserError: the file cannot be read, or its tensors are not those of Inception-v3 (all are named).
    """

    def __init__(self, path: Path) -> None:
        from torchvision.models import inception_v3  # here: seconds that most commands need not spend

        super().__init__()
        self.net = inception_v3(weights=None, init_weights=False, transform_input=False, aux_logits=False)
        self.net.fc = nn.Identity()
        given = {n: t for n, t in read_state_dict(path).items() if not n.startswith(("fc.", "AuxLogits."))}
        if faults := misfits(self.net.state_dict(), given):
            raise UserError(f"{path}: not the weights of torchvision's Inception-v3: " + "; ".join(faults))
        self.net.load_state_dict(given, strict=False)
        self.eval().requires_grad_(False)

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, 3, H, W) in 0..1 -> (B, 2048)."""
        pictures = F.interpolate(pictures, INCEPTION_SIZE, mode="bilinear", antialias=True)
        return self.net(2 * pictures - 1)


def installed() -> bool:
    """Whether torchmetrics is there, which computes the distance."""
    return importlib.util.find_spec("torchmetrics") is not None


class FrechetDistance:
    """Distance between the features of one set of real pictures and, one after the other, of sets of generated ones.

    Args:
        width: D, of the features.
        device: where they are.

    Raises:
        UserError: torchmetrics is not installed.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        try:
            from torchmetrics.image.fid import FrechetInceptionDistance
        except ImportError as error:
            raise UserError("Fréchet distances need torchmetrics: pip install torchmetrics") from error
        self._metric = FrechetInceptionDistance(_Given(width), reset_real_features=False).to(device)

    def add(self, features: Tensor, *, real: bool) -> None:
        """Features (B, D) of one of the two sets."""
        self._metric.update(features.float(), real=real)

    def distance(self) -> float:
        """Of all that was added; then the generated set is emptied.

        Raises:
            RuntimeError: a set has fewer than two pictures.
        """
        value = float(self._metric.compute())
        self._metric.reset()
        return max(value, 0.0)  # rounding of equal sets


class _Given(nn.Identity):
    """Has torchmetrics take features instead of pictures: the encoder's are needed elsewhere too."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.num_features = width
