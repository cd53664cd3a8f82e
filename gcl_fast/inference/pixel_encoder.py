"""Encode pixels to unit rows: normalization, identity encoder and L2 norm as one network of torch's operations."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gcl_fast.data.augment import IMAGENET_MEAN, IMAGENET_STD


class PixelEncoder(nn.Module):
    """Encodes images as a decoder leaves them. It is what an exported file holds, and the file's oracle.

    Args:
        encoder: identity encoder. A copy of it runs on the CPU, in float32 and in eval mode.

    Example:
        >>> from gcl_fast.models import ModelConfig
        >>> from gcl_fast.models.identity_encoder import IdentityEncoder
        >>> network = PixelEncoder(IdentityEncoder(ModelConfig.demo().identity))
        >>> rows = network(torch.zeros(2, 128, 64, 3, dtype=torch.uint8))
        >>> rows.shape, rows.norm(dim=1).round()
        (torch.Size([2, 256]), tensor([1., 1.]))
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, encoder: nn.Module) -> None:
        super().__init__()
        self.encoder = copy.deepcopy(encoder)
        self.register_buffer("mean", 255 * torch.tensor(IMAGENET_MEAN))
        self.register_buffer("deviation", 255 * torch.tensor(IMAGENET_STD))
        self.cpu().float().eval().requires_grad_(False)
        self.to(memory_format=torch.contiguous_format)  # torch.export.save warns of channels-last weights

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (N, H, W, 3) uint8, RGB.

        Returns:
            (N, D) float32 unit rows.
        """
        pixels = (images.float() - self.mean) / self.deviation
        _, embeddings = self.encoder(pixels.permute(0, 3, 1, 2))
        return F.normalize(embeddings)
